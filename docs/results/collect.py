"""Writes what a finished experiment showed into docs/results: NAME.json (curves and evaluations) and NAME.md (the same, to be read).

    python docs/results/collect.py NAME WORKDIR [WORKDIR ...]     one workdir a seed

Every figure is read from the workdirs; nothing is typed in. `tests/test_story.py` compares a new run with NAME.json.
"""

import itertools
import json
import pathlib
import statistics
import sys

HERE = pathlib.Path(__file__).parent
CURVES = (
    'reward/mean',
    'reward/accuracy',
    'reward/format',
    'rollout/tokens',
    'policy/kl',
    'policy/entropy',
    'policy/sampler_gap_max',
)
COLUMNS = ('pass@1', 'cons', 'response_tokens', 'format', 'accuracy_well_formed')
WINDOW = 5  # steps averaged into one point of a curve
SHOWN = 3  # questions whose first sample is shown before and after


def curve(workdir: pathlib.Path, stage: str) -> dict:
    """Means over windows of steps, of every curve that the stage has."""
    with open(workdir / 'metrics.jsonl', encoding='utf-8') as file:
        lines = [m for m in map(json.loads, file) if m['stage'] == stage]
    out = {'step': [lines[min(i + WINDOW, len(lines)) - 1]['step'] for i in range(0, len(lines), WINDOW)]}
    for name in (*CURVES, 'loss'):
        values = [m.get(name) for m in lines]
        if None not in values:
            cut = [values[i : i + WINDOW] for i in range(0, len(values), WINDOW)]
            out[name] = [float(f'{sum(v) / len(v):.4g}') for v in cut]
    return out


def step_seconds(workdir: pathlib.Path, stage: str) -> dict:
    """Median seconds of a step and of its parts."""
    with open(workdir / 'metrics.jsonl', encoding='utf-8') as file:
        lines = [m for m in map(json.loads, file) if m['stage'] == stage]
    seconds = [m['seconds'] for m in lines]
    out = {'step': [b - a for a, b in itertools.pairwise(seconds)]}
    out |= {n.removeprefix('time/'): [m[n] for m in lines] for n in lines[0] if n.startswith('time/')}
    return {n: round(statistics.median(v), 3) for n, v in out.items()}


def samples(workdir: pathlib.Path, stage: str) -> list[dict]:
    """The first sample of the first questions of each evaluation, before and after."""
    seen: dict[tuple, dict] = {}
    with open(workdir / 'samples.jsonl', encoding='utf-8') as file:
        for s in map(json.loads, file):
            if s['stage'] == stage and s['when'] in ('before', 'after'):
                both = seen.setdefault((s['eval'], s['question']), {'eval': s['eval'], 'prompt': s['prompt']})
                both.setdefault(s['when'], s['completion'])
    chosen = []
    for name in dict.fromkeys(e for e, _ in seen):
        chosen += [both for (e, _), both in seen.items() if e == name][:SHOWN]
    return chosen


def run(workdir: pathlib.Path) -> dict:
    config = json.loads((workdir / 'config.json').read_text(encoding='utf-8'))
    summary = json.loads((workdir / 'summary.json').read_text(encoding='utf-8'))
    command = ' '.join(config['command'])
    return {
        'command': command.replace(str(workdir), f'runs/{workdir.name}'),
        'seed': config['seed'],
        'git_commit': config['git_commit'],
        'versions': config['versions'],
        'stages': {name: entry | stage(workdir, name) for name, entry in summary['stages'].items()},
    }


def stage(workdir: pathlib.Path, name: str) -> dict:
    return {
        'curve': curve(workdir, name),
        'step_seconds': step_seconds(workdir, name),
        'samples': samples(workdir, name),
    }


def figure(entry: dict, column: str) -> str:
    """A cell: a share in percent with its interval, or a number of tokens."""
    key = next((k for k in entry if k == column or (column == 'cons' and k.startswith('cons@'))), None)
    if key is None or entry[key] is None:
        return '–'
    if column == 'response_tokens':
        return f'{entry[key]:.1f}'
    ci = entry.get(f'{key}_ci')
    return f'{100 * entry[key]:.1f}' + (f' [{100 * ci[0]:.1f}, {100 * ci[1]:.1f}]' if ci else '')


def page(name: str, runs: list[dict]) -> str:
    out = [f'# {name}', '', 'Made by `docs/results/collect.py` from the runs of these commands:', '']
    out += ['```sh', *(r['command'] for r in runs), '```', '']
    versions = runs[0]['versions']
    out += [
        f'Python {versions["python"]}, jax {versions["jax"]}, 2 CPU cores. Shares in percent with 95 % intervals.',
        '',
    ]
    for stage in runs[0]['stages']:
        seconds = ', '.join(f'{r["stages"][stage]["seconds"]:.0f} s' for r in runs)
        steps = runs[0]['stages'][stage]['steps']
        out += [f'## Stage {stage}: {steps} steps in {seconds}', '']
        median = runs[0]['stages'][stage]['step_seconds']
        out += [
            'Median seconds, seed {}: {}.'.format(runs[0]['seed'], ', '.join(f'{n} {v}' for n, v in median.items())),
            '',
        ]
        if 'evals' not in runs[0]['stages'][stage]:
            continue
        out += ['| seed | evaluation | when | ' + ' | '.join(COLUMNS) + ' |', '|' + '---|' * (3 + len(COLUMNS))]
        for r in runs:
            for evaluation, results in r['stages'][stage]['evals'].items():
                for when, entry in results.items():
                    cells = ' | '.join(figure(entry, c) for c in COLUMNS)
                    out.append(f'| {r["seed"]} | {evaluation} | {when} | {cells} |')
        modes = [(r['seed'], r['stages'][stage]['before'].get('by_mode')) for r in runs]
        if modes[0][1]:
            out += ['', 'The base, by mode:', '', '| seed | mode | share | accuracy |', '|---|---|---|---|']
            for seed, by in modes:
                out += [f'| {seed} | {m} | {100 * v["share"]:.1f} | {figure(v, "accuracy")} |' for m, v in by.items()]
        out += ['', f'Means over {WINDOW} steps, seed {runs[0]["seed"]}:', '']
        points = runs[0]['stages'][stage]['curve']
        out += ['| ' + ' | '.join(points) + ' |', '|' + '---|' * len(points)]
        out += ['| ' + ' | '.join(map(str, row)) + ' |' for row in zip(*points.values(), strict=True)]
        out += ['', f'Samples before and after, seed {runs[0]["seed"]}:', '']
        for s in runs[0]['stages'][stage]['samples']:
            out += [f'- {s["eval"]}: `{s["prompt"]!r}`']
            out += [f'  - {when}: `{s[when]!r}`' for when in ('before', 'after') if when in s]
        out += ['']
    return '\n'.join(out) + '\n'


def main(name: str, *workdirs: str) -> None:
    runs = [run(pathlib.Path(w)) for w in workdirs]
    (HERE / f'{name}.json').write_text(json.dumps({'runs': runs}, indent=1) + '\n', encoding='utf-8')
    (HERE / f'{name}.md').write_text(page(name, runs), encoding='utf-8')
    print(HERE / f'{name}.json', HERE / f'{name}.md')


if __name__ == '__main__':
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
