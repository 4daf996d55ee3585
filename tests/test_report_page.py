"""The report in a real browser: filter, search and read samples, fold thinking, values of curves, light and dark; by keyboard."""

import browser
import pytest
from invented import evaluated, short

from r1jax import report

pytestmark = [pytest.mark.slow, browser.needs_chromium]
ENTER, ESCAPE, LEFT, RIGHT, UP, DOWN, END = 13, 27, 37, 39, 38, 40, 35


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs')
    short(str(folder / 'a'))
    short(str(folder / 'b'), seed=1, stages=('zero',))
    evaluated(str(folder / 'evals' / 'a'), 'runs/a, stage zero, step 12')
    return report.compare([str(folder / 'a'), str(folder / 'b')], str(folder / 'report.html'))


@pytest.fixture(scope='module')
def tab(written):
    with browser.page() as tab:
        tab.size(1200, 900)
        tab.open(f'file://{written}')
        yield tab
        assert (
            tab.errors == [] and tab.js('document.title') == 'a, b · r1jax'
        )  # nothing was blocked, and nothing in a sample ran


@pytest.fixture
def page(tab):
    """The page as it is when it opens."""
    tab.js("document.querySelector('#clear').click(), document.activeElement.blur()")
    if tab.js("document.querySelector('#fold').getAttribute('aria-pressed')") == 'false':
        tab.js("document.querySelector('#fold').click()")
    return tab


def found(page):
    """How many samples were found."""
    return int(page.js("document.querySelector('#count').textContent").split()[0])


def said(page, selector):
    return page.js(f"document.querySelector('{selector}')?.textContent")


def ask(page, field, value):
    """Writes into a field, as one does who types."""
    page.js(f"document.querySelector('#{field}').focus(), document.querySelector('#{field}').select()")
    page.type(value)


def choose(page, field, value):
    page.js(
        f"document.querySelector('#{field}').value = '{value}', "
        f"document.querySelector('#{field}').dispatchEvent(new Event('input', {{bubbles: true}}))"
    )


def facts(page):
    """What stands above the sample that is shown."""
    return said(page, '#shown .facts')


def test_all_samples_are_there_and_the_first_is_shown(page):
    assert found(page) == 3 * 48 + 12
    assert said(page, '#shown h3') == 'a · zero · step 1 · rollout · question 1'
    assert facts(page) == 'reward 3accuracy 1format 1language 111 tokens'
    assert said(page, '#shown .answer') == '<answer>2</answer>' and said(page, '#shown .expected') == 'Expected: 2'


def test_samples_are_filtered_by_the_parts_of_their_reward(page):
    for asked, count in (
        ('format=0', 72),
        ('accuracy=1 language>=1', 72),
        ('language<0.5, tokens<=5', 72),
        ('reward>3', 0),
    ):
        ask(page, 'where', asked)
        assert found(page) == count, asked  # a sample without the part, as those of benchmarks, is none of them
    assert said(page, '#shown') == 'No sample is like that.'
    ask(page, 'where', 'speling=1')
    assert 'no reward part “speling”: accuracy, format, language, reward, tokens, step' in said(page, '#where-wrong')
    assert page.js("document.querySelector('#where').getAttribute('aria-invalid')") == 'true'
    ask(page, 'where', 'format is 0')
    assert 'is no condition' in said(page, '#where-wrong')
    ask(page, 'where', ' ')
    assert said(page, '#where-wrong') == '' and found(page) == 156
    page.js("[...document.querySelectorAll('#parts button')].find(e => e.textContent === 'format').click()")
    page.type('0')  # the button wrote the name, and left the cursor behind it
    assert page.js("document.querySelector('#where').value") == 'format=0' and found(page) == 72


def test_samples_are_filtered_by_run_stage_kind_step_and_end(page):
    choose(page, 'stage', 'reasoning_rl')
    assert found(page) == 48
    choose(page, 'stage', 'zero')
    choose(page, 'run', '1')
    assert found(page) == 48 and said(page, '#shown h3').startswith('b · zero')
    ask(page, 'from', '5')
    ask(page, 'to', '6')
    assert found(page) == 8
    page.js("document.querySelector('#clear').click()")
    choose(page, 'when', 'math500')
    assert found(page) == 12 and 'benchmark · math500' in said(page, '#shown h3')
    page.js("document.querySelector('#clear').click()")
    choose(page, 'cut', '1')
    assert found(page) == 6 and 'cut off' in facts(page)


def test_samples_are_sorted(page):
    for order, key, low in (
        ('reward -1', 'reward 3', False),
        ('reward 1', 'reward 0.25', True),
        ('tokens -1', '23 tokens', False),
    ):
        choose(page, 'sort', order)
        assert key in facts(page), order
        page.js("document.querySelector('#list').focus()")
        page.press('End', END)
        assert ('reward 3' if low else 'reward 0.25') in facts(page)


