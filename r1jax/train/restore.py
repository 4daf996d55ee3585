"""What a command means by CHECKPOINT: a workdir (`DIR` or `DIR:STAGE`), a Hugging Face folder, or a GGUF.

A workdir says what its weights are by what a run writes before its first step: a stage.json for each stage, which has its model, its
template and where it starts, and tokenizer/, as Hugging Face has it. So a stage is what it was run as, whatever the recipe says by now.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import jax
import numpy as np

from r1jax import config, sharding, weights
from r1jax.config import LoRA, MeshConfig, ModelConfig
from r1jax.nn import transformer
from r1jax.presets import PRESETS
from r1jax.settings import BadInput, nearest
from r1jax.train import checkpoint
from r1jax.train import step as compiled
from r1jax.train.start import Lineage, Link
from r1jax.weights import export, exported_chat, reader

TOKENIZER = 'tokenizer'


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint, opened."""

    source: reader.Reader | export.Held
    template: str | None  # of the stage, as stage.json writes it; None: no workdir
    what: str  # in words


def write(workdir: str, tokenizer: Any) -> None:
    """Writes what `restore` needs to know besides the stages."""
    if hasattr(tokenizer, 'save'):
        tokenizer.save(os.path.join(workdir, TOKENIZER))


@dataclasses.dataclass(frozen=True)
class Adapters:
    """The adapters of a stage, apart from their base."""

    params: Any  # {'stack_0': {target: {'a', 'b'}, …}, …}, f32
    lora: LoRA
    model: ModelConfig
    start: str  # of the stage: the base
    what: str  # in words


def restore(name: str) -> Restored:
    """Opens a checkpoint; a workdir's parameters are read to the host.

    Raises:
      FileNotFoundError, ImportError, ValueError: as `r1jax.weights.load`.
      BadInput: a workdir without a checkpoint, or without the stage; a stage that ended with a reward model.
    """
    if (found := _found(name)) is None:
        return Restored(weights.opened(name), None, name)
    folder, stage, step, links, records = found
    if links[stage].lora:
        lineage = Lineage(folder, sharding.make_mesh(MeshConfig()), links, _opened)  # one device holds the weights
        with jax.set_mesh(lineage.mesh):
            params = lineage.end(stage)
    else:
        with checkpoint.Checkpoints(folder, stage) as saved:
            params = saved.params(step, _like(links[stage].model))
    held = export.Held(links[stage].model, params, _tokenizer(folder))
    return Restored(held, records[stage]['template'], f'{folder}, stage {stage}, step {step}')


def params(found: Restored, mesh: jax.sharding.Mesh, dtype: str | None = 'float32') -> Any:
    """A checkpoint's weights on a mesh, as `dtype` (None: as stored)."""
    source = found.source
    where = compiled.weight_shardings(source.config, mesh)
    if not isinstance(source, export.Held):
        return reader.params(source, where, dtype)
    kind = dtype and np.dtype(dtype)
    return jax.tree.map(lambda a, s: jax.device_put(a.astype(kind) if kind else a, s), source.params, where)


def chat_template(found: Restored) -> str | None:
    """Jinja source of a chat that asks as training did; None: there is no form of one."""
    tokenizer = found.source.tokenizer
    if tokenizer is None or not found.template:
        return tokenizer and tokenizer.chat_template
    return exported_chat.exported(found.template, tokenizer)


def adapters(name: str) -> Adapters:
    """The adapters that a stage of a workdir trained, read to the host.

    Raises:
      BadInput: as `restore`, or there are none in what is named.
    """
    found = _found(name)
    if found is None:
        raise BadInput(f'{name} is no workdir: only a stage of one can have adapters apart from their base')
    folder, stage, step, links, _ = found
    link = links[stage]
    if link.lora is None:
        with_them = [each for each in links if links[each].lora]
        hint = f'; {", ".join(with_them)} did' if with_them else ''
        raise BadInput(f'stage {stage} of {folder} trained all weights and no adapters{hint}')
    mesh = sharding.make_mesh(MeshConfig())
    with jax.set_mesh(mesh), checkpoint.Checkpoints(folder, stage) as saved:
        params = saved.params(step, compiled.described_params(link.model, mesh, link.lora))
    return Adapters(jax.device_get(params), link.lora, link.model, link.start, f'{folder}, stage {stage}, step {step}')


