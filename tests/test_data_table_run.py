"""Tables in a run: memory, removed problems, and resuming."""

import dataclasses
import pathlib
import random
import subprocess
import sys

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
import toy
from tables import asked, lines, parquet

from r1jax.config import Part
from r1jax.data import datasets, stored
from r1jax.data.table import Fields, Table, TableExamples
from r1jax.rewards import combine
from r1jax.rewards.pool import Pool
from r1jax.settings import BadInput
from r1jax.train.prepare import prepare
from r1jax.train.stored import StoredSource

pytestmark = pytest.mark.usefixtures('data_cache')


# --- memory

PEAK = """
import pathlib, sys
from r1jax.data.table import Table
def peak():  # not getrusage's, which begins with that of the process that started this one
    return int(pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) * 1024
Table(sys.argv[2]).load()[0]  # pyarrow's own memory is not what is measured
before = peak()
problems = Table(sys.argv[1]).load()
total = sum(len(problems[i].prompt) for i in range(0, len(problems), 3))
print(len(problems), total, peak() - before)
"""


@pytest.mark.skipif(not pathlib.Path('/proc/self/status').exists(), reason='reads the peak of memory as Linux tells it')
def test_memory_is_bounded_by_far_less_than_the_file(tmp_path):
    texts = random.Random(0)
    path = tmp_path / 'big.parquet'
    schema = pa.schema([('problem', pa.string()), ('answer', pa.string())])
    with pa.parquet.ParquetWriter(path, schema, compression='none') as out:
        for part in range(3):  # of one row group each
            problem = [texts.randbytes(1000).hex() for _ in range(20_000)]
            out.write_table(pa.table({'problem': problem, 'answer': [str(part)] * 20_000}, schema=schema))
    size = path.stat().st_size
    small = parquet(tmp_path / 'small.parquet', asked(2000))
    ran = subprocess.run([sys.executable, '-c', PEAK, str(path), small], capture_output=True, text=True, check=True)
    count, total, grown = map(int, ran.stdout.split())
    assert size > 110e6 and (count, total) == (60_000, 20_000 * 2000)
    assert grown < size / 2  # 40 MB here; with what pyarrow keeps by default, or reads at once, more than the file


# --- in a run


def on_disk(tmp_path) -> tuple:
    """The toy's recipe with its questions and texts in tables, and the same in lists."""
    questions = lines(tmp_path / 'q.jsonl', [{'problem': f'{i}+1=', 'answer': f'{i + 1}'} for i in range(9)])
    texts = lines(tmp_path / 't.jsonl', [{'prompt': f'{i}+1=', 'response': f'{i + 1}'} for i in range(9)])

    def recipe(problems, examples):
        base, zero = toy.recipe().stages
        base = dataclasses.replace(base, source=dataclasses.replace(base.source, examples=examples), evals=())
        zero = dataclasses.replace(zero, source=dataclasses.replace(zero.source, problems=problems), evals=())
        return dataclasses.replace(toy.recipe(), stages=(base, zero))

    tables = recipe(Table(questions), TableExamples(texts))
    return tables, recipe(datasets.JSONLines(questions), datasets.JSONLinesExamples(texts))


def prepared(recipe, tmp_path):
    with Pool(1) as pool:
        ready = prepare(recipe, str(tmp_path), ('base', 'zero'), 8, pool)
    return [ready.job(name) for name in ('base', 'zero')]  # no reward here has a deadline


@dataclasses.dataclass(frozen=True)
class Odd:
    """Grades nothing whose answer is even."""

    def __call__(self, problem, response) -> float:
        return 1.0

    def check(self, problem) -> str | None:
        return None if int(problem.answer) % 2 else 'even'


def test_problems_of_a_table_that_cannot_be_graded_are_removed_and_told(tmp_path, monkeypatch):
    monkeypatch.setattr(combine, '_TOGETHER', 4)
    base, zero = on_disk(tmp_path)[0].stages
    source = dataclasses.replace(zero.source, rewards=(Part('accuracy', Odd()),))
    source = dataclasses.replace(
        source, problems=dataclasses.replace(source.problems, fields=Fields(skip=('9',)), unique=True)
    )
    recipe = dataclasses.replace(toy.recipe(), stages=(base, dataclasses.replace(zero, source=source)))
    job = prepared(recipe, tmp_path)[1]
    assert [p.answer for p in job.problems] == ['1', '3', '5', '7'] and isinstance(job.problems, stored.Made)
    assert job.removed == 4 and [list(tokens) for tokens in job.prompts[1:2]] == [toy.Letters().encode('2+1=')]
    assert job.notes == (
        'stage zero: 1 of 9 rows left out, which have no answer that can be checked',
        'stage zero: 4 of 8 problems removed, which cannot be graded; the first is 1: accuracy: even',
    )


def test_a_run_reads_tables_as_it_reads_lists_and_resumes_in_them(tmp_path):
    (tables, lists) = (prepared(recipe, tmp_path) for recipe in on_disk(tmp_path))
    assert isinstance(tables[0].examples, stored.Made) and isinstance(tables[1].prompts, stored.Made)
    assert list(tables[0].examples) == lists[0].examples and list(tables[1].prompts) == lists[1].prompts
    assert list(tables[1].problems) == lists[1].problems

    def source(job):
        return StoredSource(job.stage.source, job.examples, seed=3)

    def tokens(source, steps):
        return [[(*i.prompt, *i.response) for i in source.next_items(None, None, 0)[0]] for _ in range(steps)]

    whole = tokens(source(lists[0]), 5)
    first = source(tables[0])
    begun = tokens(first, 2)
    resumed = source(tables[0])
    resumed.restore(first.cursor(), first.flight())
    assert begun + tokens(resumed, 3) == whole


def test_a_prompt_in_a_table_that_does_not_fit_is_found_before_the_run(tmp_path):
    recipe, _ = on_disk(tmp_path)
    lines(tmp_path / 'q.jsonl', [*asked(3), {'problem': '1+' * 20, 'answer': '2'}])
    with pytest.raises(BadInput, match=r'the prompt of problem 3 has 40 tokens, sample\.max_prompt=16'):
        prepared(recipe, tmp_path)
