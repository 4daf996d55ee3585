"""The workloads that the benchmarks time, the least that each needs, and small helpers. Plain Python: the peers' environments import
it, too.

One GRPO step: sample G responses to each question, one pass of a frozen reference over them, one AdamW update. W: SmolLM2-135M, every
response of full length. T: a tiny model with random weights, where overhead dominates. V and TV: their models with long-tailed
lengths, given in advance so that everyone does the same work.
"""

import json
import math
import platform
import random
import resource
import statistics
import time

W = {'name': 'W', 'layers': 30, 'd': 576, 'heads': 9, 'kv': 3, 'hd': 64, 'ffn': 1536, 'vocab': 49152, 'theta': 100000.0, 'eps': 1e-5,
    'questions': 4, 'group': 8, 'prompt': 64, 'new': 128, 'beta': 0.001, 'lr': 1e-6, 'pretrained': True}  # fmt: skip
T = {'name': 'T', 'layers': 4, 'd': 128, 'heads': 4, 'kv': 2, 'hd': 32, 'ffn': 384, 'vocab': 512, 'theta': 10000.0, 'eps': 1e-5,
    'questions': 16, 'group': 8, 'prompt': 32, 'new': 64, 'beta': 0.001, 'lr': 1e-6, 'pretrained': False}  # fmt: skip
V = dict(W, name='V', questions=8, new=256, tail=0.75)
TV = dict(T, name='TV', new=128, tail=0.75)
WORKLOADS = {'W': W, 'T': T, 'V': V, 'TV': TV}


def lengths(w: dict) -> list[int]:
    """New tokens of each row, the end token included: all `new`, or with a tail the quantiles of a lognormal (median 0.28·new, sigma
    `tail`) clipped to [8, new], in a fixed shuffled order.
    """
    n = w['questions'] * w['group']
    if 'tail' not in w:
        return [w['new']] * n
    z = [statistics.NormalDist().inv_cdf((i + 0.5) / n) for i in range(n)]
    out = [min(max(round(0.28 * w['new'] * math.exp(w['tail'] * x)), 8), w['new']) for x in z]
    random.Random(0).shuffle(out)
    return out


def mixed(count: int = 256, prompt: int = 128, new: int = 256) -> list[tuple[int, int]]:
    """(prompt tokens, new tokens) of requests, in the order of their arrival: prompts of 8 to `prompt` tokens, every length as often as any
    other; new tokens as V's.
    """
    ends = lengths({'questions': count, 'group': 1, 'new': new, 'tail': 0.75})
    sizes = [8 + (prompt - 8) * i // max(count - 1, 1) for i in range(count)]
    random.Random(1).shuffle(sizes)
    return list(zip(sizes, ends, strict=True))


def layer_params(w: dict) -> int:
    """Weights of the matrix products of one layer."""
    return w['d'] * w['hd'] * (2 * w['heads'] + 2 * w['kv']) + 3 * w['d'] * w['ffn']


def total_params(w: dict) -> int:
    return w['layers'] * (layer_params(w) + 2 * w['d']) + w['d'] + w['vocab'] * w['d']


def floor(w: dict, gflops: float, gbs: float) -> dict[str, float]:
    """Seconds that each part takes at least, in float32 on a machine with these ceilings, each prompt computed once a question.

    Operations: 2 a weight and token in each product, attention 4·context·heads·head_dim a token and layer; backward twice the forward;
    everything else free. Bytes: all weights once a decode step, the cache once a decode step; AdamW reads parameter, both moments and
    gradient and writes three. A part takes the larger of the two times; a row costs nothing after its end.
    """
    P, L, lens, attention = w['prompt'], w['layers'], lengths(w), w['heads'] * w['hd']
    G, Q, N = w['group'], w['questions'], sum(lens)
    body, head, n = L * layer_params(w), w['vocab'] * w['d'], total_params(w)
    cached = 2 * w['kv'] * w['hd'] * L * 4  # bytes a token

    def causal(rows, first, last):
        return rows * L * 4 * attention * sum(range(first + 1, last + 1))

    flop = 2 * body * Q * P + causal(Q, 0, P) + 2 * head * Q
    byte = 4 * body
    for s in range(max(lens) - 1):
        on = [i for i, length in enumerate(lens) if length > s + 1]
        flop += len(on) * 2 * (body + head) + causal(len(on), P + s, P + s + 1)
        byte += 4 * (body + head) + (len(on) * (s + 1) + P * len({i // G for i in on})) * cached
    forward = 2 * body * (Q * P + N) + causal(Q, 0, P) + sum(causal(1, P, P + x) for x in lens) + 2 * head * N
    work = {'gen': (flop, byte), 'score': (forward, 4 * n), 'train': (3 * forward, 40 * n)}
    out = {k: max(f / gflops, b / gbs) / 1e9 for k, (f, b) in work.items()}
    return out | {'step': sum(out.values())}


def summary(seconds: list[float]) -> dict:
    return {
        'median': round(statistics.median(seconds), 4),
        'min': round(min(seconds), 4),
        'max': round(max(seconds), 4),
        'n': len(seconds),
    }


def rss_gb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def emit(**values) -> None:
    """Prints one JSON line."""
    print(json.dumps(values | {'python': platform.python_version(), 'peak_rss_gb': rss_gb()}), flush=True)


now = time.perf_counter

_WORDS = """
time year people way day man thing woman life child world school state family student group country problem hand part place case
week company system program question work government number night point home water room mother area money story fact month lot
right study book eye job word business issue side kind head house service friend father power hour game line end member law car
city community name
"""


def texts(encode, count: int, length: int) -> list[str]:
    """So many different texts that `encode` turns into exactly `length` tokens."""
    rng = random.Random(0)
    single = [x for x in _WORDS.split() if len(encode('time ' + x)) == 2]
    out: list[str] = []
    while len(out) < count:
        text = 'time ' + ' '.join(rng.choice(single) for _ in range(length - 1))
        if len(encode(text)) == length:
            out.append(text)
    return out
