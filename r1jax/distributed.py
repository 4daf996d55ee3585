"""Many processes, one run: who computes, who reads, who writes, and how one of them ends all.

Every process runs the same program on the same view of the host: the same recipe, the same problems, the same rollout. What the devices
have sampled is gathered whole by each (`sharding.fetch`), so that whatever the host decides from it (which rows take which slots, what is
refilled, how many microbatches there are, whether a step was skipped) follows from the same numbers in each and needs no vote. Only what
can differ between hosts is told: grades with deadlines of the wall clock (each process grades its share, `r1jax.train.shared`), signals
(`highest`), the clock, and what the disk holds (`told`: the first process looks, the others hear). So no process compiles or calls
anything that the others do not.

What that costs: each host holds whole rollouts, about 17 bytes a token (285 MB for 512 answers of 32k tokens), gathers 9 bytes a token once
a rollout, and packs batches that it needs a part of. Beside sampling, which reads all weights once a token, it does not show. Weights,
gradients and optimizer are never gathered; of a batch each process hands over its devices' rows alone (`sharding.put`).

The first process alone writes what processes share: logs, summary, report, config, collected data. A workdir has to be a folder that all of
them see. Checkpoints are written by all, each its shards (orbax).

A failure ends the run. A process that raises tells the others what, and ends; they print it and end. One that is killed is noticed by
those that compute with it, by its silence after `HEARTBEAT` seconds otherwise; where the first one is gone, at once. Nothing goes on with
those that are left: the same command, started again, goes on from the last checkpoint.

Nothing here imports jax before `start` is called.
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import functools
import itertools
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from r1jax import runtime
from r1jax.settings import BadInput

T = TypeVar('T')

HEARTBEAT = 30  # seconds of silence after which a process counts as lost
GRACE = 2.0  # seconds that a process has to end by itself once another has failed
JOIN = 300  # seconds that processes wait for each other at the start
PARTING = 45  # seconds that they wait for each other at the end
_FAILED = 'r1jax/failed'  # where the first failure is told
_HEAD = 1024  # bytes that are exchanged at once
_PATIENCE = 7 * 86_400_000  # ms that processes wait for one that lives: what hangs is the watchdog's

_many = False  # whether `start` has joined others
_over = threading.Event()  # the run, for who listens for failures
# Of this thread: while the first process does what the others only hear of
_alone: contextvars.ContextVar[bool] = contextvars.ContextVar('alone', default=False)


class Circle:
    """Threads of all processes, one of each, that tell each other things. A thread that acts beside the main one has a circle of its own
    (`among`): what each of them says is apart, and so are the devices it is said over, since the programs of a device must begin in one
    order in all processes. All processes make their circles in the same order.
    """

    _made = itertools.count()

    def __init__(self, devices: Iterable[Any] | None = None):
        """devices: of every process one at least; None: all there are."""
        self.number, self.meetings, self._devices = next(self._made), itertools.count(), devices

    def meet(self) -> None:
        """Returns once the others are here. They may have much to do before; where one has died, the runtime says so at once."""
        _client().wait_at_barrier(f'r1jax/{self.number}/{next(self.meetings)}', _PATIENCE)

    @functools.cached_property
    def devices(self) -> list[Any]:
        """One of each process, in their order."""
        jax = sys.modules['jax']
        firsts: dict[int, Any] = {}
        for each in jax.devices() if self._devices is None else self._devices:
            firsts.setdefault(each.process_index, each)
        return [firsts[i] for i in range(jax.process_count())]


_main = Circle()
_circle: contextvars.ContextVar[Circle | None] = contextvars.ContextVar('circle', default=None)  # None: the main one


@contextlib.contextmanager
def among(circle: Circle) -> Iterator[None]:
    """Within it this thread meets the others of the circle."""
    token = _circle.set(circle)
    try:
        yield
    finally:
        _circle.reset(token)


class Place(NamedTuple):
    """Where this process stands, as said by hand."""

    coordinator: str  # HOST:PORT of the first process, which the others can reach
    processes: int
    process: int  # from 0


def by_hand(
    coordinator: str | None, processes: int | None, process: int | None, env: Mapping[str, str] = os.environ
) -> Place | None:
    """What flags say, or else JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID; None: nothing.

    Raises:
      BadInput: a part is missing or no number, or the number of this process is not below that of all.
    """
    if (coordinator, processes, process) == (None, 1, None):  # alone, whatever there is around it
        return Place('', 1, 0)
    names = '--coordinator', '--processes', '--process'
    given: tuple[Any, ...] = (coordinator, processes, process)
    if given == (None, None, None):
        names = 'JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'
        given = tuple(env.get(name) for name in names)
        if given[1:] == (None, None):  # the address alone is for a cluster that jax finds
            return None
    if missing := [name for name, each in zip(names, given, strict=True) if each is None]:
        raise BadInput(f'{names[0]}, {names[1]} and {names[2]} go together: {missing[0]} is missing')
    try:
        place = Place(given[0], int(given[1]), int(given[2]))
    except ValueError as error:
        raise BadInput(f'{names[1]} and {names[2]} are whole numbers: {error}') from error
    host, _, port = place.coordinator.rpartition(':')
    if not host or not port.isdecimal():
        raise BadInput(f'the coordinator is HOST:PORT of the first process, not {place.coordinator!r}')
    if not 0 <= place.process < place.processes:
        raise BadInput(
            f'process {place.process} of {place.processes}: processes count from 0, so the last is processes - 1'
        )
    return place


def cluster(env: Mapping[str, str] = os.environ) -> str | None:
    """The cluster whose launcher has started this process beside others, of those that jax asks by itself; None: none.

    Decided by what launchers set for each process, so that a shell on a cluster's machine is a process of its own.
    """
    if int(env.get('SLURM_STEP_NUM_TASKS', 1)) > 1 and 'SLURM_PROCID' in env:
        return 'SLURM'
    if int(env.get('OMPI_COMM_WORLD_SIZE', 1)) > 1:
        return 'Open MPI'
    if env.get('JAX_PLATFORMS') == 'cpu':
        return None
    if 'MEGASCALE_COORDINATOR_ADDRESS' in env or ',' in env.get('TPU_WORKER_HOSTNAMES', ''):
        return 'TPU'  # GKE, xpk, or several slices
    return 'TPU' if _on_a_tpu_vm() else None


def _on_a_tpu_vm() -> bool:
    """Whether this is a Cloud TPU VM, of a pod or alone: jax finds the others by the machine's metadata."""
    from jax._src import cloud_tpu_init  # set when jax is imported; there is no public name for it

    return cloud_tpu_init.running_in_cloud_tpu_vm and 'TPU_SKIP_MDS_QUERY' not in os.environ


