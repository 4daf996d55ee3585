"""The house rules about imports, read from the sources: one door for each dependency, one direction, pure rooms."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / 'r1jax').rglob('*.py'))

DOORS = {  # outside package -> the only file (few: the only ones) that imports it; jax and numpy are everywhere
    'datasketch': 'curate/duplicates.py',
    'flax': 'nn/transformer.py',
    'gguf': 'weights/gguf.py',
    'grain': 'data/store.py',
    'httpx2': 'rewards/endpoint.py',
    'jinja2': 'data/chat.py',
    'latex2sympy2_extended': 'rewards/formulas.py',
    'lm_eval': 'evals/harness.py',
    'math_verify': 'rewards/formulas.py',
    'optax': 'train/optim.py',
    'orbax': 'train/checkpoint.py',
    'packaging': 'doctor.py',
    'prometheus_client': 'serve/metrics.py',
    'py3langid': 'rewards/language.py',
    'pyarrow': 'data/rows.py',
    'reasoning_gym': 'data/datasets.py',
    'rich': ('serve/terminal.py', 'train/live.py'),  # two things that are drawn
    'sentencepiece': 'data/tokenizer/pieces.py',
    'starlette': 'serve/app.py',
    'sympy': 'rewards/formulas.py',
    'tensorboardX': 'train/log.py',
    'tensorflow_datasets': 'data/datasets.py',
    'tokenizers': 'data/tokenizer/hugging_face.py',
    'tyro': 'cli/arguments.py',
    'uvicorn': 'serve/server.py',
    'wandb': 'train/board.py',
    'yaml': 'data/rows.py',
}

_NN = {'types', 'config', 'sharding', 'resharding'}
_TOP = {'distributed', 'pulse', 'settings', 'checks', 'presets', 'record', 'workdir'}
ROOMS = {  # room -> rooms it may import from, besides itself
    'types': {'arrays'},  # lazily: device values bring jax
    'arrays': set(),
    'config': {'types'},
    'presets': {'config', 'presets_moe'},
    'presets_moe': {'config'},
    'algorithms': {'config'},
    'sharding': {'types', 'config'},
    'resharding': {'config', 'sharding'},
    'nn': _NN,
    'rl': {*_NN, 'nn'},
    'sample': {*_NN, 'nn'},
    'data': {'types'},
    'weights': {'__init__', 'types', 'config', 'presets', 'data'},
    'rewards': {'types', 'config', 'data', 'pulse'},  # never nn: a reward model's scoring function is passed in
    'curate': {'types', 'config', 'rewards'},
    'environments': {'types', 'config', 'rewards', 'data'},  # called by the processes that grade: no jax
    'evals': {
        *_NN,
        'nn',
        'rl',
        'sample',
        'pulse',
        'rewards',
        'data',
        'weights',
        'settings',
        'grade',
        'columns',
        'train.log',
    },
    'train': {*_NN, *_TOP, 'nn', 'rl', 'sample', 'data', 'weights', 'rewards', 'curate', 'evals', 'report'},
    # the names of files, what counts as right and as reflection, what the papers report, and nothing that would start jax
    'report': {
        'train.log',
        'rewards.accuracy',
        'rewards.language',
        'rewards.reflection',
        'evals.paper',
        'evals.results',
        'evals.harness_tasks',
    },
    'serve': {'__init__', 'config', 'sharding', 'sample', 'data', 'train.restore', 'settings'},
    'settings': {'config'},
    'checks': {'config', 'presets', 'settings'},
    'record': {'config', 'settings'},
    'workdir': {'config', 'settings', 'record'},
    'plan': {*_NN, *_TOP, 'nn', 'rl', 'sample', 'weights', 'train.optim', 'train.phases', 'train.step'},
    'runtime': set(),
    'distributed': {'runtime', 'settings'},
    'pulse': set(),
    'new': {'settings'},
    'doctor': {'types', 'config', 'sharding', 'rewards'},
    'columns': set(),
    'evaluate': {*_NN, 'settings', 'data', 'rewards', 'sample', 'train', 'evals', 'columns', 'report'},
    'grade': {'types', 'data', 'rewards', 'settings', 'columns'},  # and nothing that would start jax
    'cli': {
        '__init__',
        'runtime',
        'distributed',
        'checks',
        'settings',
        'data',
        'train',
        'weights',
        'report',
        'grade',
        'new',
        'doctor',
        'plan',
        'evaluate',
        'evals.results',
        'serve',
    },
    '__main__': {'cli'},
    '__init__': set(),
}

PURE = [f for f in FILES if f.parent.name in ('nn', 'rl', 'sample') or f.match('train/step.py')]
_WORLD = {'os', 'pathlib', 'shutil', 'subprocess', 'sys', 'time', 'random', 'tempfile', 'logging', 'urllib', 'socket'}


def imports(path: pathlib.Path) -> set[str]:
    """Dotted names of the modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f'{path}: imports are absolute'
            for alias in node.names:  # `from r1jax.train import log` imports r1jax.train.log
                inner = ROOT / node.module.replace('.', '/') / alias.name
                is_module = inner.is_dir() or inner.with_suffix('.py').is_file()
                found.add(f'{node.module}.{alias.name}' if is_module else node.module)
    return found


def inside(path: pathlib.Path) -> str:
    return path.relative_to(ROOT / 'r1jax').as_posix()


def test_each_dependency_has_one_door():
    doors: dict[str, set[str]] = {}
    for path in FILES:
        for package in {name.partition('.')[0] for name in imports(path)} - {'r1jax', 'jax', 'numpy'}:
            if package not in sys.stdlib_module_names:
                doors.setdefault(package, set()).add(inside(path))
    assert doors == {package: {door} if isinstance(door, str) else {*door} for package, door in DOORS.items()}


def test_torch_is_for_reference_tests_only():
    for path in [*FILES, *(ROOT / 'experiments').glob('*.py')]:
        assert not {'torch', 'transformers', 'tensorflow'} & {name.partition('.')[0] for name in imports(path)}, path


@pytest.mark.parametrize('path', FILES, ids=inside)
def test_imports_flow_one_way(path):
    room = path.relative_to(ROOT / 'r1jax').parts[0].removesuffix('.py')
    for name in imports(path):
        if name == 'r1jax' or name.startswith('r1jax.'):
            module = name.removeprefix('r1jax').removeprefix('.') or '__init__'
            allowed = {module, module.partition('.')[0]} & {*ROOMS[room], room}
            assert allowed, f'{inside(path)} imports {name}, but {room} may import from {sorted(ROOMS[room])}'


@pytest.mark.parametrize('path', PURE, ids=inside)
def test_pure_rooms_do_not_touch_the_world(path):
    assert not {name.partition('.')[0] for name in imports(path)} & _WORLD
    calls = [node.func.id for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
             if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]  # fmt: skip
    assert not {'print', 'open', 'input'} & set(calls)


@pytest.mark.parametrize(
    ('modules', 'heavy'),
    [
        ('r1jax.cli', ['jax', 'flax', 'optax', 'orbax', 'tensorflow_datasets', 'grain', 'numpy', 'rich']),
        (
            'r1jax.grade, r1jax.report.diagnosis, r1jax.settings',
            ['jax', 'flax', 'optax', 'orbax', 'tensorflow_datasets', 'grain', 'rich'],
        ),
    ],
)
def test_what_does_not_train_starts_without_jax(modules, heavy):
    code = f'import sys, {modules}; print(*[m for m in {heavy} if m in sys.modules])'
    loaded = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert loaded.stdout.split() == []
