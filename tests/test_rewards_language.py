"""Language consistency on a labelled set: English, Chinese, mixed at known ratios, mathematics, code, one script against another.

A text is made of pieces with their language; its true share is counted from the pieces: words of a language, where a Han character is
a word, over all of them. Pieces marked '' are mathematics, code or names, which do not count.
"""

import random
import time

import pytest

from r1jax.rewards.language import Language, reasoning, share
from r1jax.types import Problem, Response

EN = [
    'First we note that the sum of the two numbers must be even.',
    'let me check this step again because it does not look right to me.',
    'so the train needs three hours to reach the next city in the north',
    'we can factor the polynomial and find its roots one after the other.',
    'There are twelve students in the class, and each of them has one book.',
    'therefore the probability of drawing two red balls is one third.',
]
ZH = [
    '首先我们计算这两个数的和。',
    '因为两个数都是偶数，所以它们的积能被四整除。',
    '让我再检查一遍这个步骤是否正确。',
    '火车中午离开车站，以恒定的速度行驶。',
    '班上有十二个学生，每个人都有一本书。',
    '所以答案应该是正确的，我们来验证一下。',
]
FR = [
    'Nous remarquons que la somme des deux nombres doit être paire.',
    'vérifions encore cette étape car elle ne me semble pas correcte du tout.',
    'le train met donc trois heures pour atteindre la prochaine ville au nord',
    'On peut factoriser le polynôme et trouver ses racines une par une.',
    'Il y a douze élèves dans la classe et chacun possède un livre.',
]
DE = [
    'Zuerst sehen wir, dass die Summe der beiden Zahlen gerade sein muss.',
    'ich prüfe diesen Schritt noch einmal, weil er mir nicht richtig erscheint.',
    'der Zug braucht also drei Stunden bis zur nächsten Stadt im Norden',
]
ES = [
    'primero observamos que la suma de los dos números debe ser par.',
    'voy a comprobar este paso otra vez porque no me parece correcto.',
    'por lo tanto la probabilidad de sacar dos bolas rojas es un tercio.',
]
RU = [
    'сначала заметим, что сумма двух чисел должна быть чётной.',
    'поезд выезжает в полдень и движется с постоянной скоростью.',
]
JA = ['まず二つの数の和を計算します。', 'この問題の答えは正しいと思います。']
KO = ['먼저 두 수의 합을 계산해 봅시다.', '이 단계가 맞는지 다시 확인하겠습니다.']
AR = ['أولا نلاحظ أن مجموع العددين يجب أن يكون زوجيا.']
MATH = [
    r'$x^2 + 3x - 6 = 0$', r'\[ \sum_{k=1}^{n} k = \frac{n(n+1)}{2} \]', r'\(\sin \theta = \cos\phi\)', 'x = 5, y = 7 + 3z',
    r'$$\int_0^1 f(x)\,dx$$',
    r'\begin{align} a &= b + c \\ d &= \text{rest} \end{align}', '3 + 4 * 5 = 23', r'$\text{area} = \pi r^2$',
]  # fmt: skip
CODE = [
    '```python\ndef solve(values):\n    # add the numbers\n    return sum(values)\n```', '`max_value = compute(x)`',
    '\nfor i in range(10):\n    print(i)\n', '\nimport math\nresult = math.gcd(12, 18)\n', '```\nint main() { return 0; }\n```',
]  # fmt: skip


def count(text, language):
    if language == 'zh':
        return sum('\u4e00' <= c <= '\u9fff' for c in text)
    if language == 'ja':
        return sum(c.isalpha() for c in text)
    return len(text.split())


