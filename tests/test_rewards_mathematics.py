"""Math accuracy: what is equal, what is not, where the answer is taken from, and real data against itself."""

import itertools
import json
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.rewards import mathematics, numerals, reading
from r1jax.rewards.mathematics import Math
from r1jax.types import Problem, Response

pytest.importorskip('math_verify')

DATA = pathlib.Path(__file__).parents[2] / 'shared' / 'data'  # beside a checkout of the project; not part of it


def asked(gold, prompt='', **meta):
    return Problem(0, prompt, gold, meta=meta)


def said(text):
    return Response(text, tokens=9, finished=True)


def right(gold, answer, prompt='', **settings):
    return bool(Math(**settings)(asked(gold, prompt), said(f'<answer>{answer}</answer>')))


EQUAL = [
    # numbers
    ('18', ['18', '18.0', '18.', '$18$', r'\(18\)', r'\$18', '$18', '36/2', '+18', '018', r'\boxed{18}', '**18**', r'18\%', '18%']),
    ('18', ['18 apples', '18 dollars', 'The answer is 18.', 'Answer: 18', 'She has 18 apples left.', 'x = 18', '9*2 = 18', '１８']),
    ('1,234', ['1234', '1,234.00', r'1{,}234', r'1,\!234', r'\text{1,234}']),
    ('-3', ['−3', r'-\frac{6}{2}', '-3.0', '负三', '-$3']),
    ('3000000', ['3 million', r'3 \times 10^6', '3e6', '3,000,000', '300万', '三百万', '共300万元']),
    ('0.00001', [r'10^{-5}', r'1 \cdot 10^{-5}', '1e-5', r'\frac{1}{100000}']),
    ('25', ['二十五', '25个', '答案是25', '共有25个'[:1] + '25个', '二五']),
    (r'\frac{3}{4}', ['3/4', '0.75', r'\dfrac34', '75%', '¾', '四分之三', '.75', r'\frac{6}{8}', r'$\tfrac{3}{4}$', '百分之七十五']),
    (r'\frac{1}{3}', [r'0.\overline{3}', '0.333333', '1/3', '0.33333333']),
    (r'\frac{2}{3}', ['0.666667', '0.666666', '三分之二']),
    (r'1\frac{4}{5}', ['1.8', '9/5', '1 4/5', r'\frac{9}{5}', r'1 \frac{4}{5}']),
    ('20%', ['20', '0.2', r'20\%', '20 percent', r'20\text{ percent}', '1/5', '百分之二十']),
    # units, degrees, bases, money
    (r'864 \mbox{ inches}^2', ['864', '864 square inches', r'864 \text{ in}^2', r'864\text{ sq in}', '864 in^2']),
    (r'5.4 \text{ cents}', ['5.4', '5.4 cents', r'5.4\text{ cents}']),
    (r'90^\circ', ['90', '90°', r'90^{\circ}', '90 degrees', r'90\degree', r'90\text{ degrees}']),
    (r'52_8', ['52', '52_{8}', r'52_{\text{eight}}', r'52_{\text{8}}']),
    (r'\$32,\!348', ['32348', r'\$32,348', '32,348 dollars', '$32,348.00']),
    ('12', ['12 cm', '12 cm^2', r'12\,\text{m/s}', '12 miles per hour', '12 students']),
    # formulas
    (r'3\sqrt{13}', [r'3 \sqrt{13}', r'\sqrt{117}', '3√13', r'\sqrt{13}\cdot 3', '10.8166538']),
    (r'\frac{\sqrt{3}}{3}', [r'\frac{1}{\sqrt{3}}', r'\sqrt{3}/3', r'\frac{\sqrt3}3', r'\sqrt{\frac{1}{3}}']),
    (r'\pi', ['π', '3.14159', '3.14159265', r'\frac{2\pi}{2}']),
    (r'288 \pi', [r'288\pi', '288π', r'288\pi\text{ cm}^3', '904.77868']),
    ('6 - 5i', ['-5i+6', '6-5i', '$6 - 5 i$']),
    ('p - q', ['p-q', '-q+p', '$p - q$', 'The answer is $p - q$.']),
    ('x^3+3x-6', ['3x + x^3 - 6', 'x³+3x-6', '$x^{3}+3x-6$']),
    ('(a+5)(b+2)', ['(b+2)(a+5)', '(5+a)(2+b)', r'\left(a+5\right)\left(b+2\right)']),
    (r'\cot x', [r'\frac{\cos x}{\sin x}', r'\cot(x)', r'\frac{1}{\tan x}']),
    (r'\log_2 5', [r'\log_{2}{5}', r'\frac{\ln 5}{\ln 2}']),
    # equations and names
    ('x=5', ['5', 'x = 5', '$x=5$', '5.0']),
    ('y = 2x + 3', ['2x+3', 'y=3+2x', '$y = 2x + 3$']),
    ('5x - 7y + 11z + 4 = 0', ['10x - 14y + 22z + 8 = 0', '5x - 7y + 11z = -4', '-5x + 7y - 11z - 4 = 0']),
    # intervals, sets, tuples, lists, matrices
    (r'x \in [-2,7]', ['[-2,7]', '[-2, 7]', r'-2 \le x \le 7', '-2 ≤ x ≤ 7', r'\left[-2,7\right]', r'7 \ge x \ge -2']),
    (r'(2,\infty)', ['x > 2', r'(2, \infty)', '(2, ∞)', r'(2,+\infty)', '2 < x', '(2, inf)']),
    (r'(-\infty, 2) \cup (3, \infty)', [r'(3,\infty)\cup(-\infty,2)', '(-∞,2) ∪ (3,∞)']),
    (r'\left(\frac{3}{5},\frac{8}{3}\right]', ['(0.6, 8/3]', r'(\tfrac35,\tfrac83]']),
    ('1,-2', ['-2, 1', '1 and -2', 'x=1 or x=-2', r'\{1,-2\}', r'1 \text{ and } -2', '1和-2', 'The roots are 1 and -2.', '(1,-2)']),
    (r'1 \pm \sqrt{19}', [r'1+\sqrt{19}, 1-\sqrt{19}', r'1-\sqrt{19}\text{ or }1+\sqrt{19}', '1±√19']),
    (r'\{1\pm\sqrt{5},-2\}', [r'-2, 1+\sqrt5, 1-\sqrt5', r'\left\{-2, 1-\sqrt{5}, 1+\sqrt{5}\right\}']),
    (r'\left( 3, \frac{\pi}{2} \right)', [r'(3, \pi/2)', r'(3,\frac{\pi}{2})', r'\left(3,\dfrac{\pi}{2}\right)', '(3, 0.5π)']),
    (r'\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}', [r'\begin{bmatrix}-\frac13\\\frac23\end{bmatrix}']),
    (r'\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}', [r'\begin{pmatrix}-1&0\\0&-1\end{pmatrix}']),
    # words
    (r'\text{Evelyn}', ['Evelyn', 'evelyn', r'\textbf{Evelyn}', 'The answer is Evelyn.', '**Evelyn**', r'\text{ Evelyn }']),
    (r'\text{(C)}', ['C', '(C)', r'\text{C}', 'c', 'The answer is C', 'option C', r'\mathrm{C}']),
    (r'\text{even}', ['even', 'Even', '"even"'[1:-1]]),
    ('3:30', ['3:30', r'\text{3:30}']),
    ('巴黎', ['巴黎', '答案是巴黎', '巴黎。']),
]  # fmt: skip

