"""Bad input in one table, each with the one line that the `r1jax` command prints before anything is computed."""

import json
import pathlib
import shutil
import sys

import pytest
import toy

from r1jax.cli import main
from r1jax.weights import safetensors

TOY = toy.__file__
GOLDEN = pathlib.Path(__file__).parent / 'golden'


def written(text: str, name: str = 'variant.py'):
    """A file of this text."""

    def make(folder: pathlib.Path) -> None:
        (folder / name).write_bytes(text.encode('latin-1'))

    return make


def examples(expression: str, *files):
    """The toy experiment with other texts to learn from."""
    text = (
        'import dataclasses, pathlib, toy\nfrom r1jax.data import datasets\nhere = pathlib.Path(__file__).parent\n'
        'def recipe():\n    r = toy.recipe()\n'
        f'    source = dataclasses.replace(r.stages[0].source, examples={expression})\n'
        '    return dataclasses.replace(r, stages=(dataclasses.replace(r.stages[0], source=source),))\n'
    )
    return (written(text), *files)


HOSTILE = """
import dataclasses
import tokenizers
import toy
from r1jax.data.template import chat
from r1jax.data.tokenizer.hugging_face import HFTokenizer

@dataclasses.dataclass(frozen=True)
class Downloaded:
    def load(self, directory):
        letters = tokenizers.Tokenizer(tokenizers.models.BPE({'a': 0, 'b': 1}, []))
        return HFTokenizer(letters, 1, 0, "{{ cycler.__init__.__globals__.os.system('touch pwned') }}", None)

def recipe():
    return dataclasses.replace(toy.recipe(), template=chat, tokenizer=Downloaded())
"""


def llama(change=lambda folder: None):
    """A copy of the small Llama under tests/golden, changed."""

    def make(folder: pathlib.Path) -> None:
        change(pathlib.Path(shutil.copytree(GOLDEN / 'llama3', folder / 'llama3')))

    return make


def described(**values):
    def change(folder: pathlib.Path) -> None:
        file = folder / 'config.json'
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return llama(change)


def cut(folder: pathlib.Path) -> None:
    file = folder / 'model.safetensors'
    file.write_bytes(file.read_bytes()[:-10])