def start(place: Place | None) -> None:
    """Joins the other processes, if there are any: those of `place`, or of a cluster that jax recognises. Before jax computes anything.

    Where the others do not come within `JOIN` seconds, this process ends with exit status 2.

    Raises:
      BadInput: they cannot be joined.
    """
    found = None if place else cluster()
    if (place is None or place.processes == 1) and not found:
        return
    runtime.in_order()
    import jax

    where = place._asdict() if place else {}
    names = {'coordinator': 'coordinator_address', 'processes': 'num_processes', 'process': 'process_id'}
    # Programs of several processes on CPUs meet in the order in which they were started: one at a time
    jax.config.update('jax_cpu_enable_async_dispatch', False)
    # SIGTERM is ours (`r1jax.train.interrupt`)
    jax.config.update('jax_enable_preemption_service', False)
    whom = f'at {place.coordinator}' if place else f'of {found}'
    patience = threading.Timer(JOIN, _end_waiting, [whom])
    patience.start()
    try:
        jax.distributed.initialize(
            **{names[name]: value for name, value in where.items()},
            # By hand each process has the devices that it sees; on clusters jax knows which are whose
            cluster_detection_method='deactivate' if place else None,
            initialization_timeout=JOIN
            + 60,  # at which the runtime of the first would abort, and that of others perhaps not at all
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=PARTING,
        )
    except Exception as error:
        if not place and isinstance(error, ValueError):
            return  # a machine with TPUs whose surroundings say of no others
        raise BadInput(f'could not join the other processes {whom}: {error}') from error
    finally:
        patience.cancel()
    global _many
    _many = jax.process_count() > 1
    if _many:
        listening = threading.Thread(target=_listen, name='failures', daemon=True)
        listening.start()

        def end() -> None:
            _over.set()
            listening.join()

        atexit.register(end)  # before the runtime's own end, which it would meet in a call


