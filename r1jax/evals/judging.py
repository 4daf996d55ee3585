"""Benchmarks that a judge decides, who reads what a user is shown and not the reasoning before it (R1 report, section 3).

`reference` compares an answer with the right one, as SimpleQA and FRAMES do; `pairwise` with a baseline's, as AlpacaEval and ArenaHard.
Their own judges are particular models of particular days; figures of another judge are of another measure, and stand so in results.json.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from r1jax.config import Part
from r1jax.evals import winrate
from r1jax.rewards.asking import Judge
from r1jax.rewards.endpoint import Endpoint
from r1jax.rewards.judge import Pairwise, Reference
from r1jax.types import Problem, Response

ANSWERS = 'judge.sqlite'  # what the judge said, in the folder of the results


def said(text: str) -> str:
    """What a user is shown of a response: all that follows its thinking, which is nothing where that does not end."""
    before, closed, after = text.partition('</think>')
    if closed:
        return after.strip()
    return '' if '<think>' in before else text.strip()


@dataclasses.dataclass(frozen=True)
class Preference:
    """How far an answer is preferred to its problem's `answer`, a baseline's: 0 not at all, 1 much; a reward."""

    pairwise: Pairwise
    learned = True

    def many(self, problems: Sequence[Problem], responses: Sequence[Response]) -> np.ndarray:
        """f32[B]; 0 without asking where nothing is shown; NaN: not judged. Raises Stop."""
        out = np.zeros(len(problems), np.float32)
        texts = [said(each.text) for each in responses]
        some = [i for i, text in enumerate(texts) if text]
        found = self.pairwise.compare(
            [problems[i] for i in some], [texts[i] for i in some], [problems[i].answer for i in some]
        )
        out[some] = [0.5 + each.gap / 4 for each in found]
        return out


def parts(url: str, model: str, key_variable: str, folder: Path) -> Mapping[str, Part]:
    """How a judge behind an OpenAI-compatible endpoint grades, by what it is asked: 'reference', 'pairwise'."""
    judge = Judge(Endpoint(model, url, key_variable, temperature=0.0), str(folder / ANSWERS))
    judge.answers.spent()  # the file is open before threads ask
    return {
        'reference': Part('accuracy', Reference(judge, read=said)),
        'pairwise': Part('preference', Preference(Pairwise(judge, votes=2))),
    }


def preferences(rows: Sequence[Sequence[Mapping[str, Any]]]) -> np.ndarray:
    """f[Q] of stored samples, the mean preference of each question's; NaN where one was not judged."""
    return np.array(
        [
            np.mean([line['parts']['preference'] if line['outcome'] == 'graded' else np.nan for line in row])
            for row in rows
        ]
    )


def figures(
    rows: Sequence[Sequence[Mapping[str, Any]]], ks: Sequence[int] = (), gamed: winrate.Gamed | None = None
) -> dict[str, Any]:
    """Win rates of stored samples. `gamed`: what AlpacaEval publishes of its instructions, where these are they."""
    preference = preferences(rows)
    lengths = np.array(
        [[len(row[0]['answer']), np.mean([len(said(line['completion'])) for line in row])] for row in rows]
    )
    baseline, model = lengths.T
    judged = winrate.Judged(preference, baseline, model, np.array([row[0]['question'] for row in rows]))
    found = winrate.win_rate(preference) | {'samples': len(rows[0])}
    if found['questions'] - found['not_judged'] >= winrate.FOLDS:
        found = winrate.length_controlled(judged, gamed) | found
    return found | {'response_tokens': float(np.mean([line['tokens'] for row in rows for line in row]))}
