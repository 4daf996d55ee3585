"""The only door to sentencepiece: reading a `.model`, training one for the tiny world, and giving it the other library's form."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from r1jax.data.tokenizer.hugging_face import HFTokenizer, joined_pieces
from r1jax.data.tokenizer.interface import Tokenizer, require


class SentencePiece(Tokenizer):
    """A SentencePiece `.model` file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not a SentencePiece model.
    """

    def __init__(self, path: str | os.PathLike):
        require(path, 'SentencePiece model')
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


def _as_hugging_face(model: sentencepiece.SentencePieceProcessor) -> Any:  # a tokenizers.Tokenizer
    """A SentencePiece byte-pair model without normalisation, as the `tokenizers` library has it; both give the same ids.

    SentencePiece joins the neighbours whose piece has the best score. As merges that is every cut of every piece, best scores first.
    Symbols that are always one token become added tokens, which are matched before anything is merged.

    Raises:
      ValueError: the model is of another kind.
    """
    from sentencepiece import sentencepiece_model_pb2

    proto: Any = sentencepiece_model_pb2  # makes its classes when it is imported
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
    added = {kind.CONTROL: True, kind.UNKNOWN: True, kind.USER_DEFINED: False}  # type -> whether it is no text
    symbols = [(p.piece, added[p.type]) for p in described.pieces if p.type in added]
    return joined_pieces(vocab, merges, unknown, symbols)


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
