"""Asking a judge: what is stored is not asked again, what fails is tried again, and no call is made that the budget does not hold.

    questions -> answers stored -> calls, several at a time -> answers -> verdicts -> those without one, asked anew

A backend answers: an endpoint (`r1jax.rewards.endpoint`) or a model of ours (`Local`). Everything that changes its answers stands in
its `identity`, and with the messages and the number of the vote makes the key under which an answer is stored.

Three outcomes that are not a verdict: no answer after all retries, or none that can be read, costs this question (None, which becomes
NaN: not graded); a judge that answers nobody, or a budget that is used up, stops with `Stop`, whatever was answered being kept.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import hmac
import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Protocol, TypeVar

from r1jax.rewards.answers import Answers, Budget, BudgetExceeded, Reply, Spent, Stop

T = TypeVar('T')

_log = logging.getLogger(__name__)
_FORMAT = 1  # of the keys: raise it where the same question would be put in other words
_LONGEST_WAIT = 60.0  # seconds between two tries, unless the server asks for more
_GIVE_UP = 16  # questions in a row without an answer, after which no more are asked


class Unavailable(Exception):
    """A call failed in a way that may pass. `after`: seconds to wait, if told; `charged`: it may have cost what an answer costs."""

    def __init__(self, reason: str, after: float | None = None, charged: bool = False):
        super().__init__(reason)
        self.after, self.charged = after, charged


@dataclasses.dataclass(frozen=True)
class Ask:
    """One question to a judge."""

    messages: tuple[tuple[str, str], ...]  # (role, content)
    vote: int = 0  # the same question is put several times: these are different draws
    attempt: int = 0  # and again where the answer held no verdict

    def seed(self, base: int) -> int:
        """31 bits for the sampler of this draw."""
        return int.from_bytes(hashlib.sha256(f'{base} {self.vote} {self.attempt}'.encode()).digest()[:4], 'big') >> 1


class Backend(Protocol):
    """Who answers."""

    @property
    def identity(self) -> str:
        """Everything that changes an answer: model, revision, sampling; nothing secret."""

    @property
    def max_tokens(self) -> int:
        """Of an answer."""

    @property
    def batch(self) -> int:
        """Questions a call."""

    @property
    def workers(self) -> int:
        """Calls at a time; 1: made in the caller's own thread."""

    @property
    def per_minute(self) -> float:
        """Calls begun a minute at most; 0: no limit."""

    @property
    def price(self) -> tuple[float, float]:
        """Of a million tokens of prompt and of answer."""

    def __call__(self, asks: Sequence[Ask]) -> Sequence[Reply]:
        """A reply a question. Raises Unavailable for what may pass, Stop for what will not."""


@dataclasses.dataclass(frozen=True)
class Local:
    """A model of ours as a judge: any function from questions to replies, as `r1jax.evals.judge.sampled` makes from a Sampler."""

    generate: Callable[[Sequence[Ask]], Sequence[Reply]]
    identity: str  # the weights and how they are sampled, as `runs/a:sft step 400, temperature 0.6`
    max_tokens: int
    batch: int = 64
    workers = 1  # in the caller's thread, where the mesh is set
    per_minute = 0.0
    price = (0.0, 0.0)

    def __call__(self, asks: Sequence[Ask]) -> Sequence[Reply]:
        return self.generate(asks)