def _end_waiting(whom: str) -> None:
    print(
        f'r1jax: error: not all processes {whom} came within {JOIN} s: start as many as were said, each with a number of its own, and the '
        'first where the others can reach it',
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def count() -> int:
    """Processes that compute together: those of this run, or one where `told` has this one act alone."""
    return sys.modules['jax'].process_count() if _many and not _alone.get() else 1


def index() -> int:
    """The number of this process, from 0."""
    return sys.modules['jax'].process_index() if _many and not _alone.get() else 0


def first() -> bool:
    """Whether this is the process that writes."""
    return index() == 0


def name() -> str:
    """How messages name this process; '' where it is the only one."""
    if not _many:
        return ''
    jax = sys.modules['jax']
    return f'process {jax.process_index()} of {jax.process_count()}'


# --- what processes tell each other


class Gone(RuntimeError):
    """Another process has ended. Not of the kinds of error that bad input is."""


def exchange(value: T) -> list[T]:
    """What each process gave, in their order. All have to call this, in the same order as everything else that they do together.

    Raises:
      Gone: one of them cannot, since it has ended.
    """
    if not _many or _alone.get():
        return [value]
    data = pickle.dumps(value)
    try:
        circle = _circle.get() or _main
        circle.meet()  # first, since collectives of devices have time limits of their own
        rows = _gathered(data, circle.devices)
    except Exception as error:
        raise Gone(f'{name()} waits in vain for the others: {error}') from error
    return [pickle.loads(row) for row in rows]


def _gathered(data: bytes, devices: list[Any]) -> list[bytes]:
    import numpy as np

    head = np.zeros(_HEAD, np.uint8)  # the size, and what is small
    raw = np.frombuffer(data, np.uint8)
    head[:8] = np.frombuffer(np.int64(len(raw)).tobytes(), np.uint8)
    head[8 : 8 + len(raw)] = raw[: _HEAD - 8]
    heads = _rows(head, devices)
    sizes = [int.from_bytes(row[:8].tobytes(), sys.byteorder) for row in heads]
    rows = heads[:, 8:]
    if max(sizes) > rows.shape[1]:
        padded = np.zeros(1 << (max(sizes) - 1).bit_length(), np.uint8)  # of few sizes: each is compiled once
        padded[: len(raw)] = raw
        rows = _rows(padded, devices)
    return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]


