"""Loading a Hugging Face folder: peak host memory and time, onto 8 virtual devices, beside transformers.

    python benchmarks/load.py [--gb 2] [--dtype bfloat16] [--tokens 64] [--folder DIR] [--peer PYTHON]

Generates a folder of random Llama weights (in a temporary place, or in --folder, where it is kept and reused), and reads it
in processes of its own, each after its imports and with the folder in the page cache:

- `sharded`: straight to shards on 8 virtual CPU devices, as stored.
- `sharded_float32`: the same as training loads it. Here the devices are the host, so they hold twice the folder.
- `one`: to one device, and then one forward of --tokens, which is compiled while the weights are read. No compiled program is kept.
- `again`: the same in a process that finds the program that the last one compiled, as `r1jax` commands keep them.
- `transformers`: `from_pretrained(dtype='auto')` and the same forward, by --peer, a Python that has torch and transformers. It maps the
  file, so its forward reads the weights. It takes turns with ours; of each the medians are printed.

Prints one JSON line: for each `load_s`, `forward_s`, `cpu_s` (of both, of all cores; less disturbed by what else runs), `peak_gb` (the
process's peak resident memory, in all), `over_gb` (what of it is neither the weights as the devices hold them nor what the process held
before); `bound_gb`, the folder's size and 1 GB; and of `one` and `again`, load and forward together, `ratio` to `transformers`, in which
what it imports on the way (`import_s`: the model's module) counts as it does for whoever calls it, and `ratio_imported`, where not.
"""

import argparse
import dataclasses
import functools
import importlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--gb', type=float, default=2.0)
    parser.add_argument('--folder')
    parser.add_argument('--peer', help='a Python with torch and transformers')
    parser.add_argument('--dtype', choices=['bfloat16', 'float32'], default='bfloat16')
    parser.add_argument('--tokens', type=int, default=64)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--child', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        run = {
            'make': lambda: make(args.folder, args.gb, args.dtype),
            'transformers': lambda: peer(args.folder, args.tokens),
            'again': lambda: load(args.folder, 1, None, args.tokens),
        }
        ours = ('sharded', 8, None), ('sharded_float32', 8, 'float32'), ('one', 1, None)
        run |= {name: lambda n=devices, d=dtype: load(args.folder, n, d, args.tokens) for name, devices, dtype in ours}
        print(json.dumps(run[args.child]()))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or str(pathlib.Path(temporary, 'model'))
        if not pathlib.Path(folder, 'config.json').exists():
            child(sys.executable, 'make', folder, args)
        files = pathlib.Path(folder).glob('*.safetensors')
        size = sum(warm(file) for file in files)
        result = {'folder_gb': size / 1e9, 'bound_gb': size / 1e9 + 1}
        for name in ('sharded', 'sharded_float32'):
            result[name] = child(sys.executable, name, folder, args)
        turns = {'one': sys.executable, 'again': sys.executable} | ({'transformers': args.peer} if args.peer else {})
        cache = os.environ['XDG_CACHE_HOME'] = str(pathlib.Path(temporary, 'cache'))
        seen: dict[str, list[dict]] = {name: [] for name in turns}
        for _ in range(args.rounds):
            shutil.rmtree(cache, ignore_errors=True)
            for name, python in turns.items():
                seen[name].append(child(python, name, folder, args))
        for name, each in seen.items():
            result[name] = {key: statistics.median(run[key] for run in each) for key in each[0]}
        if args.peer:
            whole = {name: result[name]['load_s'] + result[name]['forward_s'] for name in turns}
            theirs, imported = whole['transformers'], result['transformers']['import_s']
            result['ratio'] = {name: whole[name] / (theirs + imported) for name in ('one', 'again')}
            result['ratio_imported'] = {name: whole[name] / theirs for name in ('one', 'again')}
    print(json.dumps(result))


