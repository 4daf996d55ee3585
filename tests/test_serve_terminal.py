"""`r1jax chat`: a conversation by lines, and what is drawn of it."""

import io
import json
import re

import pytest
import serving
from rich.console import Console

from r1jax.cli import main
from r1jax.serve import terminal
from r1jax.serve.options import Decoding
from r1jax.serve.terminal import Conversation, Screen, visible
from r1jax.serve.text import Said
from r1jax.settings import BadInput

ANSI = re.compile(r'\x1b\[[0-9;?]*[A-Za-z]')


def lines(*given):
    """A reader of lines; an exception among them is raised in its turn."""
    left = list(given)

    def read(prompt):
        if not left:
            raise EOFError
        if isinstance(line := left.pop(0), type):
            raise line
        return line

    return read


@pytest.fixture(scope='module')
def served(tmp_path_factory):
    made = serving.load(serving.folder(tmp_path_factory.mktemp('model') / 'm'), slots=1)
    yield made
    made.worker.stop()


def talk(served, *given, terminal_=False, **settings):
    """What is on the screen after some lines, and the conversation."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal_, width=100, color_system='standard' if terminal_ else None)
    conversation = Conversation(**{'temperature': 0.0, 'top_p': 1.0, 'limit': 8, 'seed': 1} | settings)
    terminal.converse(served, conversation, console, lines(*given))
    return out.getvalue(), conversation


def test_a_conversation(served, tmp_path):
    file = tmp_path / 'said.json'
    shown, conversation = talk(
        served,
        '/system Be brief',
        'Hello',
        '',
        '/temperature 0.5',
        'And?',
        f'/save {file}',
        '/nonsense',
        '/temperature x',
        '/quit',
        'no',
    )
    roles = [message['role'] for message in conversation.messages]
    assert roles == ['system', 'user', 'assistant', 'user', 'assistant'] and conversation.temperature == 0.5
    saved = json.loads(file.read_text())
    assert saved['messages'] == conversation.messages and saved['model'] == serving.NAME
    for message in conversation.messages[2::2]:
        assert message['content'] in shown and message['content']
    assert f'4 messages -> {file}' in shown and 'there is no /nonsense' in shown and "0 to 2, not 'x'" in shown
    assert shown.count('cut: no room for more') == 2
    assert talk(served, 'Hello', '/new', '/save /nowhere/x')[1].turns == []


def test_what_is_drawn_depends_on_seed_and_settings(served):
    def said(*given, **settings):
        return [turn['content'] for turn in talk(served, *given, **settings)[1].turns[1::2]]

    hot = {'temperature': 1.0}
    assert said('Hello', 'Hello', **hot) == said('Hello', 'Hello', **hot) != said('Hello', 'Hello', seed=2, **hot)
    assert said('Hello') == said('Hello', seed=2) != said('/system x', 'Hello')
    assert len(said('Hello', limit=3)[0]) < len(said('Hello')[0])


def test_what_does_not_fit_or_is_interrupted_is_no_turn(served, monkeypatch):
    shown, conversation = talk(served, 'x' * 200, 'Hello')
    assert 'more than the 128 of the context' in shown and len(conversation.turns) == 2
    monkeypatch.setattr(terminal, 'answer', interrupted(terminal.answer))
    shown, conversation = talk(served, 'Hello', '/quit', limit=60)
    assert '(stopped)' in shown and len(conversation.turns) == 2 and conversation.turns[1]['content']
    monkeypatch.undo()
    assert len(talk(served, 'Hello')[1].turns) == 2  # the slot is free again


def interrupted(plain):
    def answer(*args):
        yield next(plain(*args))
        raise KeyboardInterrupt

    return answer


def draw(pieces, folded, terminal_=True):
    out = io.StringIO()
    screen = Screen(Console(file=out, force_terminal=terminal_, width=60, color_system='standard'), folded)
    for each in pieces:
        screen.show(each)
    screen.answer()
    return out.getvalue()


def test_thinking_is_dim_and_folds():
    pieces = [
        Said('reasoning', 'one\n'),
        Said('reasoning', 'two'),
        Said('content', 'The answer'),
        Said('content', ' is 3'),
    ]
    open_, folded = draw(pieces, False), draw(pieces, True)
    assert '\x1b[2mtwo' in open_ and 'The answer is 3' in ANSI.sub('', open_)
    kept = ANSI.sub('', folded.rpartition('\x1b[2K')[2])  # what comes after the lines that are erased
    assert 'two' not in kept and re.search(r'▸ thought for \d\.\d s', kept) and 'The answer is 3' in kept
    assert 'two' in folded  # while it went on
    plain = draw(pieces, True, terminal_=False)
    assert 'two' not in plain and 'The answer is 3' in plain


def test_a_model_does_not_drive_the_terminal():
    nasty = 'a\x1b]0;title\x07b\x9b31m\nc\td'
    assert visible(nasty) == 'a␛]0;title␇b␛31m\nc\td'
    assert '\x1b]0' not in draw([Said('reasoning', nasty), Said('content', nasty)], False)


def test_the_command(tmp_path, capsys, monkeypatch):
    path = serving.folder(tmp_path / 'm')
    out = io.StringIO()
    small = Decoding(slots=1, chunk=4)
    terminal.run(path, 'Be kind', 0.0, None, 4, 3, small, lines('Hi'), file=out)
    assert '/help says' in out.getvalue() and 'cut: no room' in out.getvalue()
    with pytest.raises(BadInput, match='must be 0 or more'):
        terminal.run(path, '', None, None, -1, None, small)
    silent = serving.folder(tmp_path / 'silent', template=None)
    with pytest.raises(BadInput, match='has no chat template'):
        terminal.run(silent, '', None, None, 0, None, small, lines(), file=out)
    for argv, said in (
        (['chat', str(tmp_path / 'none')], 'no weights at'),
        (['serve', path, '--temperature', '3'], 'temperature=3.0 must be 0 to 2'),
        (['serve', path, '--context', '9999'], 'context=9999 must be 2 to 128'),
        (['serve', path, '--pool', '100'], 'a row of 128 tokens takes 1 pages of 256, but a pool of 100 tokens has 0'),
        (['serve', path, '--host', '0.0.0.0'], 'there are no API keys'),
        (['serve', path, '--api-keys', str(tmp_path / 'no-file')], 'no-file'),
    ):
        assert main(argv) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit) as error:
        main(['serve', path, '--slots', '0'])
    assert error.value.code == 2 and 'slots=0 must be 1 or more' in ' '.join(capsys.readouterr().err.split())