def _found(name: str) -> tuple[str, str, int, dict[str, Link], dict[str, dict]] | None:
    """Folder, stage and step of the checkpoint that a name means, and every stage's link and stage.json; None: it is no workdir."""
    folder, _, stage = (name, '', '') if os.path.exists(name) else name.rpartition(':')
    if not os.path.isdir(os.path.join(folder, 'checkpoints')):
        return None
    try:
        with open(os.path.join(folder, 'config.json'), encoding='utf-8') as file:
            stages = [each['name'] for each in json.load(file)['recipe']['stages']]
        records = {each: record for each in stages if (record := checkpoint.read_begun(folder, each))}
        links = {each: _link(record) for each, record in records.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise BadInput(f'{folder} is no workdir that a run has begun in: {error!r}') from error
    if stage and stage not in stages:
        raise BadInput(f'{folder} has no stage {stage}{nearest(stage, stages)}')
    judges = [each for each, link in links.items() if link.scalar]
    if stage in judges:
        raise BadInput(f'{folder}: stage {stage} is a reward model, which gives scores and says no words')
    for each in [stage] if stage else [each for each in reversed(stages) if each not in judges]:
        if each in links:
            with checkpoint.Checkpoints(folder, each) as saved:
                if (step := saved.latest()) is not None:
                    if wrong := checkpoint.damage(folder, each, step):
                        fix = 'put back a copy, or run the experiment again, which goes on from the checkpoint before'
                        raise BadInput(f'the checkpoint of stage {each} is damaged: {"; ".join(wrong[:3])}: {fix}')
                    return folder, each, step, links, records
        elif _steps(checkpoint.stage_directory(folder, each)):
            raise BadInput(
                f'{folder} has checkpoints of stage {each}, but nothing that says of which model: an earlier r1jax wrote them, '
                'and that one can export them'
            )
    raise BadInput(f'{folder} has no checkpoint{f" of stage {stage}" if stage else ""}: run it first')


def _steps(folder: str) -> list[str]:
    """The checkpoints that a stage's folder holds, whatever wrote them."""
    return [name for name in os.listdir(folder) if name.isdigit()] if os.path.isdir(folder) else []


def _link(record: dict) -> Link:
    """What a stage.json says of a stage's weights."""
    return Link(
        record['start'], record['seed'], _read(record['model']), _read(record['lora']), record.get('scalar', False)
    )


def _opened(start: str) -> Any:
    return None if start in PRESETS else weights.opened(start)


def _like(model: ModelConfig) -> Any:
    """The parameters as NumPy arrays to be read into; their memory is taken as it is written to."""
    shapes = jax.eval_shape(lambda: transformer.unbox(transformer.init_boxed(model, jax.random.key(0))))
    return jax.tree.map(lambda s: np.empty(s.shape, s.dtype), shapes)


def _tokenizer(folder: str) -> Any:
    from r1jax.data.tokenizer import HFTokenizer

    file = os.path.join(folder, TOKENIZER, 'tokenizer.json')
    return HFTokenizer.from_file(file) if os.path.isfile(file) else None


def _read(value: Any) -> Any:
    """What `to_json` wrote of a dataclass of `r1jax.config`."""
    if isinstance(value, list):
        return tuple(map(_read, value))
    if not isinstance(value, dict):
        return value
    module, _, name = value['type'].partition(':')
    kind: Any = getattr(config, name, None)
    if module != config.__name__ or not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise ValueError(f'{value["type"]} is not of {config.__name__}')
    return kind(**{field: _read(inner) for field, inner in value.items() if field != 'type'})
