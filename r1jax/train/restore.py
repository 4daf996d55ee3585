"""What a command means by CHECKPOINT: a workdir (`DIR` or `DIR:STAGE`), a Hugging Face folder, or a GGUF.

A workdir says what its weights are by two things that a run writes before its first step: model.json, the resolved `ModelConfig` of
each stage (a recipe may leave it to a weights file), and tokenizer/, as Hugging Face has it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from r1jax import config, sharding, weights
from r1jax.config import MeshConfig, ModelConfig
from r1jax.nn import transformer
from r1jax.presets import PRESETS
from r1jax.record import to_json
from r1jax.settings import BadInput, nearest
from r1jax.train import checkpoint
from r1jax.train.phases import derive
from r1jax.train.start import Lineage, Link
from r1jax.weights import export

MODEL, TOKENIZER = 'model.json', 'tokenizer'


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint, opened."""

    source: export.Source
    template: str | None  # of the stage, as config.json writes it; None: no workdir
    what: str  # in words


def write(workdir: str, models: Mapping[str, ModelConfig], tokenizer: Any) -> None:
    """Writes what `restore` needs to know of a workdir: the model of each stage, and the tokenizer."""
    part = os.path.join(workdir, MODEL + '.part')
    with open(part, 'w', encoding='utf-8') as file:
        json.dump(to_json(models), file, indent=2)
        file.write('\n')
    os.replace(part, os.path.join(workdir, MODEL))
    if hasattr(tokenizer, 'save'):
        tokenizer.save(os.path.join(workdir, TOKENIZER))


def restore(name: str) -> Restored:
    """Opens a checkpoint; a workdir's parameters are read to the host.

    Raises:
      FileNotFoundError, ImportError, ValueError: as `r1jax.weights.load`.
      BadInput: a workdir without a checkpoint, or without the stage.
    """
    folder, _, stage = (name, '', '') if os.path.exists(name) else name.rpartition(':')
    if not os.path.isdir(os.path.join(folder, 'checkpoints')):
        return Restored(weights.opened(name), None, name)
    try:
        with open(os.path.join(folder, 'config.json'), encoding='utf-8') as file:
            recipe = json.load(file)['recipe']
        with open(os.path.join(folder, MODEL), encoding='utf-8') as file:
            models = {name: _model(model) for name, model in json.load(file).items()}
    except (ValueError, KeyError, AttributeError, OSError) as error:
        raise BadInput(f'{folder} is no workdir that a run has begun in: {error!r}') from error
    stages = {each['name']: each for each in recipe['stages']}
    if stage and stage not in stages:
        raise BadInput(f'{folder} has no stage {stage}{nearest(stage, stages)}')
    for each in [stage] if stage else reversed(stages):
        if os.path.isdir(checkpoint.stage_directory(folder, each)):
            with checkpoint.Checkpoints(folder, each) as saved:
                if (step := saved.latest()) is not None:
                    params = None if stages[each].get('lora') else saved.params(step, _like(models[each]))
                    break
    else:
        raise BadInput(f'{folder} has no checkpoint{f" of stage {stage}" if stage else ""}: run it first')
    if params is None:
        lineage = _lineage(folder, recipe, models)
        with jax.set_mesh(lineage.mesh):
            params = lineage.end(each)
    held = export.Held(models[each], params, _tokenizer(folder))
    template = stages[each].get('template') or recipe.get('template')
    return Restored(held, template, f'{folder}, stage {each}, step {step}')


def _lineage(folder: str, recipe: dict, models: Mapping[str, ModelConfig]) -> Lineage:
    """How the stages of a workdir follow from one another, from its config.json; one device holds the weights."""
    links = {
        name: Link(each['start'], derive(recipe['seed'], name), models[name], _model(each.get('lora')))
        for name, each in ((each['name'], each) for each in recipe['stages'])
    }

    def opened(start):
        return None if start in PRESETS else weights.opened(start)

    return Lineage(folder, sharding.make_mesh(MeshConfig()), links, opened)


def _like(model: ModelConfig) -> Any:
    """The parameters as NumPy arrays to be read into; their memory is taken as it is written to."""
    shapes = jax.eval_shape(lambda: transformer.unbox(transformer.init_boxed(model, jax.random.key(0))))
    return jax.tree.map(lambda s: np.empty(s.shape, s.dtype), shapes)


def _tokenizer(folder: str) -> Any:
    from r1jax.data.tokenizer import HFTokenizer

    file = os.path.join(folder, TOKENIZER, 'tokenizer.json')
    return HFTokenizer.from_file(file) if os.path.isfile(file) else None


def _model(value: Any) -> Any:
    """What `to_json` wrote of a dataclass of `r1jax.config`."""
    if isinstance(value, list):
        return tuple(map(_model, value))
    if not isinstance(value, dict):
        return value
    module, _, name = value['type'].partition(':')
    if module != config.__name__ or not dataclasses.is_dataclass(kind := getattr(config, name, None)):
        raise ValueError(f'{value["type"]} is not of {config.__name__}')
    return kind(**{field: _model(inner) for field, inner in value.items() if field != 'type'})
