"""Several runs on one page: curves by stage, settings that differ, the papers' tables beside what was measured; what is refused."""

import json
import pathlib
import re

import pytest
from invented import Page, browsed, evaluated, short

from r1jax import report
from r1jax.cli import main
from r1jax.evals import paper
from r1jax.report import benchmarks, chart, evolution, given, several
from r1jax.report.diagnosis import Finding
from r1jax.report.workdir import StageRun, read


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Two runs, one of which has a stage more, with a folder of results beside them that is of the first, and one of another model."""
    folder = tmp_path_factory.mktemp('runs')
    for name, options in (('a', {}), ('b', {'seed': 1, 'rate': 1e-4, 'stages': ('zero', 'only_b')})):
        short(str(folder / name), **options)
    evaluated(str(folder / 'evals' / 'a'), 'runs/a, stage zero, step 12')
    evaluated(str(folder / 'evals' / 'other'), 'weights/Some-Model', right=4)
    return folder


@pytest.fixture(scope='module')
def source(runs):
    path = report.compare([str(runs / name) for name in ('a', 'b', 'evals/other')], str(runs / 'page.html'))
    return pathlib.Path(path).read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def page(source):
    return Page(source)


def charts(source):
    """(title, data, HTML) of each chart, by the stage that it stands under."""
    found = {}
    for piece in re.split(r'<h3>', source)[1:]:
        stage = piece.partition(' ')[0]
        for html in re.findall(r'<figure class="chart".*?</figure>', piece, re.DOTALL):
            data = json.loads(Page(html).attributes[1][1])
            found.setdefault(stage, []).append((re.search('<b>(.*?)</b>', html)[1], data, html))
    return found


def test_the_same_metric_of_all_runs_is_on_one_chart_by_stage(source):
    found = charts(source)
    assert {'zero', 'reasoning_rl', 'only_b'} <= found.keys()
    names = {
        stage: {title: [line['name'] for line in data['lines']] for title, data, _ in each}
        for stage, each in found.items()
    }
    for title in (
        'Reward',
        'Accuracy',
        'Loss',
        'Response length',
        'Reflective words',
        'Accuracy over steps',
        'Reflecting',
    ):
        assert names['zero'][title] == ['a', 'b'], title
    assert names['reasoning_rl']['Reward'] == ['a'] and names['only_b']['Reward'] == ['b']
    for each in found.values():
        for title, data, html in each:
            for line in data['lines']:  # one colour a run, wherever it stands
                drawn = {'a': 's0', 'b': 's1'}[line['name']]
                assert f'class="key {drawn}"></i>{line["name"]}' in html and f'smooth {drawn}' in html, title
    (reward,) = [data for title, data, _ in found['zero'] if title == 'Reward']
    assert [line['y'][-1] for line in reward['lines']] == [1.0, 1.1]


def test_evaluations_and_reflection_are_what_was_logged(source):
    zero = {title: data['lines'] for title, data, _ in charts(source)['zero']}
    accuracy = zero['Accuracy over steps'][0]  # before, twice during, and after the stage
    assert accuracy['x'] == [0, 4, 8, 12] and accuracy['y'] == [0.1, 0.2, 0.4, 0.4] and accuracy['low'][1] == 0.16
    density = zero['Reflective words by length'][0]  # 0.1 s words in 20 s tokens
    assert all(abs(y - 5) < 1e-3 for y in density['y']) and len(density['y']) == 12
    assert zero['Reflecting'][0]['y'][-1] == 0.5


def test_only_settings_that_differ_are_listed(runs, page):
    flat = [several.settings(read(str(runs / name))) for name in ('a', 'b')]
    assert several.differing(flat) == ['seed', 'zero.optim.learning_rate', 'reasoning_rl', 'only_b']
    assert several.differing([flat[0], {}, flat[0]]) == []  # a run without a configuration has no settings to differ in
    assert '4 settings that differ' in page.said and 'zero.optim.learning_rate0.00030.0001' in page.said
    assert 'zero.source.rewards.0.weight' in flat[0] and 'zero.source' not in page.said


def test_more_colours_than_eight_are_dashed():
    assert chart.colour(0) == 's0' and chart.colour(9) == 's1 dashed' and chart.colour(16) == 's0'


def table(source, name):
    """A table of the papers: column -> row -> cell, as words; rows and columns as printed."""
    html = re.search(rf'<b>{name}</b>.*?<table class="printed">(.*?)</table>', source, re.DOTALL)[1]
    rows = [re.findall(r'<t[dh][^>]*>(.*?)</t[dh]>', row) for row in re.findall(r'<tr.*?</tr>', html)]
    words = [[re.sub(r'\s+', ' ', re.sub('<[^>]*>', ' ', cell)).strip() for cell in row] for row in rows]
    return {row[0]: dict(zip(words[0][1:], row[1:], strict=True)) for row in words[1:]}


def test_tables_have_the_papers_figures_and_ours_beside(source):
    two = table(source, 'Table 2')
    assert two['OpenAI-o1-0912'] == {
        'AIME 2024 pass@1': '74.4', 'AIME 2024 cons@64': '83.3', 'MATH-500 pass@1': '94.8', 'GPQA Diamond pass@1': '77.3',
        'LiveCodeBench pass@1': '63.4', 'CodeForces rating': '1,843',
    }  # fmt: skip
    ours = two['a, zero']  # of the run's own evaluation
    assert ours['AIME 2024 pass@1'] == '40.0 [30.0, 50.0] 30 × 4 25 % cut off'
    assert ours['AIME 2024 cons@64'] == '60.0 [50.0, 70.0] cons@4 30 × 4 25 % cut off'  # which vote it is, is said
    assert ours['MATH-500 pass@1'] == ours['CodeForces rating'] == '–'
    measured = two['a, stage zero, step 12']  # by r1jax eval: the folder was found beside
    assert measured['MATH-500 pass@1'].startswith('50.0 [') and measured['AIME 2024 pass@1'] == '–'
    assert two['Some-Model']['MATH-500 pass@1'].startswith('100.0 [100.0, 100.0] 3 × 4')
    four = table(source, 'Table 4')
    assert four['AIME 2024 pass@1']['R1'] == '79.8' and four['AIME 2024 pass@1']['b, zero'].startswith(
        '50.0 [30.0, 60.0]'
    )
    assert four['SWE Verified resolved']['b, zero'] == '–' and four['DROP 3-shot F1']['OpenAI-o1-1217'] == '90.2'
    assert 'nothing of it was measured here' not in source
    html = benchmarks.section([benchmarks.Measured('x', {'mmlu': {'questions': 9, 'samples': 1, 'acc': 0.5}})])
    assert html.count('nothing of it was measured here') == 3  # Tables 2, 5 and 6
    five, six = (table(source, f'Table {n}')['QwQ-32B-Preview']['AIME 2024 pass@1'] for n in (5, 6))
    assert (five, six) == ('44.0', '50.0')  # the report's own, table by table


def test_a_table_of_which_nothing_was_measured_has_the_papers_figures_only():
    html = benchmarks.section([])
    assert html.count('<details') == 1 and 'figures alone' in html and 'class="ours"' not in html
    for printed in paper.TABLES:
        figures = table(html, printed.name)
        for model, row in printed.models.items():
            for metric, value in zip(printed.metrics, row, strict=True):
                label = paper.LABELS[metric]
                cell = figures[model][label] if printed.by_model else figures[label][model]
                assert cell == ('–' if value is None else f'{value:,.0f}' if value > 100 else f'{value:.1f}')


def test_what_was_measured_is_listed_whatever_it_is_called(runs, tmp_path):
    evaluated(str(tmp_path / 'mine'), 'weights/Some-Model', benchmark='my_own')
    source = pathlib.Path(report.of([str(tmp_path / 'mine')], str(tmp_path / 'page.html'))).read_text(encoding='utf-8')
    assert '<td>my_own</td><td>pass@1</td><td>50.0</td><td>[' in source and '<b>Some-Model</b>' in source
    assert len(browsed(source)['samples']) == 12 and "Nothing of the papers' tables was measured here" in source


def test_another_protocol_than_the_reports_is_said():
    entry = {'questions': 9, 'samples': 1, 'acc': 0.5, 'harness': {'task': 'mmlu'}}
    assert 'mmlu: the likeliest letter' in benchmarks.section([benchmarks.Measured('x', {'mmlu': entry})])
    with pytest.raises(ValueError, match='R1 has 1 figures of 2 metrics'):
        paper.Printed('T', '', '', ('a b', 'c d'), {'R1': (1.0,)})


def test_results_are_a_row_a_stage_and_run(source):
    html = re.search(r'<section id="results">(.*?)</section>', source, re.DOTALL)[1]
    rows = [re.sub('<[^>]*>', ' ', row).split() for row in re.findall(r'<tr>(.*?)</tr>', html)[1:]]
    assert [row[:4] for row in rows] == [
        ['before', 'zero', 'a', '10.0'], ['before', 'zero', 'b', '10.0'][2:] + ['%', '[0.0,'],
        ['zero', 'a', '40.0', '%'], ['b', '50.0', '%', '[30.0,'], ['reasoning_rl', 'a', '40.0', '%'], ['only_b', 'b', '50.0', '%'],
    ]  # fmt: skip


def test_samples_of_runs_and_of_other_checkpoints_stand_together(source):
    data = browsed(source)
    assert data['runs'] == ['a', 'b', 'Some-Model']
    kinds = {(data['runs'][each['run']], each['stage'], each['when']) for each in data['samples']}
    assert kinds == {
        ('a', 'zero', 'rollout'), ('a', 'reasoning_rl', 'rollout'), ('b', 'zero', 'rollout'), ('b', 'only_b', 'rollout'),
        ('a', 'benchmark', 'math500'), ('Some-Model', 'benchmark', 'math500'),
    }  # fmt: skip


def test_a_page_of_one_run_has_its_benchmarks_as_well(runs, tmp_path):
    path = report.write(str(runs / 'a'), str(tmp_path / 'one.html'))
    source = pathlib.Path(path).read_text(encoding='utf-8')
    assert table(source, 'Table 2')['before zero']['AIME 2024 pass@1'].startswith('10.0')
    assert table(source, 'Table 2')['a, stage zero, step 12']['MATH-500 pass@1'].startswith('50.0')
    assert str(runs) not in source


def test_an_empty_run_and_runs_of_other_recipes_may_stand_beside(runs, tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / 'config.json').write_text(
        '{"recipe": {"name": "begun", "stages": [{"name": "zero", "steps": 5}]}}'
    )
    path = report.compare([str(tmp_path / 'a'), str(runs / 'a')], str(tmp_path / 'page.html'))
    said = Page(pathlib.Path(path).read_text(encoding='utf-8')).said
    assert 'nothing logged yet' in said and 'begun' in said and 'finished' in said
    names = given.given([str(tmp_path / 'a'), str(runs / 'a')]).names
    assert names == (f'{tmp_path.name}/a', f'{runs.name}/a')  # as much of the path as tells them apart


def test_folders_are_told_apart(runs):
    found = given.given([str(runs / name) for name in ('b', 'a', 'b', 'evals')])
    assert [path.rpartition('/')[2] for path in found.runs] == ['b', 'a'] and found.names == ('b', 'a')
    assert {path.rpartition('/')[2]: owner for path, owner in found.results.items()} == {'a': 1, 'other': None}
    assert [path.rpartition('/')[2] for path in given.of_run(str(runs / 'b'))] == []


def test_what_is_no_run_is_refused_in_one_line(runs, tmp_path, capsys):
    for name, content in (('model', '{"model_type": "llama"}'), ('file', None), ('broken', None)):
        (tmp_path / name).mkdir()
        if content:
            (tmp_path / name / 'config.json').write_text(content)
    (tmp_path / 'file' / 'notes.txt').write_text('')
    (tmp_path / 'broken' / 'results.json').write_text('{"benchmarks": 3}')
    cases = {
        'nowhere': 'is not there: name workdirs of r1jax run, or folders of r1jax eval',
        'file/notes.txt': 'is no folder: name workdirs',
        'file': 'is no workdir: it has neither metrics.jsonl',
        'model': 'is no workdir: its config.json has no recipe, as that of a model',
        'broken': 'results.json is no results.json of r1jax eval',
    }
    for name, said in cases.items():
        assert main(['report', str(runs / 'a'), str(tmp_path / name)]) == 2
        out, err = capsys.readouterr()
        assert not out and err.startswith(f'r1jax: error: {tmp_path / name}') and said in err and err.count('\n') == 1
    for options, said in (
        (['--samples', '-1'], '--samples -1'),
        (['--out', str(tmp_path / 'no' / 'p.html')], 'there is no folder'),
        (['--out', str(tmp_path)], 'is a folder: name a file, such as'),
        ([], 'name a workdir'),
    ):
        assert main(['report', *([str(runs / 'a')] if options else []), *options]) == 2
        assert said in capsys.readouterr().err


def test_the_command_writes_one_page_of_several(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(['report', str(runs / 'a'), str(runs / 'b'), '--samples', '0']) == 0
    assert capsys.readouterr().out == 'report.html\n'
    source = (tmp_path / 'report.html').read_text(encoding='utf-8')
    assert 'sample-data' not in source.replace("getElementById('sample-data')", '') and '<h1>a, b</h1>' in source


def test_a_stage_without_tokens_has_no_density():
    lines = [{'step': 1, 'reflection/mean': 0.5}, {'step': 2, 'reflection/mean': 0.5, 'rollout/tokens': 0}]
    assert evolution.density(StageRun('zero', {}, {}, lines))[0].size == 0


def test_what_the_diagnosis_finds_is_in_both_pages(runs, page, tmp_path, monkeypatch):
    finding = Finding('zero', 'too_easy', 'problem', 'All <b>were</b> right.', 'Ask more.', (3, 12), {'accuracy': 0.25})
    monkeypatch.setattr(report, 'diagnose', lambda workdir: [finding] if workdir.endswith('b') else [])
    said = Page(
        pathlib.Path(report.compare([str(runs / n) for n in 'ab'], str(tmp_path / 'page.html'))).read_text(
            encoding='utf-8'
        )
    ).said
    assert 'bproblem zero too_easy, steps 3 to 12All <b>were</b> right.→ Ask more.evidenceaccuracy: 0.25' in said
    assert 'All <b>were</b> right' in Page(pathlib.Path(report.write(str(runs / 'b'))).read_text(encoding='utf-8')).said
    assert 'All <b>were' not in Page(pathlib.Path(report.write(str(runs / 'a'))).read_text(encoding='utf-8')).said