DIFFERENT = [
    ('18', ['19', '-18', '1.8', '180', '18x', '18i', '18 or 19', '17, 18', '18, 19', '18 and 19', '{18, 19}', '(18, 19)', '18 to 20']),
    ('18', ['', ' ', 'eighteen', 'not 18', '18 or so or 19', 'at least 18', 'more than 18', 'about 18', '18?', 'x', '18 18', '1 8']),
    ('18', [r'\frac{18}{0}', '9*2', r'9 \cdot 2', r'\sqrt{324}', '20-2', '18!', '18^2', '>18', r'18 \pm 1', 'x > 18', '18 minus 2']),
    ('18', ['18 million', '18 dozen', '18%%', '三十八', '十八万', '18或19', '不是18', '约18', '18 half', 'half of 18', '18 hundred']),
    ('18', ['\u0661\u0668', '1\u200b8', '18\x00', 'l8', '1О', '18\u202e', '𝟏𝟖', '①⑧']),  # other digits, invisible marks, look-alikes
    ('1,2,3', ['1.2', '1.23', '123', '1,2', '1,2,3,4', '1,2,2,3', '1 2 3', '1/2/3']),
    ('7', ['5 2', '3 4', '9=8', '7=8', '7,000', '7 or less', r'\boxed{7} or \boxed{8}', '6 or 7', '7e1']),
    ('20%', ['0.2%', '2', '0.02', '20‰']),
    ('0.2', ['20', '2%', '0.20001']),
    (r'\frac{1}{3}', ['0.33', '0.3333', '0.3333331', '0.333', '3', '1:3', '-1/3']),
    ('0.5', ['0.500001', '0.4999999', '0.05']),
    ('0', ['0.0000001', r'10^{-20}', '', 'o', 'O', r'\emptyset', r'x-x']),
    (r'5.4 \text{ cents}', ['5.4 dollars', r'\$5.4', '5.4 m']),
    (r'15\mbox{ cm}^2', ['15 cm', '15 cm^3', '15 m^2']),
    (r'90^\circ', [r'90\text{ radians}', '90 rad', r'\frac{\pi}{2}']),
    (r'52_8', ['42', '52_9', '42_{10}', '25_8', '52.0001', '52_{10}']),
    (r'3\sqrt{13}', [r'3\sqrt{14}', '10.8', '10.81', r'13\sqrt{3}', r'-3\sqrt{13}', '11', r'3\sqrt{13}, 4', r'3 + \sqrt{13}']),
    (r'\pi', ['3.14', '22/7', '3', 'p', r'2\pi', '3.14160', '3.141593001']),
    ('p - q', ['q - p', 'p + q', 'p', 'pq', 'p - q or q - p']),
    ('x^3+3x-6', ['x^3+3x+6', 'x^3-3x-6', 'y^3+3y-6', 'x^3+3x', 'x^2+3x-6']),
    ('x=5', ['y=5', 'x=6', 'x>5', 'x=5,6', r'x \ne 5']),
    ('5x - 7y + 11z + 4 = 0', ['5x - 7y + 11z + 5 = 0', '0', '0=0', '5x-7y+11z+4', '4=0', 'x=0']),
    (r'x \in [-2,7]', ['(-2,7)', '[-2,7)', '-2,7', r'\{-2,7\}', '[-2,8]', r'-2 < x < 7', r'[7,-2]', r'x \ge -2']),
    (r'(2,\infty)', [r'[2,\infty)', r'(-\infty,2)', 'x < 2', r'x \ge 2', '2', r'(2,100000)', r'(3,\infty)', r'(-\infty,\infty)']),
    (r'(-\infty, 2) \cup (3, \infty)', [r'(-\infty,2]\cup(3,\infty)', r'(-\infty,2)', r'(-\infty,\infty)', r'(-\infty,2)\cap(3,\infty)']),
    ('(6,31,-1)', ['(31,6,-1)', '(6,31)', '6', '(6,31,-1,0)', '[6,31,-1]']),
    ('1,-2', ['1', '-2', '1,2', '1,-2,3', '1,1,-2', '-1', '[1,-2]', '1-2']),
    (r'1 \pm \sqrt{19}', [r'1+\sqrt{19}', r'1-\sqrt{19}', r'\pm\sqrt{19}', r'1\pm\sqrt{17}']),
    (r'\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}', [r'\begin{pmatrix}1&3\\2&4\end{pmatrix}', r'\begin{pmatrix}1&2\end{pmatrix}']),
    (r'\text{Evelyn}', ['Briana', 'Evelyn or Briana', 'Evelyn, Briana', 'not Evelyn', 'Everyone', 'Еvelyn', 'E', '5']),  # Cyrillic Е
    (r'\text{(C)}', ['A', 'A or C', 'C or A', 'A, B, C', 'not C', '(A) (C)', 'All of them', 'С', 'C and D']),  # Cyrillic С
    (r'\text{no}', ['on', 'yes', 'yes or no', 'n']),
    (r'\text{even}', ['odd', 'neven', 'not even', 'even or odd', 'evenodd']),
    ('3:30', ['1/10', '1:10', '3.30', '4:30']),
    ('巴黎', ['伦敦', '不是巴黎', '巴黎或伦敦', '黎巴']),
]  # fmt: skip


