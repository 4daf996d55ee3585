"""What happened to a run besides its steps: WORKDIR/events.jsonl, a line a signal, a damaged checkpoint, a rollback, a full disk.

    {"time": seconds since 1970, "stage", "step", "what", "text"}

Only grows, and is never cut back: metrics.jsonl tells of the steps that count, this file of what they went through. summary.json has the
sentences of each stage, and every one was a line in the terminal.
"""

from __future__ import annotations

import contextlib
import json
import os
import time

from r1jax.train import log

EVENTS = 'events.jsonl'


def note(workdir: str, stage: str, step: int | None, what: str, text: str) -> None:
    """Adds a line. Where even that has no room, the terminal's line is all there is."""
    line = {'stage': stage, 'step': step, 'what': what, 'text': text, 'time': round(time.time(), 3)}
    with contextlib.suppress(OSError), open(os.path.join(workdir, EVENTS), 'a+b', buffering=0) as file:
        if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b'\n':  # torn: the disk was full
            file.write(b'\n')
        log.append(file, [line])


def sentences(workdir: str) -> dict[str, list[str]]:
    """What is known of each stage, as it is in summary.json."""
    found: dict[str, list[str]] = {}
    path = os.path.join(workdir, EVENTS)
    if os.path.exists(path):
        with open(path, 'rb') as file:
            for each in file:
                with contextlib.suppress(ValueError):  # torn: the disk was full
                    line = json.loads(each)
                    found.setdefault(line['stage'], []).append(line['text'])
    return found
