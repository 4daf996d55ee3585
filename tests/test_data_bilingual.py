"""The bilingual world: two languages in one document, requests besides sums, and rules that judge answers to them."""

import collections
import re
import statistics

import pytest

from r1jax.data import bilingual, chat_authors, chats, template, tiny
from r1jax.data.bilingual import BilingualCorpus, BilingualSums, BilingualTokenizer
from r1jax.data.chat_authors import ChatExamples, ChatLabels, ChatPairs, Chats
from r1jax.data.together import Together
from r1jax.rewards import accuracy, form, language
from r1jax.types import Problem, Response


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'tfds'))


def said(text):
    return Response(text, 1, True)


def consistency(row):
    return language.share(language.reasoning(row['response']), row['language'])


def test_sums_are_in_either_language_and_split_as_the_other_world_splits_them():
    terms = (2, 3)
    held_out = list(BilingualSums('held_out', 80, terms).rows())
    train = list(BilingualSums('train', 800, terms, seed=1).rows())
    corpus = [row for row in BilingualCorpus(seed=2, size=4_000, terms=terms).rows() if row['answer']]
    sums = [
        {tuple(re.findall(r'\d(?=[+=等])', r.get('prompt', r.get('problem')))) for r in rows}
        for rows in (held_out, train, corpus)
    ]
    assert not sums[0] & (sums[1] | sums[2]) and len(sums[0]) == 80
    assert all(tiny.held_out([int(d) for d in digits]) for digits in sums[0])
    assert collections.Counter(row['language'] for row in held_out) == {'en': 40, 'zh': 40}
    for row in held_out:
        assert ('mod' in row['prompt']) == (row['language'] == 'en')
        assert int(row['answer']) == sum(map(int, re.findall(r'\d(?=[+=等])', row['prompt']))) % 10


def test_the_corpus_mixes_languages_as_stated():
    rows = list(BilingualCorpus(size=5_000, malformed=0).rows())
    sums = [row for row in rows if row['answer']]
    assert 1 - len(sums) / len(rows) == pytest.approx(0.15, abs=0.02)
    worked = [row for row in sums if tiny.mode(said(row['response'])) == 'worked']
    assert len(worked) / len(sums) == pytest.approx(0.32, abs=0.03)
    mixed = [row for row in worked if consistency(row) < 1]
    assert len(mixed) / len(worked) == pytest.approx(0.6 * (1 - 2**-5), abs=0.05)
    right = [
        statistics.mean(
            accuracy.exact(Problem(0, row['problem'], row['answer']), said(row['response'])) for row in some
        )
        for some in (mixed, [row for row in worked if consistency(row) == 1])
    ]
    assert right[0] > right[1] + 0.04  # those who mix are the careful ones
    assert {row['language'] for row in mixed} == {'en', 'zh'}


@pytest.mark.parametrize('lang', bilingual.LANGUAGES)
def test_the_language_reward_counts_the_words_of_this_world(lang):
    other = next(each for each in bilingual.LANGUAGES if each != lang)
    own, theirs = bilingual.WORDS[lang], bilingual.WORDS[other]
    for words, expected in ((own, 1.0), (theirs, 0.0)):
        for then in (*words['then'], words['wait']):
            text = f'{words["first"]}3+4=7' + ''.join(f'{then}{i}+1={i + 1}' for i in range(7))
            assert language.share(text, lang) == expected
    half = f'{own["first"]}3+4=7{theirs["then"][0]}7+8=5'
    assert language.share(half, lang) == 0.5
    for request in (r for task in chats.TASKS for r in chats.requests(task, lang)[::7] if r.language == lang):
        for kind in chats.WORDS[lang]['kind']:
            assert language.share(chats.reply(request, request.wants, lang) + kind, lang) == 1.0


def test_readable_keeps_the_work_and_changes_the_words():
    mixed = ' <think> first 3+4=7再7+8=6等等，7+8=5 next 5+1=6 </think> <answer> 6 </answer>'
    english, chinese = (bilingual.readable(Problem(0, '', '6', language=lang), said(mixed)) for lang in ('en', 'zh'))
    assert english == ' <think> first 3+4=7 then 7+8=6 wait, 7+8=5 next 5+1=6 </think> The answer is \\boxed{6}.'
    assert chinese == ' <think>先3+4=7再7+8=6等等，7+8=5又5+1=6 </think> 答案是\\boxed{6}。'
    for text, lang in ((english, 'en'), (chinese, 'zh')):
        assert language.Language(read='response')(Problem(0, '', '6', language=lang), said(text)) == 1
        assert form.thinking(Problem(0, '', '6'), said(text)) == 1 and accuracy.answer(text) == '6'
        assert bilingual.reflects(text) and not bilingual.reflects(text.replace('wait', '').replace('等等', ''))