def pairs(table):
    return [(gold, answer) for gold, answers in table for answer in answers]


@pytest.mark.parametrize(('gold', 'answer'), pairs(EQUAL))
def test_equal(gold, answer):
    assert right(gold, answer)


@pytest.mark.parametrize(('gold', 'answer'), pairs(DIFFERENT))
def test_different(gold, answer):
    assert not right(gold, answer)


@pytest.mark.parametrize('gold', [gold for gold, _ in EQUAL])
def test_a_gold_that_can_be_read_passes_the_check(gold):
    assert Math().check(asked(gold)) is None and right(gold, gold)


@pytest.mark.parametrize(
    'gold',
    ['', ' ', r'\frac{1}{2', '(' * 50, '5 2', r'\int_0^1 x dx', '9^{9^{9^9}}', r'\foo{x}', 'x' * 2000, '5\x00', '?!'],
)
def test_a_gold_that_cannot_be_read_is_told_and_not_graded(gold):
    assert 'of problem 0' in Math().check(asked(gold))
    with pytest.raises(ValueError, match=r'cannot be (read|parsed)'):
        Math()(asked(gold), said('<answer> x+1 </answer>'))


@pytest.mark.parametrize(
    ('text', 'last', 'answer'),
    [
        ('<answer> 5 </answer>', False, '5'),
        (r'<answer> so \boxed{5} </answer> \boxed{6}', False, 'so {5}'),
        (r'\boxed{1} then \boxed{2}', False, '2'),
        (r'\boxed{1} or \boxed{2}', False, '1, 2'),
        (r'$\boxed{1}$ and $\boxed{-2}$.', False, '1, -2'),
        (r'\boxed{1}, \boxed{2}, \boxed{3}', False, '1, 2, 3'),
        (r'\boxed{2}. Again: \boxed{2}', False, '2'),
        ('it is 7', False, None),
        ('it is 7', True, '7'),
        ('2 + 5 = 7.', True, '7'),
        (r'so $x = \frac{3}{4}$.', True, r'x = \frac{3}{4}'),
        (r'with $x = 3$ there are 4', True, '4'),
        (r'\(x\) is \[ \sqrt{2} \]', True, r' \sqrt{2} '),
        ('nothing', True, None),
        (r'\boxed{1', True, '1'),
    ],
)
def test_where_the_answer_is_taken_from(text, last, answer):
    assert mathematics.final(text, last) == answer


