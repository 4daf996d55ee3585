"""Logs: whole lines, cut back on resume, nothing twice; and the terminal's view of the same numbers."""

import io
import json
import math
import os
import signal
import struct
import subprocess
import sys
import textwrap
import time
import types

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event

from r1jax.settings import BadInput
from r1jax.train import board, live, log


def lines(workdir, name=log.METRICS):
    return list(log.read(os.path.join(workdir, name)))


def events(workdir, stage):
    """(step, tag, value) of all of a stage's TensorBoard files: records of length, checksum, Event, checksum."""
    found = []
    folder = os.path.join(workdir, log.TENSORBOARD, stage)
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), 'rb') as file:
            data = file.read()
        while data:
            (size,) = struct.unpack('<Q', data[:8])
            event = Event.FromString(data[12 : 12 + size])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            data = data[16 + size :]
    return sorted(found)


def test_a_line_holds_plain_finite_numbers_in_a_stable_order(tmp_path):
    values = {
        'reward/mean': jnp.float32(0.5),
        'policy/kl': np.float64('nan'),
        'loss': float('inf'),
        'rollout/tokens': jnp.asarray(3, jnp.bfloat16),
        'grad_norm': np.float32(0.25),
        'rollout/samples': np.int64(64),
        'eval/held_out/pass@1_ci': [0.25, np.float64(0.5)],
    }
    with log.Log(str(tmp_path)) as out:
        out.metrics('zero', np.int32(1), np.float64(1.5), values)
        out.metrics('zero', 2, 2.5, dict(reversed(values.items())))
    one, two = (tmp_path / log.METRICS).read_text().splitlines()
    assert one == (
        '{"stage": "zero", "step": 1, "seconds": 1.5, "eval/held_out/pass@1_ci": [0.25, 0.5], "grad_norm": 0.25, '
        '"loss": null, "policy/kl": null, "reward/mean": 0.5, "rollout/samples": 64, "rollout/tokens": 3.0}'
    )
    assert list(json.loads(one)) == list(json.loads(two))


def test_a_metric_may_not_take_a_name_of_the_line(tmp_path):
    with log.Log(str(tmp_path)) as out, pytest.raises(ValueError, match="called 'step'"):
        out.metrics('zero', 1, 0, {'step': 3})
    assert not lines(tmp_path)


def test_samples_keep_any_text_on_one_line(tmp_path):
    text = 'a\nb\r\n\u2028\x85 “quoted” 等等 \ud800 \x00'
    with log.Log(str(tmp_path)) as out:
        out.samples(
            'zero',
            3,
            [{'question': np.int32(7), 'completion': text, 'parts': {'accuracy': 1.0}, 'when': 'rollout'}] * 2,
        )
    found = lines(tmp_path, log.SAMPLES)
    assert [record['completion'] for record in found] == [text] * 2
    assert list(found[0]) == ['stage', 'step', 'when', 'question', 'completion', 'parts']
    assert '等等' in (tmp_path / log.SAMPLES).read_text('utf-8')  # readable as it stands


def test_resume_cuts_back_to_the_checkpoint_and_repeats_nothing(tmp_path):
    with log.Log(str(tmp_path)) as out:
        out.metrics('base', 1, 0.1, {'loss': 3.0, 'eval/held_out/pass@1': 0.25})
        out.metrics('zero', 1, 0.1, {'loss': 2.0})
        out.samples('zero', 1, [{'completion': 'kept'}])
        known = {name: json.loads(json.dumps(out.cut(name))) for name in ('base', 'zero')}  # a cursor is JSON
        out.metrics('zero', 2, 0.2, {'loss': 1.5})
        out.samples('zero', 2, [{'completion': 'lost'}])
    before = (tmp_path / log.METRICS).read_bytes()
    with log.Log(str(tmp_path), known) as out:
        assert [line['step'] for line in lines(tmp_path)] == [1, 1]
        assert [record['completion'] for record in lines(tmp_path, log.SAMPLES)] == ['kept']
        out.metrics('zero', 2, 0.2, {'loss': 1.5})
    assert (tmp_path / log.METRICS).read_bytes() == before
    assert events(tmp_path, 'zero') == [(1, 'loss', 2.0), (2, 'loss', 1.5)]
    assert events(tmp_path, 'base') == [(1, 'eval/held_out/pass_at_1', 0.25), (1, 'loss', 3.0)]


