"""From tokens, one by one, to text that can be shown at once and need not be taken back.

`Reading` holds back bytes that make no character yet, and what may turn out to be a stop string. `Thoughts` tells the thinking from
the answer, and holds back what may be a tag.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from r1jax.data.tokenizer import Tokenizer

_BROKEN = '\ufffd'  # what a decoder writes for bytes that are no character, perhaps because the next token has the rest
_PATIENCE = 8  # tokens without a whole character after which the bytes are none


class Reading:
    """The text of one answer. `hit` is the stop string that ended it, if one did."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()):
        self._tokenizer, self._stops = tokenizer, stops
        self._ids: list[int] = []
        self._from = self._read = 0  # tokens before which nothing matters to what follows; that are decoded
        self._held = ''
        self.decoded = self.told = 0  # characters so far, and of those given out
        self.hit: str | None = None

    def add(self, token: int) -> str:
        """Reads a token, and returns the text that is settled now."""
        self._ids.append(token)
        # some decoders treat the first token of a text differently, so what was decoded last is decoded again before the new
        before = self._tokenizer.decode(self._ids[self._from : self._read])
        text = self._tokenizer.decode(self._ids[self._from :])
        if text.endswith(_BROKEN) and len(self._ids) - self._read < _PATIENCE:
            return ''
        self._from, self._read = self._read, len(self._ids)
        return self._settle(text[len(before) :])

    def end(self) -> str:
        """There is no token more: returns the rest."""
        if self.hit is not None:
            return ''
        before = self._tokenizer.decode(self._ids[self._from : self._read])
        text = self._settle(self._tokenizer.decode(self._ids[self._from :])[len(before) :])
        self._read = len(self._ids)
        if self.hit is None:
            text, self._held = text + self._held, ''
        self.told = self.decoded if self.hit is None else self.told
        return text

    def _settle(self, new: str) -> str:
        self.decoded += len(new)
        self._held += new
        found = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            at, self.hit = min(found)
            text, self._held = self._held[:at], ''
        else:
            keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
            cut = len(self._held) - keep
            text, self._held = self._held[:cut], self._held[cut:]
        self.told += len(text)
        return text


def _overlap(text: str, word: str) -> int:
    """The longest end of a text with which a word may begin; less than the whole word."""
    return next((n for n in range(min(len(text), len(word) - 1), 0, -1) if text.endswith(word[:n])), 0)


OPEN, CLOSE = '<think>', '</think>'


class Said(NamedTuple):
    kind: Literal['reasoning', 'content']
    text: str


class Thoughts:
    """Thinking and answer of a response, apart. Whitespace around the tags belongs to neither."""

    def __init__(self, thinking: bool = False):
        """thinking: the prompt has opened the tag already."""
        self.thinking, self.thought = thinking, thinking
        self._begun = thinking  # whether it is decided that the text begins with thinking, or not
        self._fresh = True  # nothing was said yet since the last tag
        self._held = ''

    def add(self, text: str) -> list[Said]:
        """Reads text, and returns what is settled now."""
        self._held += text
        out: list[Said] = []
        if not self._begun:
            start = self._held.lstrip()
            if not start or (len(start) < len(OPEN) and OPEN.startswith(start)):
                return out
            self._begun = True
            if start.startswith(OPEN):
                self.thinking = self.thought = True
                self._held = start[len(OPEN) :]
        if self.thinking:
            thought, close, rest = self._held.partition(CLOSE)
            if close:
                out += self._say('reasoning', thought.rstrip())
                self.thinking, self._held, self._fresh = False, rest, True
            else:
                settled = thought[: len(thought) - _overlap(thought, CLOSE)].rstrip()
                self._held = thought[len(settled) :]
                return self._say('reasoning', settled)
        text, self._held = self._held, ''
        return out + self._say('content', text)

    def end(self) -> list[Said]:
        """There is no text more: returns the rest."""
        text, self._held = self._held, ''
        return self._say('reasoning', text.rstrip()) if self.thinking else self._say('content', text)

    def _say(self, kind, text) -> list[Said]:
        if self._fresh and self.thought:
            text = text.lstrip()
        self._fresh &= not text
        return [Said(kind, text)] if text else []
