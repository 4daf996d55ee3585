"""Sources of problems and texts, and what they say about broken ones."""

import json
import sys

import pytest

from r1jax.data import datasets
from r1jax.data.datasets import TFDS, JSONLines, JSONLinesExamples, ReasoningGym
from r1jax.types import Example

CHAIN = (('max_terms', 2), ('max_digits', 2))


@pytest.fixture
def lines(tmp_path):
    def write(*rows):
        path = tmp_path / 'data.jsonl'
        path.write_text('\n'.join(row if isinstance(row, str) else json.dumps(row) for row in rows))
        return str(path)

    return write


def test_json_lines_filter_and_limit(lines):
    path = lines(*({'q': f'{i}+1?', 'a': i + 1, 'split': 'test' if i % 2 else 'train'} for i in range(6)))
    problems = JSONLines(path, 'q', 'a', where=('split', 'test'), limit=2).load()
    assert [(p.id, p.prompt, p.answer) for p in problems] == [(1, '1+1?', '2'), (3, '3+1?', '4')]


def test_json_lines_examples(lines):
    path = lines({'prompt': 'a', 'response': 'b'}, '', {'prompt': 'c', 'response': 'd'})
    assert JSONLinesExamples(path).load() == [Example('a', 'b'), Example('c', 'd')]
    assert JSONLinesExamples(path, prompt='').load()[0] == Example('', 'b')


def test_broken_json_lines_are_named_with_file_and_line(lines, tmp_path):
    good = {'problem': 'a', 'answer': 'b'}
    with pytest.raises(ValueError, match=r'data\.jsonl:2: not a JSON line'):
        JSONLines(lines(good, '{"problem": ')).load()
    with pytest.raises(ValueError, match=r'data\.jsonl:2: expected a JSON object, found list'):
        JSONLines(lines(good, '[1]')).load()
    with pytest.raises(ValueError, match=r"data\.jsonl:1: no field 'question': it has 'problem', 'answer'"):
        JSONLines(lines(good), prompt='question').load()
    with pytest.raises(ValueError, match=r"data\.jsonl with split='test' is an empty dataset"):
        JSONLines(lines({**good, 'split': 'train'}), where=('split', 'test')).load()
    with pytest.raises(FileNotFoundError, match=r'nowhere\.jsonl does not exist'):
        JSONLines(str(tmp_path / 'nowhere.jsonl')).load()


def test_tfds_reads_a_prepared_builder_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
    rows = [{'question': f'{i}?', 'answer': f'let us see #### {i}', 'number': i} for i in range(5)]
    fields = {'question': str, 'answer': str, 'number': int}
    assert datasets.prepared(TFDS('x', 'train', '', ''), 'train', fields, lambda: rows) == rows

    (folder,) = (tmp_path / 'r1jax_generated').iterdir()
    name = f'r1jax_generated/{folder.name}'
    problems = TFDS(name, 'train[1:3]', 'question', 'answer', answer_after='####').load()
    assert [(p.id, p.prompt, p.answer) for p in problems] == [(0, '1?', '1'), (1, '2?', '2')]
    with pytest.raises(ValueError, match="has no split 'test': it has train"):
        TFDS(name, 'test', 'question', 'answer').load()
    with pytest.raises(ValueError, match="row 0: no field 'prompt'"):
        TFDS(name, 'train', 'prompt', 'answer').load()
    with pytest.raises(ValueError, match="no dataset 'no_such_dataset'"):
        TFDS('no_such_dataset', 'train', '', '').load()
    assert not {'tensorflow', 'torch', 'transformers'} & set(sys.modules)


def test_reasoning_gym_is_reproducible_and_seeds_do_not_overlap():
    pytest.importorskip('reasoning_gym')
    first, again, other = (ReasoningGym('chain_sum', 20, seed, CHAIN).load() for seed in (0, 0, 1))
    assert first == again
    # reasoning-gym's own seeds 0 and 1 share 19 of 20 items
    assert len({p.prompt for p in first} & {p.prompt for p in other}) < 5
    assert first[3].id == 3 and first[3].kind == 'reasoning_gym' and first[3].meta['task'] == 'chain_sum'


def test_reasoning_gym_keeps_apart():
    pytest.importorskip('reasoning_gym')
    small = (('max_terms', 2), ('max_digits', 1))
    train = ReasoningGym('chain_sum', 50, 0, small)
    held_out = ReasoningGym('chain_sum', 50, 1, small, apart_from=train).load()
    assert not {p.prompt for p in held_out} & {p.prompt for p in train.load()}
    with pytest.raises(ValueError, match='gave only'):
        ReasoningGym('chain_sum', 50, 1, small, apart_from=ReasoningGym('chain_sum', 2_000, 0, small)).load()


def test_reasoning_gym_errors_are_sentences():
    pytest.importorskip('reasoning_gym')
    with pytest.raises(ValueError, match="no task 'sums'"):
        ReasoningGym('sums', 1).load()
    with pytest.raises(ValueError, match="'chain_sum' refuses settings="):
        ReasoningGym('chain_sum', 1, settings=(('most_terms', 2),)).load()


def test_a_missing_reasoning_gym_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'reasoning_gym', None)  # Python's way to say: cannot be imported
    with pytest.raises(ImportError, match=r"pip install 'r1jax\[tasks\]'"):
        ReasoningGym('chain_sum', 1).load()
