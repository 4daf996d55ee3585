"""The process around jax: what has to be in the environment before jax is imported, or a process is started. Nothing here imports it.

A value that the user has set is left alone.
"""

from __future__ import annotations

import os
import pathlib

_ORDER = 'xla_cpu_enable_concurrency_optimized_scheduler'


def configure() -> None:
    """Keeps compiled programs between runs, and keeps the libraries' chatter out of the terminal."""
    cache = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache')
    defaults = {
        'JAX_COMPILATION_CACHE_DIR': str(cache / 'r1jax' / 'xla'),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.5',
        'TF_CPP_MIN_LOG_LEVEL': '2',  # XLA's warnings; its errors stay
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    if 'xla_force_host_platform_device_count' in os.environ.get('XLA_FLAGS', '') or 'JAX_NUM_CPU_DEVICES' in os.environ:
        in_order()


def in_order() -> None:
    """Has CPUs run a program's steps in order: by default collectives that do not depend on each other may start in another order on each
    virtual device or in each process, which is a deadlock.
    """
    flags = os.environ.get('XLA_FLAGS', '')
    if _ORDER not in flags:
        os.environ['XLA_FLAGS'] = f'{flags} --{_ORDER}=false'.strip()


def allow_unsandboxed(allowed: bool) -> None:
    """Has this process and those that it starts run model code without a sandbox where there is none, if `allowed`."""
    if allowed:
        os.environ['R1JAX_ALLOW_UNSANDBOXED'] = '1'
