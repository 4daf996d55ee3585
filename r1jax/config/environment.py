"""What the policy talks to: an environment speaks between its turns, as a tool, a user or a game does."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from r1jax.types import Problem, Reply, Response


@dataclasses.dataclass(frozen=True)
class Frame:
    """The tokens around what an environment says, as the model's chat template writes them: data, since each family has its own.

    A turn with two texts is read as BEFORE text BETWEEN text AFTER, and the policy goes on behind it. Special tokens written here are
    read as such; those in a text are letters.
    """

    before: str = '\n<tool_response>\n'
    between: str = '\n</tool_response>\n<tool_response>\n'
    after: str = '\n</tool_response>\n'
    cut: str = ' [cut]'  # what ends a text that was longer than `Environment.output`
    # what ends a turn besides the tokenizer's end tokens, each one token: for bases, which write no end token behind a call
    stops: tuple[str, ...] = ()


# Qwen 2.5 and Qwen 3, whose templates put what tools say into a user's turn
CHATML = Frame(
    before='\n<|im_start|>user\n<tool_response>\n',
    after='\n</tool_response><|im_end|>\n<|im_start|>assistant\n',
)
# A base that goes on in its own text, where `</tool_call>` is a token
INLINE = Frame(stops=('</tool_call>',))


class Environment(Protocol):
    """What answers the policy: a frozen dataclass that is called after each of its turns.

    `environment(problem, response) -> Reply`, or None where the response is over. `response.turns` holds what both have said so far, the
    policy's last turn at the end, `response.text` the policy's turns alone. It has no state: what it says follows from its arguments.

    What it raises becomes words for the policy and is counted, as is a call that takes too long. Besides, it may have `warm()`, called
    before the first deadline runs, which raises where it could not answer at all.
    """

    @property
    def frame(self) -> Frame: ...

    @property
    def turns(self) -> int:
        """Most turns of the policy: what would be said to the last is not said, and the response counts as cut off."""
        ...

    @property
    def output(self) -> int:
        """Most tokens of a text; the rest is cut."""
        ...

    @property
    def deadline(self) -> float:
        """Seconds that a call may take, in a process that is killed then; 0: called in the training process, while the device waits."""
        ...

    def __call__(self, problem: Problem, response: Response) -> Reply | None: ...
