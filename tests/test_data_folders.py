"""Tables in folders: saved by `datasets`, copied from a hub, prepared by tfds."""

import pathlib

import pytest
from tables import WHOLE, asked, brief, lines, parquet

from r1jax.data import datasets, stored
from r1jax.data.table import Fields, Table

pytestmark = pytest.mark.usefixtures('data_cache')
SAVED = str(pathlib.Path(__file__).parent / 'golden' / 'saved')  # by datasets 5.2.0, DatasetDict.save_to_disk
NESTED = Fields('question', 'meta.answer', meta=('meta.level',))


def test_a_folder_that_datasets_saved():
    train, test = (Table(SAVED, NESTED, split=split).load() for split in ('train', 'test'))
    assert brief(train) == WHOLE[:5] and train[3].meta == {'meta.level': 1}
    assert brief(test) == [(0, '100+1?', '101'), (1, '101+1?', '102')]
    assert brief(Table(f'{SAVED}/train', NESTED).load()) == brief(train)
    assert len(Table(SAVED, NESTED, split='*').load()) == 7
    with pytest.raises(ValueError, match="saved: split: there is no 'dev': there are 'test', 'train'"):
        Table(SAVED, NESTED, split='dev').load()
    with pytest.raises(ValueError, match="split: name one: there are 'test', 'train'"):
        Table(SAVED, NESTED).load()


CARD = """---
license: mit
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train-*
  - split: test
    path:
    - main/test-0.parquet
- config_name: socratic
  data_files: socratic/*.parquet
---
# A card
"""


def test_a_copy_of_a_hub_repository_is_read_by_its_card(tmp_path):
    parquet(tmp_path / 'main' / 'train-00001.parquet', asked(3, 4))
    parquet(tmp_path / 'main' / 'train-00000.parquet', asked(4))
    parquet(tmp_path / 'main' / 'test-0.parquet', asked(1, 50))
    parquet(tmp_path / 'socratic' / 'x.parquet', asked(2, 70))
    (tmp_path / 'README.md').write_text(CARD)
    path = str(tmp_path)
    assert brief(Table(path, split='train', config='main').load()) == WHOLE
    assert [
        len(Table(path, split=s, config=c).load()) for s, c in (('test', 'main'), ('', 'socratic'), ('train', '*'))
    ] == [1, 2, 9]
    with pytest.raises(ValueError, match="config: name one: there are 'main', 'socratic'"):
        Table(path, split='train').load()
    with pytest.raises(ValueError, match="split: there is no 'dev': there are 'test', 'train'"):
        Table(path, split='dev', config='main').load()
    (tmp_path / 'main' / 'test-0.parquet').unlink()
    with pytest.raises(ValueError, match=r'README names the files .*test-0\.parquet, and none is there'):
        Table(path, split='test', config='main').load()
    (tmp_path / 'README.md').write_text('---\na: [\n---\n')
    with pytest.raises(ValueError, match=r'README\.md: its head is not YAML'):
        Table(path).load()


def test_without_a_card_names_of_files_tell_the_splits(tmp_path):
    lines(tmp_path / 'train.jsonl', asked(3))
    for i in (1, 2):
        lines(tmp_path / f'test{i}.jsonl', asked(i, 10 * i))
    (tmp_path / 'dataset_infos.json').write_text('{}')
    path = str(tmp_path)
    assert [p.id for p in Table(path, split='test').load()] == [0, 1, 2]
    assert len(Table(path, split='train').load()) == 3 and len(Table(path, split='*').load()) == 6
    assert brief(Table(f'{path}/test?.jsonl').load())[0] == (0, '10+1?', '11')
    parquet(tmp_path / 'extra' / 'part.parquet', asked(4))
    assert len(Table(path, split='train', config='extra').load()) == 4
    with pytest.raises(ValueError, match="has no folder 'other': it has 'extra'"):
        Table(path, config='other').load()
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match='has no data files'):
        Table(f'{path}/empty').load()


def test_large_tfds_datasets_stay_on_disk(tmp_path, monkeypatch):
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
    monkeypatch.setattr(datasets, 'LARGE', 3)
    source = datasets.TFDS('x', 'train', '', '')
    datasets.prepared(source, 'train', {'q': str, 'a': str}, lambda: ({'q': f'{i}?', 'a': f'{i}'} for i in range(5)))
    (folder,) = (tmp_path / 'r1jax_generated').iterdir()
    problems = datasets.TFDS(f'r1jax_generated/{folder.name}', 'train', 'q', 'a').load()
    assert isinstance(problems, stored.Made) and brief(problems) == [(i, f'{i}?', f'{i}') for i in range(5)]
    with pytest.raises(ValueError, match="row 0: no field 'b'"):
        datasets.TFDS(f'r1jax_generated/{folder.name}', 'train', 'q', 'b').load()