def test_a_piece_of_the_question_is_no_answer():
    assert not right(r'\frac{3}{4}', r'\frac{6}{8}', prompt=r'Simplify $\frac{6}{8}$.')
    assert right(r'\frac{3}{4}', '3/4', prompt=r'Simplify $\frac{6}{8}$.')
    assert not right('(x-1)(x+1)', 'x^2-1', prompt='Factor $x^2 - 1$ completely.')
    assert right('(x-1)(x+1)', '(x+1)(x-1)', prompt='Factor $x^2 - 1$ completely.')
    assert not right(r'2\sqrt{3}', r'\sqrt{12}', prompt=r'Simplify $\sqrt{12}$.')
    assert right('5', '5', prompt='Is it 5 or 6?')


def test_an_echoed_question_is_not_searched():
    prompt = r'Write like \boxed{7} or <answer> 7 </answer>. What is 3 + 4?'
    assert Math()(asked('7', prompt), said(f'{prompt} I do not know.')) == 0
    assert Math(last=True)(asked('4', prompt), said(prompt)) == 0
    assert Math()(asked('7', prompt), said(rf'{prompt} It is \boxed{{7}}')) == 1


def test_options():
    assert not right('408', r'17 \cdot 24') and right('408', r'17 \cdot 24', arithmetic=True)
    assert not right('408', r'17 \cdot 25', arithmetic=True)
    assert Math()(asked('7', forms=('VII', 'seven')), said('<answer>seven</answer>')) == 1
    assert Math()(asked('7', forms=('VII',)), said('<answer>VI</answer>')) == 0


@given(st.fractions(min_value=-(10**6), max_value=10**6, max_denominator=1000), st.integers(2, 9))
def test_a_fraction_is_itself_in_any_form(value, k):
    tex = rf'\frac{{{value.numerator * k}}}{{{value.denominator * k}}}'
    assert right(str(value), tex) and right(tex, str(value))
    assert not right(str(value), rf'\frac{{{value.numerator * k + 1}}}{{{value.denominator * k}}}')