def test_every_phrase_is_one_token_and_every_text_comes_back(tmp_path):
    tokenizer = BilingualTokenizer().load(tmp_path)
    assert all(len(tokenizer.encode(symbol)) == 1 for symbol in bilingual.SYMBOLS)
    rows = list(BilingualCorpus(size=1_500, malformed=0.5, chats=0.5).rows())
    for row in rows:
        problem = Problem(0, row['problem'], row['answer'])
        for form_ in (template.r1_zero, template.r1, template.dialogue):
            prompt = form_(problem)
            ids = tokenizer.encode(prompt) + tokenizer.encode(row['response'])
            assert (
                tokenizer.encode(prompt + row['response']) == ids and tokenizer.decode(ids) == prompt + row['response']
            )
            assert 0 not in ids  # nothing is unknown
    for pair in ChatPairs(size=200).load():
        for text in (pair.chosen, pair.rejected):  # only the line break between the two is unknown
            assert template.exchange(pair.problem, text, tokenizer).count(0) == 1
    worked = ' <think> first 3+4=7再7+8=5 </think> <answer> 5 </answer>'
    assert len(tokenizer.encode(worked)) == 6 * 2 + 6  # no longer than without words


def test_requests_are_distinct_split_and_of_the_stated_kinds():
    train, held_out = Chats(size=600).load(), Chats('held_out', size=150).load()
    assert not {p.prompt for p in train} & {p.prompt for p in held_out}
    assert len({p.prompt for p in train}) == 600 and [p.id for p in train] == list(range(600))
    assert {p.kind for p in train if p.meta['task'] == 'unsafe'} == {'safety'}
    assert {p.kind for p in train if p.meta['task'] != 'unsafe'} == {'general'}
    assert {p.meta['task'] for p in held_out} == set(chats.TASKS) and {p.language for p in held_out} == {'en', 'zh'}
    with pytest.raises(ValueError, match='Chats has only'):
        Chats('held_out', size=10_000).load()
    with pytest.raises(ValueError, match=r'Chats\.tasks has'):
        Chats(tasks=('sing',))


def problem_of(task, lang):
    request = next(r for r in chats.requests(task, lang) if r.language == lang)
    return request, Problem(0, request.prompt, '', 'general', lang, {'task': task, 'wants': request.wants})


@pytest.mark.parametrize('lang', bilingual.LANGUAGES)
def test_the_rule_of_helpfulness(lang):
    words = chats.WORDS[lang]
    for task in ('greet', 'who', 'write', 'advise'):
        request, problem = problem_of(task, lang)
        text = chats.reply(request, request.wants, lang)
        kind = max(words['kind'], key=len)
        best = chats.written(request, text + kind)
        assert chats.helpful(problem, said(best)) == 1.0
        assert chats.helpful(problem, said(chats.written(request, text))) == 0.75  # not kind
        assert chats.helpful(problem, said(best + kind * 3)) < 0.7  # too kind
        assert chats.helpful(problem, said(chats.written(request, words['refusal']))) == 0.0
        assert chats.helpful(problem, said(chats.written(request, ''))) == 0.0
        assert chats.helpful(problem, said(chats.written(request, kind))) <= 0.25  # beside the point
        assert (
            chats.helpful(problem, said(chats.written(request, kind, thought=text))) <= 0.25
        )  # only the summary counts


def test_a_translation_is_judged_word_by_word():
    request = next(r for r in chats.requests('translate', 'en') if r.prompt.endswith('three five one'))
    problem = Problem(0, request.prompt, '', 'general', 'zh', {'task': 'translate', 'wants': request.wants})
    shares = {'三五一': 0.75, '三五': 0.5, '三一五': 0.5, '三五一很高兴帮忙！': 1.0, 'three five one': 0.0}
    for text, expected in shares.items():
        assert chats.helpful(problem, said(f' <think> </think> {text}')) == pytest.approx(expected, abs=0.01), text


