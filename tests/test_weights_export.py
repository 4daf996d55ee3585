"""Export: folder → r1jax → folder is the same bits, files are dealt by size, and a workdir leaves with what it was trained with."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smallest
import tokenizers
import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from test_families import GOLDEN, NAMES
from test_weights_folder import describe, rewrite, stored
from tiny import MODEL

from r1jax import sharding, weights
from r1jax.cli import main
from r1jax.config import MeshConfig, Stored
from r1jax.data import template
from r1jax.data.tokenizer import HFTokenizer, SentencePiece, train_sentencepiece
from r1jax.nn.transformer import init_boxed, shardings, unbox
from r1jax.settings import override
from r1jax.train import restore, stage
from r1jax.types import Problem
from r1jax.weights import export, safetensors
from r1jax.weights import exported_chat as chat

TEMPLATE = '{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}'


def byte_tokenizer(chat_template=TEMPLATE):
    """A token a byte, and three special ones."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    model = tokenizers.models.BPE({letter: i for i, letter in enumerate(letters[:90])}, [])
    t = tokenizers.Tokenizer(model)
    t.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = tokenizers.decoders.ByteLevel()
    t.add_special_tokens(['<s>', '</s>', '<pad>'])
    return HFTokenizer(t, eos=91, pad=92, chat_template=chat_template, bos=90)


def zeros(cfg):
    shapes = jax.eval_shape(lambda: unbox(init_boxed(cfg, jax.random.key(0))))
    return jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)


@pytest.fixture
def llama(tmp_path):
    folder = shutil.copytree(GOLDEN / 'llama3', tmp_path / 'llama3')
    byte_tokenizer().save(folder)
    (folder / 'generation_config.json').write_text(json.dumps({'eos_token_id': [91, 5], 'temperature': 0.7}))
    return folder


def same_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name].view(np.uint8), b[name].view(np.uint8), name)


@pytest.mark.parametrize('name', NAMES)
def test_a_folder_comes_back_bit_by_bit(name, tmp_path):
    folder, out = str(GOLDEN / name), str(tmp_path / 'out')
    export.write(out, weights.opened(folder))
    same_bits(stored(GOLDEN / name), stored(tmp_path / 'out'))
    assert weights.opened(out).config == weights.opened(folder).config
    loaded = weights.load(folder)  # through float32 parameters on a mesh, as training holds them
    placed = jax.device_put(loaded.params, shardings(loaded.config, sharding.make_mesh(MeshConfig(fsdp=4, tensor=2))))
    export.write(out + '2', export.Held(loaded.config, placed))
    same_bits(stored(GOLDEN / name), stored(tmp_path / 'out2'))


def test_types(llama, tmp_path):
    tensors = stored(llama)
    tensors['model.norm.weight'] = tensors['model.norm.weight'].astype(np.float32)
    rewrite(llama, tensors)
    for dtype, norm, rest in (None, 'float32', 'bfloat16'), ('float32',) * 3, ('float16',) * 3, ('bfloat16',) * 3:
        out = tmp_path / str(dtype)
        export.write(str(out), weights.opened(str(llama)), dtype)
        got = stored(out)
        assert (got['model.norm.weight'].dtype.name, got['lm_head.weight'].dtype.name) == (norm, rest)
        assert json.loads((out / 'config.json').read_text())['torch_dtype'] == rest
    with pytest.raises(ValueError, match=r"no dtype 'int8' of weights \(known: float32, float16, bfloat16\)"):
        export.write(str(tmp_path / 'int8'), weights.opened(str(llama)), 'int8')
    assert not (tmp_path / 'int8').exists()