@settings(max_examples=60)
@given(st.text(), st.sampled_from(['7', 'x+1', '(1,2)', r'\text{no}']))
def test_grading_survives_any_text(text, gold):
    for reward in (Math(), Math(last=True, arithmetic=True)):
        assert reward(asked(gold), said(f'<answer>{text}</answer>')) in (0.0, 1.0)


@settings(max_examples=60)
@given(
    st.lists(
        st.sampled_from(
            [*r'{}()[]^_+-=,;$%|', r'\frac', r'\sqrt', r'\text', 'x', '2', ' ', r'\pm', r'\cup', r'\infty', '!', '<']
        ),
        max_size=12,
    )
)
def test_reading_survives_broken_latex(pieces):
    text = reading.normal(''.join(pieces))
    if text:
        reading.read(text)


@pytest.mark.parametrize(
    ('text', 'value'),
    [('十', 10), ('十二', 12), ('二十', 20), ('一百零五', 105), ('两千', 2000), ('三万五千', 35000), ('二零二四', 2024),
     ('一点五', '3/2'), ('负三', -3), ('百分之五', 5), ('三分之二', '2/3'), ('零', 0), ('二三十', None), ('5或6', None)],
)  # fmt: skip
def test_chinese_numbers(text, value):
    found = numerals.chinese(text)
    assert (found and str(found.value)) == (None if value is None else str(value))


# ---- real data: the golden subset is kept here, the whole of it is read from shared/data where that is

GOLDEN = list(dict.fromkeys(gold for gold, _ in EQUAL if gold not in ('20%', '0.2')))


def rows(name):
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"needs {name} of the project's shared data")
    return [json.loads(line) for line in path.read_text(encoding='utf-8').split('\n') if line]


SAME = {frozenset(('5', 'x=5'))}  # golds that differ as texts and say the same


def test_no_gold_of_the_subset_is_another():
    for gold, other in itertools.permutations(GOLDEN, 2):
        assert not right(gold, other), (gold, other)


def test_math_500_solutions_are_right_and_others_are_wrong():
    problems = [asked(row['answer'], row['problem']) for row in rows('math500.jsonl')]
    solutions = [said(row['solution']) for row in rows('math500_solutions.jsonl')]
    grade = Math()
    assert [grade.check(problem) for problem in problems] == [None] * 500
    assert [i for i, (p, s) in enumerate(zip(problems, solutions, strict=True)) if not grade(p, s)] == []
    pairs = equal = 0
    for shift in itertools.count(1):
        for i, problem in enumerate(problems):
            other = problems[(i + shift) % 500].answer
            if problem.answer == other or frozenset((problem.answer, other)) in SAME:
                equal += 1
                continue
            assert not grade(problem, solutions[(i + shift) % 500]), (problem.answer, other)
            pairs += 1
        if pairs >= 500:
            break
    assert equal <= 10


def forms(answer):
    n = int(answer.replace(',', ''))
    return {
        'plain': (answer, True),
        'boxed': (rf'So it is $\boxed{{{answer}}}$.', False),
        'units': (f'<answer> {answer} dollars </answer>', False),
        'words': (f'<answer>The answer is {answer} apples.</answer>', False),
        'fraction': (rf'<answer>\frac{{{2 * n}}}{{2}}</answer>', False),
        'decimal': (f'<answer>{n}.0</answer>', False),
        'prose': (
            f'First we add what there is. So all in all it comes to {answer}, and that is what was asked for.',
            True,
        ),
    }


@pytest.mark.parametrize(
    ('name', 'every'),
    [('aime24.jsonl', 1), ('gsm8k.jsonl', 12), pytest.param('gsm8k.jsonl', 1, marks=pytest.mark.slow)],
)
def test_answers_against_themselves_in_surface_forms(name, every):
    data, failures, count = rows(name)[::every], [], 0
    for row in data:
        for form, (text, last) in forms(row['answer']).items():
            count += 1
            if not Math(last=last)(asked(row['answer'], row['problem']), said(text)):
                failures.append((row['id'], form, row['answer']))
    assert len(failures) <= 0.005 * count, failures
    assert not failures, failures  # none is known