def _rows(mine: Any, devices: list[Any]) -> Any:
    """What each process has, u8[size], by a program of these devices, one of each process: u8[processes,size]."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(devices), ('process',))
    part = jax.device_put(mine[None], devices[jax.process_index()])
    each = jax.make_array_from_single_device_arrays(
        (len(devices), len(mine)), NamedSharding(mesh, PartitionSpec('process')), [part]
    )
    with jax.set_mesh(mesh):
        whole = jax.jit(_same, out_shardings=NamedSharding(mesh, PartitionSpec()))(each)
    return np.asarray(whole.addressable_data(0))


def _same(a: Any) -> Any:
    return a


def told(make: Callable[[], T]) -> T:
    """What `make` gives the first process, or raises there: the others do not call it, and hear it.

    What it calls in turn is the first process's alone, and is told to nobody.
    """
    if not _many or _alone.get():
        return make()
    outcome = _tried(make) if first() else None
    result, error = exchange(outcome)[0]
    if error is not None:
        raise error
    return result


def after_first(make: Callable[[], T]) -> T:
    """`make()` of each process, called by the others once the first has returned: what it writes is there for them."""
    if not _many or _alone.get():
        return make()
    mine: list[T] = []
    told(lambda: mine.append(make()))
    return mine[0] if mine else make()


def wait() -> None:
    """Returns once all processes have come here."""
    exchange(None)


def _tried(make: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    token = _alone.set(True)
    try:
        return make(), None
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return None, RuntimeError(f'{type(error).__name__}: {error}')
        return None, error
    finally:
        _alone.reset(token)


def by_first(fn: Callable[..., T]) -> Callable[..., T]:
    """`fn`, called by the first process and told to the others."""

    @functools.wraps(fn)
    def call(*args, **kwargs):
        return told(lambda: fn(*args, **kwargs))

    return call


def highest(value: int | None) -> int | None:
    """The highest of the processes' numbers; None where none has one."""
    return max((each for each in exchange(value) if each is not None), default=None)


def same_folder(path: str) -> None:
    """Raises BadInput where the processes do not all see the folder of the first, which is there."""
    if not _many:
        return
    mark = os.path.join(path, '.seen')
    word = told(lambda: _write_mark(mark))
    seen = exchange(_read_mark(mark) == word)
    told(lambda: os.unlink(mark))
    if blind := [i for i, each in enumerate(seen) if not each]:
        raise BadInput(
            f'process {blind[0]} of {len(seen)} does not see the workdir of the first, {path}: with several processes it has to be a '
            'folder that all of them share'
        )


def _write_mark(mark: str) -> str:
    word = os.urandom(8).hex()
    with open(mark, 'w') as file:
        file.write(word)
    return word


def _read_mark(mark: str) -> str | None:
    for _ in range(50):  # network file systems need a moment
        with contextlib.suppress(OSError), open(mark) as file:
            return file.read()
        time.sleep(0.1)
    return None


# --- the end


def blame(error: Exception) -> str:
    """Whom to ask where an error is only that another process is gone; '' where it is not."""
    if _many and (
        isinstance(error, Gone) or any(word in str(error) for word in ('Gloo', 'NCCL', 'by peer', 'UNAVAILABLE'))
    ):
        return 'another process has ended, and its own log says why'
    return ''


def fail(text: str, status: int) -> None:
    """Tells the other processes why this one ends, and ends it with an exit status; returns where it is the only one."""
    if not _many:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(Exception):  # another was first, or nobody is there to hear it
        _client().key_value_set(_FAILED, f'{status} {name()} {text}')
    # Others that fail of the same say so themselves; and where this one is the first, whose end ends them, they have to hear of it
    time.sleep(GRACE + 1 if first() else GRACE / 4)
    os._exit(status)  # not by the usual way, on which jax would wait for all


def _listen() -> None:
    """Waits for another's failure, and ends this process by it."""
    while True:
        try:
            failure = _client().blocking_key_value_get(_FAILED, 1000)
            break
        except Exception as error:
            if _over.is_set() or 'DEADLINE_EXCEEDED' not in str(error):
                return  # or the first process is gone, which the runtime sees too
    status, text = failure.split(' ', 1)
    time.sleep(GRACE)  # this process may be about to say more
    if not text.startswith(f'{name()} '):
        print(f'r1jax: {name()} ends, since {text}', file=sys.stderr, flush=True)
        os._exit(int(status))


def _client() -> Any:
    from jax._src import distributed  # the runtime's key-value store, which orbax uses too, has no public name

    return distributed.global_state.client