def rough_tokens(text: str) -> int:
    """About how many tokens a text is, without a tokenizer: four ASCII characters each, other scripts one a character."""
    short = sum(map(str.isascii, text))
    return -(-short // 4) + len(text) - short


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a dry run counts: `most` is what the calls cost if every first answer is as long as it may be and can be read."""

    questions: int
    stored: int  # of the questions, those whose answer is stored already
    prompt_tokens: int
    most: Spent

    def __str__(self):
        return f'{self.questions:,} questions, {self.stored:,} of them answered already; at most {self.most}'


@dataclasses.dataclass(frozen=True)
class Judge:
    """A backend with memory, patience and a purse.

    `counts` tells what happened so far: questions `stored` and `answered`, `calls`, `retries`, and questions left `unanswered` and
    `unreadable`.
    """

    backend: Backend
    path: str  # of the file of answers, see `r1jax.rewards.answers`
    budget: Budget = dataclasses.field(default_factory=Budget)
    retries: int = 5  # of a call that failed
    attempts: int = 3  # answers asked for until one holds a verdict
    backoff: float = 1.0  # seconds before the first retry, doubled before each further one
    tokens: Callable[[str], int] = rough_tokens  # of a text, for what is booked before a call and for dry runs

    @functools.cached_property
    def answers(self) -> Answers:
        return Answers(self.path)

    @functools.cached_property
    def counts(self) -> Counts:
        return Counts()

    @functools.cached_property
    def _pace(self) -> _Pace:
        return _Pace(self.backend.per_minute)

    def code(self, *texts: str) -> str:
        """Twelve hex digits that no judged text can foretell (they hang on the file's secret and the texts) or contains."""
        for i in range(1000):
            parts = '\0'.join(f'{len(t)}:{t}' for t in (str(i), *texts)).encode('utf-8', 'surrogatepass')
            code = hmac.new(self.answers.secret.encode(), parts, 'sha256').hexdigest()[:12]
            if not any(code in t for t in texts):
                return code
        raise AssertionError('a text that holds a thousand codes it cannot know')

    def verdicts(self, asks: Sequence[Ask], read: Sequence[Callable[[str], T | None]]) -> list[T | None]:
        """What its `read` finds in the answer to each question; None where no answer came, or `attempts` of them held no verdict.

        Raises:
          Stop: the budget is used up, or the judge answers nobody. A later call goes on from what was answered.
        """
        out: list[T | None] = [None] * len(asks)
        left = list(range(len(asks)))
        for attempt in range(self.attempts):
            replies = self._replies([dataclasses.replace(asks[i], attempt=attempt) for i in left])
            for i, reply in zip(left, replies, strict=True):
                if reply is not None and reply.finished:  # of an answer that was cut off, the last line is not the last
                    out[i] = read[i](reply.text)
            left = [i for i, reply in zip(left, replies, strict=True) if reply is not None and out[i] is None]
        if left:
            self.counts.add('unreadable', len(left))
            _log.warning('no verdict in %d of %d answers after %d attempts', len(left), len(asks), self.attempts)
        return out

    def estimate(self, asks: Sequence[Ask]) -> Estimate:
        """A dry run: what `verdicts` would call, counted without calling."""
        waiting = {self._key(ask): ask for ask in asks}
        stored = self.answers.get(list(waiting))
        new = [ask for key, ask in waiting.items() if key not in stored]
        calls = -(-len(new) // self.backend.batch)
        most = dataclasses.replace(sum(map(self._most, new), Spent()), calls=calls)
        repeated = len(asks) - len(waiting)
        return Estimate(len(asks), len(stored) + repeated, sum(map(self._prompt, new)), most)

    # --- one round of calls

    def _replies(self, asks: Sequence[Ask]) -> list[Reply | None]:
        """The reply to each question, from the file or from the backend; None where none came."""
        keys = [self._key(ask) for ask in asks]
        known = self.answers.get(list(dict.fromkeys(keys)))
        self.counts.add('stored', sum(key in known for key in keys))
        waiting = {key: ask for key, ask in zip(keys, asks, strict=True) if key not in known}
        items, size = list(waiting.items()), self.backend.batch
        batches = [dict(items[at : at + size]) for at in range(0, len(items), size)]
        turn = _Turn()
        for new in _map(functools.partial(self._call, turn), batches, self.backend.workers, turn.stop):
            known |= new
        if missing := len(waiting) - sum(key in known for key in waiting):
            self.counts.add('unanswered', missing)
            _log.warning('no answer to %d of %d questions: %s', missing, len(waiting), turn.reason)
        return [known.get(key) for key in keys]

    def _call(self, turn: _Turn, batch: dict[str, Ask]) -> dict[str, Reply]:
        """Calls the backend until it answers, at most 1 + `retries` times; what it answered, stored."""
        for i in range(self.retries + 1):
            self._pace.wait(turn.stop)
            if turn.stop.is_set():
                return {}
            try:
                return self._once(turn, batch)
            except Unavailable as error:
                turn.reason = str(error)
                if i < self.retries:
                    self.counts.add('retries')
                    wait = min(self.backoff * 2**i, _LONGEST_WAIT) * random.uniform(0.5, 1)  # not all at the same time
                    turn.stop.wait(max(wait, error.after or 0))
        turn.count(0, len(batch), turn.reason)
        return {}

    def _once(self, turn: _Turn, batch: dict[str, Ask]) -> dict[str, Reply]:
        """One call, booked before and settled after, whatever becomes of it."""
        asks, good = list(batch.values()), {}
        most = actual = dataclasses.replace(sum(map(self._most, asks), Spent()), calls=1)
        if not self._book(turn, most):
            return {}
        try:
            replies = list(self.backend(asks))
            if len(replies) != len(asks):
                raise ValueError(f'the judge gave {len(replies)} replies to {len(asks)} questions: one each')
            told = [self._told(ask, reply) for ask, reply in zip(asks, replies, strict=True)]
            actual = dataclasses.replace(sum(map(self._cost, told), Spent()), calls=1)
            good = {key: reply for key, reply in zip(batch, told, strict=True) if not reply.refusal}
        except Unavailable as error:
            actual = most if error.charged else Spent(calls=1)
            raise
        except Stop:
            actual = Spent(calls=1)
            raise
        finally:
            with turn.settled:
                stored = self.answers.settle(most, actual, good)
                turn.open -= 1
                turn.settled.notify_all()
        self.counts.add('answered', len(good))
        refused = [reply.refusal for reply in told if reply.refusal]
        # Once it has answered, what it refuses is that question's fault; before, it may be ours (a field it does not know).
        turn.count(len(good), 0 if self.counts['answered'] else len(refused), refused[-1] if refused else turn.reason)
        return stored

    def _book(self, turn: _Turn, most: Spent) -> bool:
        """Books a call; False if the round was stopped meanwhile. What does not fit beside the calls that are under way may fit
        when they are settled, since most cost less than they might have.
        """
        with turn.settled:
            while not turn.stop.is_set():
                try:
                    self.answers.book(most, self.budget)
                except BudgetExceeded:
                    if not turn.open:
                        raise
                    turn.settled.wait()
                else:
                    turn.open += 1
                    self.counts.add('calls')
                    return True
        return False

    def _key(self, ask: Ask) -> str:
        what = [_FORMAT, self.backend.identity, ask.messages, ask.vote, ask.attempt]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()

    def _prompt(self, ask: Ask) -> int:
        return sum(self.tokens(content) + 8 for _, content in ask.messages)  # 8: a turn's header and end

    def _most(self, ask: Ask) -> Spent:
        return self._cost(Reply('', True, self._prompt(ask), self.backend.max_tokens))

    def _cost(self, reply: Reply) -> Spent:
        prompt, answer = self.backend.price
        money = (prompt * reply.prompt_tokens + answer * reply.answer_tokens) / 1e6
        return Spent(0, reply.prompt_tokens + reply.answer_tokens, money)

    def _told(self, ask: Ask, reply: Reply) -> Reply:
        """The reply with its tokens estimated where the backend did not tell, and as text that can be stored."""
        text = reply.text.encode('utf-8', 'replace').decode()
        prompt = self._prompt(ask) if reply.prompt_tokens is None else reply.prompt_tokens
        answer = self.tokens(text) if reply.answer_tokens is None else reply.answer_tokens
        if reply.refusal:
            prompt = answer = 0
        return dataclasses.replace(reply, text=text, prompt_tokens=prompt, answer_tokens=answer)


class Counts(collections.Counter):
    """A counter that threads may add to."""

    def __init__(self):
        super().__init__()
        self._lock = threading.Lock()

    def add(self, name: str, count: int = 1) -> None:
        with self._lock:
            self[name] += count


class _Turn:
    """What the calls of one round share."""

    def __init__(self):
        self.stop = threading.Event()
        self.settled = threading.Condition()  # guards `open`
        self.open = 0  # calls under way
        self.reason = ''  # of the last failure
        self._failed = 0  # in a row
        self._lock = threading.Lock()

    def count(self, answered: int, failed: int, reason: str) -> None:
        with self._lock:
            self._failed = 0 if answered else self._failed + failed
            self.reason = reason
            if self._failed >= _GIVE_UP:
                raise Stop(
                    f'the judge answered none of {self._failed} questions in a row, the last time: {self.reason}'
                )


class _Pace:
    """Lets calls begin no faster than so many a minute, evenly spread."""

    def __init__(self, per_minute: float):
        self.gap = 60 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self, stop: threading.Event) -> None:
        if not self.gap:
            return
        with self._lock:
            begin = max(self._next, time.monotonic())
            self._next = begin + self.gap
        stop.wait(begin - time.monotonic())


def _map(function: Callable, items: Sequence, workers: int, stop: threading.Event) -> Iterator:
    """Results as they come. After an exception nothing new begins; what is under way ends (and is stored) before it is raised."""
    if workers == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers, 'judge') as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
