"""Times one GRPO step of r1jax on a fixed workload, part by part, beside the least it could take on this machine.

    python benchmarks/grpo_step.py --workload T          # W, V: SmolLM2 (extra `smollm2`); T, TV: random weights

Prints one JSON line: seconds of each part (sampling, the reference's pass, the update) as medians over the steps after the first, the
floor from ceilings measured in the same process (`workload.floor`), floor/time, the padding computed, rows decoded a kept token,
and the sampler gap: the difference between a sampled token's log-probability and that of the update's own full pass, the largest and
the mean. `precision.py` runs it in several precisions, alternating.
"""

import argparse
import dataclasses
import functools

import ceilings
import jax
import numpy as np
from workload import WORKLOADS, emit, floor, lengths, now, rss_gb, summary

from r1jax import sharding, weights
from r1jax.config import GRPO, MeshConfig, ModelConfig, OptimConfig, RowConfig
from r1jax.rl.advantage import group_advantage
from r1jax.rl.batch import Item, pack, token_weights, unpack
from r1jax.sample import Decode, Sampler
from r1jax.sample.sampler import smaller
from r1jax.train import optim
from r1jax.train import step as compiled

ROWS = {
    'W': RowConfig(64 + 8 * 128, 2, prompts=64, block=128),
    'T': RowConfig(32 + 8 * 64, 4, prompts=32, block=64),
    'V': RowConfig(128 + 4 * 256, 2, prompts=128, block=256),
    'TV': RowConfig(128 + 6 * 128, 2, prompts=128, block=128),
}
SLOTS = {'V': 40}  # in which rows take turns; elsewhere all are decoded together


def setting(w: dict):
    """(model config, parameters) of a workload."""
    if w['pretrained']:
        loaded = weights.load(weights.SMOLLM2)
        return dataclasses.replace(loaded.config, context=w['prompt'] + w['new']), loaded.params
    model = ModelConfig(
        w['vocab'],
        w['layers'],
        w['d'],
        w['heads'],
        w['kv'],
        w['hd'],
        w['ffn'],
        w['prompt'] + w['new'],
        rope_theta=w['theta'],
    )
    return model, None


