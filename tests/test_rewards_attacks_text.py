r"""Attacks on the rewards of text: none is rewarded, none raises, and each is answered soon.

Time is bounded by construction: answers are capped before anything reads them, and only formulas of bounded size reach sympy. In
training these rewards have a deadline in the pool besides; here they run without, so that the test shows what they cost alone.
"""

import builtins
import os
import time

import pytest

from r1jax.rewards import accuracy, form, formulas
from r1jax.rewards.choice import choice
from r1jax.rewards.language import Language
from r1jax.rewards.mathematics import Math
from r1jax.rewards.repetition import Repetition
from r1jax.types import Problem, Response

pytest.importorskip('math_verify')

MEGABYTE = 1_000_000
SLOWEST = 10.0  # seconds a case on a busy machine; alone each takes below one

BAIT = [  # (name, gold, what is claimed to be the final answer)
    ('tower', '7', '9**9**9'),
    ('latex tower', '7', '9^{9^{9}}'),
    ('tower for a formula', r'\sqrt{2}', '9^{9^{9^{9}}}'),
    ('tower without braces', r'\sqrt{2}', '9^9^9^9'),
    ('tower of brackets', r'\sqrt{2}', '((9^{999})^{999})^{999}'),
    ('tower in a root', r'\sqrt{2}', r'\sqrt[9^{9^9}]{2}'),
    ('tower in a fraction', r'\sqrt{2}', r'\frac{1}{9^{9^{9}}}'),
    ('power of a symbol', 'x+1', 'x^{9999999999}'),
    ('expanded power', 'x+1', '(x+y+z+1)^{9999}'),
    ('nested brackets', '7', '(' * 500 + '7' + ')' * 500),
    ('nested brackets for a formula', 'x+1', '(' * 500 + 'x+1' + ')' * 500),
    ('nested braces', '7', '{' * 500 + '7' + '}' * 500),
    ('nested fractions', r'\sqrt{2}', r'\frac{1}{1+' * 60 + '1' + '}' * 60),
    ('nested roots', r'\sqrt{3}', r'\sqrt{1+' * 11 + '1' + '}' * 11),
    ('factorial', 'x+1', '99999999!'),
    ('factorials', 'x+1', '9!!!!!!!!'),
    ('factorial of a power', r'\sqrt{2}', '(9^9)!'),
    ('binomial', r'\sqrt{2}', r'\binom{999999999}{99999999}'),
    ('gamma', r'\sqrt{2}', r'\Gamma(999999999)'),
    ('exponentials', r'\sqrt{2}', 'e^{e^{e^{e^{9}}}}'),
    ('many digits', '7', '7' * 100_000),
    ('zeros', '7', '7.' + '0' * 100_000 + '1'),
    ('exponent', '7', '7e999999999'),
    ('exponent for a formula', r'\sqrt{2}', '1e999999999'),
    ('power of ten', '7', r'7 \times 10^{999999999}'),
    ('import', '7', "__import__('os').system('touch HACKED')"),
    ('import for a formula', 'x+1', "__import__('os').system('touch HACKED')"),
    ('eval', 'x+1', "eval('open(1)')"),
    ('lambda', 'x+1', 'lambda: 7'),
    ('dunder', 'x+1', '().__class__.__bases__[0].__subclasses__()'),
    ('exit', 'x+1', 'exit()'),
    ('format string', '7', '{0.__class__}'),
    ('sympy names', 'x+1', 'Symbol("x")+1 or S(7)'),
    ('operatorname', r'\sqrt{2}', r'\operatorname{zeros}(9999,9999)'),
    ('integral', r'\sqrt{2}', r'\int_0^1 x^{x^x} dx'),
    ('sum', '7', r'\sum_{k=1}^{999999999} k'),
    ('derivative', 'x+1', r'\frac{d}{dx} x^{x^{x}}'),
    ('matrix', '7', r'\begin{pmatrix}' + r'7 & 7 \\' * 400 + r'\end{pmatrix}'),
    ('macro', '7', r'\def\x{\x\x}\x'),
    ('all candidates', '7', ' or '.join(map(str, range(20)))),
    ('all candidates in a list', '7', ', '.join(map(str, range(20)))),
    ('all candidates in a set', '7', r'\{' + ','.join(map(str, range(20))) + r'\}'),
    ('hedge', '7', '7 or 8'),
    ('hedge with not', '7', 'not 7'),
    ('hedge in words', '7', 'it may be 7, or else 8'),
    ('plus or minus', '7', r'7 \pm 1'),
    ('interval around it', '7', '[6, 8]'),
    ('inequality', '7', 'x < 8'),
    ('equation of all', '7', '6 = 7 = 8'),
    ('anything', '7', 'x'),
    ('not a number', '7', 'nan'),
    ('not a number, as a number', '7', r'\frac{0}{0}'),
    ('infinity', '7', 'inf'),
    ('infinity, divided', r'\infty', r'\frac{1}{0}'),
    ('infinity less infinity', '0', r'\infty - \infty'),
    ('true', 'x=7', '0=0'),
    ('null bytes', '7', '7\x00'),
    ('null bytes around', '7', '\x007\x00'),
    ('zero width', '17', '1\u200b7'),
    ('right to left', '17', '\u202e71'),
    ('arabic digits', '7', '\u0667'),
    ('mathematical digits', '7', '\U0001d7d5'),
    ('circled digits', '7', '\u2466'),
    ('cyrillic letter', r'\text{(C)}', '\u0421'),
    ('greek letter', 'A', '\u0391'),
    ('cyrillic word', r'\text{Navin}', 'N\u0430vin'),
    ('surrogate', '7', '7\ud800'),
    ('unbalanced', '7', r'\frac{7}{1'),
    ('unbalanced the other way', '7', '7}}}}'),
    ('juxtaposed', '7', '5 2'),
    ('comma for a point', '1,2,3', '1.2'),
    ('percent of percent', '7', '7%%'),
    ('unfinished arithmetic', '408', r'17 \cdot 24'),
    ('unfinished arithmetic in text', '408', '17*24'),
    ('empty', '7', ''),
    ('blank', '7', ' \n\t'),
    ('unit alone', '5 m', 'm'),
    ('a megabyte', '7', '7 ' * (MEGABYTE // 2)),
    ('a megabyte of commas', '7', '7,' * (MEGABYTE // 2)),
    ('a megabyte of letters', 'x+1', 'x' * MEGABYTE),
    ('a megabyte of powers', 'x+1', '^' * MEGABYTE),
    ('a megabyte of backslashes', 'x+1', '\\' * MEGABYTE),
    ('long words', r'\text{no}', 'no ' * 300),
]  # fmt: skip

WHOLE = [  # (name, gold, whole response)
    ('unbalanced tags', '7', '<answer> 8 <answer> 7'),
    ('closed before it is opened', '7', '</answer> 7 <answer>'),
    ('two answers', '7', '<answer> 7 </answer> <answer> 8 </answer>'),
    ('answers in turns', '7', '<answer> 7 </answer>' * 1000 + '<answer> 8 </answer>'),
    ('two boxes', '7', r'\boxed{7} or \boxed{8}'),
    ('two boxes the other way', '7', r'\boxed{8} or \boxed{7}'),
    ('boxes of all candidates', '7', ', '.join(rf'\boxed{{{i}}}' for i in range(20))),
    ('two boxes in the tags', '7', r'<answer> \boxed{8} or \boxed{7} </answer>'),
    ('the answer only thought', '7', '<think> it is 7 </think> <answer> 8 </answer>'),
    ('a box that never closes', '7', r'\boxed{' * 30_000 + '7'),
    ('boxes in boxes', '7', r'\boxed{' * 300 + '8' + '}' * 300),
    ('many empty boxes', '7', r'7 \boxed{}' * 30_000),
    ('tags without end', '7', '<answer>' * (MEGABYTE // 8)),
    ('look-alike tags', '7', '<\u0430nswer> 7 </\u0430nswer>'),
    ('upper-case tags', '7', '<ANSWER> 7 </ANSWER>'),
    ('a megabyte of dollars', '7', '$' * MEGABYTE),
    ('a megabyte of brackets', '7', r'\(' * (MEGABYTE // 2)),
    ('null bytes for text', '7', '\x00' * MEGABYTE),
    ('nothing', '7', ''),
]

ONCE = [(name, gold, f'<think> so </think> <answer>{text}</answer>') for name, gold, text in BAIT] + WHOLE
CASES = ONCE + [
    (f'{name}, boxed', gold, rf'\boxed{{{text}}}') for name, gold, text in BAIT if text.count('{') == text.count('}')
]


@pytest.fixture(autouse=True)
def no_code_runs(monkeypatch, tmp_path):
    """Model text that reached `eval`, `exec` or the shell would be heard of here."""
    monkeypatch.chdir(tmp_path)
    formulas.library()  # imports may run what they like

    def heard(*args, **kwargs):
        raise AssertionError(f'model text was run: {args}')

    def run(code, *scope, plain=exec, **rest):
        return heard(code) if isinstance(code, str) else plain(code, *scope, **rest)

    import sympy.parsing.sympy_parser as parser  # what math-verify's path for plain expressions ends in

    for owner, name in ((parser, 'eval_expr'), (parser, 'parse_expr'), (os, 'system'), (builtins, 'eval')):
        monkeypatch.setattr(owner, name, heard)
    monkeypatch.setattr(builtins, 'exec', run)
    yield
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(('gold', 'text'), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_no_math_attack_is_rewarded(gold, text):
    start = time.perf_counter()
    assert Math()(Problem(0, 'What is it?', gold), Response(text, 9, True)) == 0
    assert time.perf_counter() - start < SLOWEST


@pytest.mark.parametrize(('gold', 'text'), [c[1:] for c in ONCE], ids=[c[0] for c in ONCE])
def test_other_rewards_of_text_survive(gold, text):
    problem, response = Problem(0, 'What is it?', gold, meta={'choices': (gold, 'another')}), Response(text, 9, True)
    start = time.perf_counter()
    for reward in (Math(last=True, arithmetic=True), form.format, accuracy.exact, Repetition()):
        assert -1 <= reward(problem, response) <= 1
    assert choice(problem, response) == 0
    assert time.perf_counter() - start < SLOWEST


def test_there_are_enough():
    assert len(BAIT) + len(WHOLE) >= 60


@pytest.mark.parametrize('last', [False, True])
def test_the_questions_echo_earns_nothing(last):
    prompt = r'Put it in \boxed{} or <answer> answer here </answer>. For example \boxed{7}. What is 3 + 4, is it 8 or 7'
    for text in (prompt, prompt * 50, f'Question: {prompt} Answer:', f'<think> {prompt} </think>'):
        assert Math(last=last)(Problem(0, prompt, '7'), Response(text, 9, True)) == 0
        assert Math(last=last)(Problem(0, prompt, r'\text{answer here}'), Response(text, 9, True)) == 0
    assert Math(last=last)(Problem(0, prompt, '7'), Response(f'{prompt} <answer> 7 </answer>', 9, True)) == 1


def test_a_question_is_not_its_own_answer():
    for prompt, gold, echo in (
        (r'Simplify $\frac{6}{8}$.', r'\frac{3}{4}', r'\frac{6}{8}'),
        (r'Simplify $\sqrt{12}$.', r'2\sqrt{3}', r'\sqrt{12}'),
        ('Factor $x^2 - 1$.', '(x-1)(x+1)', 'x^2 - 1'),
        ('Expand $(x-1)(x+1)$.', 'x^2-1', '(x-1)(x+1)'),
        ('What is $17 * 24$?', '408', '17 * 24'),
        ('Write 3/4 as a decimal.', '0.75', '3/4'),
    ):
        assert Math()(Problem(0, prompt, gold), Response(f'<answer> {echo} </answer>', 9, True)) == 0
        assert Math()(Problem(0, prompt, gold), Response(f'<answer> {gold} </answer>', 9, True)) == 1


def test_language_cannot_be_had_by_saying_nothing_or_hiding_it():
    language, problem = Language('en'), Problem(0, 'q', '7')
    for text in (
        '',
        '<think></think> 7',
        '<think>\x00</think>'[:7] + '</think>',
        '<think> 我们计算这个数 </think> all in English here',
    ):
        assert language(problem, Response(text, 9, True)) == 0
    hidden = 'we know. $nous savons que la fonction est croissante et donc positive partout$'
    assert language(problem, Response(f'<think> {hidden} </think>', 9, True)) < 0.6


def test_a_gold_that_cannot_be_read_rewards_nobody():
    for gold in ('', r'\frac{1}{', '?', r'\int x dx'):
        with pytest.raises(ValueError, match='cannot be'):
            Math()(Problem(0, 'q', gold), Response('<answer> x+1 </answer>', 9, True))
