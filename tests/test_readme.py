"""The README's figures are those of docs/results: a run that is collected anew changes them there."""

import json
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')


def first(name: str) -> dict:
    """The stages of the run of seed 0."""
    runs = json.loads((ROOT / 'docs' / 'results' / f'{name}.json').read_text(encoding='utf-8'))['runs']
    return next(run for run in runs if run['seed'] == 0)['stages']


def percent(value: float) -> str:
    return f'{100 * value:.1f}'


def test_the_first_run_is_the_committed_one():
    told = first('tiny_zero')['zero']['evals']['held_out']
    for when, label in (('before', 'pretrained base'), ('after', 'after 100 steps of pure RL')):
        e = told[when]
        low, high = map(percent, e['pass@1_ci'])
        pass_at_1 = f'{percent(e["pass@1"])} % [{low}, {high}]'
        cons = percent(e['cons@16']).removesuffix('.0')
        row = f'| {label} | {pass_at_1} | {cons} % | {e["response_tokens"]:.1f} | {percent(e["format"])} % |'
        assert row in README, row
        assert f'zero, {when}, held_out: pass@1 {pass_at_1} · cons@16 {percent(e["cons@16"])} %' in README
    modes = told['before']['by_mode']
    share = (
        f'right in {100 * modes["worked"]["accuracy"]:.0f} % of those against {100 * modes["direct"]["accuracy"]:.0f} %'
    )
    assert share in README, share


def test_the_stages_show_the_committed_figures():
    stages = first('tiny_r1')
    rows = re.findall(r'^\| [^|]+\(`(\w+)`\) \|.*\| ([^|]+) \|$', README, re.MULTILINE)
    assert [name for name, _ in rows] == [
        'zero', 'cold_start', 'reasoning_rl', 'rejection', 'sft', 'helpful_rm', 'safety_rm', 'all_scenarios', 'distill',
    ]  # fmt: skip
    for name, cell in rows:
        both = stages[name].get('evals', {}).get('held_out')
        if both is None:
            assert cell == '–'
            continue
        before, after = both['before'], both['after']
        if name.endswith('_rm'):
            pair = [f'{100 * e["accuracy"]:.0f}' for e in (before, after)]
            assert cell == f'agrees with held-out judgements {pair[0]} → {pair[1]} %'
        else:
            right = [percent(e['pass@1']) for e in (before, after)]
            language = [f'{100 * e["language_consistency"]:.0f}' for e in (before, after)]
            assert cell == f'pass@1 {right[0]} → {right[1]} %, one language {language[0]} → {language[1]} %'


def test_speeds_are_those_of_the_performance_page():
    page = (ROOT / 'docs' / 'performance.md').read_text(encoding='utf-8')
    rows = dict(re.findall(r'^\| ([WTV]+) \| ([\d.]+ = .*) \|$', page, re.MULTILINE))
    for workload, start in (('W', 'a GRPO step of SmolLM2-135M'), ('V', 'the same with 8 × 8 samples')):
        ours, trl, tunix = (cell.split(' = ')[0].strip() for cell in rows[workload].split('|')[:3])
        row = next(line for line in README.splitlines() if line.startswith(f'| {start}'))
        said = [(re.match(r'[\d.]+(?= s)', cell.strip()) or ['–'])[0] for cell in row.split('|')[2:-1]]
        assert said == [ours, trl, '–', '–', tunix, '–'], row
