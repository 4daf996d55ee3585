"""Text to token ids and back: the only door to sentencepiece and tokenizers.

In: a SentencePiece `.model` (trained here for the tiny world) or a Hugging Face `tokenizer.json`; a GGUF's tokenizer
arrives from `r1jax.weights` as vocabulary and merges. Out: one interface, `Tokenizer`.

Nothing is added silently: `encode` puts no BOS and no EOS, since who learns from an end token is the training code's
decision. Left out: offsets, truncation and padding, which are the batch's business.
"""

from __future__ import annotations

import abc
import functools
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers

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


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """Plain data with every text in it changed, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_each_text(key, change): _each_text(each, change) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_each_text(each, change) for each in value]
    return value


class SentencePiece(Tokenizer):
    """A SentencePiece `.model` file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not a SentencePiece model.
    """

    def __init__(self, path: str | os.PathLike):
        _require(path, 'SentencePiece model')
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=Path(path).read_bytes())
        except RuntimeError as error:
            raise ValueError(f'{path} is not a SentencePiece model') from error
        self.vocab_size = self._model.vocab_size()
        self.eos = self._model.eos_id()
        # sentencepiece says -1 where a model was trained without the token
        self.pad = self._model.pad_id() if self._model.pad_id() >= 0 else self.eos
        self.bos = self._model.bos_id() if self._model.bos_id() >= 0 else None

    def encode(self, text: str) -> list[int]:
        return self._model.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._model.decode([int(i) for i in ids if 0 <= i < self.vocab_size])

    def piece(self, id: int) -> str:
        return self._model.id_to_piece(int(id))

    def save(self, directory: str | os.PathLike, chat_template: str | None = None) -> None:
        """The same tokenizer in the other library's form: see `_as_hugging_face`."""
        tokenizer = _as_hugging_face(self._model)
        HFTokenizer(tokenizer, self.eos, self.pad, chat_template or self.chat_template, self.bos).save(directory)


def _as_hugging_face(model: sentencepiece.SentencePieceProcessor) -> tokenizers.Tokenizer:
    """A SentencePiece byte-pair model without normalisation, as the `tokenizers` library has it; both give the same ids.

    SentencePiece joins the neighbours whose piece has the best score. As merges that is every cut of every piece, best scores first.
    Symbols that are always one token become added tokens, which are matched before anything is merged.

    Raises:
      ValueError: the model is of another kind.
    """
    from sentencepiece import sentencepiece_model_pb2 as proto

    described = proto.ModelProto.FromString(model.serialized_model_proto())
    trainer, normalizer = described.trainer_spec, described.normalizer_spec
    plain = not (normalizer.add_dummy_prefix or normalizer.remove_extra_whitespaces or normalizer.precompiled_charsmap)
    if trainer.model_type != proto.TrainerSpec.BPE or not plain or trainer.byte_fallback:
        raise ValueError('only a byte-pair model without normalisation or byte fallback can become a tokenizer.json')
    kind = proto.ModelProto.SentencePiece
    vocab = {piece.piece: i for i, piece in enumerate(described.pieces)}
    normal = [p for p in described.pieces if p.type == kind.NORMAL]
    merges = [
        (p.piece[:i], p.piece[i:])
        for p in sorted(normal, key=lambda p: -p.score)
        for i in range(1, len(p.piece))
        if {p.piece[:i], p.piece[i:]} <= vocab.keys()
    ]
    unknown = model.id_to_piece(model.unk_id())
    out = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges, unk_token=unknown, fuse_unk=True))
    out.normalizer = tokenizers.normalizers.Replace(' ', '▁')
    out.decoder = tokenizers.decoders.Replace('▁', ' ')
    added = {kind.CONTROL: True, kind.UNKNOWN: True, kind.USER_DEFINED: False}  # type -> whether it is no text
    for p in described.pieces:
        if p.type in added:
            special = added[p.type]
            out.add_tokens([tokenizers.AddedToken(p.piece, special=special, normalized=not special)])
    return out


def train_sentencepiece(texts: Iterable[str], path: str | os.PathLike, vocab: int, symbols: Sequence[str] = ()) -> None:
    """Trains a byte-pair SentencePiece model and writes it to `path`; the same texts give the same file.

    Whitespace is kept as it is (no normalisation, no prefix added, none removed), so decoding gives back the text as
    long as its characters occur in `texts` or `symbols`; others become the unknown token. Ids: 0 unknown, 1 EOS, 2
    padding, then the symbols.

    Args:
      texts: training texts.
      vocab: number of ids, exactly.
      symbols: strings that are always one token, spaces in them included; the longest that matches wins.

    Raises:
      ValueError: `vocab` is too small for the characters and symbols, or too large for the merges the texts allow.
    """
    buffer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=buffer,
            model_type='bpe',
            vocab_size=vocab,
            # SentencePiece writes a space as '▁', and looks symbols up after that replacement
            user_defined_symbols=[symbol.replace(' ', '▁') for symbol in symbols],
            character_coverage=1.0,
            normalization_rule_name='identity',
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            unk_id=0,
            eos_id=1,
            pad_id=2,
            bos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f'cannot train a tokenizer with {vocab=} and {len(symbols)} symbols: {reason}') from error
    # written aside, then renamed, so that a killed run leaves no half file that the next one would trust
    path = Path(path)
    aside = path.with_name(f'{path.name}.{os.getpid()}')
    aside.write_bytes(buffer.getvalue())
    aside.replace(path)


