"""Between requests and the engine's thread: who is let in, and what becomes of the tokens.

All of it runs in the event loop's thread, but for the tokenizer, which is asked in threads of its own.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import functools
import hashlib
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from r1jax.sample import Request
from r1jax.sample.request import Fresh
from r1jax.serve.asked import Asked
from r1jax.serve.errors import Refused
from r1jax.serve.model import Served
from r1jax.serve.options import Limits
from r1jax.serve.text import OPEN, Reading, Said, Thoughts
from r1jax.serve.worker import Job

if TYPE_CHECKING:
    from r1jax.serve.metrics import Metrics

log = logging.getLogger('r1jax.serve')
SILENCE = 15.0  # seconds after which a stream that waits is told so, lest something between us and the client hangs up


@dataclasses.dataclass(frozen=True)
class Likely:
    """A token with its log-probability, nats, of softmax(logits / temperature) before top-p."""

    id: int
    logprob: float
    others: Sequence[tuple[int, float]] = ()  # the most likely in its place, most likely first


@dataclasses.dataclass(frozen=True)
class Delta:
    """What has come of one answer."""

    index: int  # of the answer: prompt · n + choice
    said: Sequence[Said]
    logprobs: Sequence[Likely]
    finish: str | None  # 'stop' or 'length', at the end


class Voice:
    """One answer as it comes: tokens in, what may be said out."""

    def __init__(self, index: int, asked: Asked, tokenizer: Any, thinking: bool):
        self.index, self.tokens, self.reasoning = index, 0, 0
        self.finish: str | None = None
        self._asked, self._reading = asked, Reading(tokenizer, asked.stops)
        self._thoughts = Thoughts(thinking) if asked.messages is not None and asked.apart else None
        self._entries: collections.deque[tuple[int, Likely]] = collections.deque()

    def feed(self, fresh: Fresh, why: str) -> Delta:
        """Some tokens more, and how they ended (see `r1jax.sample.request.Answer.why`)."""
        said, count = [], len(fresh.tokens)
        for i, token in enumerate(map(int, fresh.tokens)):
            self.tokens += 1
            if why == 'stop' and i == count - 1:
                break  # the end token, which is no text
            if self._asked.logprobs:
                self._entries.append((self._reading.decoded, self._likely(fresh, i, token)))
            said += self._say(self._reading.add(token))
            self.reasoning += self._thoughts is not None and self._thoughts.thinking
            if self._reading.hit is not None:
                break
        if self._reading.hit is not None or why:
            said += self._say(self._reading.end())
            said += self._thoughts.end() if self._thoughts else []
            self.finish = 'length' if why == 'limit' and self._reading.hit is None else 'stop'
        return Delta(self.index, _joined(said), self._settled(), self.finish)

    @property
    def hit(self) -> str | None:
        """The stop string that ended it."""
        return self._reading.hit

    def _say(self, text: str) -> list[Said]:
        if self._thoughts:
            return self._thoughts.add(text)
        return [Said('content', text)] if text else []

    def _likely(self, fresh: Fresh, i: int, token: int) -> Likely:
        others: Sequence[tuple[int, float]] = ()
        if self._asked.shown:
            found = zip(fresh.likely[i].tolist(), fresh.likely_logp[i].tolist(), strict=True)
            others = tuple(found)[: self._asked.shown]
        return Likely(token, float(fresh.logp[i]), others)

    def _settled(self) -> list[Likely]:
        """Entries of the tokens whose text was said."""
        out, all_of_them = [], self.finish and self._reading.hit is None
        while self._entries and (all_of_them or self._entries[0][0] < self._reading.told):
            out.append(self._entries.popleft()[1])
        return out


def _joined(said: Sequence[Said]) -> list[Said]:
    out: list[Said] = []
    for each in said:
        if out and out[-1].kind == each.kind:
            out[-1] = Said(each.kind, out[-1].text + each.text)
        else:
            out.append(each)
    return out


class Generation:
    """The answers to one request, while they come. Leave it, and their slots are free."""

    def __init__(self, service: Service, asked: Asked, prompts: Sequence[Sequence[int]], who: str):
        self.asked, self.prompts = asked, prompts
        self._service, self._who = service, who
        self._loop = asyncio.get_running_loop()
        self._coming: asyncio.Queue[tuple[int, Fresh | None, str]] = asyncio.Queue()
        self._jobs: dict[int, Job] = {}
        tokenizer = service.served.tokenizer
        primed = [asked.messages is not None and opens_thinking(tokenizer, prompt) for prompt in prompts]
        self.voices = [Voice(i, asked, tokenizer, primed[i // asked.n]) for i in range(len(prompts) * asked.n)]

    @property
    def prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))

    async def __aenter__(self) -> Generation:
        """Takes room for all answers. Raises Refused: there is none."""
        served, asked = self._service.served, self.asked
        limits = [room(served, asked, len(prompt)) for prompt in self.prompts]
        self._service.admit(len(self.voices), self._who)
        self._service.open.add(self)
        seed = secrets.randbits(63) if asked.seed is None else asked.seed
        temperature = served.temperature if asked.temperature is None else asked.temperature
        top_p = served.top_p if asked.top_p is None else asked.top_p
        for voice in self.voices:
            i, choice = divmod(voice.index, asked.n)
            key = key_of(seed, i, choice)
            request = Request(self.prompts[i], limits[i], key, temperature, top_p=top_p, show=asked.shown > 0)
            job = Job(request, functools.partial(self._tell, voice.index))
            self._jobs[voice.index] = job
            served.worker.submit(job)
        self._service.metrics.prompt_tokens(self.prompt_tokens)
        return self

    async def __aexit__(self, *_: object) -> None:
        for index in list(self._jobs):
            self._drop(index)
            self._service.metrics.ended('abandoned')
        self._service.open.discard(self)

    async def deltas(self) -> AsyncIterator[Delta | None]:
        """What comes, as it comes, until all answers are over; None after every `SILENCE` of nothing. Raises Refused: the engine failed,
        the server stops, or time is over.
        """
        started = self._loop.time()
        last: dict[int, float] = {}
        while self._jobs:
            left = started + self._service.limits.seconds - self._loop.time()
            try:
                async with asyncio.timeout(min(left, SILENCE)):
                    index, fresh, why = await self._coming.get()
            except TimeoutError:
                if left > SILENCE:
                    yield None
                    continue
                seconds = self._service.limits.seconds
                raise Refused(504, f'no end after {seconds:g} s: ask for fewer tokens', code='timeout') from None
            if fresh is None:
                raise Refused(503, 'the server is stopping', code='shutdown', retry=5)
            if why == 'failed':
                raise Refused(500, 'the answer was lost to a failure of the device', code='device')
            if index not in self._jobs:
                continue
            now, voice = self._loop.time(), self.voices[index]
            before = voice.tokens
            delta = voice.feed(fresh, why)
            self._service.metrics.tokens(voice.tokens - before, now - last.get(index, started), index not in last)
            last[index] = now
            if delta.finish:
                self._service.metrics.ended(delta.finish)
                if why:
                    self._release(index)
                else:  # by a stop string: the engine knows nothing of those
                    self._drop(index)
            yield delta
        self._service.metrics.seconds(self._loop.time() - started)

    def cut(self) -> None:
        """The server stops: what comes next is a refusal."""
        self._coming.put_nowait((-1, None, ''))

    def _tell(self, index: int, fresh: Fresh, why: str) -> None:
        """In the worker's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._coming.put_nowait, (index, fresh, why))

    def _drop(self, index: int) -> None:
        self._service.served.worker.cancel(self._jobs[index])
        self._release(index)

    def _release(self, index: int) -> None:
        del self._jobs[index]
        self._service.release(1, self._who)