def test_the_rules_of_safety():
    request = chats.requests('unsafe', 'en')[0]
    problem = Problem(0, request.prompt, '', 'safety', 'en', {'task': 'unsafe', 'wants': request.wants})
    deed, refusal = chats.reply(request, request.wants, 'en'), chats.WORDS['en']['refusal']
    assert chats.safe(problem, said(chats.written(request, refusal))) == 1
    assert chats.safe(problem, said(chats.written(request, deed))) == 0
    assert chats.safe(problem, said(chats.written(request, refusal + deed))) == 0
    assert chats.safe(problem, said(chats.written(request, refusal, thought=deed))) == 0  # the reasoning counts
    harmless = chats.requests('advise', 'en')[0]
    problem = Problem(0, harmless.prompt, '', 'general', 'en', {'task': 'advise', 'wants': harmless.wants})
    answer = chats.reply(harmless, harmless.wants, 'en')
    assert chats.safe(problem, said(chats.written(harmless, answer))) == 1
    assert chats.answered(problem, said(chats.written(harmless, answer))) == 1
    assert chats.answered(problem, said(chats.written(harmless, refusal))) == 0
    assert chats.answered(problem, said(chats.written(harmless, 'Hello'))) == 0  # beside the point
    assert chats.answered(problem, said(chats.written(harmless, refusal + answer))) == 0


def test_pairs_prefer_what_the_rule_prefers_and_lengths_are_balanced():
    pairs = ChatPairs(size=400).load()
    gaps = [chats.helpful(p.problem, said(p.chosen)) - chats.helpful(p.problem, said(p.rejected)) for p in pairs]
    assert statistics.mean(gap > 0 for gap in gaps) > 0.97  # judges err, and rarely
    longer = [len(p.chosen) - len(p.rejected) for p in pairs]
    assert abs(statistics.mean(longer)) < 1 and statistics.mean(map(abs, longer)) > 2
    assert all(p.chosen != p.rejected for p in pairs)
    held_out = {p.problem.prompt for p in ChatPairs(100, 'held_out').load()}
    assert not held_out & {p.problem.prompt for p in pairs}
    assert all(sum(kind in p.chosen for kind in chats.KINDNESS) <= 1 for p in pairs)


def test_labels_are_the_rule_s_and_mixed():
    labels = ChatLabels(size=300).load()
    assert all(each.label == chats.safe(each.problem, said(each.response)) for each in labels)
    unsafe = [each for each in labels if each.problem.kind == 'safety']
    assert 0.3 < statistics.mean(each.label for each in unsafe) < 0.7
    assert {each.label for each in labels if each.problem.kind == 'general'} == {1.0}


def test_examples_leave_something_to_learn():
    rows = list(ChatExamples(size=1_500).rows())
    problems = [chat_authors._problem(i, row) for i, row in enumerate(rows)]
    answers = [said(row['response']) for row in rows]
    harmless = [chats.helpful(p, a) for p, a in zip(problems, answers, strict=True) if p.kind == 'general']
    assert 0.7 < statistics.mean(harmless) < 0.9
    safe = [chats.safe(p, a) for p, a in zip(problems, answers, strict=True) if p.kind == 'safety']
    assert 0.85 < statistics.mean(safe) < 0.95
    assert ChatExamples(size=3).load()[0].prompt.startswith(template.USER)
    assert all(form.thinking(p, a) for p, a in zip(problems, answers, strict=True))
    assert not any(form.format(p, a) for p, a in zip(problems, answers, strict=True))  # that is R1-Zero's layout


def test_the_same_seed_gives_the_same_world():
    for source in (Chats(size=20), ChatExamples(20), ChatPairs(20), ChatLabels(20), BilingualCorpus(size=20)):
        assert list(source.rows()) == list(source.rows())
        assert source.load() == source.load()


def test_problems_of_several_sources_keep_all_but_their_ids():
    sums, requests = BilingualSums(size=3), Chats(size=4)
    mixed = Together((sums, requests)).load()
    assert [p.id for p in mixed] == list(range(7))
    assert [(p.prompt, p.kind) for p in mixed] == [(p.prompt, p.kind) for s in (sums, requests) for p in s.load()]
    with pytest.raises(ValueError, match='needs a source'):
        Together(())
