"""Folders beside transformers, live: what it writes we read, what we write it reads, with the same logits and the same greedy text.

Run with `pytest -m reference`, after `pip install 'r1jax[reference]'`.
"""

import copy
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from test_families import CLOSE, GOLDEN, compare
from test_weights_export import TEMPLATE, byte_tokenizer

from r1jax import weights
from r1jax.sample import Decode, Prompts, sample, sample_keys
from r1jax.weights import export
from r1jax.weights import exported_chat as chat

pytestmark = [pytest.mark.reference, pytest.mark.timeout(900)]

WHY = "needs pip install 'r1jax[reference]'"
torch = pytest.importorskip('torch', reason=WHY)
transformers = pytest.importorskip('transformers', reason=WHY)
sys.path.insert(0, str(GOLDEN))
make = __import__('make')


@pytest.fixture(scope='module', params=make.FAMILIES)
def family(request, tmp_path_factory):
    """A model by transformers with other weights than the golden one, three layers and several files; and its folder."""
    kind, change = make.FAMILIES[request.param]
    net = make.model(make.config(kind, change, num_hidden_layers=3), seed=100)
    folder = tmp_path_factory.mktemp(request.param)
    narrow(net).save_pretrained(folder, max_shard_size='30KB')
    byte_tokenizer().save(folder)
    assert (folder / 'model.safetensors.index.json').exists()
    return net, folder


def narrow(net):
    """A copy in bfloat16: converting a model in place would convert RoPE's frequencies, too, and for good."""
    return copy.deepcopy(net).bfloat16()


def test_logits(family):
    net, folder = family
    loaded = weights.load(str(folder))
    differ = compare(loaded.config, loaded.params, make.golden(net, seed=100))
    assert max(differ.values()) < CLOSE, differ


def test_the_export_is_the_model(family, tmp_path):
    """Loaded by transformers: every tensor bit by bit, the same greedy text as ours, the chat template and the end tokens."""
    net, folder = family
    source = weights.opened(str(folder))
    export.write(
        str(tmp_path / 'out'), source, shard=40_000, chat_template=chat.exported('own:template', source.tokenizer)
    )
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'out', dtype='auto')
    assert theirs.dtype == torch.bfloat16 and type(theirs) is type(net)
    before, after = narrow(net).state_dict(), theirs.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name].view(torch.int16), after[name].view(torch.int16)) for name in before)

    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / 'out')
    messages = [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': '<think> a </think>b'}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == '<|user|>Hi<|assistant|>b<|assistant|>' and TEMPLATE in tokenizer.chat_template
    ids = tokenizer(text, add_special_tokens=False)['input_ids']
    assert ids == source.tokenizer.encode(text)

    loaded, new = weights.load(str(tmp_path / 'out')), 40
    rows, length, zero = np.array([ids]), np.array([len(ids)]), np.zeros(1, np.int32)
    rollout = sample(
        loaded.params,
        Prompts(jnp.asarray(rows), jnp.asarray(length), jnp.asarray(zero)),
        sample_keys(0, 0, zero, zero),
        np.full(1, new),
        Decode(
            loaded.config,
            max_tokens=new,
            stop=(loaded.tokenizer.eos, *loaded.tokenizer.stops),
            pad=loaded.tokenizer.pad,
        ),
        temperature=0.0,
    )
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'out', dtype=torch.float32)
    with torch.no_grad():
        out = theirs.generate(torch.tensor([ids]), max_new_tokens=new, do_sample=False)
    said = out[0, len(ids) :].tolist()
    ours = np.asarray(rollout.tokens[0])[np.asarray(rollout.sampled[0])].tolist()
    assert ours == said and len(said) > 1


def test_greedy_text_of_smollm2(tmp_path):
    """The real model, through an export of the GGUF: transformers goes on as we do."""
    try:
        found = weights.opened(weights.SMOLLM2)
    except (ImportError, FileNotFoundError) as error:
        pytest.skip(str(error))
    export.write(str(tmp_path / 'out'), found, 'float32')
    net = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'out')
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / 'out')
    asked = tokenizer.apply_chat_template([{'role': 'user', 'content': 'What is the capital of France?'}], tokenize=False,
                                          add_generation_prompt=True)  # fmt: skip
    inputs = tokenizer(asked, return_tensors='pt', add_special_tokens=False)
    with torch.no_grad():
        out = net.generate(**inputs, max_new_tokens=24, do_sample=False)
    assert 'Paris' in tokenizer.decode(out[0, inputs['input_ids'].shape[1] :])