def lacking(folder: pathlib.Path) -> None:
    """Its index names a shard that is not there."""
    tensors = safetensors.entries(str(folder / 'model.safetensors'))
    named = dict.fromkeys(tensors, 'model-00001-of-00002.safetensors') | {'more': 'model-00002-of-00002.safetensors'}
    (folder / 'model.safetensors').rename(folder / 'model-00001-of-00002.safetensors')
    (folder / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': named}))


def pickled(folder: pathlib.Path) -> None:
    (folder / 'model.safetensors').rename(folder / 'pytorch_model.bin')


FROM = '--set base.start={tmp}/'
TABLE = [
    # what is wrong, what makes it, the arguments of `r1jax run`, the line
    ('no such experiment', (), '{tmp}/missing.py', 'no experiment at {tmp}/missing.py'),
    (
        'an experiment without recipe()',
        written('x = 1\n'),
        '{tmp}/variant.py',
        '{tmp}/variant.py is not an experiment: it defines no function recipe()',
    ),
    (
        'an experiment that fails',
        written('def recipe():\n    return nothing\n'),
        '{tmp}/variant.py',
        "{tmp}/variant.py:2: NameError: name 'nothing' is not defined",
    ),
    (
        'an unknown setting',
        (),
        f'{TOY} --set zero.stps=3',
        'zero has no stps; did you mean steps? (known: name, steps, source, loss, optim, rows, start, model, template, environment, '
        'offload, mesh, lora, phases, evals, checkpoint_every, keep_checkpoints, keep_every, keep_best, on_nan, spike, max_skips, '
        'log_samples)',
    ),
    (
        'a value of another type',
        (),
        f'{TOY} --set zero.steps=x',
        "zero.steps takes an integer, not 'x'",
    ),
    (
        'an unknown stage',
        (),
        f'{TOY} --stage zerro',
        'the recipe has no stage zerro; did you mean zero? (known: base, zero)',
    ),
    (
        'a batch that does not divide',
        (),
        f'{TOY} --set zero.source.minibatches=3',
        'zero.source: questions×samples = 4×4 must be a multiple of minibatches=3',
    ),
    (
        'rows that do not divide over the mesh',
        (),
        f'{TOY} --set base.rows.per_microbatch=3 mesh.data=2',
        'base.rows.per_microbatch=3 must be a multiple of mesh data×fsdp = 2',
    ),
    (
        'a mesh larger than the devices',
        (),
        f'{TOY} --set mesh.data=16',
        'mesh data×fsdp×tensor = 16×1×1 needs 16 devices, 8 are here',
    ),
    (
        'lengths beyond the context',
        (),
        f'{TOY} --set model.context=20',
        'zero.source.sample: max_prompt + max_tokens = 16 + 16 = 32 exceeds model.context=20',
    ),
    (
        'a prompt that is too long',
        (),
        f'{TOY} --set zero.source.problems.prompt=12345678901234567',
        "stage zero: the prompt of problem 0 has 17 tokens, sample.max_prompt=16: '12345678901234567'",
    ),
    (
        'an empty dataset',
        (),
        f'{TOY} --set base.source.examples.size=0',
        'stage base: Texts(size=0) is empty',
    ),
    (
        'an empty file',
        examples("datasets.JSONLinesExamples(str(here / 'texts.jsonl'))", written('', 'texts.jsonl')),
        '{tmp}/variant.py',
        'stage base: {tmp}/texts.jsonl is an empty dataset: nothing to learn from or to measure',
    ),
    (
        'a broken JSON line',
        examples(
            "datasets.JSONLinesExamples(str(here / 'texts.jsonl'))",
            written('{"prompt": "1", "response": "2"}\n{"prompt": \n', 'texts.jsonl'),
        ),
        '{tmp}/variant.py',
        'stage base: {tmp}/texts.jsonl:2: not a JSON line: Expecting value at column 13',
    ),
    (
        'a missing extra',
        examples("datasets.ReasoningGym('chain_sum', size=4, seed=0)"),
        '{tmp}/variant.py',
        "the task 'chain_sum' needs reasoning-gym: run pip install 'r1jax[tasks]'",
    ),
    (
        'a truncated GGUF',
        written('GGUF\x03\x00\x00\x00', 'model.gguf'),
        f'{TOY} {FROM}model.gguf',
        '{tmp}/model.gguf is not a complete GGUF file (not enough values to unpack (expected 2, got 0)); download it again',
    ),
    (
        'a workdir that cannot be written to',
        written('', 'file'),
        f'{TOY} --workdir {{tmp}}/file/w',
        'cannot write to the workdir {tmp}/file/w (Not a directory): take another --workdir',
    ),
    (
        'weights that are not there',
        (),
        f'{TOY} {FROM}none',
        'no weights at {tmp}/none; name a Hugging Face folder, a .gguf file, or package:PACKAGE/FILE.gguf',
    ),
    (
        'weights of another family',
        described(model_type='gpt2'),
        f'{TOY} {FROM}llama3',
        "{tmp}/llama3: model_type 'gpt2' is not supported; supported: llama, qwen2, qwen3, deepseek_v3, qwen3_moe",
    ),
    (
        'a missing shard',
        llama(lacking),
        f'{TOY} {FROM}llama3',
        '{tmp}/llama3 lacks model-00002-of-00002.safetensors, which model.safetensors.index.json names: download it',
    ),
    (
        'a truncated safetensors file',
        llama(cut),
        f'{TOY} {FROM}llama3',
        '{tmp}/llama3/model.safetensors is not a complete safetensors file (57726 bytes, but its header says 57736); download it again',
    ),
    (
        'another vocabulary',
        described(vocab_size=100),
        f'{TOY} {FROM}llama3',
        '{tmp}/llama3: tensor lm_head.weight has shape (96, 32), its configuration says (100, 32)',
    ),
    (
        'a pickle offered as weights',
        llama(pickled),
        f'{TOY} {FROM}llama3',
        '{tmp}/llama3 has its weights as pickles (pytorch_model.bin), which run code when they are read: refused. Take the safetensors '
        'of this model, or convert them where you trust them',
    ),
    (
        'a hostile chat template',
        written(HOSTILE),
        '{tmp}/variant.py',
        "evaluation held_out of stage zero: the chat template fails on roles ['user']: access to attribute '__init__' of 'type' object is "
        'unsafe.',
    ),
]


@pytest.mark.parametrize(('made', 'argv', 'line'), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_bad_input_is_one_line(tmp_path, capsys, monkeypatch, made, argv, line):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, 'reasoning_gym', None)  # as where it is not installed
    for make in made if isinstance(made, tuple) else (made,):
        make(tmp_path)
    argv = argv.replace('{tmp}', str(tmp_path)).split()
    assert main(['run', *argv]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err == f'r1jax: error: {line}\n'.replace('{tmp}', str(tmp_path))
    assert not list(tmp_path.rglob('metrics.jsonl')) and not (tmp_path / 'pwned').exists()