def test_search_finds_marks_and_opens_by_keyboard(page):
    page.press('/', 191, '/')
    assert page.js('document.activeElement.id') == 'find'
    page.type('WAIT check')
    assert found(page) == 3 * 6 + 4  # questions 1, 5, 9 and 13, by their thinking
    assert page.js("[...document.querySelectorAll('#shown mark')].map(e => e.textContent)") == ['wait', 'check']
    assert page.js("document.querySelector('#shown .thought').open")  # that is where it was found
    page.press('Enter', ENTER, '\r')
    assert page.js('document.activeElement.id') == 'list'
    page.press('/', 191, '/')
    page.press('Escape', ESCAPE)
    assert found(page) == 156
    page.type('先加')
    assert found(page) > 0 and said(page, '#shown mark') == '先加'


def test_arrows_go_from_sample_to_sample_and_t_folds_thinking(page):
    page.js("document.querySelector('#list').focus()")
    titles = []
    for key, code in (
        ('ArrowDown', DOWN),
        ('ArrowDown', DOWN),
        ('ArrowUp', UP),
        ('ArrowRight', RIGHT),
        ('ArrowLeft', LEFT),
    ):
        page.press(key, code)
        titles.append(page.js("document.querySelector('#list').getAttribute('aria-activedescendant')"))
    assert titles == ['row-1', 'row-2', 'row-1', 'row-2', 'row-1']
    page.press('End', END)
    assert (
        page.js("document.querySelectorAll('.row').length") == found(page) == 156
    )  # those beyond the first hundred, too
    last, box = (
        page.js(
            f"(e => [e.getBoundingClientRect().top, e.getBoundingClientRect().bottom])(document.querySelector('{name}'))"
        )
        for name in ('.row[aria-selected=true]', '#list')
    )
    assert box[0] - 1 <= last[0] and last[1] <= box[1] + 1  # it is seen, though it was made only now
    page.press('Home', 36)
    assert not page.js("document.querySelector('#shown .thought').open")
    page.press('t', 84, 't')
    assert page.js("document.querySelector('#shown .thought').open")
    page.press('ArrowDown', DOWN)
    page.press('ArrowDown', DOWN)
    assert page.js("document.querySelector('#shown .thought').open")  # for all that follow
    page.press('Enter', ENTER, '\r')
    assert page.js('document.activeElement.id') == 'shown'
    assert page.js('getComputedStyle(document.activeElement).outlineStyle') == 'solid'  # where the keyboard is, is seen


def test_the_samples_of_one_question_stand_together(page):
    page.js("document.querySelector('#list').focus()")
    page.press('ArrowDown', DOWN)
    page.js("document.querySelector('#same').click()")
    assert found(page) == 2 + 2 + 4  # of its two stages and the benchmark; not those of the other run
    assert said(page, '.row[aria-selected=true] .place') == 'zero · step 1 · question 1'  # the one that was read stays
    rows = page.js("[...document.querySelectorAll('.row .place')].map(e => e.textContent)")
    assert all(row.endswith('question 1') for row in rows)
    page.js("document.querySelector('#same').click()")
    assert found(page) == 156


def test_what_a_model_wrote_is_text(page):
    ask(page, 'find', 'document.title')
    assert found(page) == 6
    assert 'It is </script><script>document.title = "taken"</script> & <b>bold</b>' in said(page, '#shown .thought pre')
    assert page.js("document.querySelectorAll('#shown script, #shown pre b').length") == 0
    assert said(page, '#shown .muted') == 'There is none.'


def test_what_a_tool_said_stands_between_the_turns(page):
    ask(page, 'find', 'tool says')
    assert found(page) == 6 and said(page, '#shown .between') == 'the tool says 5'
    titles = page.js("[...document.querySelectorAll('#shown h4')].map(e => e.textContent)")
    assert titles == ['Prompt', 'Turn 1', 'Environment', 'Turn 2']
    assert page.js("[...document.querySelectorAll('#shown .answer')].map(e => e.textContent)") == [
        'call 4 + 1',
        'it is 6',
    ]
    assert said(page, '.row[aria-selected=true] .said').endswith('→ it is 6')


def test_light_and_dark_follow_the_system_until_the_switch_is_used(page):
    def ground():
        return page.js('getComputedStyle(document.body).backgroundColor')

    colours = []
    for scheme in ('light', 'dark'):
        page.scheme(scheme)
        colours.append(ground())
    light, dark = colours
    assert light != dark
    seen = []
    for _ in range(3):
        page.js("document.querySelector('#theme').click()")
        seen.append((said(page, '#theme'), ground()))
    assert seen == [('Theme: light', light), ('Theme: dark', dark), ('Theme: system', dark)]
    page.scheme('light')
    assert ground() == light


def test_curves_show_their_values_at_the_cursor(page):
    chart = (
        "[...document.querySelectorAll('#curves .chart')].findLast(e => e.querySelector('b').textContent === 'Reward')"
    )
    page.js(f"({chart}).querySelector('svg').focus()")
    page.press('ArrowLeft', LEFT)
    tip = page.js(f"({chart}).querySelector('.tip').textContent").split('\n')
    assert tip[0] == 'step 11' and tip[1] == 'a: 0.917' and 'b: 1.02' in tip  # of both runs


def test_a_narrow_page_does_not_run_off(page):
    page.size(420, 800)
    assert page.js('document.documentElement.scrollWidth') <= 420
    page.size(1200, 900)