def test_files_are_dealt_by_size(llama, tmp_path):
    files = export.write(str(tmp_path / 'out'), weights.opened(str(llama)), shard=20_000)
    parts = [file for file in files if file.endswith('.safetensors')]
    assert parts == [f'model-{i + 1:05}-of-{len(parts):05}.safetensors' for i in range(len(parts))] and len(parts) > 2
    sizes = [sum(e.size for e in safetensors.entries(str(tmp_path / 'out' / part)).values()) for part in parts]
    assert max(sizes) <= 20_000
    index = json.loads((tmp_path / 'out' / 'model.safetensors.index.json').read_text())
    assert index['metadata']['total_size'] == sum(sizes) == sum(a.nbytes for a in stored(llama).values())
    jax.tree.map(np.testing.assert_array_equal, *(weights.load(str(f)).params for f in (llama, tmp_path / 'out')))


def test_the_safetensors_library_reads_it(llama, tmp_path):
    library = pytest.importorskip('safetensors', reason='needs pip install safetensors')
    export.write(str(tmp_path / 'out'), weights.opened(str(llama)), 'float32')
    with library.safe_open(tmp_path / 'out' / 'model.safetensors', 'numpy') as file:
        assert file.metadata() == {'format': 'pt'}
        for name, a in stored(llama).items():
            np.testing.assert_array_equal(file.get_tensor(name), a.astype(np.float32))


def test_tokenizer_template_and_generation_go_along(llama, tmp_path):
    source, out = weights.opened(str(llama)), tmp_path / 'out'
    assert source.tokenizer.stops == (5,)
    export.write(str(out), source)
    again = weights.opened(str(out))
    assert again.generation == {'eos_token_id': [91, 5], 'temperature': 0.7, 'bos_token_id': 90, 'pad_token_id': 92}
    a, b = source.tokenizer, again.tokenizer
    assert (a.eos, a.pad, a.bos, a.stops, a.chat_template) == (b.eos, b.pad, b.bos, b.stops, b.chat_template)
    assert a.encode('a+b</s>') == b.encode('a+b</s>')
    meta = json.loads((out / 'config.json').read_text())
    assert (meta['architectures'], meta['eos_token_id'], meta['vocab_size']) == (['LlamaForCausalLM'], 91, 96)


def test_wrong_tokenizer(llama):
    describe(llama, vocab_size=80)
    tensors = stored(llama)
    rewrite(llama, tensors | {n: tensors[n][:80].copy() for n in ('model.embed_tokens.weight', 'lm_head.weight')})
    with pytest.raises(ValueError, match=r'its tokenizer has 93 tokens, but config\.json says vocab_size=80'):
        _ = weights.opened(str(llama)).tokenizer


def test_what_cannot_be_written(tmp_path):
    both = dataclasses.replace(MODEL, qkv_bias=True, qk_norm=True)
    with pytest.raises(ValueError, match='no family has qkv_bias=True, qk_norm=True, mla=None'):
        export.write(str(tmp_path / 'out'), export.Held(both, zeros(both)))
    with pytest.raises(
        ValueError, match=r'parameter stack_0/gate has shape \(32, 48\), its configuration says \(32, 40\)'
    ):
        export.write(str(tmp_path / 'out'), export.Held(dataclasses.replace(MODEL, hidden=40), zeros(MODEL)))
    assert not list(tmp_path.iterdir())  # nothing half written
    (tmp_path / 'file').touch()
    with pytest.raises(FileExistsError, match='is not empty: name a folder that does not exist yet'):
        export.write(str(tmp_path), export.Held(MODEL, zeros(MODEL)))


def test_too_little_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(10, 10, 10))
    with pytest.raises(ValueError, match=r'takes 0\.0 GB, but .* has 0\.0 GB left'):
        export.write(str(tmp_path / 'out'), export.Held(MODEL, zeros(MODEL)))


# --- the command


