"""How often a draw differs between numbers of slots: SmolLM2-135M in float32, the same requests and keys.

    python benchmarks/draws.py [--slots 64 32 16 8] [--requests 128] [--new 128]

Rows are multiplied by the weights together, and so many of them at a time round differently than fewer: a draw whose uniform number lies
within that rounding of the edge between two tokens takes the other one. Prints a JSON line for each number of slots against the first:
`draws` compared (up to an answer's first difference), how many of them `differ`, and of those `margin_max`, how far the uniform number
was from the nearest edge at most. It counts, and measures no time.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from workload import emit

from r1jax import weights
from r1jax.nn.transformer import forward, unembedding
from r1jax.sample import Decode, Engine, Request
from r1jax.sample.sampler import key_data

PROMPT = 64  # tokens of the longest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--slots', type=int, nargs='+', default=[64, 32, 16, 8])
    parser.add_argument('--requests', type=int, default=128)
    parser.add_argument('--new', type=int, default=128, help='tokens of an answer')
    a = parser.parse_args()
    loaded = weights.load(weights.SMOLLM2)
    model, params = loaded.config, jax.tree.map(jnp.asarray, loaded.params)
    rng, n, T = np.random.default_rng(0), a.requests, PROMPT + a.new
    prompts = [rng.integers(3, model.vocab, rng.integers(8, PROMPT + 1)).tolist() for _ in range(n)]
    keys = key_data(0, 0, np.arange(n), np.zeros(n, int))

    @jax.jit
    def logits(row, at):
        place, zero = jnp.arange(T)[None], jnp.zeros((1, T), jnp.int32)
        hidden, _, _ = forward(model, params, row, place, zero, zero - 1)
        return hidden[0, at] @ unembedding(params).T

    def margin(i: int, tokens: np.ndarray) -> float:
        """Of the draw that follows these tokens."""
        row, before = np.zeros((1, T), np.int32), [*prompts[i], *tokens]
        row[0, : len(before)] = before
        z = np.asarray(logits(row, len(before) - 1), np.float64)
        p = np.exp(z - z.max())
        u = float(jax.random.uniform(jax.random.fold_in(jax.random.wrap_key_data(keys[i]), len(tokens))))
        return float(abs(np.cumsum(p / p.sum()) - u).min())

    drawn = {}
    for slots in a.slots:
        engine = Engine(Decode(model, a.new, (model.vocab,), 0, buckets=1), slots, PROMPT)
        engine.load(params)
        got = [engine.submit(Request(p, a.new, key)) for p, key in zip(prompts, keys, strict=True)]
        while not engine.idle:
            engine.advance()
        drawn[slots] = [answer.tokens for answer in got]
        engine.unload()
    first, *others = a.slots
    for slots in others:
        draws, margins = 0, []
        for i, (x, y) in enumerate(zip(drawn[first], drawn[slots], strict=True)):
            apart = np.flatnonzero(x != y)
            draws += int(apart[0]) + 1 if len(apart) else len(x)
            margins += [margin(i, x[: apart[0]])] if len(apart) else []
        emit(
            slots=[first, slots],
            draws=draws,
            differ=len(margins),
            per_million=round(1e6 * len(margins) / draws, 1),
            margin_max=max(margins, default=0.0),
        )


if __name__ == '__main__':
    main()