def cases():
    """(name, pieces as (language, text), target, tolerance)"""
    out = []

    def add(name, pieces, target, tolerance=0.05):
        out.append((f'{len(out)}-{name}', pieces, target, tolerance))

    every = (('en', EN), ('zh', ZH), ('fr', FR), ('de', DE), ('es', ES), ('ru', RU), ('ja', JA), ('ko', KO), ('ar', AR))
    for code, texts in every:  # one language, asked for it and for another
        add(f'{code}-alone', [(code, t) for t in texts], code)
        add(f'{code}-not-asked', [(code, t) for t in texts], 'en' if code in ('zh', 'ja') else 'zh')
    for text in (*EN[:3], *ZH[:3]):
        add('one-sentence', [('zh' if text in ZH else 'en', text)], 'zh' if text in ZH else 'en')
    for n_en, n_zh in ((1, 5), (2, 4), (3, 3), (4, 2), (5, 1)):  # across scripts, at known ratios
        for target in ('en', 'zh'):
            add(f'en{n_en}-zh{n_zh}', [('en', t) for t in EN[:n_en]] + [('zh', t) for t in ZH[:n_zh]], target)
    add('en-zh-in-turns', [p for e, z in zip(EN, ZH, strict=True) for p in (('en', e), ('zh', z))], 'zh')
    add(
        'words-inside',
        [
            ('zh', '我们需要'),
            ('en', 'carefully check'),
            ('zh', '这个等式是否成立，然后'),
            ('en', 'simplify'),
            ('zh', '它。'),
        ],
        'zh',
    )
    add('en-ru', [('en', EN[1]), ('ru', RU[0])], 'en')
    add('ru-en', [('ru', RU[0]), ('ru', RU[1]), ('en', EN[3])], 'ru')
    add('ja-zh', [('ja', JA[0]), ('zh', ZH[1]), ('ja', JA[1])], 'ja')
    add('zh-ja', [('zh', ZH[0]), ('zh', ZH[2]), ('ja', JA[0])], 'zh')
    add('ko-en', [('ko', KO[0]), ('en', EN[5]), ('ko', KO[1])], 'ko')
    add('ar-en', [('ar', AR[0]), ('en', EN[2])], 'ar')
    for i, maths in enumerate(MATH):  # mathematics and code count for nobody
        add('math-zh', [('zh', ZH[i % 6]), ('', maths), ('zh', ZH[(i + 1) % 6])], 'zh')
    for i, code in enumerate(CODE):
        add('code-zh', [('zh', ZH[i % 6]), ('', code), ('zh', ZH[(i + 2) % 6])], 'zh')
    add('math-mixed', [('en', EN[0]), ('', MATH[0]), ('zh', ZH[1]), ('', MATH[1]), ('', MATH[4])], 'en')
    add(
        'names-zh',
        [
            ('zh', '根据'),
            ('', 'Newton'),
            ('zh', '第二定律和'),
            ('', 'Euler'),
            ('zh', '公式，使用'),
            ('', 'GCD'),
            ('zh', '计算。'),
        ],
        'zh',
    )
    add('names-start', [('', 'Isaac Newton'), ('zh', '发现了这个定律。'), ('', 'Python'), ('zh', '可以计算它。')], 'zh')
    add(
        'variables',
        [('zh', '设'), ('', 'x'), ('zh', '和'), ('', 'y'), ('zh', '为正整数，则'), ('', 'sin x'), ('zh', '小于一。')],
        'zh',
    )
    for other, texts in (('fr', FR), ('de', DE), ('es', ES)):  # one script
        for target in ('en', other):
            add(f'en-{other}', [('en', EN[0]), ('en', EN[1]), (other, texts[0]), (other, texts[1])], target, 0.15)
            add(
                f'en-{other}-in-turns',
                [('en', EN[3]), (other, texts[2]), ('en', EN[5]), (other, texts[0])],
                target,
                0.15,
            )
            add(f'en-{other}-long', [('en', t) for t in EN] + [(other, texts[1])], target, 0.15)
    add('fr-de', [('fr', FR[0]), ('de', DE[0]), ('fr', FR[4])], 'fr', 0.15)
    add('fr-math', [('fr', FR[0]), ('', MATH[0]), ('fr', FR[3]), ('', MATH[2]), ('en', EN[5])], 'fr', 0.15)
    unpointed = (
        'so we know that the answer has to be smaller than ten',
        'parce que la fonction est croissante sur tout cet intervalle',
    )
    add('no-punctuation', list(zip(('en', 'fr'), unpointed, strict=True)), 'en', 0.15)
    return out


CASES = cases()


def true_share(pieces, target):
    counts = [(language, count(text, language)) for language, text in pieces if language]
    return sum(n for language, n in counts if language == target) / sum(n for _, n in counts)


@pytest.mark.parametrize(('pieces', 'target', 'tolerance'), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_share_is_near_the_true_one(pieces, target, tolerance):
    text = ' '.join(text for _, text in pieces)
    assert share(text, target) == pytest.approx(true_share(pieces, target), abs=tolerance)


def test_the_set_is_large_enough():
    assert len(CASES) >= 60


def test_random_mixes_within_one_script():
    rng = random.Random(0)
    errors = []
    for _ in range(60):
        pieces = [
            (code, rng.choice(texts)) for code, texts in rng.choices((('en', EN), ('fr', FR)), k=rng.randint(2, 6))
        ]
        errors.append(abs(share(' '.join(t for _, t in pieces), 'en') - true_share(pieces, 'en')))
    assert max(errors) <= 0.15 and sum(errors) / len(errors) <= 0.03


@pytest.mark.parametrize(
    ('text', 'inside'),
    [('<think> a b </think> <answer> c </answer>', ' a b '), (' a </think> c', ' a '), ('<think> a', ' a'), ('a', 'a'),
     ('a <answer> 7 </answer>', 'a  ')],
)  # fmt: skip
def test_what_reasoning_is(text, inside):
    assert reasoning(text) == inside


def test_reward_reads_the_reasoning_in_the_problems_language():
    response = Response(f'<think> {EN[0]} </think> <answer> {ZH[0]} </answer>', 9, True)
    assert Language()(Problem(0, 'q', '7'), response) == 1
    assert Language()(Problem(0, 'q', '7', language='zh'), response) == 0
    assert Language('zh-CN')(Problem(0, 'q', '7'), response) == 0
    with pytest.raises(ValueError, match="language 'xx' cannot be told"):
        Language('xx')(Problem(0, 'q', '7'), response)


def test_nothing_and_mathematics_alone():
    assert share('', 'en') == share(' \n', 'en') == 0
    assert share('$x+1$ = 5', 'zh') == share('3 + 4 = 7', 'en') == 1


def test_short_foreign_phrases_do_not_count_but_hidden_prose_does():
    assert share('It is a matter of déjà vu, and a priori we know nothing about the roots here.', 'en') == 1
    assert share(f'{ZH[0]} $we know that the answer is seven here$', 'zh') < 0.8


def test_time_is_bounded():
    start = time.perf_counter()
    for piece in ('a ', r'\(', '`', '中 ', 'A', r'\begin{a}', 'x@', 'f(', ';'):
        assert 0 <= share(piece * (40_000 // len(piece)), 'en') <= 1
    assert time.perf_counter() - start < 20  # about two seconds on a machine that does nothing else


def test_the_whole_response_may_be_read_where_no_reasoning_is_needed():
    problem = Problem(0, '', '', 'general', 'en')
    greeting, mixed = (
        Response(text, 1, True) for text in ('<think> </think> hello Ann', '<think> </think> hello 你好')
    )
    assert Language()(problem, greeting) == 0  # a blank reasoning
    assert Language(read='response')(problem, greeting) == 1
    assert Language(read='response')(problem, mixed) == pytest.approx(1 / 3)
