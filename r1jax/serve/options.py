"""What can be set of a server."""

from __future__ import annotations

import dataclasses
from typing import Literal

LOOPBACK = ('127.0.0.1', 'localhost', '::1')


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a server takes on. What is more is refused at once, with a status that says why."""

    queue: int = 64
    """Answers that may wait for a slot; more are refused (429)."""
    per_key: int = 0
    """Answers that one API key may have running or waiting (0: any number)."""
    body: int = 2 * 2**20
    """Bytes of a request's body (413)."""
    body_seconds: float = 10.0
    """For a client to send its headers, and again its body (408)."""
    seconds: float = 600.0
    """For an answer, from the request to the last token (504)."""
    stall: float = 30.0
    """For a client to read what it was sent, before its connection is cut."""
    connections: int = 1024
    """Connections at once (503)."""
    grace: float = 30.0
    """After SIGTERM, for answers to come to their end before they are cut."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ('queue', 'per_key', 'grace') else 1
            if value < least:
                raise ValueError(f'{field.name}={value} must be {least} or more')


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How a checkpoint is put on the device and decoded."""

    slots: int = 16
    """Answers that are decoded together."""
    context: int = 0
    """Tokens of prompt and answer together, at most (0: the model's, up to 4096)."""
    pool: int = 0
    """Tokens of all answers and their prompts together that there is memory for, in pages that answers take as they grow (0: every slot has
    memory for the whole context)."""
    chunk: int = 8
    """Tokens of each answer between two looks of the host's: fewer come sooner, more come cheaper."""
    sizes: int = 1
    """Numbers of slots that are compiled: with 1 an answer has the same bits whatever else is asked; with more, few answers come faster."""
    dtype: Literal['float32', 'bfloat16', 'auto'] = 'auto'
    """Of weights and products (auto: bfloat16 on accelerators, float32 on CPUs)."""
    tensor: int = 1
    """Devices that the model is split over."""

    def __post_init__(self):
        for name in ('slots', 'chunk', 'sizes', 'tensor'):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f'{name}={value} must be 1 or more')
        for name in ('context', 'pool'):
            if (value := getattr(self, name)) < 0:
                raise ValueError(f'{name}={value} must be 0 or more')