def child(python: str, name: str, folder: str, args: argparse.Namespace) -> dict:
    call = [python, __file__, '--child', name, '--folder', folder, '--gb', str(args.gb), '--dtype', args.dtype]
    call += ['--tokens', str(args.tokens)]
    flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count=8'.strip()
    env = os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags}
    done = subprocess.run(call, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def warm(file: pathlib.Path) -> int:
    """Reads a file into the page cache; returns its bytes."""
    with open(file, 'rb') as data:
        return sum(map(len, iter(lambda: data.read(2**24), b'')))


def memory() -> tuple[float, float]:
    """Resident memory of this process now and at its peak, GB."""
    lines = dict(line.split(':') for line in pathlib.Path('/proc/self/status').read_text().splitlines())
    return tuple(int(lines[key].split()[0]) * 1024 / 1e9 for key in ('VmRSS', 'VmHWM'))


def model(gb: float, dtype: str):
    """A Llama whose weights take about `gb` GB."""
    from r1jax.config import ModelConfig

    D, F, V, H, N, K = 2048, 5632, 32000, 128, 16, 4
    layer = 2 * D * H * (N + K) + 3 * D * F
    layers = max(1, round((gb * 1e9 / {'bfloat16': 2, 'float32': 4}[dtype] - 2 * V * D) / layer))
    return ModelConfig(V, layers, D, N, K, H, F, context=4096, tied=False)


def make(folder: str, gb: float, dtype: str) -> dict:
    import jax
    import numpy as np

    from r1jax.nn.transformer import init_boxed, unbox
    from r1jax.weights import export, safetensors

    class Random:
        config, tokenizer, generation, skipped = model(gb, dtype), None, {}, ()
        shapes = jax.eval_shape(lambda: unbox(init_boxed(model(gb, dtype), jax.random.key(0))))
        rng = np.random.default_rng(0)

        def kind(self, path, layer):
            return safetensors.named(dtype)

        def leaf(self, path, layer):
            shape = functools.reduce(lambda tree, name: tree[name], path, self.shapes).shape
            shape = shape if layer is None else shape[1:]
            return self.rng.standard_normal(shape, np.float32) * np.float32(self.config.width**-0.5)

    return {'files': export.write(folder, Random(), dtype)}


def load(folder: str, devices: int, dtype: str | None, tokens: int) -> dict:
    """Imports and the mesh first, so that loading is timed alone."""
    from r1jax import runtime

    runtime.configure()  # as the `r1jax` command does
    import jax
    import jax.numpy as jnp

    from r1jax import sharding, weights
    from r1jax.config import MeshConfig
    from r1jax.nn.transformer import forward, shardings, unembedding

    mesh = sharding.make_mesh(MeshConfig(fsdp=devices))
    row = jnp.ones((1, tokens), jnp.int32)

    def compiled(config, params):
        if devices > 1:  # eight devices that share two cores would say nothing of a forward
            return None
        config = dataclasses.replace(config, dtype=params['embed'].dtype.name)

        def logits(params, row):
            place, segment = jnp.arange(tokens)[None], jnp.zeros((1, tokens), jnp.int32)
            hidden, _, _ = forward(config, params, row, place, segment, segment - 1)
            return hidden[:, -1].astype(config.dtype) @ unembedding(params).T

        return jax.jit(logits).lower(params, row).compile()

    before, _ = memory()
    start, spent = time.perf_counter(), time.process_time()
    loaded, logits = weights.load_and_compile(folder, compiled, lambda config: shardings(config, mesh), dtype)
    params = jax.block_until_ready(loaded.params)
    ready, (_, peak) = time.perf_counter(), memory()
    held = sum(a.nbytes for a in jax.tree.leaves(params)) / 1e9
    out = {'load_s': ready - start, 'peak_gb': peak, 'before_gb': before, 'weights_gb': held}
    out['over_gb'] = peak - before - held
    if logits:
        assert bool(jnp.isfinite(logits(params, row)).all())
        out |= {'forward_s': time.perf_counter() - ready, 'peak_gb': memory()[1]}
    return out | {'cpu_s': time.process_time() - spent}


def peer(folder: str, tokens: int) -> dict:
    import torch
    import transformers

    before, _ = memory()
    start = time.perf_counter()
    kind = json.loads(pathlib.Path(folder, 'config.json').read_text())['model_type']
    importlib.import_module(f'transformers.models.{kind}.modeling_{kind}')
    imported, spent = time.perf_counter() - start, time.process_time()
    start = time.perf_counter()
    net = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype='auto')
    loaded, (_, peak) = time.perf_counter(), memory()
    with torch.no_grad():
        assert bool(torch.isfinite(net(torch.ones(1, tokens, dtype=torch.long)).logits[:, -1]).all())
    spent = time.process_time() - spent
    out = {'load_s': loaded - start, 'forward_s': time.perf_counter() - loaded, 'cpu_s': spent, 'import_s': imported}
    return out | {'peak_gb': peak, 'before_gb': before}


if __name__ == '__main__':
    main()
