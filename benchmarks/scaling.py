"""Whether cost grows as it should: one table a question, and a verdict.

    python benchmarks/scaling.py [--quick]

- Step time against samples a question, and against response tokens: a straight line through at least five sizes, with the largest
  residual as a share of the largest time.
- Sampling time against samples a question, with a long prompt and one new token: the prefill does not grow with them.
- Memory of the update against the size of the vocabulary, beyond parameters, gradients and optimizer state: what XLA allocates for
  the compiled update (`memory_analysis`), less those.

Times are medians; prints one JSON line.
"""

import argparse

import grpo_step
import jax
import numpy as np
from workload import T, emit, now

from r1jax import sharding
from r1jax.config import GRPO, MeshConfig, ModelConfig, OptimConfig, RowConfig
from r1jax.rl.batch import Item, pack
from r1jax.sample import Decode, Prompts, sample, sample_keys
from r1jax.train import optim
from r1jax.train import step as compiled


def fit(sizes, times) -> dict:
    """Least-squares line: intercept and slope, and the largest residual over the largest time."""
    slope, intercept = np.polyfit(sizes, times, 1)
    residual = np.abs(np.array(times) - (slope * np.array(sizes) + intercept)).max() / max(times)
    return {
        'sizes': list(sizes),
        'seconds': [round(t, 4) for t in times],
        'slope': slope,
        'intercept': intercept,
        'residual': residual,
    }


def step_seconds(w: dict, repeats: int) -> float:
    rows = RowConfig(w['prompt'] + w['group'] * w['new'], w['questions'], prompts=w['prompt'], block=w['new'])
    step = grpo_step.Step(w, rows, 1, 'float32')
    step()
    return float(np.median([step()['step'] for _ in range(repeats)]))


def prefill_seconds(samples: int, repeats: int) -> float:
    """Two questions of 1024 tokens and one new token a sample."""
    model = ModelConfig(T['vocab'], T['layers'], T['d'], T['heads'], T['kv'], T['hd'], T['ffn'], 1100)
    params = compiled.transformer.unbox(compiled.transformer.init_boxed(model, jax.random.key(0)))
    prompts = np.random.default_rng(0).integers(3, T['vocab'], (2, 1024)).astype(np.int32)
    keys = sample_keys(0, 0, np.repeat(np.arange(2), samples), np.tile(np.arange(samples), 2))
    args = (
        Prompts(prompts, np.full(2, 1024, np.int32), np.arange(2)),
        keys,
        np.ones(2 * samples, np.int32),
        Decode(model, 1, (512,), 0),
    )
    times = []
    for _ in range(repeats + 1):
        start = now()
        jax.block_until_ready(sample(params, *args))
        times.append(now() - start)
    return float(np.median(times[1:]))


def update_memory(vocab: int) -> dict:
    """Bytes that the compiled update of one 1024-token row needs beyond parameters, gradients and optimizer state."""
    model = ModelConfig(vocab, 2, 64, 2, 1, 32, 128, 1024)
    mesh, tx = sharding.make_mesh(MeshConfig()), optim.transform(OptimConfig(1e-4))
    where = compiled.shardings(model, tx, mesh)
    items = [Item(np.ones(64, np.int32), np.ones(120, np.int32), 0.01, 0) for _ in range(8)]
    batch, count, _ = pack(items, 1024, 1, 1, 64, 960)
    with jax.set_mesh(mesh):
        state = jax.eval_shape(lambda k: compiled.init_state(model, tx, k, mesh), jax.random.key(0))
        one = np.float32(1)
        lowered = compiled.build_update(model, GRPO(), tx, where).lower(
            state, batch, np.int32(count), one, one, np.bool_(True)
        )
    memory = lowered.compile().memory_analysis()
    gradients = 4 * sum(a.size for a in jax.tree.leaves(state.params))
    return {
        'vocab': vocab,
        'temporary_mb': round(memory.temp_size_in_bytes / 2**20, 1),
        'gradients_mb': round(gradients / 2**20, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--quick', action='store_true', help='one repeat of each')
    repeats = 1 if parser.parse_args().quick else 5
    base = dict(T, questions=8)
    samples, tokens = (4, 8, 12, 16, 24, 32), (32, 64, 96, 128, 192, 256)
    emit(
        samples=fit(samples, [step_seconds(dict(base, group=g), repeats) for g in samples]),
        response_tokens=fit(tokens, [step_seconds(dict(base, new=n), repeats) for n in tokens]),
        prefill={g: round(prefill_seconds(g, repeats), 4) for g in (1, 2, 4, 8, 16)},
        memory=[update_memory(v) for v in (32_000, 64_000, 152_000)],
    )


if __name__ == '__main__':
    main()
