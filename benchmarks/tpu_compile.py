"""Compiles the update and the sampler of a dense 7B model for TPUs that need not be there, and counts what a chip would do.

    pip install -e '.[tpu]'
    TPU_SKIP_MDS_QUERY=1 JAX_PLATFORMS=cpu python benchmarks/tpu_compile.py --topology v5e:4x4 [--remat full]

Prints one JSON line: operations of products a chip against 6·N·D (8·N·D where everything is rematerialised) and attention, bytes of
collectives against the least (a gather of each weight a pass, one reduce-scatter of the gradients), and
the bytes a chip needs. With --part sample: what is gathered once, and what the decoding loop gathers and moves for each token.
With --attention auto by the platform's kernel, whose operations cannot be counted: bytes alone. --prompts, --block, --blocks and --layers
are sizes of the packed row and of the model.
"""

import argparse
import collections
import dataclasses
import math

import jax
from jax.sharding import Mesh
from workload import emit, now

from r1jax import sharding
from r1jax.config import GRPO, MeshConfig, ModelConfig, OnPolicy, OptimConfig, RowConfig, SampleConfig, Stage, Stored
from r1jax.plan import chips, hlo, programs
from r1jax.plan.program import Setting
from r1jax.rl import logprobs

MODEL = ModelConfig(
    vocab=32_000,
    layers=32,
    width=4096,
    heads=32,
    kv_heads=32,
    head_dim=128,
    hidden=11_008,
    context=4096,
    dtype='bfloat16',
    tied=False,
)
PROMPTS, BLOCK, BLOCKS = 512, 1024, 4  # of a packed row
LENGTH = PROMPTS + BLOCK * BLOCKS


def mesh_of(topology: str, data: int, fsdp: int, tensor: int) -> Mesh:
    devices = chips.parse(topology).devices()
    fsdp = fsdp or len(devices) // (data * tensor)
    return sharding.make_mesh(MeshConfig(data, fsdp, tensor), devices)


def compiled(name: str, stage: Stage, mesh: Mesh):
    """A program of a stage."""
    with jax.set_mesh(mesh):
        found = programs.of_stage(Setting(stage, mesh, {}))
        program = next(each for each in found if each.name == name)
        return program.fn.lower(*program.args).compile()


def update_program(model: ModelConfig, mesh: Mesh, rows: int):
    cut = RowConfig(LENGTH, rows, PROMPTS, BLOCK)
    stage = Stage('update', 1, Stored(None, rows), GRPO(), OptimConfig(1e-6), cut, model=model)
    return compiled('update', stage, mesh)


def sample_program(model: ModelConfig, mesh: Mesh, questions: int, samples: int, prompt: int, new: int):
    drawn = SampleConfig(new, prompt, slots=questions * samples, buckets=1)
    source, cut = OnPolicy(None, drawn, (), questions, samples), RowConfig(prompt + new, questions * samples)
    return compiled('sample', Stage('sample', 1, source, GRPO(), OptimConfig(1e-6), cut, model=model), mesh)


def least(model: ModelConfig, rows: int, remat: str) -> dict[str, float]:
    """Operations and collective bytes of an update of `rows` packed rows on all chips together (operations) and on one (bytes)."""
    c = model
    layer = c.width * c.head_dim * (2 * c.heads + 2 * c.kv_heads) + 3 * c.width * c.hidden
    body, head = c.layers * layer, c.vocab * c.width
    tokens, scored = rows * LENGTH, rows * BLOCK * BLOCKS
    pairs = rows * (PROMPTS**2 + BLOCKS * BLOCK * (PROMPTS + BLOCK))  # as computed: blocks, not triangles
    forward = 2 * body * tokens + 4 * c.layers * c.heads * c.head_dim * pairs
    passes = {'none': 3, 'dots': 3, 'full': 4}[remat]
    gathered = 2 * (body * (passes - 1) + head * 2 + head)  # bf16: each weight in each pass; the embedding once
    return {'flops': passes * forward + 2 * head * scored * 4, 'bytes': gathered + 4 * (body + 2 * head)}


