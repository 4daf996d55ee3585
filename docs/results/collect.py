"""Writes what a finished experiment showed into docs/results: NAME.json (curves and evaluations), NAME.md (the same, to be read) and
NAME.svg (curves of RL).

    python docs/results/collect.py NAME WORKDIR [WORKDIR ...]     one workdir a seed

Every figure is read from the workdirs; nothing is typed in. `tests/test_story.py` compares a new run with NAME.json.
"""

import itertools
import json
import pathlib
import statistics
import sys

from curves import draw

HERE = pathlib.Path(__file__).parent
CURVES = (
    'reward/mean',
    'reward/accuracy',
    'reward/format',
    'reward/language',
    'reward/helpful',
    'reward/safe',
    'environment/asked',
    'environment/turns',
    'rollout/tokens',
    'policy/kl',
    'policy/entropy',
    'policy/sampler_gap_max',
)
COLUMNS = ('pass@1', 'cons', 'accuracy', 'response_tokens', 'format', 'accuracy_well_formed', 'language_consistency')
WINDOW, POINTS = 5, 20  # steps averaged into one point of a curve, at least; points of one, at most, about
SHOWN = 3  # questions whose first sample is shown before and after


def curve(workdir: pathlib.Path, stage: str) -> dict:
    """Means over windows of steps, of every curve that the stage has."""
    with open(workdir / 'metrics.jsonl', encoding='utf-8') as file:
        lines = [m for m in map(json.loads, file) if m['stage'] == stage]
    window = max(WINDOW, len(lines) // POINTS)
    out = {'step': [lines[min(i + window, len(lines)) - 1]['step'] for i in range(0, len(lines), window)]}
    for name in (*CURVES, 'loss'):
        values = [m.get(name) for m in lines]
        if values and None not in values:
            cut = [values[i : i + window] for i in range(0, len(values), window)]
            out[name] = [float(f'{sum(v) / len(v):.4g}') for v in cut]
    return out


def step_seconds(workdir: pathlib.Path, stage: str) -> dict:
    """Median seconds of a step and of its parts."""
    with open(workdir / 'metrics.jsonl', encoding='utf-8') as file:
        lines = [m for m in map(json.loads, file) if m['stage'] == stage]
    if not lines:
        return {}
    seconds = [m['seconds'] for m in lines]
    out = {'step': [b - a for a, b in itertools.pairwise(seconds)]}
    out |= {n.removeprefix('time/'): [m[n] for m in lines] for n in lines[0] if n.startswith('time/')}
    return {n: round(statistics.median(v), 3) for n, v in out.items()}


def measured(workdir: pathlib.Path, stage: str) -> list[dict]:
    """The evaluations during a stage: step, and every number and interval."""
    with open(workdir / 'metrics.jsonl', encoding='utf-8') as file:
        lines = [m for m in map(json.loads, file) if m['stage'] == stage]
    return [
        {'step': m['step']} | found
        for m in lines
        if (found := {k.removeprefix('eval/'): v for k, v in m.items() if k.startswith('eval/')})
    ]


def flops(workdir: pathlib.Path, recipe: dict, name: str) -> dict:
    """Floating-point operations of a stage, in units of 10^9, of its updates and of its rollouts.

    With N weights in matrix products, a token costs 2N to read and 6N to learn from; a rollout's token is sampled and read by the
    reference. Attention and prompts, which the stages that are compared have alike, are left out.
    """
    cfgs = {each['name']: each for each in recipe['stages']}
    cfg, at = cfgs[name], cfgs[name]
    while not at['model'] and at['start'] in cfgs:
        at = cfgs[at['start']]
    m = at['model'] or recipe['model']
    attention = 2 * m['width'] * (m['heads'] + m['kv_heads']) * m['head_dim']
    weights = m['layers'] * (attention + 3 * m['width'] * m['hidden']) + m['vocab'] * m['width']
    with open(workdir / 'metrics.jsonl', encoding='utf-8') as file:
        lines = [line for line in map(json.loads, file) if line['stage'] == name]
    sampled = sum(line['rollout/samples'] * line['rollout/tokens'] for line in lines if 'rollout/tokens' in line)
    passes = 2 if (cfg['loss'] or {}).get('beta') else 1
    learned = sum(line.get('tokens', 0.0) for line in lines)
    return {'updates': 6 * weights * learned / 1e9, 'rollouts': 2 * passes * weights * sampled / 1e9}


def samples(workdir: pathlib.Path, stage: str) -> list[dict]:
    """The first sample of the first questions of each evaluation, before and after."""
    seen: dict[tuple, dict] = {}
    with open(workdir / 'samples.jsonl', encoding='utf-8') as file:
        for s in map(json.loads, file):
            if s['stage'] == stage and s['when'] in ('before', 'after'):
                both = seen.setdefault((s['eval'], s['question']), {'eval': s['eval'], 'prompt': s['prompt']})
                both.setdefault(s['when'], ''.join(s.get('turns', [s['completion']])))
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
        'stages': {
            name: entry | stage(workdir, name) | {'gflops': flops(workdir, config['recipe'], name)}
            for name, entry in summary['stages'].items()
        },
    }


