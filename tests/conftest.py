"""Before jax is imported: eight CPU devices, so that meshes are real, and compiled programs kept for the next run."""

import os
import pathlib

import hypothesis
import pytest

_cache = pathlib.Path(__file__).parents[1] / '.pytest_cache' / 'xla'

os.environ['JAX_PLATFORMS'] = 'cpu'
# XLA's default order for CPUs lets two collectives that do not depend on each other start in another order on each device: a deadlock
_flags = '--xla_force_host_platform_device_count=8 --xla_cpu_enable_concurrency_optimized_scheduler=false'
os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {_flags}'.strip()
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(_cache))
os.environ.setdefault(
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0'
)  # operations by themselves, of which there are thousands

# No deadline: a jitted property compiles at its first example. The same examples each time, so that a failure repeats.
hypothesis.settings.register_profile('r1jax', deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile('r1jax')


@pytest.fixture
def data_cache(tmp_path_factory, monkeypatch):
    """Where tables are written as they are read, empty."""
    home = tmp_path_factory.mktemp('cache')
    monkeypatch.setenv('XDG_CACHE_HOME', str(home))
    return home / 'r1jax' / 'data'


@pytest.fixture
def endpoint(monkeypatch):
    """A fake endpoint that a judge can ask: see `judges.Server`."""
    from judges import Server

    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()