def main() -> None:
    global PROMPTS, BLOCK, BLOCKS, LENGTH
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--topology', default='v5e:4x4')
    parser.add_argument('--data', type=int, default=1)
    parser.add_argument('--fsdp', type=int, default=0, help='default: all chips that data and tensor leave')
    parser.add_argument('--tensor', type=int, default=1)
    parser.add_argument('--remat', choices=('none', 'dots', 'full'), default='full')
    parser.add_argument('--part', choices=('update', 'sample'), default='update')
    parser.add_argument('--attention', choices=('xla', 'auto'), default='xla')
    for name, value in ('prompts', PROMPTS), ('block', BLOCK), ('blocks', BLOCKS), ('layers', MODEL.layers):
        parser.add_argument(f'--{name}', type=int, default=value)
    parser.add_argument('--dump', help='write the HLO text here')
    a = parser.parse_args()
    PROMPTS, BLOCK, BLOCKS = a.prompts, a.block, a.blocks
    LENGTH = PROMPTS + BLOCK * BLOCKS
    mesh = mesh_of(a.topology, a.data, a.fsdp, a.tensor)
    model = dataclasses.replace(MODEL, remat=a.remat, attention=a.attention, layers=a.layers)
    chips, start = mesh.devices.size, now()
    rows = mesh.shape['data'] * mesh.shape['fsdp']
    program = (
        update_program(model, mesh, rows) if a.part == 'update' else sample_program(model, mesh, rows, 8, 512, 1024)
    )
    seconds = now() - start
    text = program.as_text()
    if a.dump:
        with open(a.dump, 'w', encoding='utf-8') as file:
            file.write(text)
    memory = program.memory_analysis()
    common = {
        'part': a.part,
        'topology': a.topology,
        'mesh': dict(mesh.shape),
        'compile_s': round(seconds, 1),
        'temporary_gb': round(memory.temp_size_in_bytes / 1e9, 2),
        'arguments_gb': round(memory.argument_size_in_bytes / 1e9, 2),
    }
    if a.part == 'sample':
        _, moved = hlo.Program(text).total()
        inside = [(n, kind, scope) for (kind, scope), n in moved.items() if 'decode/while' in scope]
        emit(
            **common,
            gathered_once_gb=round(sum(n for (k, s), n in moved.items() if 'decode/while' not in s) / 1e9, 3),
            gathered_a_token_gb=round(sum(n for n, kind, _ in inside if kind == 'all-gather') / 1e9, 6),
            moved_a_token_gb=round(sum(n for n, _, _ in inside) / 1e9, 6),
        )
        return
    if a.attention == 'auto':
        emit(**common, remat=a.remat, kernels=text.count('custom_call_target="tpu_custom_call"'))
        return
    want = least(model, rows, a.remat)
    per_chip = logprobs._LOGITS / (model.vocab / mesh.shape['tensor'])
    chunks = math.ceil(BLOCK * BLOCKS / min(LENGTH, int(per_chip)))
    flops, moved = hlo.Program(text, lambda i: chunks if 'head' in i.scope else None).total()
    kinds = collections.Counter()
    for (kind, _), n in moved.items():
        kinds[kind] += n
    emit(
        **common,
        remat=a.remat,
        tflop_a_chip=round(flops / 1e12, 3),
        tflop_least=round(want['flops'] / chips / 1e12, 3),
        flop_ratio=round(flops / (want['flops'] / chips), 3),
        collective_gb={k: round(v / 1e9, 3) for k, v in kinds.items()},
        collective_gb_least=round(want['bytes'] / 1e9, 3),
        byte_ratio=round(sum(kinds.values()) / want['bytes'], 3),
    )


if __name__ == '__main__':
    main()
