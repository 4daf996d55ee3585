"""A workdir belongs to one recipe."""

import dataclasses
import json
import subprocess

import pytest
import toy

from r1jax.record import to_json
from r1jax.settings import BadInput, override
from r1jax.workdir import git_commit, open_workdir, write_config

RECIPE = toy.recipe()


@dataclasses.dataclass(frozen=True)
class Other(toy.Letters):
    pass


def config(folder):
    return json.loads((folder / 'config.json').read_text(encoding='utf-8'))


def test_the_first_run_writes_what_ran(tmp_path):
    argv = ['/somewhere/bin/r1jax', 'run', 'experiments/toy.py']
    assert open_workdir(tmp_path / 'deep' / 'run', override(RECIPE, ['seed=3']), argv) == 'new'
    written = config(tmp_path / 'deep' / 'run')
    assert written['recipe'] == to_json(override(RECIPE, ['seed=3']))
    assert written['seed'] == 3
    assert written['command'] == ['r1jax', *argv[1:]]
    assert {'python', 'jax', 'flax'} <= set(written['versions'])
    assert [path.name for path in (tmp_path / 'deep' / 'run').iterdir()] == ['config.json']


def test_the_same_recipe_resumes_and_leaves_the_record(tmp_path):
    open_workdir(tmp_path, RECIPE, ['one'])
    assert open_workdir(tmp_path, RECIPE, ['two']) == 'resumed'
    assert config(tmp_path)['command'] == ['one']


def test_another_recipe_is_refused_with_the_difference(tmp_path):
    open_workdir(tmp_path, RECIPE)
    (tmp_path / 'metrics.jsonl').touch()
    with pytest.raises(BadInput) as error:
        open_workdir(tmp_path, override(RECIPE, ['zero.optim.learning_rate=2e-4', 'seed=7']))
    first, line = str(error.value).split('\n')
    assert first == f'{tmp_path} holds a run of another recipe; take another --workdir, or delete it:'
    assert line == '  seed: 0 (workdir) != 7 (now)'
    for change in ({'name': 'other'}, {'tokenizer': Other()}):
        with pytest.raises(BadInput, match=rf'\n  {next(iter(change))}: '):
            open_workdir(tmp_path, dataclasses.replace(RECIPE, **change))


def test_another_form_of_the_recipe_is_recognised_and_written_when_it_is_known_to_run(tmp_path):
    open_workdir(tmp_path, RECIPE, ['one'])
    (tmp_path / 'metrics.jsonl').touch()
    changed = override(RECIPE, ['zero.optim.learning_rate=2e-4', 'mesh.data=2'])
    assert open_workdir(tmp_path, changed, ['two']) == 'changed'
    assert config(tmp_path)['command'] == ['one'] and config(tmp_path)['recipe'] == to_json(RECIPE)
    write_config(tmp_path, changed, ['two'])
    assert config(tmp_path)['command'] == ['two'] and open_workdir(tmp_path, changed) == 'resumed'


def test_a_run_that_never_began_leaves_no_claim(tmp_path):
    open_workdir(tmp_path, RECIPE)
    assert open_workdir(tmp_path, override(RECIPE, ['seed=1'])) == 'new'
    assert config(tmp_path)['seed'] == 1


def test_a_broken_record_is_refused(tmp_path):
    for text in ('{"recipe": {', '[]', '{}'):
        (tmp_path / 'config.json').write_text(text)
        with pytest.raises(BadInput, match=r'config\.json is broken'):
            open_workdir(tmp_path, RECIPE)


def test_an_unwritable_workdir_is_refused(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(PermissionError, match=r'^cannot write to the workdir .*file/run \(Not a directory\)'):
        open_workdir(tmp_path / 'file' / 'run', RECIPE)


def test_the_commit_says_whether_files_were_changed(tmp_path):
    assert git_commit(tmp_path) is None
    who = ['-c', 'user.name=a', '-c', 'user.email=a@example.org']
    (tmp_path / 'file').write_text('one')
    for command in (['init', '-q'], ['add', 'file'], [*who, 'commit', '-qm', 'one']):
        subprocess.run(['git', '-C', tmp_path, *command], check=True)
    commit = git_commit(tmp_path)
    assert len(commit) == 40
    (tmp_path / 'file').write_text('two')
    assert git_commit(tmp_path) == f'{commit}+dirty'
