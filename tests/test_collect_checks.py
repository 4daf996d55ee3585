"""Settings of a collecting stage that are refused, before any data or weights."""

import dataclasses

import jax
import pytest
import toy
from test_collect import SAMPLE, digits, recipe

from r1jax.checks import validate
from r1jax.config import (
    NLL,
    Filter,
    NearDuplicates,
    Threshold,
)
from r1jax.settings import BadInput


def checked(stage_change=(), **change):
    made = recipe(**change)
    base, picked, sft = made.stages
    picked = dataclasses.replace(picked, **dict(stage_change))
    validate(dataclasses.replace(made, stages=(base, picked, sft)), jax.device_count())


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'correct': ()}, 'picked.source.correct is empty'),
        ({'correct': (Threshold('acuracy'),)}, "'acuracy' is none of the rewards; did you mean accuracy"),
        ({'correct': (Threshold('accuracy'),) * 2}, "has 'accuracy' twice"),
        ({'filters': (Filter('kept', digits),)}, "'kept' is taken"),
        ({'filters': (Filter('d', digits), Filter('d', digits))}, "'d' occurs twice"),
        ({'filters': (Filter('d', digits, rewritten=True),)}, 'source.filters.d.rewritten=True has no effect without source.rewrite'),
        ({'pass_rate': (0.6, 0.5)}, r'pass_rate=\(0.6, 0.5\) must be \(lowest, highest\)'),
        ({'sample': dataclasses.replace(SAMPLE, temperature=0.0)}, 'greedy sampling draws 4 times the same'),
        ({'sample': dataclasses.replace(SAMPLE, max_tokens=1000)}, 'exceeds model.context'),
        ({'near_duplicates': NearDuplicates(1.0)}, r'near_duplicates.threshold=1.0 must be in \(0, 0.99\]'),
        ({'stage_change': {'steps': 5}.items()}, 'picked.steps has no effect: a stage that collects trains nothing; leave it 0'),
        ({'stage_change': {'loss': NLL()}.items()}, 'picked.loss has no effect'),
        ({'stage_change': {'evals': toy.recipe().stages[1].evals}.items()}, 'picked.evals has no effect'),
    ],
)  # fmt: skip
def test_checks(change, said):
    with pytest.raises(BadInput, match=said):
        checked(**change)


def test_what_rewrites_is_called_or_has_many():
    class Many:
        def many(self, problems, responses):
            return [response.text for response in responses]

    checked(rewrite=Many())
    checked(rewrite=lambda problem, response: response.text)
    with pytest.raises(BadInput, match=r'picked.source.rewrite must be Callable.*Rewriter'):
        checked(rewrite='many')


def test_no_stage_starts_from_one_that_trains_nothing():
    made = recipe()
    base, picked, sft = made.stages
    with pytest.raises(BadInput, match="sft cannot start from 'picked', which trains nothing"):
        validate(dataclasses.replace(made, stages=(base, picked, dataclasses.replace(sft, start='picked'))), 8)
    with pytest.raises(BadInput, match=r'sft.rows=None: only a stage that collects trains nothing'):
        validate(dataclasses.replace(made, stages=(base, picked, dataclasses.replace(sft, rows=None))), 8)
