"""A model of ours as a judge: a Sampler, its weights and its tokenizer behind `r1jax.rewards.asking.Local`.

A question's draw hangs on its messages, its vote and its attempt alone, so an answer does not depend on what else was asked with it
(but for rounding, as every sample). What is judged is encoded as text: it cannot speak in another's turn (`Tokenizer.chat_ids`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from r1jax.rewards.answers import Reply
from r1jax.rewards.asking import Ask, Local
from r1jax.sample import Sampler, responses


def sampled(sampler: Sampler, params, tokenizer, name: str, temperature: float = 0.6) -> Local:
    """A judge that samples one answer a question.

    Args:
      sampler: of one sample a question; its `max_prompt` bounds what is read, its `decode.max_tokens` what is answered.
      params: the weights, on the mesh on which the judge will be asked.
      tokenizer: with a chat template.
      name: of the weights, such as `runs/a:sft step 400`: answers are stored under it, so other weights need another.

    Raises:
      ValueError: the sampler draws several samples a question, or the tokenizer has no chat template.
    """
    if sampler.samples != 1:
        raise ValueError(f'a judge takes a sampler of samples=1, not {sampler.samples}: votes are asked for one by one')
    if not tokenizer.chat_template:
        raise ValueError('a judge needs a tokenizer with a chat template: its instructions are a message of their own')

    def generate(asks: Sequence[Ask]) -> list[Reply]:
        out: list[Reply | None] = [None] * len(asks)
        draws: dict[int, list[tuple[int, int, list[int]]]] = {}
        for i, ask in enumerate(asks):
            ids = tokenizer.chat_ids([{'role': role, 'content': content} for role, content in ask.messages])
            if len(ids) > sampler.max_prompt:
                out[i] = Reply('', False, refusal=f'a question of {len(ids)} tokens, max_prompt={sampler.max_prompt}')
                continue
            question = int.from_bytes(hashlib.sha256(repr(ask.messages).encode()).digest()[:4], 'big') >> 1
            draws.setdefault(ask.seed(0), []).append((i, question, ids))
        for draw, group in draws.items():
            index, questions, prompts = zip(*group, strict=True)
            rollout = sampler(params, questions, prompts, draw, sampler.decode.max_tokens, temperature)
            for i, ids, said in zip(index, prompts, responses(rollout, tokenizer), strict=True):
                out[i] = Reply(said.text, said.finished, len(ids), said.tokens)
        return out

    d = sampler.decode
    sampling = (
        f'temperature {temperature}, top_p {d.top_p}, top_k {d.top_k}, seed {sampler.seed}, {d.max_tokens} tokens'
    )
    return Local(generate, f'{name}, {sampling}', d.max_tokens, sampler.questions)
