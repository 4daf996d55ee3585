"""What this machine can do at most: matrix products and memory traffic, in one process of jax.

    python benchmarks/ceilings.py

Prints one JSON line. `gflops` (the larger of a square product and a tall one, float32) and `gbs` (an array read and written in place)
are what `workload.floor` takes.
"""

import statistics

import jax
import jax.numpy as jnp
from workload import emit, now

SHAPES = {
    'square': (4096, 4096, 4096),
    'tall': (2048, 576, 1536),
    'decode': (32, 576, 1536),
    'head': (1024, 576, 49152),
}


def seconds(f, least: float = 0.2, repeats: int = 5) -> float:
    """Median time of a call; each repeat runs at least `least` seconds."""
    jax.block_until_ready(f())
    start = now()
    jax.block_until_ready(f())
    calls = max(1, int(least / max(now() - start, 1e-6)))
    times = []
    for _ in range(repeats):
        start = now()
        for _ in range(calls):
            out = f()
        jax.block_until_ready(out)
        times.append((now() - start) / calls)
    return statistics.median(times)


def measure(dtypes=('float32',), shapes=('square', 'tall')) -> dict[str, float]:
    """GFLOP/s of products by shape, and GB/s of a large array updated in place."""
    out: dict[str, float] = {}
    product = jax.jit(jnp.dot)
    for dtype in dtypes:
        for name in shapes:
            m, k, n = SHAPES[name]
            x, w = (jax.random.normal(jax.random.key(i), s).astype(dtype) for i, s in enumerate(((m, k), (k, n))))
            out[f'{dtype}_{name}_gflops'] = round(2 * m * k * n / seconds(lambda x=x, w=w: product(x, w)) / 1e9, 1)
    size = 2**28 // 4
    held = [jnp.ones(size)]
    add = jax.jit(lambda a: a + 1, donate_argnums=0)

    def in_place():
        held[0] = add(held[0])
        return held[0]

    out['gbs'] = round(8 * size / seconds(in_place) / 1e9, 2)
    out['gflops'] = max(out[f'float32_{s}_gflops'] for s in ('square', 'tall'))
    return out


if __name__ == '__main__':
    emit(jax=jax.__version__, **measure(('float32', 'bfloat16'), tuple(SHAPES)))