def test_without_a_checkpoint_leftovers_are_removed(tmp_path):
    with log.Log(str(tmp_path)) as out:
        out.metrics('zero', 1, 0.1, {'loss': 2.0})
        out.samples('zero', 1, [{'completion': 'x'}])
    with log.Log(str(tmp_path)):
        assert not lines(tmp_path) and not lines(tmp_path, log.SAMPLES)
        assert not (tmp_path / log.TENSORBOARD).exists()


def test_each_stage_is_cut_back_by_itself(tmp_path):
    """Also where others went on behind it, and where a line was torn."""
    with log.Log(str(tmp_path)) as out:
        for stage in ('base', 'side', 'base', 'zero', 'side', 'base'):
            out.metrics(stage, out.cut(stage)[log.METRICS] + 1, 0.1, {'loss': 2.0})
            out.samples(stage, 1, [{'completion': stage}] * 2)
    with open(tmp_path / log.SAMPLES, 'a') as file:
        file.write('{"stage": "zero", "st')
    known = {'base': {log.METRICS: 2, log.SAMPLES: 4}, 'zero': {log.METRICS: 1, log.SAMPLES: 2}}
    with log.Log(str(tmp_path), known) as out:
        assert [(line['stage'], line['step']) for line in lines(tmp_path)] == [('base', 1), ('base', 2), ('zero', 1)]
        assert [line['completion'] for line in lines(tmp_path, log.SAMPLES)] == ['base'] * 4 + ['zero'] * 2
        assert not (tmp_path / log.TENSORBOARD / 'side').exists()
        out.metrics('base', 3, 0.1, {'loss': 1.0})
        assert out.cut('base') == {log.METRICS: 3, log.SAMPLES: 4}
        out.drop('base')
        out.metrics('zero', 2, 0.1, {'loss': 1.0})
    assert [(line['stage'], line['step']) for line in lines(tmp_path)] == [('zero', 1), ('zero', 2)]
    assert events(tmp_path, 'zero') == [(1, 'loss', 2.0), (2, 'loss', 1.0)]


def test_missing_lines_are_an_error(tmp_path):
    with log.Log(str(tmp_path)) as out:
        out.metrics('zero', 1, 0.1, {'loss': 2.0})
        known = {'zero': out.cut('zero')}
    (tmp_path / log.METRICS).write_text('')
    with pytest.raises(ValueError, match=r'metrics.jsonl has 0 lines of stage zero, at its checkpoint it had 1'):
        log.Log(str(tmp_path), known)
    (tmp_path / log.METRICS).write_text('{"loss": 1}\n')
    with pytest.raises(ValueError, match=r'metrics.jsonl:1: not a line of a log'):
        log.Log(str(tmp_path), known)