class Service:
    """What answers: the model, and who has room."""

    def __init__(self, served: Served, limits: Limits, slots: int, metrics: Metrics):
        self.served, self.limits, self.slots, self.metrics = served, limits, slots, metrics
        self.open: set[Generation] = set()
        self.draining = False  # whether nothing more is taken
        self._admitted: collections.Counter[str] = collections.Counter()
        metrics.watch(self)

    @property
    def most(self) -> int:
        """Answers that there can be at once, running and waiting."""
        return self.slots + self.limits.queue

    @property
    def admitted(self) -> int:
        return self._admitted.total()

    async def generation(self, asked: Asked, who: str) -> Generation:
        """The answers to a request of `who`, to be entered. Raises Refused."""
        self.check()
        return Generation(self, asked, await asyncio.to_thread(encoded, self.served, asked), who)

    def check(self) -> None:
        """Raises Refused: nothing is answered any more."""
        if self.draining:
            raise Refused(503, 'the server is stopping', code='shutdown', retry=5)
        if self.served.worker.failed:
            raise Refused(503, 'the device has failed: restart the server', code='device')

    def admit(self, count: int, who: str) -> None:
        """Takes room. Raises Refused: there is none."""
        self.check()
        if self.admitted + count > self.most:
            message = f'{self.admitted} answers run or wait, and this server takes {self.most}: try again later'
            raise Refused(429, message, code='queue_full', retry=1)
        most = self.limits.per_key
        if most and self._admitted[who] + count > most:
            raise Refused(429, f'this key may have {most} answers at once', code='rate_limit_exceeded', retry=1)
        self._admitted[who] += count

    def release(self, count: int, who: str) -> None:
        self._admitted[who] -= count
        if not self._admitted[who]:
            del self._admitted[who]

    def cut(self) -> None:
        """Ends what there is."""
        for generation in list(self.open):
            generation.cut()


