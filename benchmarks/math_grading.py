"""Math grading on real data: what is graded right, and how fast in one process beside math-verify called directly.

    python benchmarks/math_grading.py --data ../shared/data

`--data` holds math500.jsonl, math500_solutions.jsonl, aime24.jsonl and gsm8k.jsonl (see its README). Prints the failures, if there are
any, and one JSON line: `math500` solutions graded right of 500; `mismatched` pairs graded right of 500 whose golds differ, with those
left out because their golds are the same; `forms` graded right a data set; `ours_s` and `direct_s`, seconds to grade the 500 solutions
(texts that equal the gold) and, as `..._mixed`, 500 pairs of a gold and another's answer (nothing to shortcut), each the median of three
rounds in turns, with our caches emptied before each.
"""

import argparse
import json
import pathlib
import statistics
import time

from workload import emit

from r1jax.rewards import formulas, numerals, reading
from r1jax.rewards.mathematics import Math
from r1jax.types import Problem, Response

SAME = {frozenset(('5', 'x=5'))}  # golds that differ as texts and say the same


def rows(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding='utf-8').split('\n') if line]


def surface_forms(answer: str) -> dict[str, tuple[str, bool]]:
    """form -> (response, whether to look for the last number): a whole number said in seven ways."""
    n = int(answer.replace(',', ''))
    return {
        'plain': (answer, True),
        'boxed': (rf'So it is $\boxed{{{answer}}}$.', False),
        'units': (f'<answer> {answer} dollars </answer>', False),
        'words': (f'<answer>The answer is {answer} apples.</answer>', False),
        'fraction': (rf'<answer>\frac{{{2 * n}}}{{2}}</answer>', False),
        'decimal': (f'<answer>{n}.0</answer>', False),
        'prose': (f'First we add what there is. So all in all it comes to {answer}, and that is what was asked.', True),
    }


def mismatched(problems: list[Problem], at_least: int = 500) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Pairs (problem, problem whose answer it gets), by shifts, and those left out because their golds are the same."""
    pairs, left_out, shift = [], [], 0
    while len(pairs) < at_least:
        shift += 1
        for i, problem in enumerate(problems):
            j = (i + shift) % len(problems)
            golds = (problem.answer, problems[j].answer)
            (left_out if golds[0] == golds[1] or frozenset(golds) in SAME else pairs).append((i, j))
            if len(pairs) == at_least:
                break
    return pairs, left_out


def response(text: str) -> Response:
    return Response(text, tokens=0, finished=True)


def direct(gold: str, text: str) -> bool:
    """math-verify as its users call it."""
    from math_verify import parse, verify

    return verify(parse(f'${gold}$'), parse(text))


def seconds(run) -> float:
    for cached in (reading.read, formulas.parse, numerals.unit_named):  # nothing is known from an earlier round
        cached.cache_clear()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--data', type=pathlib.Path, required=True)
    parser.add_argument('--rounds', type=int, default=3)
    args = parser.parse_args()
    grade = Math()
    problems = [Problem(i, r['problem'], r['answer']) for i, r in enumerate(rows(args.data / 'math500.jsonl'))]
    solutions = [response(r['solution']) for r in rows(args.data / 'math500_solutions.jsonl')]
    wrong = [p.answer for p, s in zip(problems, solutions, strict=True) if not grade(p, s)]
    pairs, left_out = mismatched(problems)
    taken = [(problems[i].answer, problems[j].answer) for i, j in pairs if grade(problems[i], solutions[j])]
    forms = {}
    for name in ('aime24', 'gsm8k'):
        graded = [
            (row['id'], form, bool(Math(last=last)(Problem(0, row['problem'], row['answer']), response(text))))
            for row in rows(args.data / f'{name}.jsonl')
            for form, (text, last) in surface_forms(row['answer']).items()
        ]
        forms[name] = [sum(right for *_, right in graded), len(graded)]
        print(
            *(f'{name}: {row} as {form} is graded wrong' for row, form, right in graded if not right), sep='\n', end=''
        )
    golds = [p.answer for p in problems]
    bare = [response(rf'It is $\boxed{{{problems[j].answer}}}$.') for _, j in pairs]
    work = {
        'ours_s': lambda: [Math()(p, s) for p, s in zip(problems, solutions, strict=True)],
        'direct_s': lambda: [direct(g, s.text) for g, s in zip(golds, solutions, strict=True)],
        'ours_s_mixed': lambda: [Math()(problems[i], s) for (i, _), s in zip(pairs, bare, strict=True)],
        'direct_s_mixed': lambda: [direct(golds[i], s.text) for (i, _), s in zip(pairs, bare, strict=True)],
    }
    took = {name: [] for name in work}
    for _ in range(args.rounds):
        for name, run in work.items():
            took[name].append(seconds(run))
    medians = {name: statistics.median(times) for name, times in took.items()}
    emit(
        math500=[500 - len(wrong), 500],
        wrong=wrong,
        mismatched=[len(taken), len(pairs)],
        taken=taken,
        same=sorted({' = '.join(sorted({problems[i].answer, problems[j].answer})) for i, j in left_out}),
        forms=forms,
        **{name: round(value, 4) for name, value in medians.items()},
        ratio=round(medians['direct_s'] / medians['ours_s'], 1),
        ratio_mixed=round(medians['direct_s_mixed'] / medians['ours_s_mixed'], 1),
    )


if __name__ == '__main__':
    main()