@pytest.mark.slow
def test_a_run_is_exported_and_goes_on_elsewhere(llama, tmp_path, capsys):
    """From a folder, one step of training, to a folder; what was trained is what was written."""
    recipe = smallest.recipe()
    source = Stored(toy.Texts(), batch=16)
    base = dataclasses.replace(recipe.stages[0], start=str(llama), steps=1, source=source)
    recipe = dataclasses.replace(recipe, stages=(base,), model=None, tokenizer=None, template=template.chat_r1_zero)
    stage.run(recipe, str(tmp_path / 'run'))
    assert main(['export', str(tmp_path / 'run'), str(tmp_path / 'out'), '--dtype', 'stored']) == 0
    assert 'run, stage base, step 1' in capsys.readouterr().out
    before, after = weights.load(str(llama)), weights.load(str(tmp_path / 'out'))
    assert dataclasses.replace(after.config, dtype='float32') == before.config
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before.params, after.params)
    assert 0 < max(jax.tree.leaves(moved)) < 0.05  # a step of 1e-2, clipped by Adam
    held = restore.restore(f'{tmp_path / "run"}:base').source
    jax.tree.map(np.testing.assert_array_equal, held.params, after.params)
    assert 'The assistant first thinks about' in after.tokenizer.chat([{'role': 'user', 'content': '?'}])
    assert main(['export', str(tmp_path / 'out'), str(tmp_path / 'again')]) == 0  # and a folder from a folder
    assert stored(tmp_path / 'again')['model.norm.weight'].dtype == jnp.bfloat16


def test_bad_checkpoints_are_one_sentence(llama, tmp_path, capsys):
    (tmp_path / 'run' / 'checkpoints').mkdir(parents=True)
    for workdir, step in (
        ('old', '8'),
        ('early', '.tmp'),
    ):  # of a version that wrote no stage.json; killed before its first checkpoint
        (tmp_path / workdir / 'checkpoints' / 'zero' / step).mkdir(parents=True)
        (tmp_path / workdir / 'config.json').write_text('{"recipe": {"stages": [{"name": "zero"}]}}')
    for name, says in [
        (tmp_path / 'none', 'no weights at'),
        (tmp_path / 'run', 'is no workdir that a run has begun in'),
        (llama / 'config.json', "cannot read weights of kind '.json'"),
        (tmp_path / 'old', 'has checkpoints of stage zero, but nothing that says of which model: an earlier r1jax'),
        (tmp_path / 'early', 'has no checkpoint: run it first'),
    ]:
        assert main(['export', str(name), str(tmp_path / 'out')]) == 2
        error = capsys.readouterr().err
        assert says in error and error.count('\n') == 1
    assert main(['export', str(llama), str(tmp_path / 'out'), '--adapter']) == 2
    assert 'only a stage of one can have adapters' in capsys.readouterr().err
    assert main(['export', str(llama), str(tmp_path)]) == 2
    assert 'is not empty' in capsys.readouterr().err


def test_a_preset_starts_from_random_weights(tmp_path, monkeypatch):
    from r1jax import presets

    monkeypatch.setitem(presets.PRESETS, 'Tiny-1M', smallest.MODEL)
    recipe = dataclasses.replace(smallest.recipe(), model=None)
    recipe = override(recipe, ['base.start=Tiny-1M', 'base.steps=1'])
    recipe = dataclasses.replace(recipe, stages=recipe.stages[:1])
    summary = stage.run(recipe, str(tmp_path / 'run'))
    assert summary['stages']['base']['steps'] == 1
    found = restore.restore(str(tmp_path / 'run'))
    held = found.source
    assert held.config == smallest.MODEL and restore.chat_template(found) == chat.R1_ZERO
    half = restore.params(found, sharding.make_mesh(MeshConfig(fsdp=2)), 'bfloat16')
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype('bfloat16')), half, held.params)
    export.write(str(tmp_path / 'out'), held)
    tokenizer = weights.load(str(tmp_path / 'out')).tokenizer  # SentencePiece, in the other library's form
    theirs = SentencePiece(tmp_path / 'run' / 'tokenizer.model')
    text = template.r1_zero(Problem(0, '3+4+8=? (mod 10)', '5')) + ' <think> 3+4=7 wait, Sure! </think>'
    assert tokenizer.encode(text) == theirs.encode(text) and tokenizer.decode(theirs.encode(text)) == text


# --- tokenizers and templates


