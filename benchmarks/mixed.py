"""The engine on requests of mixed lengths, SmolLM2-135M (extra `smollm2`) in float32: tokens a second.

    python benchmarks/mixed.py [--slots 64]

Prints one JSON line. Every request arrives at once and has its own prompt and its given number of new tokens (`workload.mixed`). What
compiles is left out: some requests are answered first.
"""

import argparse
import dataclasses

import jax
import numpy as np
from workload import emit, mixed, now

from r1jax import weights
from r1jax.sample import Decode, Engine, Request
from r1jax.sample.sampler import key_data


def drain(engine: Engine, sizes: list[tuple[int, int]], vocab: int) -> int:
    """Answers requests of (prompt tokens, new tokens); returns the tokens that were drawn."""
    rng = np.random.default_rng(0)
    keys = key_data(0, 0, np.arange(len(sizes)), np.zeros(len(sizes), int))
    for (prompt, new), key in zip(sizes, keys, strict=True):
        engine.submit(Request(rng.integers(3, vocab, prompt).tolist(), new, key))
    tokens = 0
    while not engine.idle:
        tokens += sum(len(answer.tokens) for answer in engine.advance())
    return tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--slots', type=int, default=64)
    parser.add_argument('--buckets', type=int, default=5, help='sizes that slots shrink through when no request waits')
    parser.add_argument('--requests', type=int, default=256)
    parser.add_argument('--prompt', type=int, default=128, help='longest prompt, tokens')
    parser.add_argument('--new', type=int, default=256, help='longest response, tokens')
    parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32', help='of the matrix products')
    a = parser.parse_args()
    loaded = weights.load(weights.SMOLLM2)
    model = dataclasses.replace(loaded.config, dtype=a.dtype)
    sizes = mixed(a.requests, a.prompt, a.new)
    never = model.vocab  # an id that no model draws: lengths are those given
    engine = Engine(Decode(model, a.new, (never,), 0, buckets=a.buckets), a.slots, a.prompt)
    params = jax.tree.map(jax.numpy.asarray, loaded.params)
    engine.load(params)
    start = now()
    drain(engine, [(prompt, 4) for prompt, _ in sizes[: 2 * a.slots]], model.vocab)
    first = now() - start
    engine.load(params)
    start = now()
    tokens = drain(engine, sizes, model.vocab)
    seconds = now() - start
    decoded = sum(r.slots * r.steps for r in engine.ran)
    emit(
        peer='r1jax', jax=jax.__version__, requests=a.requests, tokens=tokens, seconds=round(seconds, 2), dtype=a.dtype,
        tokens_s=round(tokens / seconds, 2), slots=a.slots, decoded_per_kept=round(decoded / tokens, 3), first_s=round(first, 1),
    )  # fmt: skip


if __name__ == '__main__':
    main()
