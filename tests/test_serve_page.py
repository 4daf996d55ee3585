"""The page of `r1jax serve` in a real browser: stream, fold, compare, choose, stop; by keyboard, in light and dark."""

import os
import pathlib

import browser
import pytest
import serving

THOUGHT = 'The digits are 1 and 2.\n1 + 2 = 3, and <b>nothing</b> is carried.'
ANSWER = 'The sum is 3.\n\n<script>document.title = "taken"</script> 你好'

pytestmark = [pytest.mark.slow, browser.needs_chromium]


WAYS = (
    ('17 * 24 = 17 * 20 + 17 * 4.\n17 * 20 = 340 and 17 * 4 = 68.\n340 + 68 = 408.', '17 * 24 = 408.'),
    (
        'Split 24 into 25 - 1.\n17 * 25 = 425.\nWait, then one 17 less: 425 - 17 = 408.',
        'It is 408: 17 * 25 is 425, and 17 less is 408.',
    ),
    ('20 * 24 = 480, and 3 * 24 = 72 too many.\n480 - 72 = 408.', '408'),
)


def answer(prompt, number):
    if '17 * 24' in prompt:
        thought, said = WAYS[number % 3]
        return f'<think>\n{thought}\n</think>\n\n{said}'
    if 'slowly' in prompt:
        return '<think>' + 'on and on ' * 150
    return f'<think>\n{THOUGHT}\n</think>\n\n{ANSWER} ({number})'


@pytest.fixture(scope='module')
def served():
    return serving.scripted(answer, 0.02)


@pytest.fixture
def page(served):
    served.worker.prompts.clear()
    with serving.server(served) as server, browser.page() as tab:
        tab.service = server.service_of_test
        tab.size(1160, 800)
        tab.open(server.url + '/')
        yield tab
        assert tab.errors == [] and tab.js('document.title') == f'{serving.NAME} – r1jax'


def ask(page, text):
    assert page.js('document.activeElement.id') == 'text'
    page.type(text)
    page.press('Enter', 13, '\r')


def over(page, answers):
    """Waits until so many answers are complete."""
    page.until(
        f"document.querySelectorAll('.said.busy').length === 0 && document.querySelectorAll('.sample').length === {answers}"
    )
    page.until("document.activeElement.id === 'text'")


def texts(page, selector):
    return page.js(f"[...document.querySelectorAll('{selector}')].map(e => e.textContent)")


def picture(page, name):
    """Keeps what is seen, where the environment says so: for the docs."""
    if folder := os.environ.get('R1JAX_SCREENSHOTS'):
        pathlib.Path(folder, f'{name}.png').write_bytes(page.picture())


def test_a_reply_streams_its_thinking_folds_and_nothing_in_it_runs(page):
    ask(page, 'What is 1 + 2?')
    thinking = page.until("document.querySelector('.thought[open] .said')?.textContent")
    assert thinking != THOUGHT and THOUGHT.startswith(thinking.rstrip())  # some of it, while more comes
    over(page, 1)
    assert texts(page, '.user') == ['What is 1 + 2?']
    assert texts(page, '.thought .said') == [THOUGHT] and texts(page, '.sample > .said') == [f'{ANSWER} (0)']
    assert page.js("document.querySelector('.thought').open") is False
    assert page.js("document.querySelector('.thought summary').textContent").startswith('Thought for ')
    page.press('t', 84, modifiers=1)  # Alt: folds all
    page.press('t', 84, modifiers=1)  # and unfolds all
    assert (
        page.js("document.querySelector('.thought').open")
        and page.js("document.querySelector('#fold').ariaPressed") == 'false'
    )
    assert page.js("document.querySelector('.sample script, .sample b')") is None


def test_samples_stand_side_by_side_and_one_is_taken_on(page, served):
    page.js("document.querySelector('#options').open = true, document.querySelector('#n').value = 3")
    page.js("document.querySelector('#system').value = 'Be brief', document.querySelector('#text').focus()")
    ask(page, 'What is 17 * 24?')
    over(page, 3)
    assert texts(page, '.sample > .said') == [said for _, said in WAYS]
    page.js("document.querySelector('.sample:nth-of-type(2) .thought').open = true")
    boxes = page.js("[...document.querySelectorAll('.sample')].map(e => [e.offsetLeft, e.offsetTop])")
    assert len({top for _, top in boxes}) == 1 and len({left for left, _ in boxes}) == 3
    picture(page, 'serve_light')
    page.scheme('dark')
    picture(page, 'serve_dark')
    page.js("document.querySelector('input[type=radio]').focus()")
    page.press('ArrowRight', 39)  # the second
    chosen = page.js("[...document.querySelectorAll('input[type=radio]')].findIndex(e => e.checked)")
    assert chosen == 1
    said = texts(page, '.sample > .said')[1]
    page.js("document.querySelector('#n').value = 1, document.querySelector('#text').focus()")
    ask(page, 'And again?')
    over(page, 4)
    last = served.worker.prompts[-1]
    assert last.startswith('system: Be brief') and last.endswith('assistant: ') and said in last
    assert WAYS[0][1] not in last
    page.size(420, 800)  # a telephone
    assert (
        len({left for left, _ in page.js("[...document.querySelectorAll('.sample')].map(e => [e.offsetLeft, 0])")}) == 1
    )
    assert page.js('document.documentElement.scrollWidth') <= 420


def test_escape_stops_and_what_is_refused_is_said(page):
    ask(page, 'Count slowly')
    page.until("document.querySelector('.thought .said')?.textContent.length > 20")
    page.press('Escape', 27)
    over(page, 1)
    assert texts(page, '.sample footer span') == ['stopped']
    page.until("document.querySelector('.thought summary').textContent === 'Thinking, without an end'")
    while page.service.admitted:
        pass
    page.type('x' * 3000)
    page.press('Enter', 13, '\r')
    alert = page.until("document.querySelector('[role=alert]')?.textContent")
    assert 'more than the 2000 of the context' in alert
    assert page.js("document.querySelector('#text').value.length") == 3000  # to be shortened
    assert len(page.errors) == 1 and '400' in page.errors.pop()  # the browser's own word for it


def test_light_and_dark_and_a_key(served):
    with serving.server(served, keys=['the-only-key']) as server, browser.page() as tab:
        tab.open(server.url + '/')
        colours = []
        for scheme in ('light', 'dark'):
            tab.scheme(scheme)
            colours.append(
                tab.js('[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]')
            )
        assert colours[0][0] != colours[1][0] and colours[0][1] != colours[1][1]
        tab.js("document.querySelector('#text').focus()")
        ask(tab, 'Hello')
        assert 'no API key' in tab.until("document.querySelector('[role=alert]')?.textContent")
        tab.js("document.querySelector('#key').value = 'the-only-key', document.querySelector('#text').focus()")
        tab.press('Enter', 13, '\r')
        tab.until(f"[...document.querySelectorAll('.sample > .said')].at(-1).textContent.startsWith({ANSWER[:8]!r})")
