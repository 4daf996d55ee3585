"""`r1jax serve`: a checkpoint, a port, and what is said meanwhile."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Sequence

from r1jax.serve import guard, model
from r1jax.serve.app import build
from r1jax.serve.metrics import Metrics
from r1jax.serve.options import LOOPBACK, Decoding, Limits
from r1jax.serve.server import Server
from r1jax.serve.service import Service
from r1jax.settings import BadInput, as_bad_input


def run(
    checkpoint: str,
    host: str,
    port: int,
    name: str | None,
    api_keys: pathlib.Path | None,
    allow_host: Sequence[str],
    temperature: float | None,
    top_p: float | None,
    decoding: Decoding,
    limits: Limits,
) -> None:
    """Serves until SIGTERM or an interrupt. Raises BadInput before anything is compiled: see `r1jax.serve.model`."""
    logging.basicConfig(level=logging.WARNING, format='%(asctime)s %(levelname)s %(name)s: %(message)s')
    with as_bad_input():
        keys = guard.Keys.read(api_keys)
        if host not in LOOPBACK and not keys:
            raise BadInput(
                f'--host {host} is reached from outside, and there are no API keys: give --api-keys FILE, or {guard.KEYS}'
            )
        metrics = Metrics()
        print(f'reading {checkpoint}', flush=True)
        served = model.serve(checkpoint, name, decoding, temperature, top_p, metrics.ran)
        service = Service(served, limits, decoding.slots, metrics)
        try:
            server = Server(build(service, keys, guard.hosts(host, allow_host)), service, host, port)
        except OSError as error:
            served.worker.stop()
            raise BadInput(f'cannot listen on {host}:{port}: {error.strerror}; take another --port') from error
    print(f'{served.what} is {served.name!r}: {decoding.slots} slots of {served.worker.size} tokens')
    print(f'{server.url}/v1 for clients, {server.url}/ for people', flush=True)
    server.run()
    served.worker.stop()
    print('stopped')
