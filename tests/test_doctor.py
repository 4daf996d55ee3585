"""`r1jax doctor`: each check sees what is wrong, and says what to do."""

import importlib.util
import json

import pytest

from r1jax import cli, doctor


def one(findings):
    (found,) = findings
    return found


def test_this_machine_is_well(capsys):
    assert cli.main(['doctor', '--json']) == 0
    seen = {each['check']: each for each in map(json.loads, capsys.readouterr().out.splitlines())}
    known = {'python', 'packages', 'memory', 'disk', 'devices', 'compilation', 'cache', 'sandbox'}
    assert set(seen) - {'extras'} == known  # extras are known of an installed package
    assert seen['devices']['seen'].startswith('8 × cpu')
    assert 'over 8 devices compiled and right' in seen['compilation']['seen']


def test_a_finding_in_the_way_is_exit_status_1(monkeypatch, capsys):
    monkeypatch.setattr(doctor, 'examine', lambda: [doctor.Finding('disk', 'fix', 'full', 'remove something')])
    with pytest.raises(SystemExit) as end:
        cli.main(['doctor'])
    assert end.value.code == 1
    assert capsys.readouterr().out == 'fix   disk: full\n      → remove something\n'


def test_packages_that_lack_or_are_too_old_are_named():
    needs = ['jax>=0.1', 'numpy>=99', 'no-such-package>=1', 'jax>=0.1; extra == "tpu"', 'no-such>=2; extra == "cuda"']
    packages, extras = doctor.packages(needs)
    assert packages.level == 'fix' and 'pip install' in packages.todo
    assert 'numpy' in packages.seen and '(needs >=99)' in packages.seen
    assert 'no-such-package (not installed)' in packages.seen and 'jax' not in packages.seen
    assert extras.level == 'ok' and extras.seen == 'installed: tpu' and "'r1jax[cuda]'" in extras.todo


def test_an_accelerator_that_jax_does_not_use_is_seen(tmp_path, monkeypatch):
    there = {'cuda': (str(tmp_path),)}
    monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
    found = one(doctor.devices(there))
    assert found.level == 'fix' and found.todo == "unset JAX_PLATFORMS, which is 'cpu'"
    monkeypatch.delenv('JAX_PLATFORMS')
    assert one(doctor.devices(there)).todo == "pip install 'r1jax[cuda]'"
    assert one(doctor.devices({'cuda': (str(tmp_path / 'none'),)})).level == 'ok'


def test_compiled_programs_that_cannot_be_kept_are_a_note(tmp_path, monkeypatch):
    file = tmp_path / 'file'
    file.touch()
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(file / 'folder'))
    *_, cache = doctor.compilation()
    assert cache.level == 'note' and 'Not a directory' in cache.seen and 'JAX_COMPILATION_CACHE_DIR' in cache.todo


def test_little_memory_and_disk_are_notes(monkeypatch):
    monkeypatch.setattr(doctor, 'MEMORY', 2**60)
    monkeypatch.setattr(doctor, 'DISK', 2**60)
    assert [each.level for each in doctor.memory()] == ['note', 'note']


def test_a_check_that_breaks_is_a_finding():
    def broken():
        raise OSError('no such thing')
        yield

    found = one(doctor.examine([broken]))
    assert (found.check, found.level, found.seen) == ('broken', 'fix', 'OSError: no such thing')


def test_no_sandbox_is_a_note(monkeypatch):
    from r1jax.rewards import code, sandbox

    def none(*_):
        raise sandbox.Unavailable('no sandbox here: the kernel is too old')

    monkeypatch.setattr(code.Code, 'judge', none)
    found = one(doctor.sandbox())
    assert (
        found.level == 'note'
        and found.seen == 'no sandbox here: the kernel is too old'
        and 'docs/sandbox.md' in found.todo
    )


def test_graders_that_err_are_in_the_way(monkeypatch):
    from r1jax.rewards import code

    monkeypatch.setattr(code.Code, 'judge', lambda *_: code.Verdict(1, 1, ''))
    found = one(doctor.sandbox())
    assert found.level == 'fix' and '[1.0, 1.0]' in found.seen


def test_an_extra_of_an_extra_counts():
    """jax[tpu] is not installed where jax is and libtpu is not."""
    _, extras = doctor.packages(['jax>=0.1', 'jax[tpu]>=0.1; extra == "tpu"'])
    libtpu = importlib.util.find_spec('libtpu') is not None
    assert extras.seen == f'installed: {"tpu" if libtpu else "none"}'
