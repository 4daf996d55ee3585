"""Bad folders offered to `r1jax run` as a stage's start: one line that says what is wrong, status 2, and nothing is written or run."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from test_weights_export import byte_tokenizer, llama  # noqa: F401 - a fixture
from test_weights_folder import describe, rewrite, shard, stored

from r1jax.checks import model_differences
from r1jax.cli import main
from r1jax.data.tiny import TinyTokenizer
from r1jax.data.tokenizer import HFTokenizer
from r1jax.presets import named
from r1jax.train import prepare

EXPERIMENT = """
import dataclasses
import toy
from r1jax.data import template, tiny

def recipe():
    whole = toy.recipe()
    zero = dataclasses.replace(whole.stages[1], start={start!r})
    return dataclasses.replace(whole, stages=(zero,), model={model}, tokenizer={tokenizer}, template=template.chat_r1_zero)
"""

HOSTILE = {
    'endless': ('{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}', 'processor time'),
    'huge': ("{{ 'x' * 9999999999 }}", 'memory'),
    'escape': ('{{ messages.__class__.__mro__[1].__subclasses__() }}', 'unsafe'),
}


def refused(tmp_path, capsys, start, model=None, tokenizer=None):
    file = tmp_path / 'experiment.py'
    file.write_text(EXPERIMENT.format(start=f'{start}/', model=model, tokenizer=tokenizer))
    assert main(['run', str(file), '--workdir', str(tmp_path / 'w')]) == 2
    line = capsys.readouterr().err.removeprefix('r1jax: error: ').removesuffix('\n')
    assert '\n' not in line
    assert not (tmp_path / 'w' / 'checkpoints').exists()
    return line


def test_another_family(llama, tmp_path, capsys):  # noqa: F811
    describe(llama, model_type='gpt2')
    assert "model_type 'gpt2' is not supported; supported: llama" in refused(tmp_path, capsys, llama)
    describe(llama, model_type='llama')
    line = refused(tmp_path, capsys, llama, 'toy.MODEL')
    assert "has another shape than the recipe's model: " in line and 'vocab 96 != 64' in line


def test_a_missing_shard(llama, tmp_path, capsys):  # noqa: F811
    shard(llama)
    (llama / 'model-00002-of-00002.safetensors').unlink()
    line = refused(tmp_path, capsys, llama)
    assert line.endswith(
        'lacks model-00002-of-00002.safetensors, which model.safetensors.index.json names: download it'
    )


def test_a_truncated_file(llama, tmp_path, capsys):  # noqa: F811
    file = llama / 'model.safetensors'
    file.write_bytes(file.read_bytes()[:-1])
    assert 'is not a complete safetensors file' in (line := refused(tmp_path, capsys, llama))
    assert line.endswith('download it again')


def test_another_vocabulary(llama, tmp_path, capsys):  # noqa: F811
    describe(llama, vocab_size=100)
    assert 'has shape (96, 32), its configuration says (100, 32)' in refused(tmp_path, capsys, llama)
    tensors = stored(llama)
    cut = {n: np.ascontiguousarray(tensors[n][:50]) for n in ('model.embed_tokens.weight', 'lm_head.weight')}
    rewrite(llama, tensors | cut)
    describe(llama, vocab_size=50)
    assert 'its tokenizer has 93 tokens, but config.json says vocab_size=50' in refused(tmp_path, capsys, llama)


def test_another_tokenizer_of_the_same_size(llama, tmp_path, capsys):  # noqa: F811
    line = refused(tmp_path, capsys, llama, tokenizer='tiny.TinyTokenizer()')
    assert (
        "were trained with another tokenizer than the recipe's: token 0 is '!' to them, but '<unk>' to the recipe"
        in line
    )


def test_the_same_tokenizer_in_another_form(tmp_path):
    """As SentencePiece has it, and as `tokenizers` does; with a token more; and beside a folder that has none, or a broken one."""
    ours = TinyTokenizer().load(str(tmp_path))
    ours.save(tmp_path / 'folder')
    theirs = HFTokenizer.from_file(tmp_path / 'folder' / 'tokenizer.json')
    prepare._refuse_other_tokens('m', SimpleNamespace(tokenizer=theirs), ours)
    theirs._tokenizer.add_tokens(['<more>'])
    more = HFTokenizer(theirs._tokenizer, theirs.eos, theirs.pad)
    assert more.vocab_size == ours.vocab_size + 1
    prepare._refuse_other_tokens('m', SimpleNamespace(tokenizer=more), ours)
    prepare._refuse_other_tokens('m', SimpleNamespace(tokenizer=None), ours)
    prepare._refuse_other_tokens('m', Broken(), ours)


class Broken:
    @property
    def tokenizer(self):
        raise ValueError('not a tokenizer.json')


def test_a_pickle(llama, tmp_path, capsys):  # noqa: F811
    """It would make a file if anything opened it."""
    (llama / 'model.safetensors').unlink()
    (llama / 'pytorch_model.bin').write_bytes(f"cposix\nsystem\n(S'touch {tmp_path}/ran'\ntR.".encode())
    assert 'has its weights as pickles (pytorch_model.bin), which run code' in refused(tmp_path, capsys, llama)
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('name', HOSTILE)
def test_a_hostile_chat_template(llama, tmp_path, capsys, name):  # noqa: F811
    template, says = HOSTILE[name]
    byte_tokenizer(template).save(llama)
    file = llama / 'tokenizer_config.json'
    assert template in (
        json.loads(file.read_text()).get('chat_template') or (llama / 'chat_template.jinja').read_text()
    )
    assert says in refused(tmp_path, capsys, llama)


def test_what_a_recipe_may_choose_for_weights_and_what_it_may_not():
    """Of routers: whether the bias moves, how fast, and replay; not a bias that the weights do not have."""
    v3, qwen = named('DeepSeek-V3'), named('Qwen3-30B-A3B')

    def change(model, **moe):
        return dataclasses.replace(model, moe=dataclasses.replace(model.moe, **moe))

    assert model_differences(change(v3, router_bias='balance', bias_speed=0.01, replay=False), v3) == ''
    free = {'context': 64, 'dtype': 'bfloat16', 'remat': 'full', 'attention': 'xla'}
    assert model_differences(dataclasses.replace(v3, **free), v3) == ''
    assert model_differences(change(qwen, replay=False), qwen) == ''
    assert model_differences(change(qwen, router_bias='balance'), qwen) == 'moe.router_bias none != balance'
    assert model_differences(change(v3, active=4, replay=False), v3) == 'moe.active 8 != 4'
    assert model_differences(dataclasses.replace(qwen, moe=None, layers=2), qwen).startswith('layers 48 != 2, moe MoE(')
