"""What a judge has answered and what it has cost, in one SQLite file.

Answers are paid for, so each is written as it arrives, and a killed run finds it again. Several processes may share a file (on a local
disk: SQLite's locks do not hold on every network file system): where two asked the same, both go on with the answer that came first.

What a call may cost at most is booked before it is made and set right afterwards, in the transaction that stores its answer. So a
budget holds over restarts and between processes, and a process killed in the middle of a call leaves its estimate booked: the call may
well have been charged.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

_TABLES = """
create table if not exists answer (key text primary key, text text, finished int, prompt_tokens int, answer_tokens int) without rowid;
create table if not exists spent (one int primary key check (one = 1), calls int, tokens int, cost real);
create table if not exists secret (one int primary key check (one = 1), text text)
"""
_PATIENCE = 60.0  # seconds that a writer waits for others


class Stop(RuntimeError):
    """A judge cannot go on, and no response is to blame for it. What was answered is kept: a later run goes on from there."""


class BudgetExceeded(Stop):
    """The next call could cost more than is left."""


@dataclasses.dataclass(frozen=True)
class Spent:
    """What calls cost: calls made (failed ones too), tokens (prompt and answer together), and money in the prices' currency."""

    calls: int = 0
    tokens: int = 0
    cost: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.calls + other.calls, self.tokens + other.tokens, self.cost + other.cost)

    def __str__(self):
        return f'{self.calls:,} calls, {self.tokens:,} tokens, {self.cost:,.2f} in money'


@dataclasses.dataclass(frozen=True)
class Budget:
    """The most that a file of answers may have cost, all runs together. None: no limit; 0 calls: only what is stored."""

    calls: int | None = None
    tokens: int | None = None
    cost: float | None = None

    def exceeded_by(self, spent: Spent) -> list[str]:
        """The names of the limits that `spent` is over."""
        limits = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return [name for name, most in limits.items() if most is not None and getattr(spent, name) > most]


@dataclasses.dataclass(frozen=True)
class Reply:
    """An answer of a judge."""

    text: str
    finished: bool = True  # False: cut off
    prompt_tokens: int | None = None  # None: not told
    answer_tokens: int | None = None
    refusal: str = ''  # why this question cannot be answered, however often it is asked; such a reply is not stored


class Answers:
    """The file at `path`, which is made, with its folder, where it does not exist. Safe to use from several threads."""

    def __init__(self, path: str):
        self.path = path
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        self._write_ahead()
        with self._transaction() as db:
            for table in _TABLES.split(';'):
                db.execute(table)
            db.execute('insert or ignore into spent values (1, 0, 0, 0)')
            db.execute('insert or ignore into secret values (1, ?)', (secrets.token_hex(16),))
        self.secret: str = self._db.execute('select text from secret').fetchone()[0]  # known to no judged text

    def _write_ahead(self) -> None:
        """Readers then do not wait for writers, nor a writer for the disk. SQLite does not wait for its turn to switch: we do."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                self._db.execute('pragma journal_mode = wal')
                self._db.execute('pragma synchronous = normal')
                return
            except sqlite3.OperationalError as error:
                if 'locked' not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.01)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute('begin immediate')
            try:
                yield self._db
            except BaseException:
                self._db.execute('rollback')
                raise
            self._db.execute('commit')

    def get(self, keys: Sequence[str]) -> dict[str, Reply]:
        """The stored replies among `keys`."""
        found: dict[str, Reply] = {}
        with self._lock:
            for at in range(0, len(keys), 500):  # SQLite bounds the variables of a statement
                some = keys[at : at + 500]
                rows = self._db.execute(f'select * from answer where key in ({",".join("?" * len(some))})', some)
                found |= {key: Reply(text, bool(finished), *tokens) for key, text, finished, *tokens in rows}
        return found

    def spent(self) -> Spent:
        with self._lock:
            return Spent(*self._db.execute('select calls, tokens, cost from spent').fetchone())

    def book(self, most: Spent, budget: Budget) -> None:
        """Books what calls may cost at most. BudgetExceeded where that would be more than is left; nothing is booked then."""
        with self._transaction() as db:
            before = Spent(*db.execute('select calls, tokens, cost from spent').fetchone())
            if over := budget.exceeded_by(before + most):
                limits = ', '.join(f'{name}={getattr(budget, name):,}' for name in over)
                raise BudgetExceeded(
                    f'the budget of {self.path} ({limits}) does not hold another call, which may take {most}: '
                    f'{before} are spent; the answers are kept there, raise the budget to go on'
                )
            self._add(db, most)

    def settle(self, most: Spent, actual: Spent, replies: Mapping[str, Reply] = {}) -> dict[str, Reply]:
        """Replaces what was booked by what it cost, and stores replies: the stored one of each key, ours or who was first."""
        with self._transaction() as db:
            self._add(db, Spent(actual.calls - most.calls, actual.tokens - most.tokens, actual.cost - most.cost))
            rows = [(k, r.text, r.finished, r.prompt_tokens, r.answer_tokens) for k, r in replies.items()]
            db.executemany('insert or ignore into answer values (?, ?, ?, ?, ?)', rows)
        return self.get(list(replies))

    @staticmethod
    def _add(db: sqlite3.Connection, more: Spent) -> None:
        db.execute(
            'update spent set calls = calls + ?, tokens = tokens + ?, cost = cost + ?', dataclasses.astuple(more)
        )

    def close(self) -> None:
        self._db.close()
