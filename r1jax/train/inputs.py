"""What a stage is made of, and so whether it has to be run again.

A stage's inputs are written to WORKDIR/checkpoints/STAGE/stage.json before it begins, and to done.json when it is over:

    stage      its settings, without those that change no result (`NEUTRAL`)
    model, template, tokenizer, seed
    start      where its weights come from: a name, or of files their sizes and a digest
    data       digest of what it trains on, as tokens
    ends       what the stages that it starts from or reads ended with, by their names: a digest of weights and files
    evals      its evaluations; and `measured`, a digest of their questions

The key of a stage is a digest of them all. A stage whose inputs are as they were is not run again. Otherwise it is, and what it had is set
aside, with whatever was made of it. Inputs go by content: a stage that is run again and ends with the same bits leaves those after it as
they are, as when only its evaluations changed.

Not inputs: the code of functions, which are known by their names, and versions of packages. Who changes those removes
WORKDIR/checkpoints/STAGE to have a stage run again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from r1jax import distributed, weights
from r1jax.checks import from_weights
from r1jax.config import REWARD_MODELS, Recipe, Stage, stages_read
from r1jax.data.kept import collected
from r1jax.presets import PRESETS
from r1jax.record import difference, to_json
from r1jax.train import checkpoint
from r1jax.train.jobs import Job
from r1jax.train.log import write_json
from r1jax.train.phases import derive
from r1jax.train.prepare import Prepared

# By the type: fields that change no result, but time, memory, what is logged or how often a state is kept. Rounding may differ: a mesh and
# the cut of rows decide in which order numbers are added. The first line are those that `inputs` says in another way.
NEUTRAL = {
    'r1jax.config:Stage': {'name', 'start', 'model', 'template', 'evals'}
    | {
        'rows',
        'mesh',
        'offload',
        'checkpoint_every',
        'keep_checkpoints',
        'keep_every',
        'keep_best',
        'log_samples',
        'max_skips',
    },
    'r1jax.config:SampleConfig': {'slots', 'buckets', 'pool', 'page', 'mesh'},
    'r1jax.config:ModelConfig': {'remat'},
    'r1jax.config:Collect': {'questions'},
}
LINEAGE = 'lineage.json'
_ENDS = 1 << 20  # bytes of a weights file that are digested at either end


def needs(recipe: Recipe, stage: Stage) -> tuple[str, ...]:
    """The stages that must be over before this one: where it starts, and what it reads."""
    start = (stage.start,) if stage.start in {each.name for each in recipe.stages} else ()
    return tuple(dict.fromkeys([*start, *stages_read(stage)]))


class Changes(NamedTuple):
    """Why a stage that was begun has to be run again, in sentences; none if nothing is known to have changed."""

    made: list[str]  # it was made of something else
    gone: list[str]  # a file that it wrote is not there
    measured: list[str]  # its evaluations are others

    @property
    def all(self) -> list[str]:
        return [*self.made, *self.gone, *self.measured]


class Book:
    """What is known of each stage of a workdir: what it was made of, and what it would be made of now.

    Of several processes the first looks and writes, and tells the others.
    """

    def __init__(self, workdir: str, ready: Prepared):
        self.workdir, self.ready, self.recipe = workdir, ready, ready.recipe
        self._starts = {start: _start(start) for start in {stage.start for stage in ready.recipe.stages}}

    @distributed.by_first
    def recorded(self, name: str) -> dict | None:
        """What a stage was begun with; None: it was not begun."""
        return checkpoint.read_begun(self.workdir, name)

    @distributed.by_first
    def finished(self, name: str) -> bool:
        return checkpoint.read_done(self.workdir, name) is not None

    @distributed.by_first
    def begin(self, job: Job) -> None:
        """Writes down what a stage is made of, before anything is made."""
        name, stage = job.stage.name, job.stage
        inputs = self.inputs(name, job)
        record = {
            'key': key(inputs),
            'inputs': inputs,
            'start': stage.start,
            'seed': job.seed,
            'model': to_json(stage.model),
            'template': to_json(stage.template),
            'lora': to_json(stage.lora),
            'scalar': isinstance(stage.loss, REWARD_MODELS),
        }
        checkpoint.write_begun(self.workdir, name, record)

    def inputs(self, name: str, job: Job | None = None) -> dict[str, Any]:
        """What a stage is made of now. What is not known yet is None: data that are not read, the end of a stage that is not over."""
        stage = self.ready.stage(name)
        data, measured = (job.data, job.measured) if job else self.ready.jobs.digests(stage)
        return {
            'stage': _bare(to_json(stage, name)),
            'model': _bare(to_json(stage.model)),
            'template': to_json(stage.template),
            'tokenizer': to_json(self.recipe.tokenizer),
            'seed': derive(self.recipe.seed, name),
            'start': self._starts[stage.start],
            'data': data,
            'ends': {up: self._end(up) for up in needs(self.recipe, stage)},
            'evals': _bare(to_json(stage.evals, f'{name}.evals')),
            'measured': measured,
        }

    def _end(self, name: str) -> str | None:
        done = checkpoint.read_done(self.workdir, name)
        return key(done['outputs']) if done else None

    @distributed.by_first
    def changes(self, name: str, job: Job | None = None) -> Changes:
        """What has changed since a stage was begun, as far as it is known."""
        record = self.recorded(name)
        if record is None:
            left = checkpoint.has_begun(self.workdir, name)
            return Changes([f'{name}: there is no record of what it was made of'] if left else [], [], [])
        old, new = record['inputs'], self.inputs(name, job)
        lines = difference(old['stage'], new['stage'], name)
        for field in ('model', 'template', 'tokenizer', 'seed', 'start'):
            lines += difference(old[field], new[field], f'{name}.{field}')
        if new['data'] not in (None, old['data']):
            lines.append(f'{name}: the data that it works on are others')
        for up, end in new['ends'].items():
            if end is not None and end != old['ends'].get(up):
                lines.append(f'{name}: {up} ended with something else')
        evals = difference(old['evals'], new['evals'], f'{name}.evals')
        if new['measured'] not in (None, old['measured']) and not evals:
            evals = [f'{name}: the questions of its evaluations are others']
        done, path = checkpoint.read_done(self.workdir, name), collected(self.workdir, name)
        gone = done and path.name in done['outputs'].get('files', {}) and not path.exists()
        return Changes(lines, [f'{name}: {path.name} is gone'] if gone else [], evals)

    @distributed.by_first
    def outputs(self, name: str, made: Mapping[str, Any]) -> dict[str, Any]:
        """What a stage ended with: `made`, and the files that it wrote, by their names."""
        folder = collected(self.workdir, name).parent
        files = {path.name: _sha256(path) for path in sorted(folder.glob(f'{name}.*')) if path.suffix != '.part'}
        return {**made, **({'files': files} if files else {})}

    @distributed.by_first
    def finish(self, name: str, cut: Mapping[str, int], entry: Mapping[str, Any], made: Mapping[str, Any]) -> None:
        """Writes down that a stage is over."""
        record = self.recorded(name)
        inputs = {'key': record['key'], **record['inputs']}
        done = {'cut': cut, 'entry': entry, 'inputs': inputs, 'outputs': self.outputs(name, made)}
        checkpoint.write_done(self.workdir, name, done)

    @distributed.by_first
    def downstream(self, names: Sequence[str]) -> list[str]:
        """The stages that were made of these, or of what was made of them, in order and without these."""
        found = list(names)
        for stage in self.recipe.stages:
            if stage.name not in found and set(needs(self.recipe, stage)) & set(found):
                found.append(stage.name)
        return [name for name in found[len(names) :] if checkpoint.has_begun(self.workdir, name)]

    @distributed.by_first
    def write(self) -> None:
        """Writes lineage.json: of each stage of the recipe where it comes from, and what it was made of if it was begun."""
        stages = {}
        for stage in self.recipe.stages:
            record, done = self.recorded(stage.name), checkpoint.read_done(self.workdir, stage.name)
            stages[stage.name] = {
                'key': record['key'] if record else None,
                'start': stage.start,
                'reads': list(stages_read(stage)),
                'data': record['inputs']['data'] if record else None,
                'outputs': done['outputs'] if done else {},
                'finished': done is not None,
            }
        write_json(os.path.join(self.workdir, LINEAGE), {'stages': stages})


def key(value: Any) -> str:
    """16 hexadecimal digits of a JSON value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]


def _bare(value: Any) -> Any:
    """What `to_json` wrote, without the fields that change no result."""
    if isinstance(value, dict):
        left_out = NEUTRAL.get(value.get('type'), ())
        return {name: _bare(inner) for name, inner in value.items() if name not in left_out}
    return [_bare(inner) for inner in value] if isinstance(value, list) else value


def _start(start: str) -> Any:
    """Where weights come from, by content: a file may be elsewhere tomorrow. Of each file its size and a digest of its two ends."""
    if not from_weights(start) or start in PRESETS:
        return start
    path = weights.resolve(start)
    names = (
        sorted(n for n in os.listdir(path) if n.endswith(('.safetensors', '.json'))) if os.path.isdir(path) else ['']
    )
    return {name or os.path.basename(path): _digest(os.path.join(path, name) if name else path) for name in names}


def _digest(path: str) -> str:
    size, whole = os.path.getsize(path), hashlib.sha256()
    with open(path, 'rb') as file:
        whole.update(file.read(_ENDS))
        file.seek(max(size - _ENDS, 0))
        whole.update(file.read(_ENDS))
    return f'{size} bytes, {whole.hexdigest()[:16]}'


def _sha256(path: Any) -> str:
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()
