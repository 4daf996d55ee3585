"""A checkpoint on the device, ready to answer."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax

from r1jax import sharding
from r1jax.config import MeshConfig, ModelConfig
from r1jax.sample import Decode, Engine
from r1jax.sample.engine import Ran
from r1jax.sample.pool import Pool
from r1jax.serve.asked import MOST_SHOWN
from r1jax.serve.options import Decoding
from r1jax.serve.worker import Worker
from r1jax.settings import BadInput
from r1jax.train import restore

_CONTEXT = 4096  # unless more is asked for: every slot's memory is as long
_PAGE = 256  # tokens


@dataclasses.dataclass(frozen=True)
class Served:
    """What is served."""

    name: str  # as clients call it
    what: str  # in words
    config: ModelConfig
    tokenizer: Any  # whose chat template is the one that the checkpoint was trained through
    worker: Worker
    temperature: float  # where a request has none
    top_p: float


def name_of(checkpoint: str) -> str:
    """What a checkpoint is called by default: its last folder or file, and the stage."""
    folder, colon, stage = (checkpoint, '', '') if os.path.exists(checkpoint) else checkpoint.rpartition(':')
    if folder == 'package':  # package:NAME/FILE
        folder, colon, stage = checkpoint, '', ''
    name = os.path.basename(os.path.normpath(folder)).removesuffix('.gguf')
    return f'{name}{colon}{stage}'


def serve(
    checkpoint: str,
    name: str | None,
    decoding: Decoding,
    temperature: float | None = None,
    top_p: float | None = None,
    ran: Callable[[Ran], None] = lambda _: None,
) -> Served:
    """Reads a checkpoint, compiles what decodes it, and starts the thread that does.

    Args:
      name: what clients call it; None: as the checkpoint is called.
      temperature, top_p: where a request has none; None: the checkpoint's, or else R1's.
      ran: is told of every chunk.

    Raises:
      ValueError: a row is longer than the pool.
      BadInput: there is no tokenizer; the context is longer than the model's; and as `restore.restore`.
    """
    for field, value, high in (('temperature', temperature, 2), ('top_p', top_p, 1)):
        if value is not None and not 0 <= value <= high:
            raise BadInput(f'{field}={value} must be 0 to {high}')
    mesh = sharding.make_mesh(MeshConfig(tensor=decoding.tensor))
    dtype = decoding.dtype
    if dtype == 'auto':
        dtype = 'float32' if mesh.devices.flat[0].platform == 'cpu' else 'bfloat16'
    found = restore.restore(checkpoint)
    if (tokenizer := found.source.tokenizer) is None:
        raise BadInput(f'{found.what} has no tokenizer: put a tokenizer.json beside it')
    config = dataclasses.replace(found.source.config, dtype=dtype)
    context = decoding.context or min(config.context, _CONTEXT)
    if not 2 <= context <= config.context:
        raise BadInput(f'context={context} must be 2 to {config.context}, what the model was made for')
    if decoding.pool:
        Pool(decoding.pool, _PAGE, context)  # whether a row fits
    tokenizer.chat_template = restore.chat_template(found)
    params = restore.params(found, mesh, dtype)

    def make() -> Engine:
        stop = (tokenizer.eos, *tokenizer.stops)
        decode = Decode(
            config, 1, stop, tokenizer.pad, None, buckets=decoding.sizes, shown=min(MOST_SHOWN, config.vocab)
        )
        engine = Engine(decode, decoding.slots, context - 1, decoding.chunk, pool=decoding.pool, page=_PAGE)
        engine.load(params)
        return engine

    worker = Worker(make, lambda: jax.set_mesh(mesh), ran)
    drawn = found.source.generation
    return Served(
        name or name_of(checkpoint),
        found.what,
        config,
        tokenizer,
        worker,
        float(drawn.get('temperature', 0.6) if temperature is None else temperature),
        float(drawn.get('top_p', 0.95) if top_p is None else top_p),
    )
