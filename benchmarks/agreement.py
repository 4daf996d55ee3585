"""Whether what makes a step fast changes what is learned: R1-Zero on the tiny world, three seeds, each saving on and off.

    python benchmarks/agreement.py WORKDIR [--seeds 0 1 2] [--settings 'bfloat16' …]
    python benchmarks/agreement.py WORKDIR --experiment experiments/smollm2_zero.py --settings 'bfloat16' --steps 8

Pretrains once a seed, then runs the RL stage from there in each setting. One JSON line a setting: pass@1 on held-out sums of each seed
with its interval, the mean difference on − off over the seeds with its 95 % interval (Student's t), and whether that holds 0; and the
sampler gap, the mean over the steps of its mean and its largest. What cannot be switched off (the chunked head, the inverse-CDF draw) is
tested against plain computations in tests/.
"""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import branches
from scipy import stats
from workload import emit

from r1jax import checks, weights
from r1jax.config import ModelConfig, Recipe, Stage
from r1jax.train.log import read

# what is compared: name -> (on, off), each a pair of settings of the stage's model, source, sampling, loss and rows; {}: the
# experiment's own. 'everywhere': of the model in every stage, those before it too
ROUNDED = {'sample': {'weights': 'int8'}, 'loss': {'importance_cap': 2.0}}
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    'prompts shared in a row': ({'rows': {'prompts': 24, 'block': 96, 'length': 24 + 4 * 96, 'per_microbatch': 2}}, {}),
    'decoding shrinks by buckets': ({}, {'sample': {'buckets': 1}}),
    "old log-probabilities are the sampler's": (
        {'source': {'minibatches': 2}},
        {'source': {'minibatches': 2}, 'loss': {'sampler_gap': 0.0}},
    ),
    'bfloat16': ({'model': {'dtype': 'bfloat16'}}, {}),
    'bfloat16, int8 sampling': ({'model': {'dtype': 'bfloat16'}} | ROUNDED, {}),
    'int8 sampling': (ROUNDED, {}),
    'bfloat16 everywhere': ({'everywhere': {'dtype': 'bfloat16'}}, {}),
}
GAPS = {'mean': ('policy/sampler_gap_mean', statistics.mean), 'max': ('policy/sampler_gap_max', max)}


def changed(stage: Stage, model: ModelConfig | None, change: dict[str, Any]) -> Stage:
    """The stage, of this model (asked for where that is changed), with fields of its parts replaced."""
    sample = dataclasses.replace(stage.source.sample, **change.get('sample', {}))
    return dataclasses.replace(
        stage,
        model=dataclasses.replace(model, **change['model']) if 'model' in change else stage.model,
        source=dataclasses.replace(stage.source, sample=sample, **change.get('source', {})),
        loss=dataclasses.replace(stage.loss, **change.get('loss', {})),
        rows=dataclasses.replace(stage.rows, **change.get('rows', {})),
    )


def model_of(recipe: Recipe) -> ModelConfig:
    """That of the last stage, perhaps of the weights it starts from."""
    return checks.model_of(recipe, recipe.stages[-1]) or weights.opened(recipe.stages[-1].start).config


def everywhere(recipe: Recipe, change: dict[str, Any]) -> Recipe:
    """The recipe with fields of its models replaced."""
    model = dataclasses.replace(model_of(recipe), **change)
    stages = (
        s if s.model is None else dataclasses.replace(s, model=dataclasses.replace(s.model, **change))
        for s in recipe.stages
    )
    return dataclasses.replace(recipe, model=model, stages=tuple(stages))


def gaps(path: pathlib.Path, stage: str) -> dict[str, float]:
    """The sampler gap over the steps of a run."""
    lines = [m for m in read(str(path / 'metrics.jsonl')) if m['stage'] == stage]
    return {name: over(m[key] for m in lines) for name, (key, over) in GAPS.items()}


def compared(on: dict[int, dict], off: dict[int, dict]) -> dict[str, Any]:
    """Two settings' evaluations at the end, seed -> EVAL: each with its interval, and whether they agree over the seeds."""
    shown = {
        side: [[round(x, 4) for x in (each['pass@1'], *each['pass@1_ci'])] for each in end.values()]
        for side, end in (('on', on), ('off', off))
    }
    return shown | difference([on[s]['pass@1'] - off[s]['pass@1'] for s in on])


def difference(differences: Sequence[float]) -> dict[str, Any]:
    """The mean of differences, one a seed, with its 95 % interval (Student's t), and whether that holds 0."""
    n, mean = len(differences), statistics.mean(differences)
    half = stats.t.ppf(0.975, n - 1) * statistics.stdev(differences) / n**0.5
    return {'difference': [mean, mean - half, mean + half], 'agree': bool(mean - half <= 0 <= mean + half)}


def main() -> None:
    parser = branches.parser(__doc__)
    parser.add_argument(
        '--settings', nargs='+', choices=list(SETTINGS), default=list(SETTINGS), metavar='NAME', help='(default: all)'
    )
    args, recipe = branches.asked(parser)
    last = recipe.stages[-1]
    kinds = [change for pair in SETTINGS.values() for change in pair]
    names = {repr(change): f'run{kinds.index(change)}' for change in kinds}  # equal settings are one run
    wanted = [change for name in args.settings for change in SETTINGS[name]]
    ends: dict[str, dict[int, dict]] = {}
    for seed in args.seeds:
        for common in {repr(c.get('everywhere')): c.get('everywhere') for c in wanted}.values():
            whole = dataclasses.replace(everywhere(recipe, common) if common else recipe, seed=seed)
            workdir = args.workdir / '-'.join([f'seed{seed}', *map(str, (common or {}).values())])
            of = {names[repr(c)]: c for c in wanted if c.get('everywhere') == common}
            lasts = {name: changed(whole.stages[-1], model_of(whole), c) for name, c in of.items()}
            for name, entry in branches.run(workdir, whole, lasts).items():
                ends.setdefault(name, {})[seed] = entry['after'] | {'gap': gaps(workdir / name, last.name)}
    for what in args.settings:
        pair = SETTINGS[what]
        on, off = (ends[names[repr(change)]] for change in pair)
        gap = {side: [end[s]['gap'] for s in args.seeds] for side, end in (('on', on), ('off', off))}
        emit(setting=what, **compared(on, off), sampler_gap=gap)


if __name__ == '__main__':
    main()