class HFTokenizer(Tokenizer):
    """A Hugging Face tokenizer. Special tokens written out in a text, such as <|im_start|>, are recognised as such.

    Args:
      tokenizer: the `tokenizers.Tokenizer`.
      eos, pad: their ids.
      chat_template: Jinja source.
      bos: its id, where the chat template writes it.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        eos: int,
        pad: int,
        chat_template: str | None = None,
        bos: int | None = None,
    ):
        self._tokenizer = tokenizer
        self.vocab_size = tokenizer.get_vocab_size(with_added_tokens=True)
        self.eos, self.pad, self.bos = eos, pad, bos
        self.chat_template = chat_template

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> HFTokenizer:
        """Reads a `tokenizer.json`; the special tokens and the chat template from the files beside it.

        `tokenizer_config.json` names EOS, BOS and padding (EOS stands in for a missing padding); a
        `chat_template.jinja`, as newer models have it, wins over the template there.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: a file cannot be parsed, or no end token is named.
        """
        path = Path(path)
        _require(path, 'tokenizer')
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises plain Exception
            raise ValueError(f'{path} is not a tokenizer.json: {error}') from error
        beside = path.with_name('tokenizer_config.json')
        try:
            config = json.loads(beside.read_text(encoding='utf-8')) if beside.exists() else {}
        except json.JSONDecodeError as error:
            raise ValueError(f'{beside}:{error.lineno}: not JSON: {error.msg}') from error
        eos = _special(tokenizer, config.get('eos_token'))
        if eos is None:
            raise ValueError(f'{beside} names no eos_token that {path.name} knows: without it no response can end')
        pad = _special(tokenizer, config.get('pad_token'))
        template = config.get('chat_template')
        if isinstance(template, list):  # several, by name
            template = {entry['name']: entry['template'] for entry in template}.get('default')
        alone = path.with_name('chat_template.jinja')
        if alone.exists():
            template = alone.read_text(encoding='utf-8')
        return cls(tokenizer, eos, eos if pad is None else pad, template, _special(tokenizer, config.get('bos_token')))

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_text(self, text: str) -> list[int]:
        return self._blind.encode(text, add_special_tokens=False).ids

    @functools.cached_property
    def _blind(self) -> tokenizers.Tokenizer:
        """A copy that does not see special tokens: the setting belongs to a tokenizer, not to a call."""
        copy = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
        copy.encode_special_tokens = True
        return copy

    @functools.cached_property
    def special_texts(self) -> tuple[str, ...]:
        return tuple(token.content for token in self._tokenizer.get_added_tokens_decoder().values() if token.special)

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids if 0 <= i < self.vocab_size], skip_special_tokens=True)

    def piece(self, id: int) -> str:
        return self._tokenizer.id_to_token(int(id)) or ''

    def save(self, directory: str | os.PathLike, chat_template: str | None = None) -> None:
        chat_template = chat_template or self.chat_template
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._tokenizer.save(str(directory / 'tokenizer.json'))
        named = {'eos_token': self.eos, 'pad_token': self.pad, 'bos_token': self.bos}
        config = {name: self._tokenizer.id_to_token(i) for name, i in named.items() if i is not None}
        config |= {'tokenizer_class': 'PreTrainedTokenizerFast', 'clean_up_tokenization_spaces': False}
        config |= {'chat_template': chat_template} if chat_template else {}
        (directory / 'tokenizer_config.json').write_text(
            json.dumps(config, ensure_ascii=False, indent=1), encoding='utf-8'
        )


def _special(tokenizer: tokenizers.Tokenizer, entry: Any) -> int | None:
    """The id of an entry of tokenizer_config.json: a string, or an object with the string as `content`."""
    text = entry.get('content') if isinstance(entry, dict) else entry
    return tokenizer.token_to_id(text) if isinstance(text, str) else None


def _require(path: str | os.PathLike, what: str) -> None:
    if not Path(path).is_file():
        raise FileNotFoundError(f'{what} {path} does not exist: give the path of a file')


PRETOKENIZERS = {
    # by llama.cpp's names; each cuts a text into the pieces within which BPE merges
    'smollm': lambda: [
        tokenizers.pre_tokenizers.Digits(individual_digits=True),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
    ],
}


def bpe_tokenizer(
    vocab: Sequence[str],
    merges: Sequence[str],
    special: Sequence[tuple[int, str]],
    eos: int,
    pad: int,
    chat_template: str | None,
    pretokenizer: str = 'smollm',
    bos: int | None = None,
) -> HFTokenizer:
    """A byte-level BPE tokenizer from its parts, as a GGUF stores them.

    Args:
      vocab: written form of each id, bytes in GPT-2's letters.
      merges: 'LEFT RIGHT', the most important first.
      special: (id, text) of the tokens that are matched whole.
      eos, pad, bos, chat_template: as in `HFTokenizer`.
      pretokenizer: its llama.cpp name.

    Raises:
      ValueError: an unsupported pretokenizer; merges of tokens that the vocabulary lacks; a special token with
        another id there.
    """
    if pretokenizer not in PRETOKENIZERS:
        raise ValueError(
            f'pretokenizer {pretokenizer!r} is not supported; supported: {", ".join(map(repr, PRETOKENIZERS))}'
        )
    pairs = [tuple(merge.split(' ', 1)) for merge in merges]
    try:
        model = tokenizers.models.BPE({text: i for i, text in enumerate(vocab)}, pairs)
    except Exception as error:  # tokenizers raises plain Exception
        raise ValueError(f'vocabulary and merges do not fit together: {error}') from error
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(PRETOKENIZERS[pretokenizer]())
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken(text, special=True, normalized=False) for _, text in special])
    for id, text in special:
        if (found := tokenizer.token_to_id(text)) != id:
            raise ValueError(f'special token {text!r} has id {id}, but the vocabulary says {found}')
    return HFTokenizer(tokenizer, eos, pad, chat_template, bos)
