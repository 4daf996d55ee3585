"""`r1jax chat`: a conversation with a checkpoint in the terminal, in this process.

Thinking is dim. Folded, which is how it begins, only the last lines of a thought are seen while it goes on, and one line says afterwards
how long it was; `/thinking` unfolds it. An interrupt ends an answer, and at the prompt the conversation.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import queue
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from r1jax.sample import Request
from r1jax.sample.request import Fresh
from r1jax.serve import asked, model
from r1jax.serve.errors import Refused
from r1jax.serve.model import Served
from r1jax.serve.options import Decoding
from r1jax.serve.service import Delta, Voice, encoded, key_of, opens_thinking, room
from r1jax.serve.text import Said
from r1jax.serve.worker import Job
from r1jax.settings import BadInput, as_bad_input

_TAIL = 6  # lines of a folded thought
HELP = """\
/system TEXT       what the model is told before all else; without TEXT nothing
/temperature T     0 for the most likely token, up to 2
/thinking          folds and unfolds thinking, that of the last answer too
/save FILE         writes the conversation as JSON
/new               forgets it
/quit              ends; so does the end of the input"""


@dataclasses.dataclass
class Conversation:
    """What was said, and how the next answer is drawn."""

    temperature: float
    top_p: float
    limit: int  # tokens of an answer; 0: as many as there is room for
    seed: int  # of the first answer; each further one has the next
    system: str = ''
    turns: list[dict[str, str]] = dataclasses.field(default_factory=list)
    thought: str = ''  # of the last answer

    @property
    def messages(self) -> list[dict[str, str]]:
        return [*([{'role': 'system', 'content': self.system}] if self.system else []), *self.turns]

    def save(self, file: pathlib.Path, name: str) -> None:
        """As OpenAI's messages. OSError."""
        whole = {'model': name, 'temperature': self.temperature, 'top_p': self.top_p, 'messages': self.messages}
        file.write_text(json.dumps(whole, ensure_ascii=False, indent=1) + '\n', encoding='utf-8')


class Screen:
    """An answer as it comes."""

    def __init__(self, console: Console, folded: bool = True):
        self.console, self.folded = console, folded
        self._live: Live | None = None
        self._thought, self._started = '', 0.0

    def show(self, said: Said) -> None:
        if said.kind == 'content':
            self.answer()
            self._print(said.text)
            return
        if not self._thought:
            self._started = time.monotonic()
            if self.folded and self.console.is_terminal:
                self._live = Live(console=self.console, transient=True, refresh_per_second=8)
                self._live.start()
        self._thought += said.text
        if self._live:
            self._live.update(
                Text(visible('\n'.join(self._thought.splitlines()[-_TAIL:])), style='dim', overflow='fold')
            )
        elif not self.folded:
            self._print(said.text, 'dim')

    def answer(self) -> None:
        """The thought is over, if there was one."""
        if self._live:
            self._live.stop()
            self._live = None
        if self._thought:
            seconds = time.monotonic() - self._started
            fold = f'▸ thought for {seconds:.1f} s, /thinking unfolds it\n'
            self._print(fold if self.folded else '\n\n', 'dim')
        self._thought = ''

    def _print(self, text: str, style: str | None = None) -> None:
        self.console.print(Text(visible(text)), style=style, end='', soft_wrap=True)


def visible(text: str) -> str:
    """What a model wrote, without what a terminal would obey: control characters, escapes above all, are pictures of themselves."""
    return ''.join(
        chr(0x2400 + ord(c)) if c < ' ' and c not in '\n\t' else '␛' if '\x7f' <= c < '\xa0' else c for c in text
    )


def answer(served: Served, conversation: Conversation) -> Iterator[Delta]:
    """What the model says next. Leave it, and it ends. Raises Refused: there is no room, or the device failed."""
    body = {'model': served.name, 'messages': conversation.messages, 'temperature': conversation.temperature}
    body |= {'top_p': conversation.top_p} | ({'max_tokens': conversation.limit} if conversation.limit else {})
    wanted = asked.chat(body, served.name, 1)
    (prompt,) = encoded(served, wanted)
    coming: queue.SimpleQueue[tuple[Fresh, str]] = queue.SimpleQueue()
    key = key_of(conversation.seed, 0, 0)
    limit = room(served, wanted, len(prompt))
    job = Job(
        Request(prompt, limit, key, wanted.temperature, top_p=wanted.top_p), lambda fresh, why: coming.put((fresh, why))
    )
    voice = Voice(0, wanted, served.tokenizer, opens_thinking(served.tokenizer, prompt))
    served.worker.submit(job)
    try:
        while voice.finish is None:
            fresh, why = coming.get()
            if why == 'failed':
                raise Refused(500, 'the answer was lost to a failure of the device')
            yield voice.feed(fresh, why)
    finally:
        served.worker.cancel(job)