def stage(workdir: pathlib.Path, name: str) -> dict:
    return {
        'curve': curve(workdir, name),
        'step_seconds': step_seconds(workdir, name),
        'samples': samples(workdir, name),
        'measured': measured(workdir, name),
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
    out = [f'# {name}', '', f'![curves of the stages of RL, a colour a seed]({name}.svg)', '']
    out += ['Made by `docs/results/collect.py` from the runs of these commands:', '']
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
        out += [
            '| seed | evaluation | when | ' + ' | '.join(COLUMNS) + ' | parts |',
            '|' + '---|' * (4 + len(COLUMNS)),
        ]
        for r in runs:
            for evaluation, results in r['stages'][stage]['evals'].items():
                for when, entry in results.items():
                    cells = ' | '.join(figure(entry, c) for c in COLUMNS)
                    parts = {n: {'pass@1': v['mean'], 'pass@1_ci': v['ci']} for n, v in entry.get('parts', {}).items()}
                    said = '; '.join(f'{n} {figure(v, "pass@1")}' for n, v in parts.items())
                    out.append(f'| {r["seed"]} | {evaluation} | {when} | {cells} | {said} |')
        modes = [(r['seed'], (r['stages'][stage].get('before') or {}).get('by_mode')) for r in runs]
        if modes[0][1]:
            out += ['', 'The base, by mode:', '', '| seed | mode | share | accuracy |', '|---|---|---|---|']
            for seed, by in modes:
                out += [f'| {seed} | {m} | {100 * v["share"]:.1f} | {figure(v, "accuracy")} |' for m, v in by.items()]
        out += across(runs, stage)
        out += ['', f'Means over the steps since the line before, seed {runs[0]["seed"]}:', '']
        points = runs[0]['stages'][stage]['curve']
        out += ['| ' + ' | '.join(points) + ' |', '|' + '---|' * len(points)]
        out += ['| ' + ' | '.join(map(str, row)) + ' |' for row in zip(*points.values(), strict=True)]
        out += ['', f'Samples before and after, seed {runs[0]["seed"]}:', '']
        for s in runs[0]['stages'][stage]['samples']:
            out += [f'- {s["eval"]}: `{s["prompt"]!r}`']
            out += [f'  - {when}: `{s[when]!r}`' for when in ('before', 'after') if when in s]
        out += ['']
    return '\n'.join(out) + '\n'


def across(runs: list[dict], stage: str) -> list[str]:
    """Means over the seeds after a stage, with 95 % intervals by Student's t: how much seeds differ, and not only questions."""
    if len(runs) < 2:
        return []
    t = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}[len(runs)]
    out = ['', f'After it, over {len(runs)} seeds:', '']
    for evaluation in runs[0]['stages'][stage]['evals']:
        after = [r['stages'][stage]['evals'][evaluation].get('after') or {} for r in runs]
        flat = [entry | {n: v['mean'] for n, v in entry.get('parts', {}).items()} for entry in after]
        names = [n for n in (*COLUMNS, *after[0].get('parts', {})) if all(isinstance(f.get(n), float) for f in flat)]
        for n in names:
            values, unit = [f[n] for f in flat], 1 if n == 'response_tokens' else 100
            mean, half = statistics.mean(values), t * statistics.stdev(values) / len(values) ** 0.5
            out.append(f'- {evaluation}, {n}: {unit * mean:.1f} ± {unit * half:.1f}')
    return out


def main(name: str, *workdirs: str) -> None:
    runs = [run(pathlib.Path(w)) for w in workdirs]
    (HERE / f'{name}.json').write_text(json.dumps({'runs': runs}, indent=1) + '\n', encoding='utf-8')
    (HERE / f'{name}.md').write_text(page(name, runs), encoding='utf-8')
    (HERE / f'{name}.svg').write_text(draw(runs), encoding='utf-8')
    print(*(HERE / f'{name}.{kind}' for kind in ('json', 'md', 'svg')))


if __name__ == '__main__':
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