def test_sigkill_leaves_every_logged_line(tmp_path):
    script = """
        import sys
        from r1jax.train.log import Log
        out = Log(sys.argv[1])
        for step in range(1, 10**6):
            out.metrics('zero', step, 0.0, {'loss': 1.0})
            out.samples('zero', step, [{'completion': 'x' * 500}] * 4)
            if step == 50:
                print('go', flush=True)
    """
    command = [sys.executable, '-c', textwrap.dedent(script), str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'go\n'
    process.send_signal(signal.SIGKILL)
    process.wait()
    steps = [line['step'] for line in lines(tmp_path)]
    assert len(steps) >= 50 and steps == list(range(1, len(steps) + 1))
    assert len(lines(tmp_path, log.SAMPLES)) >= 4 * (len(steps) - 1)


def test_read_passes_over_a_torn_last_line_only(tmp_path):
    path = tmp_path / 'x.jsonl'
    assert list(log.read(str(path))) == []
    path.write_text('{"a": 1}\n{"a": ')
    assert list(log.read(str(path))) == [{'a': 1}]
    path.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(ValueError, match=r'x.jsonl:2: not a JSON object'):
        list(log.read(str(path)))


def test_write_summary_replaces_the_whole_file(tmp_path):
    for steps in (1, 2):
        log.write_summary(str(tmp_path), {'stages': {'zero': {'steps': steps, 'seconds': np.float32('nan')}}})
    assert json.loads((tmp_path / log.SUMMARY).read_text()) == {'stages': {'zero': {'steps': 2, 'seconds': None}}}
    assert os.listdir(tmp_path) == [log.SUMMARY]


# The live view.

GRPO = {
    'reward/mean': 1.25,
    'reward/accuracy': 0.5,
    'reward/format': 0.75,
    'rollout/tokens': 24.5,
    'policy/kl': 0.0125,
    'policy/entropy': 0.5,
    'policy/sampler_gap_max': 3e-6,
    'policy/skipped': 0,
    'tokens_per_second': 4321.0,
}


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def show(play, width=100, terminal=False):
    """What `play(view, clock)` shows, as text without colours or cursor movements."""
    out, clock = io.StringIO(), Clock()
    console = Console(
        file=out, width=width, height=60, force_terminal=terminal, color_system=None, legacy_windows=False
    )
    with live.Live('tiny_zero', {'base': 100, 'zero': 60}, console, clock) as view:
        play(view, clock)
    return out.getvalue()


def run(view, clock, values=GRPO, steps=60, seconds=1.0, stage='zero'):
    view.stage(stage, steps, 0)
    for step in range(1, steps + 1):
        clock.now += seconds
        view.step(stage, step, values)


def test_plain_lines_are_few_and_have_the_first_and_last_step():
    text = show(run).splitlines()
    assert text[0] == 'tiny_zero · stage 2 of 2: zero, 60 steps'
    steps = [int(line.split()[1].split('/')[0]) for line in text[1:]]
    assert steps == [1, *range(6, 60, 5), 60]
    assert text[2] == (
        'zero  6/60  reward 1.250  accuracy 50.0 %  format 75.0 %  length 24.5  KL 0.0125  entropy 0.5  '
        'tokens/s 4,321  1.00 s/step  0:54 left'
    )


def test_a_notebook_gets_plain_lines_too(monkeypatch, capsys):
    monkeypatch.setattr('rich.console._is_jupyter', lambda: True)
    monkeypatch.setenv('FORCE_COLOR', '1')  # as its kernel does
    with live.Live('tiny', {'zero': 3}) as view:
        view.note('zero, before: [22 %]')
    assert capsys.readouterr().out == 'zero, before: [22 %]\n'


def test_pretraining_shows_its_loss():
    text = show(
        lambda view, clock: run(view, clock, {'loss': jnp.float32(2.5), 'tokens_per_second': 9e4}, 3, stage='base')
    )
    assert 'base  3/3  loss 2.500  tokens/s 90,000' in text and 'reward' not in text


def test_skipped_steps_are_counted_and_what_is_not_finite_is_shown():
    def play(view, clock):
        run(view, clock, GRPO | {'policy/skipped': 1, 'reward/mean': math.nan, 'policy/entropy': None}, 3)

    last = show(play).splitlines()[-1]
    assert 'skipped 3' in last and 'reward nan' in last and 'entropy' not in last


def test_notes_and_evaluations_are_lines_of_their_own():
    def play(view, clock):
        view.note('resumed at [bold]step 3[/bold]')
        result = {'pass@1': 0.291, 'pass@1_ci': [0.263, 0.32], 'cons@16': 0.75, 'response_tokens': 16.2, 'format': 0.88}
        view.evaluation(
            'zero', 'held_out', 'before', result | {'by_mode': {'worked': {'accuracy': 0.71, 'share': 0.33}}}
        )
        view.evaluation('zero', 'held_out', 'after', {})

    assert show(play).splitlines() == [
        'resumed at [bold]step 3[/bold]',
        'zero, before, held_out: pass@1 29.1 % [26.3, 32.0] · cons@16 75.0 % · length 16.2 · format 88.0 % · '
        'worked 71.0 % right in 33.0 % of answers',
        'zero, after, held_out: no figures',
    ]


@pytest.mark.parametrize('width', [10, 30, 48, 80, 200])
@pytest.mark.parametrize('values', [{}, GRPO, {'loss': math.nan}])
def test_the_panel_fits_any_width(width, values):
    text = show(lambda view, clock: run(view, clock, values), width, terminal=True)
    panel = text[text.rindex('╭') :].splitlines()
    assert all(len(line) <= width for line in panel[:-1])
    if width >= 48 and values is GRPO:
        assert 'stage 2 of 2: zero' in panel[0] and '60/60' in panel[1]
        assert 'sampler gap 3e-06' in text and 'skipped 0' in text


def test_sparkline():
    assert live.sparkline([0, 1, 2, 3, 4, 5, 6, 7], 20) == live.BARS
    assert live.sparkline(list(range(800)), 8) == live.BARS
    assert live.sparkline([0, math.nan, 7], 20) == '▁ █'
    assert live.sparkline([1.0, 1.0], 20) == '▁▁'
    assert live.sparkline([math.nan, 1.0], 20) == ''


def test_duration():
    assert [live.duration(s) for s in (7.4, 750, 10920)] == ['0:07', '12:30', '3:02:00']


class _Wandb(types.ModuleType):
    """The package, as far as it is used: a run that keeps what it is sent."""

    def __init__(self):
        super().__init__('wandb')
        self.runs = []

    def Settings(self, **settings):
        return settings

    def init(self, **given):
        if given['project'] == 'refused':
            raise ValueError('no account')
        run = types.SimpleNamespace(id=given['id'] or f'id{len(self.runs)}', given=given, sent=[], axes=[], over=False)
        run.log, run.define_metric = run.sent.append, lambda *names, **axes: run.axes.append((*names, axes))
        run.finish = lambda: setattr(run, 'over', True)
        self.runs.append(run)
        return run


def test_a_board_is_given_each_line_and_is_the_same_run_the_next_time(tmp_path, monkeypatch):
    wandb = _Wandb()
    monkeypatch.setitem(sys.modules, 'wandb', wandb)
    with log.Log(str(tmp_path)) as out:
        out.metrics('base', 1, 0.1, {'loss': 3.0, 'eval/held_out/pass@1_ci': [0.1, 0.2]})
    for turn in range(2):
        known = {'base': {log.METRICS: 1 + turn, log.SAMPLES: 0}}
        with log.Log(str(tmp_path), known) as out:
            out.board = board.Board(str(tmp_path), 'project', {'seed': 0}, log.read(str(tmp_path / log.METRICS)))
            out.metrics('base', 2 + turn, 0.2, {'loss': 2.0 - turn})
            out.drop('other')
            assert not wandb.runs[turn].over
        assert wandb.runs[turn].over
    first, second = wandb.runs
    assert first.id == second.id == second.given['id'] == 'id0' and first.given['id'] is None
    assert first.given['project'] == 'project' and first.given['config'] == {'seed': 0}
    assert first.sent == [
        {'base/seconds': 0.1, 'base/loss': 3.0, 'base/step': 1},  # what had been logged before it was asked for
        {'base/seconds': 0.2, 'base/loss': 2.0, 'base/step': 2},
    ]
    assert second.sent == [{'base/seconds': 0.2, 'base/loss': 1.0, 'base/step': 3}]
    assert first.axes == [('base/step', {}), ('base/*', {'step_metric': 'base/step'})]
    with pytest.raises(BadInput, match=r"^wandb='refused': no run of Weights & Biases .no account.: run `wandb login`"):
        board.Board(str(tmp_path), 'refused', {})


def test_a_board_without_its_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    with pytest.raises(
        ImportError, match=r"^the recipe names a project of Weights & Biases: run pip install 'r1jax\[wandb\]'$"
    ):
        board.package()


@pytest.mark.reference  # the package is large, and an extra
def test_weights_and_biases_offline(tmp_path, monkeypatch):
    pytest.importorskip('wandb')
    monkeypatch.setenv('WANDB_MODE', 'offline')
    with log.Log(str(tmp_path)) as out:
        out.board = board.Board(str(tmp_path), 'project', {'seed': 0, 'stages': [{'name': 'base'}]})
        for step in range(1, 4):
            out.metrics('base', step, 0.1, {'loss': 3.0 - step, 'reward/mean': 0.5})
    (folder,) = (tmp_path / 'wandb').glob('offline-run-*')
    (file,) = folder.glob('*.wandb')
    end = time.monotonic() + 60  # a process of the package's own writes it
    while b'base/reward/mean' not in file.read_bytes() and time.monotonic() < end:
        time.sleep(0.1)
    assert (
        b'base/reward/mean' in file.read_bytes() and json.loads((tmp_path / board.KEPT).read_text())['id'] in file.name
    )
