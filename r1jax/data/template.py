"""From a problem to model input: plain functions `(problem, tokenizer) -> str`, which a recipe passes as themselves.

A template fixes the structure of an answer and says nothing about its content, so that what the model comes to write
is its own doing (R1 report §2.2.3).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from r1jax.data.tokenizer import Tokenizer
from r1jax.types import Example, Problem

INSTRUCTION = (
    'A conversation between User and Assistant. The user asks a question, and the Assistant solves it. '
    'The assistant first thinks about the reasoning process in the mind and then provides the user with the answer. '
    'The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, '
    'i.e., <think> reasoning process here </think> <answer> answer here </answer>.'
)


def r1_zero(problem: Problem, tokenizer: Tokenizer | None = None) -> str:
    """DeepSeek-R1-Zero's template, verbatim, the full stop after the question included (R1 report, Table 1)."""
    return f'{INSTRUCTION} User: {problem.prompt}. Assistant:'


USER, ASSISTANT = '<｜User｜>', '<｜Assistant｜>'  # DeepSeek-R1's marks of a turn


def r1(problem: Problem, tokenizer: Tokenizer | None = None) -> str:
    """DeepSeek-R1's chat template for a single question: what follows is the response, thinking tags included."""
    return f'{USER}{problem.prompt}{ASSISTANT}'


def dialogue(problem: Problem, tokenizer: Tokenizer | None = None) -> str:
    """A conversation as a web page has it: R1-Zero's template without its instruction."""
    return f' User: {problem.prompt}. Assistant:'


def chat_r1_zero(problem: Problem, tokenizer: Tokenizer) -> str:
    """The same instruction for a chat model: the system message in its own chat template, before the question.

    Raises:
      ValueError: the tokenizer has no chat template.
    """
    return tokenizer.chat([{'role': 'system', 'content': INSTRUCTION}, {'role': 'user', 'content': problem.prompt}])


def plain(problem: Problem, tokenizer: Tokenizer | None = None) -> str:
    """The question and nothing else."""
    return problem.prompt


def chat(problem: Problem, tokenizer: Tokenizer) -> str:
    """The problem in the tokenizer's own chat template: its conversation, where it came with one (`meta['messages']`, see
    `r1jax.data.table`), else the question as the user's turn.

    Raises:
      ValueError: the tokenizer has no chat template, or it rejects the messages.
    """
    return tokenizer.chat(problem.meta.get('messages') or [{'role': 'user', 'content': problem.prompt}])


NAMED: dict[str, Callable[[Problem, Tokenizer], str]] = {
    each.__name__: each for each in (chat, chat_r1_zero, r1, r1_zero, dialogue, plain)
}


@dataclasses.dataclass(frozen=True)
class FewShot:
    """Worked examples before the question, each as `template` would ask it: "few-shot prompting with a long CoT as an example" (R1
    report §2.3.1), which gives a base model the form of an answer. For models that were not taught to chat.

        Collect(problems, …, template=FewShot(dialogue, shots.REFLECTING))

    An example ends with the tokenizer's end token where that can be written, so that the model ends its answer, too.
    """

    template: Callable[[Problem, Tokenizer], str]
    shots: tuple[Example, ...]  # a question, and the response to it

    def __post_init__(self):
        if not self.shots:
            raise ValueError('FewShot.shots is empty: give examples, or use the template alone')

    def __call__(self, problem: Problem, tokenizer: Tokenizer) -> str:
        end = tokenizer.piece(tokenizer.eos)
        end = end if end in tokenizer.special_texts else '\n\n'
        asked = (dataclasses.replace(problem, prompt=shot.prompt, meta={}) for shot in self.shots)
        shown = (
            self.template(each, tokenizer) + shot.response + end for each, shot in zip(asked, self.shots, strict=True)
        )
        return ''.join(shown) + self.template(problem, tokenizer)


def exchange(problem: Problem, response: str, tokenizer: Tokenizer) -> list[int]:
    """A question and an answer to it as a reward model reads them: ids of the chat template, or without one of the
    question, a newline and the answer; the end token is last. What was written stays text: see `Tokenizer.chat_ids`.
    """
    if tokenizer.chat_template:
        turns = [{'role': 'user', 'content': problem.prompt}, {'role': 'assistant', 'content': response}]
        ids = tokenizer.chat_ids(turns, add_generation_prompt=False)
    else:
        texts = problem.prompt, '\n', response
        ids = [i for text in texts for i in tokenizer.encode_text(text)]
    return ids if ids[-1] == tokenizer.eos else [*ids, tokenizer.eos]
