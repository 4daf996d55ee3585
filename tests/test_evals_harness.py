"""Log-likelihoods against plain full passes; and lm-eval through our adapter against its own Hugging Face backend on the same weights."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from test_families import GOLDEN
from test_weights_export import byte_tokenizer
from tiny import MODEL, full_logits, params_of

from r1jax import sharding, weights
from r1jax.config import MeshConfig
from r1jax.evals.likelihood import likelihoods

WORDS = 'the cat sat on a mat and then it ran to the old red barn'.split()


def test_likelihoods_are_those_of_a_full_pass():
    rng, params = np.random.default_rng(0), params_of()
    sequences = [rng.integers(0, MODEL.vocab, n).tolist() for n in (2, 9, 40, 70, 97)]
    asked = [1, 8, 5, 69, 96]
    rows = np.zeros((5, 96), np.int32)
    for row, ids in zip(rows, sequences, strict=True):
        row[: len(ids) - 1] = ids[:-1]
    logp = np.asarray(jax.nn.log_softmax(full_logits(MODEL, params, rows)))
    # one that is what the model would say
    sequences[1][-1], asked[1] = int(logp[1, 7].argmax()), 1
    with jax.set_mesh(sharding.make_mesh(MeshConfig())):
        found = likelihoods(MODEL, params, sequences, asked, tokens=200)
    for i, (ids, n) in enumerate(zip(sequences, asked, strict=True)):
        places = np.arange(len(ids) - 1 - n, len(ids) - 1)
        assert found[i][0] == pytest.approx(logp[i, places, ids[-n:]].sum(), abs=1e-3)
        assert found[i][1] == bool((logp[i, places].argmax(-1) == ids[-n:]).all())
    assert found[1][1] and not found[3][1]
    with pytest.raises(ValueError, match='the context has 96'):
        likelihoods(MODEL, params, [[1] * 98], [1])
    with pytest.raises(ValueError, match='2 tokens are asked of a sequence of 2'):
        likelihoods(MODEL, params, [[1, 2]], [2])


# --- lm-eval


@pytest.fixture(scope='module', params=['plain', 'begun'])
def folder(tmp_path_factory, request):
    """A model whose tokenizer puts nothing in front of a text, and one whose files have a begin token there, as Llama 3's."""
    folder = shutil.copytree(GOLDEN / 'llama3', tmp_path_factory.mktemp('hf') / 'llama3')
    byte_tokenizer().save(folder)
    if request.param == 'begun':
        begin = {'SpecialToken': {'id': '<s>', 'type_id': 0}}
        text = [{'Sequence': {'id': name, 'type_id': 0}} for name in 'AB']
        special = {'<s>': {'id': '<s>', 'ids': [90], 'tokens': ['<s>']}}
        said = {
            'type': 'TemplateProcessing',
            'single': [begin, text[0]],
            'pair': [begin, *text],
            'special_tokens': special,
        }
        file = folder / 'tokenizer.json'
        file.write_text(json.dumps(json.loads(file.read_text()) | {'post_processor': said}))
    return str(folder)


@pytest.fixture(scope='module')
def ours(folder):
    harness = pytest.importorskip(
        'r1jax.evals.harness', exc_type=ImportError, reason="needs lm-eval: pip install 'r1jax[evals]'"
    )
    mesh = sharding.make_mesh(MeshConfig())
    loaded = weights.load(folder)
    with jax.set_mesh(mesh):
        yield harness.Harness(loaded.config, jax.device_put(loaded.params), loaded.tokenizer, slots=4)


@pytest.fixture(scope='module')
def theirs(folder):
    models = pytest.importorskip('lm_eval.models.huggingface')
    return models.HFLM(pretrained=folder, dtype='float32', device='cpu', batch_size=4)


