"""What every tokenizer offers, whichever library it comes from: text, ids, and conversations as model input."""

from __future__ import annotations

import abc
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1jax.data.chat import ChatTemplateError, render


class Tokenizer(abc.ABC):
    """What every tokenizer offers.

    `vocab_size` counts the ids, special ones included; `eos` ends a response, as does each of `stops`; `pad` fills rows and may equal
    `eos`; `chat_template` is Jinja source or None.
    """

    vocab_size: int
    eos: int
    pad: int
    stops: tuple[int, ...] = ()  # besides `eos`; training teaches `eos` alone
    bos: int | None = None  # only chat templates ask for it
    opening: tuple[int, ...] = ()  # what its files would have in front of every text, and `encode` does not put there
    chat_template: str | None = None
    special_texts: Sequence[str] = ()  # what `encode` reads as a special token when it is written out

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of `text`, no BOS or EOS added."""

    def encode_text(self, text: str) -> list[int]:
        """As `encode`, but a special token written out in `text` is the letters it is made of: for what a model wrote."""
        return self.encode(text)  # unless a tokenizer finds special tokens in texts

    @abc.abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`. Special tokens and ids outside the vocabulary (a padded embedding has some) are dropped."""

    @abc.abstractmethod
    def piece(self, id: int) -> str:
        """The written form of one token, '' if it has none."""

    def token_bytes(self, id: int) -> bytes:
        """The UTF-8 that one token stands for, which need not be whole characters; of a special token its written form."""
        return self.decode([id]).encode() or self.piece(id).encode()

    @abc.abstractmethod
    def save(self, directory: str | os.PathLike, chat_template: str | None = None) -> None:
        """Writes tokenizer.json and tokenizer_config.json, which `HFTokenizer.from_file` and transformers read.

        Args:
          chat_template: Jinja source in place of this tokenizer's own.
        """

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """A conversation as model input, by the tokenizer's own template.

        What becomes of a system prompt, of tools and of the reasoning in earlier turns is the template's doing, as in
        transformers' `apply_chat_template`; R1's drops everything up to `</think>` from every assistant's message.
        The template comes with downloaded weights, so it runs in a process of its own: see `r1jax.data.chat`.

        Args:
          messages: `{'role': 'system' | 'user' | 'assistant' | 'tool', 'content': text}`, in order, and whatever else a
            template reads, such as `tool_calls` or `reasoning_content`; plain data.
          add_generation_prompt: end with the header of the assistant's turn.
          tools: JSON schemas of functions, for templates that present them.
          variables: what a template reads besides, such as `enable_thinking=False` (Qwen3), `date_string='1 Jan 2026'`
            (Llama 3).

        Raises:
          ValueError: there is no template, or it rejects the messages, or it passes a limit on time or memory.
        """
        if not self.chat_template:
            raise ValueError('this tokenizer has no chat template: use one that needs none, such as template.r1_zero')
        special = {'bos_token': '' if self.bos is None else self.piece(self.bos), 'eos_token': self.piece(self.eos)}
        seen = {'messages': list(messages), 'tools': tools, 'add_generation_prompt': add_generation_prompt}
        try:
            return render(self.chat_template, special | variables | seen)
        except ChatTemplateError as error:
            roles = [m.get('role') for m in messages]
            raise ValueError(f'the chat template fails on roles {roles}: {error}') from error

    def chat_ids(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> list[int]:
        """The ids of a conversation in which every message is text and nothing else.

        `encode(chat(messages))` would read `<|im_end|>` in a message as the end of it, so whoever writes a message
        could speak in another's turn. Here every special token that is written out in a message or a tool is put between
        two marks before the template runs, and what the marks enclose is encoded by `encode_text`. Without such a
        token the ids are those of `encode(chat(...))`.

        Args: as `chat`.

        Raises:
          ValueError: as `chat`.
        """
        given = json.dumps([list(messages), tools], ensure_ascii=False, default=str)
        known = [text for text in self.special_texts if json.dumps(text, ensure_ascii=False)[1:-1] in given]
        if not known:
            return self.encode(self.chat(messages, add_generation_prompt, tools, **variables))
        # of a private use area, and in no message: so no message can bring marks along
        start, end = [c for c in map(chr, range(0xF0000, 0xF1000)) if c not in given][:2]
        special = re.compile('|'.join(map(re.escape, sorted(known, key=len, reverse=True))))
        messages, tools = _each_text([messages, tools], lambda text: special.sub(rf'{start}\g<0>{end}', text))
        pieces = re.split(f'{start}(.*?){end}', self.chat(messages, add_generation_prompt, tools, **variables))
        ids = []
        for i, piece in enumerate(pieces):  # template, token, template, token, …
            ids += self.encode_text(piece) if i % 2 else self.encode(piece)
        return ids


def require(path: str | os.PathLike, what: str) -> None:
    """Raises FileNotFoundError if there is no such file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f'{what} {path} does not exist: give the path of a file')


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """Plain data with every text in it changed, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_each_text(key, change): _each_text(each, change) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_each_text(each, change) for each in value]
    return value
