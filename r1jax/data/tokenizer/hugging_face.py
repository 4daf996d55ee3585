"""The only door to tokenizers: a `tokenizer.json`, or byte pairs from a GGUF or a SentencePiece model."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import tokenizers

from r1jax.data.tokenizer.interface import Tokenizer, require


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
        require(path, 'tokenizer')
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
    def opening(self) -> tuple[int, ...]:  # type: ignore[override]  # as `special_texts`
        added = self._tokenizer.encode('').ids  # of its post-processor, which may end texts, too
        return (self.bos,) if self.bos is not None and added[:1] == [self.bos] else ()

    @functools.cached_property
    def special_texts(self) -> tuple[str, ...]:  # type: ignore[override]  # a cached_property can be set, too
        return tuple(token.content for token in self._tokenizer.get_added_tokens_decoder().values() if token.special)

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids if 0 <= i < self.vocab_size], skip_special_tokens=True)

    def piece(self, id: int) -> str:
        return self._tokenizer.id_to_token(int(id)) or ''

    def token_bytes(self, id: int) -> bytes:
        piece = self.piece(id)
        if piece in self.special_texts or not self._in_letters or not set(piece) <= _BYTES.keys():
            return super().token_bytes(id)
        return bytes(_BYTES[letter] for letter in piece)

    @functools.cached_property
    def _in_letters(self) -> bool:
        """Whether pieces are bytes in GPT-2's letters."""
        decoder = json.loads(self._tokenizer.to_str())['decoder'] or {}
        return any(each['type'] == 'ByteLevel' for each in (decoder, *decoder.get('decoders', ())))

    def save(self, directory: str | os.PathLike, chat_template: str | None = None) -> None:
        chat_template = chat_template or self.chat_template
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._tokenizer.save(str(directory / 'tokenizer.json'))
        named = {'eos_token': self.eos, 'pad_token': self.pad, 'bos_token': self.bos}
        config: dict[str, Any] = {name: self._tokenizer.id_to_token(i) for name, i in named.items() if i is not None}
        config |= {'tokenizer_class': 'PreTrainedTokenizerFast', 'clean_up_tokenization_spaces': False}
        config |= {'chat_template': chat_template} if chat_template else {}
        (directory / 'tokenizer_config.json').write_text(
            json.dumps(config, ensure_ascii=False, indent=1), encoding='utf-8'
        )


def _byte_letters() -> dict[str, int]:
    """GPT-2's letters of the 256 bytes: those that can be seen stand for themselves, the others for the letters from U+0100 on."""
    seen = [*range(ord('!'), ord('~') + 1), *range(ord('¡'), ord('¬') + 1), *range(ord('®'), ord('ÿ') + 1)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


_BYTES = _byte_letters()


def _special(tokenizer: tokenizers.Tokenizer, entry: Any) -> int | None:
    """The id of an entry of tokenizer_config.json: a string, or an object with the string as `content`."""
    text = entry.get('content') if isinstance(entry, dict) else entry
    return tokenizer.token_to_id(text) if isinstance(text, str) else None


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
    pairs = cast(list[tuple[str, str]], [tuple(merge.split(' ', 1)) for merge in merges])  # BPE refuses others
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


def joined_pieces(
    vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], unknown: str, added: Iterable[tuple[str, bool]]
) -> tokenizers.Tokenizer:
    """Byte pairs over characters, as SentencePiece has them, a space written as '▁'.

    Args:
      vocab: id of each piece.
      merges: the most important first.
      unknown: the piece of characters that there is none for.
      added: pieces that are matched before anything is merged, and whether each is a special token rather than text.
    """
    out = tokenizers.Tokenizer(tokenizers.models.BPE(dict(vocab), merges, unk_token=unknown, fuse_unk=True))
    out.normalizer = tokenizers.normalizers.Replace(' ', '▁')
    out.decoder = tokenizers.decoders.Replace('▁', ' ')
    for piece, special in added:
        out.add_tokens([tokenizers.AddedToken(piece, special=special, normalized=not special)])
    return out