@pytest.fixture
def task(tmp_path):
    """A local task of four choices."""
    rng = np.random.default_rng(0)
    rows = [
        {
            'question': ' '.join(rng.choice(WORDS, 5)),
            'choices': rng.choice(WORDS, 4, replace=False).tolist(),
            'label': int(rng.integers(4)),
        }
        for _ in range(24)
    ]
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'rows.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    (tmp_path / 'four.yaml').write_text(
        f'task: four_choices\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {tmp_path}/data/rows.jsonl\n'
        'test_split: test\noutput_type: multiple_choice\ndoc_to_text: "{{question}}"\ndoc_to_choice: "{{choices}}"\n'
        'doc_to_target: "{{label}}"\nmetric_list:\n  - metric: acc\n  - metric: acc_norm\n'
    )
    return str(tmp_path)


def test_a_begin_token_stands_in_front_where_the_tokenizers_files_say_so(ours, folder):
    begin = [90] if ours.ours.opening else []
    assert ours.tok_encode('a') == [*begin, *ours.ours.encode('a')] and ours.ours.encode('a')[0] != 90
    assert ours.tok_encode('a', add_special_tokens=False) == ours.ours.encode('a')
    assert ours.tok_encode('<s>a') == [90, *ours.ours.encode('a')]  # once
    assert bool(begin) == ('"TemplateProcessing"' in pathlib.Path(folder, 'tokenizer.json').read_text())


def request(kind, *args):
    from lm_eval.api.instance import Instance

    return Instance(kind, {}, args, 0)


@pytest.mark.reference
def test_a_local_task_gives_what_lm_evals_own_backend_gives(ours, theirs, task, monkeypatch):
    from r1jax.evals import harness

    monkeypatch.setenv('HF_DATASETS_CACHE', f'{task}/cache')
    mine, lines = harness.evaluate(ours, 'lm-eval:four_choices', task)
    other, their_lines = harness.evaluate(theirs, 'lm-eval:four_choices', task)
    assert mine['questions'] == 24 and 0 < mine['acc'] < 1
    assert (mine['acc'], mine['acc_norm']) == (other['acc'], other['acc_norm']) and mine['acc_ci'] == other['acc_ci']
    for a, b in zip(lines, their_lines, strict=True):
        for x, y in zip(a['filtered_resps'], b['filtered_resps'], strict=True):
            assert x[0] == pytest.approx(y[0], abs=1e-3) and x[1] == y[1]
    with pytest.raises(ValueError, match="no task 'five_choices'"):
        harness.evaluate(ours, 'lm-eval:five_choices', task)


@pytest.mark.reference
def test_texts_and_rolling_likelihoods_too(ours, theirs):
    text = ' '.join(WORDS * 4)  # longer than the context of 128
    rolling = [request('loglikelihood_rolling', t) for t in (text, 'a mat')]
    assert ours.loglikelihood_rolling(rolling) == pytest.approx(
        theirs.loglikelihood_rolling(rolling, True), rel=1e-4, abs=1e-3
    )
    # other words: of requests that are the same tokens together, its backend reads one's logits for the other's
    empty = [request('loglikelihood', '', 'the cat'), request('loglikelihood', 'an old ', 'cat')]
    for (a, _), (b, _) in zip(ours.loglikelihood(empty, True), theirs.loglikelihood(empty, True), strict=True):
        assert a == pytest.approx(b, abs=1e-3)
    plain = [request('generate_until', w, {'until': [], 'max_gen_toks': 12}) for w in (text, 'the cat', 'an old')]
    said = ours.generate_until(plain)
    assert said == theirs.generate_until(plain, True) and any(said)
    stop = next(s for s in said if len(s) > 3)[2]
    cut = [request('generate_until', r.args[0], {'until': [stop], 'max_gen_toks': 12}) for r in plain]
    assert ours.generate_until(cut) == [s.split(stop)[0] for s in said]
    with pytest.raises(ValueError, match='num_beams'):
        ours.generate_until([request('generate_until', 'a', {'num_beams': 2})])
