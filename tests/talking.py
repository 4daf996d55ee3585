"""A policy without a model and environments that talk to it, so that turns can be tested without compiling anything."""

import dataclasses
import time
import zlib

import numpy as np

from r1jax.config import Frame
from r1jax.types import Reply


class Numbers:
    """A tokenizer whose texts are numbers. A token in ten or so ends a turn."""

    vocab_size = 100
    eos, pad, stops = 1, 0, (2, 3, 4, 5, 6)

    def encode(self, text):
        return [int(word) for word in text.split()]

    encode_text = encode

    def decode(self, ids):
        return ' '.join(map(str, ids))


def drawn(key, before, index):
    """Token `index` of a response behind the tokens `before`, as a model would draw it: of its key, its place and what it reads."""
    seen = np.asarray(before, np.int32).tobytes() + np.asarray(key).tobytes()
    return 1 + zlib.crc32(seen + index.to_bytes(4, 'big')) % 49


class Engine:
    """`r1jax.sample.engine.Engine`, as far as a caller sees it: slots that rows take in turn, a few tokens of each at a time."""

    def __init__(self, decode, slots, columns=5):
        self.decode, self.slots, self.columns = decode, slots, columns
        self.asked = []
        self.reset()

    def reset(self):
        self.waiting, self.running = [], []

    unload = reset

    def load(self, params):
        pass

    @property
    def unfinished(self):
        return len(self.waiting) + len(self.running)

    @property
    def idle(self):
        return not self.unfinished

    def submit(self, request):
        from r1jax.sample.request import Answer  # here: processes that grade import this module, and no jax

        self.asked.append(request)
        answer = Answer(request, np.asarray(request.prompt, np.int32))
        self.waiting.append(answer)
        return answer

    def advance(self):
        while self.waiting and len(self.running) < self.slots:
            self.running.append(self.waiting.pop(0))
        over = []
        for answer in list(self.running):
            r = answer.request
            for _ in range(self.columns):
                n = len(answer.tokens)
                token = drawn(r.key, [*r.prompt, *answer.tokens], r.drawn + n)
                answer._tokens.append(np.array([token], np.int32))
                answer._logp.append(np.array([-token / 10], np.float32))
                answer.why = 'stop' if token in self.decode.stop else 'limit' if n + 1 == r.limit else ''
                if answer.why:
                    over.append(answer)
                    self.running.remove(answer)
                    break
        return over


@dataclasses.dataclass(frozen=True)
class Asks:
    """Says how many tokens the last turn had, twice where they are odd; one in four times that is all."""

    frame: Frame = Frame('50', '51', '52', '53')  # noqa: RUF009, it is frozen
    turns: int = 4
    output: int = 3
    deadline: float = 0.0

    def __call__(self, problem, response):
        size = len(response.turns[-1].split())
        return None if size % 4 == 0 else Reply((f'6{size % 10}',) * (1 + size % 2))


class Never(Asks):
    """Has nothing to say."""

    def __call__(self, problem, response):
        return None


class Long(Asks):
    """Says more than may be said."""

    def __call__(self, problem, response):
        return Reply(('60 61 62 63 64',))


class Slow(Asks):
    """Takes its time over every third problem, raises over the next, and has no tool for the one after it."""

    def __call__(self, problem, response):
        match problem.id % 3:
            case 0:
                time.sleep(60)
            case 1:
                raise RuntimeError('no idea')
        return Reply(('60',), ('unknown',))
