"""Which mesh, and how many rows a microbatch and slots: many are weighed by their shapes, the best of them compiled.

By shapes, a stage's bytes are those of its state, of what a backward pass keeps, and of decoding's weights and cache; its time that of its
products, of reading weights and cache in decoding, and of gathering weights and summing what is split over `tensor`. That is enough to
leave most meshes out; what is reported is compiled.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from r1jax import sharding
from r1jax.checks.models import split
from r1jax.config import DPO, GRPO, Collect, Eval, MeshConfig, ModelConfig, OnPolicy, Recipe, Stage, Stored
from r1jax.nn import transformer
from r1jax.plan import StagePlan, of_stage, program, work
from r1jax.plan.chips import Topology
from r1jax.settings import BadInput

TRIES = 3  # for each mesh that is to fit, so many more may be compiled that do not
ROOM = 0.9  # share of a chip that shapes may fill: they do not know the compiler's temporaries


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A stage on a mesh, weighed by its shapes."""

    stage: Stage  # its mesh, rows a microbatch and slots filled in
    bytes: float  # of a chip, at its fullest
    seconds: float  # between two rollouts, or of a step


def best(
    recipe: Recipe,
    stage: Stage,
    topology: Topology,
    mean: int = 0,
    count: int = 1,
    known: dict[MeshConfig, dict[str, Any]] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[StagePlan]:
    """Plans of the stage on the meshes that are quickest by their shapes, until `count` fit: those first, and then by their time.

    Raises:
      BadInput: no mesh of so many chips suits the stage's sizes.
    """
    found = sorted(candidates(recipe, stage, topology, mean), key=lambda c: (c.seconds, c.bytes))
    if not found:
        raise BadInput(f'{stage.name}: no mesh of {topology.chips} chips divides its sizes')
    room = [c for c in found if c.bytes <= ROOM * topology.chip.memory]
    say(f'{stage.name}: {len(found)} meshes and cuts, of which {len(room)} fit by their shapes')
    order = _meshes_first(room) or sorted(found, key=lambda c: c.bytes)
    models = {each.name: each.model for each in recipe.stages}
    devices, plans, known = topology.devices(), [], {} if known is None else known
    for each in order[: TRIES + count]:
        say(f'{_told(each)}: by shapes {each.bytes / 1e9:.1f} GB')
        try:
            plans.append(of_stage(each.stage, each.stage.mesh, topology, devices, models, mean, known, say))
        except jax.errors.JaxRuntimeError as error:  # the compiler's own; any other would be ours
            say(f'{_told(each)}: does not compile: {str(error).splitlines()[0]}')
        if sum(plan.fits for plan in plans) == count:
            break
    if not plans:
        raise BadInput(f'{stage.name}: none of the {len(order[: TRIES + count])} best meshes compiles')
    return sorted(plans, key=lambda plan: (not plan.fits, plan.loop or math.inf))


def _meshes_first(found: Sequence[Candidate]) -> list[Candidate]:
    """The quickest cut of each mesh, and then the other cuts."""
    first: dict[MeshConfig, Candidate] = {}
    for c in found:
        first.setdefault(c.stage.mesh, c)
    return [*first.values(), *(c for c in found if c is not first[c.stage.mesh])]


def _told(c: Candidate) -> str:
    from r1jax.plan.table import mesh

    rows = f', {c.stage.rows.per_microbatch} rows a microbatch' if c.stage.rows else ''
    slots = f', {c.stage.source.sample.slots} slots' if hasattr(c.stage.source, 'sample') else ''
    return f'{mesh(c.stage.mesh)}{rows}{slots}'


def candidates(recipe: Recipe, stage: Stage, topology: Topology, mean: int = 0) -> Iterator[Candidate]:
    """Every mesh of all chips that the stage's sizes allow, with rows a microbatch and slots that it can have."""
    models = {each.name: each.model for each in recipe.stages}
    shapes = _Shapes(stage, models)
    for cfg in meshes(stage.model, topology, stage.rows.length if stage.rows else 1, (stage.mesh or recipe.mesh)):
        for changed in _cuts(stage, cfg):
            setting = program.Setting(changed, None, models, mean)
            yield Candidate(changed, shapes.bytes(changed, cfg), shapes.seconds(changed, cfg, topology, setting.work))


def meshes(model: ModelConfig, topology: Topology, length: int, like: MeshConfig) -> Iterator[MeshConfig]:
    """Meshes of all chips of a topology whose axes divide the model's sizes and rows of `length` tokens, with the rules of `like`.

    All but fsdp are powers of two, data times the number of slices, which it spans.
    """
    chips = topology.chips // topology.slices
    powers = [2**i for i in range(chips.bit_length()) if chips % 2**i == 0]
    experts = powers if model.moe else [1]
    for data, tensor, expert, sequence in itertools.product(powers, powers, experts, powers):
        rest, over = divmod(chips, data * tensor * expert * sequence)
        if over or not rest or length % sequence:
            continue
        sizes = {'data': data * topology.slices, 'fsdp': rest, 'tensor': tensor, 'expert': expert, 'sequence': sequence}
        cfg = dataclasses.replace(like, **sizes, slices=topology.slices)
        if all(holds for holds, _ in split(model, cfg)):
            yield cfg


def _cuts(stage: Stage, cfg: MeshConfig) -> Iterator[Stage]:
    """The stage on a mesh with as many rows a microbatch as there are places for rows, or more, and its own slots, or fewer."""
    ways, source = cfg.ways('batch'), stage.source
    stage = dataclasses.replace(stage, mesh=cfg, evals=tuple(_eval(e, ways) for e in stage.evals))
    if isinstance(source, Stored):
        yield from _rows(stage, ways, source.batch)
        return
    for slots in _slots(source.sample.slots, source.samples, ways):
        drawn = dataclasses.replace(source.sample, slots=slots)
        stage = dataclasses.replace(stage, source=dataclasses.replace(source, sample=drawn))
        if isinstance(source, OnPolicy):
            yield from _rows(stage, ways, source.questions * source.samples / source.minibatches)
        else:
            yield stage


def _rows(stage: Stage, ways: int, items: float) -> Iterator[Stage]:
    """With rows a microbatch for so many items of an optimizer step."""
    for each in (1, 2, 4, 8):
        if each == 1 or ways * each <= items:
            yield dataclasses.replace(stage, rows=dataclasses.replace(stage.rows, per_microbatch=ways * each))


def _eval(e: Any, ways: int) -> Any:
    if not isinstance(e, Eval) or e.sample is None:
        return e
    slots = _slots(e.sample.slots, e.samples, ways)[-1]
    return dataclasses.replace(e, sample=dataclasses.replace(e.sample, slots=slots))


def _slots(slots: int, samples: int, ways: int) -> list[int]:
    """Multiples of the samples a question and of the places for rows together: near `slots`, and by halves down to the least."""
    unit, out = samples * ways, []
    count = max(slots // unit, 1)
    while count:
        out.append(count * unit)
        count //= 2
    return out


class _Shapes:
    """Sizes of a stage's arrays on any mesh."""

    def __init__(self, stage: Stage, models: Mapping[str, ModelConfig]):
        self.model, self.models = stage.model, models
        boxed = jax.eval_shape(lambda: transformer.init_boxed(self.model, jax.random.key(0)))
        axes = jax.tree.leaves(
            transformer.logical_axes(boxed), is_leaf=lambda p: isinstance(p, jax.sharding.PartitionSpec)
        )
        self.known: dict[tuple[MeshConfig, bool], float] = {}
        self.arrays = [
            (a.shape, tuple(p)) for a, p in zip(jax.tree.leaves(transformer.unbox(boxed)), axes, strict=True)
        ]

    def weights(self, cfg: MeshConfig, whole: bool = False) -> float:
        """Elements of all weights on a chip; `whole`: not split along their width, as in decoding."""
        if (cfg, whole) not in self.known:
            with sharding.ruled(cfg.rules):
                mesh, total = sharding.abstract_mesh(cfg), 0.0
                for shape, axes in self.arrays:
                    names = [None if whole and name in ('embed', 'latent') else name for name in axes]
                    total += math.prod(sharding.named(mesh, *names).shard_shape(shape))
            self.known[cfg, whole] = total
        return self.known[cfg, whole]

    def cache(self, slots: int, size: int, cfg: MeshConfig) -> float:
        """Bytes on a chip of the keys and values of so many slots of `size` tokens."""
        m, two = self.model, 2 if self.model.dtype == 'bfloat16' else 4
        ways = cfg.ways('kv_heads')
        heads = m.kv_heads / ways if m.kv_heads % ways == 0 else m.kv_heads
        a_token = m.mla.kv_rank + m.mla.rotary if m.mla else 2 * heads * m.head_dim
        return slots / cfg.ways('batch') * size * m.layers * a_token * two

    def bytes(self, stage: Stage, cfg: MeshConfig) -> float:
        mine, m, source = self.weights(cfg), self.model, stage.source
        held = 4 * mine
        if not isinstance(source, Collect) and not stage.lora:
            compared = bool(isinstance(stage.loss, GRPO | DPO) and stage.loss.beta)
            held += 8 * mine * ('optimizer' not in stage.offload)
            held += 4 * mine * compared * ('reference' not in stage.offload)
        fullest = held
        if isinstance(source, (OnPolicy, Collect)):
            sample = source.sample
            size = sample.max_prompt + max(sample.max_tokens, *(p.max_tokens or 0 for p in stage.phases), 0)
            fullest += (2 if m.dtype == 'bfloat16' else 4) * self.weights(cfg, whole=True)
            fullest += self.cache(1, sample.pool, cfg) if sample.pool else self.cache(sample.slots, size, cfg)
        if stage.rows:
            tokens = stage.rows.per_microbatch * stage.rows.length / cfg.ways('batch', 'length')
            kept = 4 * tokens * m.width * m.layers * (m.remat != 'offload')
            active = m.moe.active + m.moe.shared if m.moe else 0
            hidden = max(m.hidden, active * m.moe.hidden if m.moe else 0) / cfg.ways('hidden')
            inside = 4 * tokens * (8 * m.width + active * m.width * 2 + 4 * hidden)
            grads = 0 if stage.lora else 4 * mine
            fullest = max(fullest, held + grads + kept + inside)
            if 'optimizer' in stage.offload:  # the moments come at the end of a step
                fullest = max(fullest, held + grads + 8 * mine)
            if 'reference' in stage.offload:  # for its pass, which keeps nothing
                fullest = max(fullest, held + 4 * mine + inside)
        return fullest

    def seconds(self, stage: Stage, cfg: MeshConfig, topology: Topology, w: work.Work) -> float:
        m, chip, split_ = self.model, topology.chip, cfg.ways('hidden') > 1
        link, whole, total = 2 * chip.link, self.weights(cfg, whole=True), 0.0
        sent = (
            4 * m.expert_layers * m.moe.active * m.width if m.moe and cfg.ways('expert') > 1 else 0
        )  # a token, both ways

        def network(tokens):
            return tokens * (2 * m.layers * m.width * 4 * split_ + sent) / link

        if isinstance(stage.source, (OnPolicy, Collect)):
            slots, two = stage.source.sample.slots, 2 if m.dtype == 'bfloat16' else 4
            read = two * whole + self.cache(slots, int(w.deepest), cfg)
            flops = work.forward(m, slots, w.deepest / 2) / cfg.ways('batch') / cfg.ways('hidden')
            a_step = max(read / chip.bandwidth, flops / chip.flops, network(slots / cfg.ways('batch')))
            total += w.tokens / slots * a_step
        if stage.rows:
            tokens = stage.rows.per_microbatch * stage.rows.length / cfg.ways('batch', 'length')
            forward = work.forward(m, tokens, stage.rows.prompts + w.mean / 2) / cfg.ways('hidden')
            gathered = 2 * whole * (cfg.ways('embed') > 1) / link
            one = max(forward / chip.flops, gathered + network(tokens))
            passes, copies = 4 if m.remat == 'full' else 3, 8 * self.weights(cfg) * (cfg.data > 1) / link
            total += w.microbatches * (one * (w.passes + passes * max(w.updates, 1)) + copies * max(w.updates, 1))
        return total
