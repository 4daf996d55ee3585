"""Slots over one rollout of continuous batching: how many there are, how many rows are in them, and how often one is taken again.

    python benchmarks/slots.py --workload V --slots 40 [--out slots.svg]      # TV: without SmolLM2

Prints one JSON line, and with --out writes a figure. It counts tokens and measures no time, so it may share a machine.
"""

import argparse
import pathlib

import drawing
import numpy as np
from grpo_step import ROWS, SLOTS, Step
from workload import WORKLOADS, emit

from r1jax.report.chart import Plot, Series


def lines(ran: list) -> tuple[list[Series], list[Series]]:
    """Of a rollout's chunks (`r1jax.sample.engine.Ran`), by decoding step: slots and rows in them; slots taken again so far."""
    ends = np.cumsum([0, *(r.steps for r in ran)])
    x = np.stack([ends[:-1], ends[1:]], 1).reshape(-1).astype(float)  # both ends of each chunk

    def line(name, values):
        return Series(name, x, np.repeat(np.asarray(values, float), 2), exact=True)

    slots = [line('slots', [r.slots for r in ran]), line('rows in them', [r.tokens / max(r.steps, 1) for r in ran])]
    return slots, [line('slots taken again', np.cumsum([0, *(r.admitted for r in ran[1:])]))]


def drawn(ran: list) -> str:
    """The figure of a rollout's chunks."""
    slots, refills = lines(ran)
    return drawing.svg(
        [
            ('slots (blue), rows in them (green), by decoding step', Plot('Slots', ('slots', 'rows in them')), slots),
            ('slots taken again so far, by decoding step', Plot('Refills', ('slots taken again',)), refills),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--workload', choices=('V', 'TV'), default='V')
    parser.add_argument(
        '--slots', type=int, default=0, help="rows decoded together (default: grpo_step.py's, or half of all rows)"
    )
    parser.add_argument('--buckets', type=int, default=5, help='sizes that slots shrink through when no row waits')
    parser.add_argument('--out', help='the SVG to write')
    a = parser.parse_args()
    w = WORKLOADS[a.workload]
    rows = w['questions'] * w['group']
    step = Step(w, ROWS[a.workload], a.buckets, 'float32', slots=a.slots or SLOTS.get(a.workload, rows // 2))
    if step.sampler.slots >= rows:
        parser.error(f"--slots {a.slots} hold all {rows} rows at once: none would take another's place")
    step.rollout()
    ran = step.sampler.engine.ran
    if a.out:
        pathlib.Path(a.out).write_text(drawn(ran), encoding='utf-8')
    busy = sum(r.tokens for r in ran) / sum(r.slots * r.steps for r in ran)
    emit(workload=a.workload, **step.decoded(), busy=round(busy, 3), chunks=len(ran), steps=sum(r.steps for r in ran))


if __name__ == '__main__':
    main()