def converse(served: Served, conversation: Conversation, console: Console, read: Callable[[str], str]) -> None:
    """Until the input ends. `read(prompt)` gives a line, and raises EOFError when there is none."""
    screen = Screen(console)
    while True:
        try:
            line = read('» ').strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if line.startswith('/'):
            command, _, rest = line[1:].partition(' ')
            if command in ('quit', 'exit'):
                return
            console.print(_command(command, rest.strip(), conversation, screen, served.name), markup=False, style='dim')
        elif line:
            _turn(line, served, conversation, screen)


def _turn(line: str, served: Served, conversation: Conversation, screen: Screen) -> None:
    """A question and its answer. What ends early is kept as far as it came."""
    conversation.turns.append({'role': 'user', 'content': line})
    said: dict[str, str] = {'reasoning': '', 'content': ''}
    note = ''
    try:
        for delta in answer(served, conversation):
            for each in delta.said:
                said[each.kind] += each.text
                screen.show(each)
            note = '(cut: no room for more)' if delta.finish == 'length' else ''
    except KeyboardInterrupt:
        note = '(stopped)'
    except Refused as refused:
        note = f'({refused.message})'
    screen.answer()
    screen.console.print(f'\n{note}' if note else '', markup=False, style='dim')
    conversation.seed += 1
    if not any(said.values()):
        conversation.turns.pop()
        return
    conversation.thought = said['reasoning']
    thinking = {'reasoning_content': said['reasoning']} if said['reasoning'] else {}
    conversation.turns.append({'role': 'assistant', 'content': said['content'], **thinking})


def _command(command: str, rest: str, conversation: Conversation, screen: Screen, name: str) -> str:
    """Does what a command says; returns what to say to it."""
    if command == 'system':
        conversation.system = rest
        return 'the system message is set' if rest else 'there is no system message'
    if command == 'temperature':
        try:
            if not 0 <= float(rest) <= 2:
                raise ValueError
        except ValueError:
            return f'/temperature takes a number from 0 to 2, not {rest!r}'
        conversation.temperature = float(rest)
        return f'temperature {conversation.temperature:g}'
    if command == 'thinking':
        screen.folded = not screen.folded
        return 'thinking is folded' if screen.folded else visible(conversation.thought) or 'thinking is shown'
    if command == 'save':
        if not rest:
            return '/save takes a file'
        try:
            conversation.save(pathlib.Path(rest).expanduser(), name)
        except OSError as error:
            return f'{rest}: {error.strerror}'
        return f'{len(conversation.turns)} messages -> {rest}'
    if command == 'new':
        conversation.turns, conversation.thought = [], ''
        return 'forgotten'
    return HELP if command == 'help' else f'there is no /{command}\n{HELP}'


def run(checkpoint: str, system: str, temperature: float | None, top_p: float | None, max_tokens: int, seed: int | None,
        decoding: Decoding, read: Callable[[str], str] = input, **screen: Any) -> None:  # fmt: skip
    """Reads a checkpoint and converses. Raises BadInput: see `r1jax.serve.model`; it has no chat template."""
    console = Console(**screen)
    with as_bad_input():
        if max_tokens < 0:
            raise BadInput(f'--max-tokens {max_tokens} must be 0 or more')
        with console.status(f'reading {checkpoint}'):
            served = model.serve(checkpoint, None, decoding, temperature, top_p)
    try:
        if not served.tokenizer.chat_template:
            raise BadInput(f'{served.what} has no chat template: r1jax serve gives completions of it')
        if read is input:
            import readline  # noqa: F401  lines can be edited and come again
        console.print(f'{served.what}. /help says what there is.', markup=False, style='dim')
        first = secrets.randbits(31) if seed is None else seed
        converse(served, Conversation(served.temperature, served.top_p, max_tokens, first, system), console, read)
    finally:
        served.worker.stop()