def room(served: Served, asked: Asked, prompt: int) -> int:
    """New tokens that an answer to a prompt of so many may have. Raises Refused: they do not fit behind it."""
    size, wanted = served.worker.size, asked.limit
    if prompt >= size or (wanted is not None and prompt + wanted > size):
        more = '' if wanted is None else f' and {wanted} new ones'
        message = f'{prompt} tokens of a prompt{more} are more than the {size} of the context'
        raise Refused(400, message, 'prompt' if asked.messages is None else 'messages', 'context_length_exceeded')
    return size - prompt if wanted is None else wanted


def encoded(served: Served, asked: Asked) -> list[Sequence[int]]:
    """The tokens of each prompt. Raises Refused: there is no template, or it takes no such messages; ids that are none."""
    tokenizer, vocab = served.tokenizer, served.config.vocab
    if asked.messages is not None:
        if not tokenizer.chat_template:
            raise Refused(400, f'{served.name} has no chat template: use /v1/completions', 'messages')
        try:
            return [tokenizer.chat_ids(asked.messages, tools=asked.tools, **asked.variables)]
        except ValueError as error:
            raise Refused(400, str(error), 'messages') from error
    first = tokenizer.eos if tokenizer.bos is None else tokenizer.bos
    out: list[Sequence[int]] = []
    for prompt in asked.prompts:
        ids = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        if bad := [i for i in ids if not 0 <= i < vocab]:
            raise Refused(400, f'{bad[0]} is no token: there are {vocab}', 'prompt')
        out.append(ids or [first])
    return out


def key_of(seed: int, prompt: int, choice: int) -> np.ndarray:
    """u32[2], what the draws of an answer begin with. On the host: the device has a chunk to compute."""
    digest = hashlib.blake2b(f'{seed} {prompt} {choice}'.encode(), digest_size=8).digest()
    return np.frombuffer(digest, '<u4')


def opens_thinking(tokenizer: Any, prompt: Sequence[int]) -> bool:
    """Whether a prompt ends in an opening tag, as R1's later templates have it: the answer then begins in the middle of a thought."""
    written = ''.join(tokenizer.piece(i) for i in prompt[-8:])
    return written.rstrip('Ċ▁Ġ \n').endswith(OPEN)