@pytest.fixture(scope='module')
def piece(tmp_path_factory):
    path = tmp_path_factory.mktemp('spm') / 'm.model'
    texts = ['the cat sat on the mat', 'a  dog and the  catalogue', 'then there: 12 + 34 = 46']
    train_sentencepiece(texts * 20, path, vocab=70, symbols=(' <think>', '12', 'the c'))
    return SentencePiece(path)


@pytest.fixture(scope='module')
def converted(piece, tmp_path_factory):
    folder = tmp_path_factory.mktemp('hf')
    piece.save(folder)
    return HFTokenizer.from_file(folder / 'tokenizer.json')


@settings(max_examples=300)
@given(st.text(alphabet='thecaso mnd12+=é▁ ', max_size=40))
def test_a_sentencepiece_tokenizer_is_the_same_in_the_other_form(piece, converted, text):
    for each in (text, text.replace('a', ' <think>'), text.replace('o', 'the cat')):
        assert converted.encode(each) == piece.encode(each)
    ids = [i for i in piece.encode(text) if i > 2]
    assert converted.decode(ids) == piece.decode(ids)


def test_r1_zero_as_a_chat_template():
    tokenizer = byte_tokenizer(chat.R1_ZERO)
    problem = Problem(0, 'What is 1+1?', '2')
    user = {'role': 'user', 'content': problem.prompt}
    assert tokenizer.chat([user]) == template.r1_zero(problem)
    answer = {'role': 'assistant', 'content': ' <think> secret </think> <answer> 2 </answer>'}
    text = tokenizer.chat([user, answer, {'role': 'user', 'content': 'Sure'}])
    assert 'secret' not in text and text.startswith(template.r1_zero(problem) + ' <answer> 2 </answer></s>')
    assert text.endswith('User: Sure. Assistant:')
    with pytest.raises(ValueError, match='begins with a user and has no role system'):
        tokenizer.chat([{'role': 'system', 'content': 'x'}, user])


@pytest.mark.parametrize('name', ['r1jax.data.template:chat_r1_zero', 'own:template', 'r1jax.data.template:r1_zero'])
def test_an_exported_template_asks_as_training_did(name):
    own = byte_tokenizer()
    exported = byte_tokenizer(chat.exported(name, own))
    problem = Problem(0, '1+1?', '2')
    user = {'role': 'user', 'content': problem.prompt}
    asked = {
        'r1jax.data.template:chat_r1_zero': template.chat_r1_zero(problem, own),
        'own:template': own.chat([user]),
        'r1jax.data.template:r1_zero': template.r1_zero(problem),
    }
    assert exported.chat([user]) == asked[name]
    answer = {'role': 'assistant', 'content': '<think> secret </think> 2'}
    assert 'secret' not in exported.chat([user, answer, user]) and ' 2' in exported.chat([user, answer, user])


def test_r1_as_a_chat_template():
    problem = Problem(0, '1+1?', '2')
    user, answer = {'role': 'user', 'content': '1+1?'}, {'role': 'assistant', 'content': '<think> secret </think> 2'}
    name = 'r1jax.data.template:r1'
    exported = byte_tokenizer(chat.exported(name, byte_tokenizer(None)))
    assert exported.chat([user]) == template.r1(problem)
    assert exported.chat([user, answer, user]) == f'{template.r1(problem)} 2</s>{template.r1(problem)}'
    assert exported.chat([{'role': 'system', 'content': 'Be kind.'}, user]) == f'Be kind.{template.r1(problem)}'
    with pytest.raises(ValueError, match='no role tool here'):
        exported.chat([user, {'role': 'tool', 'content': '2'}])
    assert chat.exported(name, byte_tokenizer()) == chat.exported(
        'own:template', byte_tokenizer()
    )  # its own says as much


def test_a_template_that_knows_thinking_stays_as_it_is():
    own = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}"
    assert chat.exported('own:template', byte_tokenizer(own)) == own
    assert chat.exported('own:template', byte_tokenizer(None)) is None
