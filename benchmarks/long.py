"""Long responses in a pool of pages: memory against what the tokens in flight need, and time a token against the tokens that it reads.

    python benchmarks/long.py [--tokens 32768] [--slots 6] [--pool 49152] [--page 256] [--out long.svg]

Decodes eight responses of a tiny model with random weights, the longest of --tokens with its prompt, the others of 3/4, 1/2, 3/8, … of
it, two to a prompt, none of which stops by itself. They do not fit into the pool together: some wait, some have to leave and go on later.

Prints one JSON line, and with --out writes a figure of the fit:

- Memory, when the tokens in flight were most: `need_mb`, their keys and values (a prompt that rows share counts once; rows that wait to go
  on count too); `held_mb`, all arrays on the device but the weights, the host's copies of rows that had to leave, and what the program of a
  chunk takes besides; `ratio`, the one over the other; `slots_mb`, what as many slots of the longest row's length would hold.
- `left`, how often a row had to leave; `tokens`, new tokens of all answers; `drawn`, those that were drawn (the same: none is drawn twice).
- Time: seconds of a step as a line in the tokens that it reads, `base_us` + `each_ns` · tokens, fitted to the medians of chunks that read
  about as many; `r2` of the fit, `largest_residual` as a share of the longest step, and `points`, [tokens read, µs, µs fitted].
  `attention_ns`: a token's share of the cache's reading alone (`r1jax.nn.pages.by_pages`, all layers), measured on its own.
"""

import argparse
import functools
import pathlib

import drawing
import jax
import numpy as np
from ceilings import seconds
from workload import emit, now

from r1jax.config import ModelConfig
from r1jax.nn import pages
from r1jax.nn.attention import attend
from r1jax.nn.transformer import init_boxed, unbox
from r1jax.report.chart import Plot, Series
from r1jax.sample import Decode, Engine, Request, programs

SHARES = 1, 3 / 4, 1 / 2, 3 / 8, 1 / 4, 1 / 4, 3 / 16, 3 / 16  # of --tokens
PROMPT, COLUMNS = 64, 32


def model(tokens: int) -> ModelConfig:
    return ModelConfig(512, 2, 128, heads=4, kv_heads=2, head_dim=32, hidden=256, context=tokens)