class Step:
    """The three parts of a step, as `r1jax.train` runs them."""

    def __init__(
        self,
        w: dict,
        rows: RowConfig,
        buckets: int,
        dtype: str,
        remat: str = 'dots',
        weights: str = 'same',
        slots: int = 0,
    ):
        model, params = setting(w)
        self.w, self.rows, self.lens = w, rows, np.array(lengths(w))
        self.model = dataclasses.replace(model, dtype=dtype, remat=remat)
        self.mesh = sharding.make_mesh(MeshConfig())
        tx = optim.transform(OptimConfig(w['lr']))
        where = compiled.shardings(self.model, tx, self.mesh)
        self.state = compiled.init_state(self.model, tx, jax.random.key(0), self.mesh, params)
        self.reference = jax.tree.map(lambda a: a.copy(), self.state.params)
        loss = GRPO(beta=w['beta'], importance_cap=0.0 if weights == 'same' else 2.0)
        self.update = compiled.build_update(self.model, loss, tx, where)
        never = w['vocab']  # an id that no model draws: lengths are those given
        decode = Decode(self.model, w['new'], (never,), 0, buckets=buckets)
        questions = (slots or len(self.lens)) // w['group']
        self.sampler = Sampler(decode, w['prompt'], w['group'], questions, seed=0, weights=weights)
        self.prompts = np.random.default_rng(0).integers(3, w['vocab'], (w['questions'], w['prompt'])).astype(np.int32)
        self.steps = 0

    def rollout(self):
        """The samples of a step, of the lengths that were asked for."""
        ids = list(range(self.w['questions']))
        rollout = self.sampler(self.state.params, ids, self.prompts, self.steps, self.lens, 1.0)
        assert (rollout.sampled.sum(1) == self.lens).all()
        return rollout

    def __call__(self) -> dict:
        w, G, times = self.w, self.w['group'], [now()]
        rollout = self.rollout()
        times.append(now())
        reward = (np.where(rollout.sampled, rollout.tokens, 0).sum(1) % 7).astype(np.float32).reshape(-1, G)
        advantage = group_advantage(reward, np.ones(reward.shape, bool), True, 1, 1e-6).reshape(-1)
        weight = token_weights(self.lens, np.ones(len(self.lens), bool), 'grpo')
        items = []
        for b, on in enumerate(rollout.sampled):
            response, logp = rollout.tokens[b][on], rollout.logp[b][on]
            items.append(Item(self.prompts[b // G], response, float(weight[b]), b // G, float(advantage[b]), logp))
        with jax.set_mesh(self.mesh):
            one = np.float32(1)
            batch, count, places = self.pack(items)
            logp = compiled.logprobs(self.model, self.reference, compiled.place(batch, self.mesh), np.int32(count), one)
            logp = unpack(np.asarray(logp), items, places)
            times.append(now())
            items = [dataclasses.replace(i, ref_logp=x) for i, x in zip(items, logp, strict=True)]
            batch, count, _ = self.pack(items)
            placed, rate, fresh = compiled.place(batch, self.mesh), np.float32(w['lr']), np.bool_(True)
            self.state, metrics = self.update(self.state, placed, np.int32(count), rate, one, fresh)
            metrics = {k: float(v) for k, v in jax.device_get(metrics).items()}
            times.append(now())
        self.steps += 1
        used = (batch.segment[:count] >= 0).sum()
        parts = dict(zip(('gen', 'score', 'train'), np.diff(times), strict=True))
        return parts | {
            'step': times[-1] - times[0],
            'padding': 1 - used / (count * batch.tokens[0].size),
            'gap': metrics['policy/sampler_gap_max'],
            'gap_mean': metrics['policy/sampler_gap_mean'],
        }

    def pack(self, items):
        r = self.rows
        return pack(items, r.length, r.per_microbatch, len(items), r.prompts, r.block)

    def decoded(self) -> dict:
        """Rows decoded over tokens kept, and of the last rollout how many slots there were, and how many rows took one that another had
        left.
        """
        if len(self.lens) > self.sampler.slots:
            ran = self.sampler.engine.ran
            decoded, refills = sum(r.slots * r.steps for r in ran), sum(r.admitted for r in ran[1:])
        else:
            sizes = [len(self.lens), *smaller(len(self.lens), self.sampler.decode.buckets)]
            on = [(self.lens > t).sum() for t in range(self.lens.max())]
            decoded, refills = sum(min(s for s in sizes if s >= n) for n in on), 0
        ratio = round(float(decoded / self.lens.sum()), 3)
        return {'decoded_per_kept': ratio, 'slots': min(self.sampler.slots, len(self.lens)), 'refills': refills}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--workload', choices=list(WORKLOADS), default='T')
    parser.add_argument('--steps', type=int, default=0, help='timed steps after the first (default 3; 10 for T and TV)')
    parser.add_argument('--rows', type=int, default=0, help='packed rows a microbatch (default: the best seen here)')
    parser.add_argument(
        '--buckets', type=int, default=0, help='batch sizes of decoding (default 5 with a tail, else 1)'
    )
    parser.add_argument(
        '--slots',
        type=int,
        default=0,
        help='rows decoded together (default: the best seen here; fewer than all: the engine)',
    )
    parser.add_argument(
        '--remat', help='what the backward pass recomputes (ModelConfig.remat; default: the best seen here)'
    )
    parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32', help='of the matrix products')
    parser.add_argument('--weights', choices=('same', 'int8'), default='same', help='that draw (SampleConfig.weights)')
    parser.add_argument('--no-ceilings', action='store_true', help='leave out the ceilings, and so the floor')
    a = parser.parse_args()
    w = WORKLOADS[a.workload]
    rows = ROWS[a.workload]
    rows = dataclasses.replace(rows, per_microbatch=a.rows or rows.per_microbatch)
    buckets, remat = a.buckets or (5 if 'tail' in w else 1), a.remat or ('dots' if w['pretrained'] else 'none')
    step = Step(w, rows, buckets, a.dtype, remat, a.weights, a.slots or SLOTS.get(a.workload, 0))
    first = step()
    seen = [step() for _ in range(a.steps or (3 if w['pretrained'] else 10))]
    peak = rss_gb()
    parts = ('gen', 'score', 'train', 'step')
    median = functools.partial(np.median)
    out = {f'{p}_s': round(float(median([s[p] for s in seen])), 4) for p in parts}
    out |= {'spread': {p: summary([s[p] for s in seen]) for p in parts}, 'first_step_s': round(first['step'], 2)}
    out |= {'padding': round(float(first['padding']), 4), **step.decoded()}
    gaps = {'max': max(s['gap'] for s in seen), 'mean': float(np.mean([s['gap_mean'] for s in seen]))}
    out |= {f'sampler_gap_{k}': gap for k, gap in gaps.items()}
    out |= {'steps_rss_gb': peak, 'dtype': a.dtype, 'weights': a.weights}
    if not a.no_ceilings:
        top = ceilings.measure()
        least = floor(w, top['gflops'], top['gbs'])
        out |= {f'floor_{p}_s': round(least[p], 4) for p in parts} | {
            'floor_s': round(least['step'], 4),
            'ceilings': top,
        }
        out |= {'of_floor': {p: round(least[p] / out[f'{p}_s'], 3) for p in parts}}
    emit(peer='r1jax', workload=a.workload, jax=jax.__version__, **out)


if __name__ == '__main__':
    main()
