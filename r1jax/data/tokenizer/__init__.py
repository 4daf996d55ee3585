"""Text to token ids and back.

In: a SentencePiece `.model` (trained here for the tiny world) or a Hugging Face `tokenizer.json`; a GGUF's tokenizer
arrives from `r1jax.weights` as vocabulary and merges. Out: one interface, `Tokenizer`.

Nothing is added silently: `encode` puts no BOS and no EOS, since who learns from an end token is the training code's
decision. Left out: offsets, truncation and padding, which are the batch's business.
"""

from __future__ import annotations

from r1jax.data.tokenizer.hugging_face import HFTokenizer, bpe_tokenizer
from r1jax.data.tokenizer.interface import Tokenizer
from r1jax.data.tokenizer.pieces import SentencePiece, train_sentencepiece

__all__ = ['HFTokenizer', 'SentencePiece', 'Tokenizer', 'bpe_tokenizer', 'train_sentencepiece']