def measure(tokens: int, slots: int, pool: int, page: int) -> dict:
    cfg = model(tokens)
    params = jax.jit(lambda key: unbox(init_boxed(cfg, key)))(jax.random.key(0))
    decode = Decode(cfg, tokens - PROMPT, stop=(cfg.vocab,), pad=0)
    engine = Engine(decode, slots, PROMPT, COLUMNS, pool=pool, page=page)
    engine.load(params)
    prompts = np.random.default_rng(0).integers(0, cfg.vocab, (len(SHARES) // 2, PROMPT))
    keys = [np.asarray(jax.random.key_data(jax.random.key(i))) for i in range(len(SHARES))]
    answers = [
        engine.submit(Request(prompts[i // 2], int(tokens * share) - PROMPT, keys[i])) for i, share in enumerate(SHARES)
    ]
    each = 2 * cfg.layers * cfg.kv_heads * cfg.head_dim * 4  # bytes of a token's keys and values
    weights, most, held, chunks = live(), 0, 0, []
    engine.advance()
    temporary, before = chunk_memory(engine), now()
    while not engine.idle:
        reads = in_flight(engine, waiting=False)
        rows, ran, left = len(engine.running), len(engine.ran), engine.left
        engine.advance()
        last = engine.ran[-1]
        if len(engine.ran) > ran and last.steps == COLUMNS and last.admitted == 0 and engine.left == left:
            chunks.append((reads + rows * (COLUMNS - 1) / 2, (now() - before) / COLUMNS))
        need = in_flight(engine, waiting=True)
        if need > most:
            most, held = need, live() - weights + kept(engine) + temporary
        before = now()
    return {
        'tokens': sum(len(answer.tokens) for answer in answers),
        'drawn': sum(ran.tokens for ran in engine.ran),
        'left': engine.left,
        'need_mb': most * each / 1e6,
        'held_mb': held / 1e6,
        'ratio': held / (most * each),
        'slots_mb': slots * tokens * each / 1e6,
        **line(chunks),
        'attention_ns': cfg.layers * reading(cfg, tokens, pool // page, page) * 1e9,
    }


def live() -> int:
    return sum(a.nbytes for a in jax.live_arrays())


def chunk_memory(engine: Engine) -> int:
    """Bytes that a chunk takes besides what goes in and comes out."""
    memory, i32 = engine.seats.memory, np.int32
    args = memory.layers, memory.seen(engine.seats.table), i32(0), i32(0), engine.decode, engine.columns
    return programs.chunk.lower(engine.weights, *args).compile().memory_analysis().temp_size_in_bytes


def kept(engine: Engine) -> int:
    """Bytes on the host of rows that wait to go on."""
    return sum(a.nbytes for answer in engine.waiting if answer.paused for a in jax.tree.leaves(answer.paused.layers))


def in_flight(engine: Engine, waiting: bool) -> int:
    """Tokens whose keys are held: those in slots as a step reads them, row by row; with those that are `waiting` to go on, as memory needs
    them: a prompt's pages that rows share count once.
    """
    table, pool = engine.seats.table, engine.seats.memory.pool
    rows = [slot for slot, answer in enumerate(engine.seats.owner) if answer]
    tokens = sum(int(table.start[slot] + table.length[slot]) - 1 for slot in rows)
    if not waiting:
        return tokens + len(rows)  # a step reads the token that it writes
    shared = sum((pool.holders[at] - 1).sum() for at in pool.prompts.values()) * pool.page
    out = sum(len(a.prompt) - 1 + a.paused.length for a in engine.waiting if a.paused)
    return tokens - int(shared) + out


def line(chunks: list[tuple[float, float]], parts: int = 12) -> dict:
    """The least-squares line through the medians of chunks that read about as many tokens."""
    read, time = np.array(sorted(chunks)).T
    groups = [part for part in np.array_split(np.arange(len(read)), parts) if len(part)]
    x, y = (np.array([np.median(a[part]) for part in groups]) for a in (read, time))
    slope, base = np.polyfit(x, y, 1)
    fitted = base + slope * x
    return {
        'base_us': base * 1e6,
        'each_ns': slope * 1e9,
        'r2': 1 - float(((y - fitted) ** 2).sum() / ((y - y.mean()) ** 2).sum()),
        'largest_residual': float(abs(y - fitted).max() / y.max()),
        'points': [[round(a), round(b * 1e6, 1), round(c * 1e6, 1)] for a, b, c in zip(x, y, fitted, strict=True)],
    }


def reading(cfg: ModelConfig, tokens: int, count: int, page: int) -> float:
    """Seconds that one layer's cache takes to be read, a token of it."""
    kv = tuple(jax.random.normal(jax.random.key(i), (cfg.kv_heads, count, page, cfg.head_dim)) for i in range(2))
    q = jax.random.normal(jax.random.key(2), (1, cfg.heads, 1, cfg.head_dim))
    table = np.arange(tokens // page, dtype=np.int32)[None]
    read = jax.jit(functools.partial(pages.by_pages, functools.partial(attend, dtype=cfg.dtype)))
    few, many = (seconds(lambda n=n: read(q, kv, table, np.array([n - 1], np.int32))) for n in (tokens // 4, tokens))
    return (many - few) / (tokens - tokens // 4)


def drawn(found: dict) -> str:
    """The figure of a fit."""
    x, measured, fitted = np.array(found['points'], float).T
    lines = [Series('measured', x, measured, exact=True), Series('fitted', x, fitted, exact=True)]
    plot = Plot('Time a step', ('measured', 'fitted'))
    return drawing.svg(
        [('µs a step, by tokens of the cache that it reads: measured (blue), fitted (green)', plot, lines)]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tokens', type=int, default=32768)
    parser.add_argument('--slots', type=int, default=6)
    parser.add_argument('--pool', type=int, default=0, help='tokens (default: 1.5 times --tokens)')
    parser.add_argument('--page', type=int, default=256)
    parser.add_argument('--out', help='the SVG to write')
    a = parser.parse_args()
    found = measure(a.tokens, a.slots, a.pool or a.tokens * 3 // 2, a.page)
    if a.out:
        pathlib.Path(a.out).write_text(drawn(found), encoding='utf-8')
    emit(**found)


if __name__ == '__main__':
    main()
