"""lm-eval over our model: the only door to lm_eval.

    model = Harness(config, params, tokenizer, slots=16)          # within the mesh of the parameters
    lm_eval.simple_evaluate(model, tasks=['arc_easy'])

What EleutherAI's harness has already (few-shot prompts, filters, metrics of hundreds of tasks) is not written again: `Harness` is its
model interface, log-likelihoods by `r1jax.evals.likelihood`, texts by the continuous-batching engine. `HARNESS` names those of its tasks
that stand for a benchmark of the R1 report; `r1jax eval --benchmark lm-eval:TASK` runs any other, also one of a YAML file in --data.

As its Hugging Face backend does: an empty context is the begin token (the end token where there is none), a text too long for the
context loses its beginning, generation ends before the first stop text, greedily unless a task or --sampled says otherwise. A text gets
the begin token in front where the tokenizer's files say so, as those of Llama 3 and DeepSeek do, and where it is not there already.

Its data sets are fetched by `datasets`, from its cache or the hub.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r1jax.config import ModelConfig, SampleConfig
from r1jax.data.tokenizer import Tokenizer
from r1jax.evals.harness_tasks import HARNESS, PREFIX
from r1jax.evals.likelihood import likelihoods
from r1jax.sample import Request, Sampler
from r1jax.sample.sampler import key_data

try:
    from lm_eval import simple_evaluate
    from lm_eval import utils as harness_utils
    from lm_eval.api.model import TemplateLM
    from lm_eval.tasks import TaskManager
except ImportError as error:
    raise ImportError("benchmarks of lm-eval need it: run pip install 'r1jax[evals]'") from error

MAX_TOKENS = 256  # of a response, where a task names no number; lm-eval's own default


class Harness(TemplateLM):
    """Our model, as lm-eval asks it.

    Args:
      model, params, tokenizer: the parameters on the mesh that is set whenever this is used.
      slots: rows decoded together.
      seed: of the draws, where a task samples.
      bos: put the tokenizer's begin token in front of every text; None: where the tokenizer's files do.

    Raises:
      ValueError: `bos` of a tokenizer that has none.
    """

    def __init__(
        self,
        model: ModelConfig,
        params: Any,
        tokenizer: Tokenizer,
        slots: int = 32,
        seed: int = 0,
        bos: bool | None = None,
    ):
        super().__init__()
        if bos and tokenizer.bos is None:
            raise ValueError('bos=True: the tokenizer has no begin token')
        self.model, self.params, self.ours = model, params, tokenizer
        self.slots, self.seed = slots, seed
        self.bos = [tokenizer.bos] if bos else [] if bos is False else list(tokenizer.opening)
        self.max_length = model.context

    @property
    def eot_token_id(self) -> int:
        return self.ours.eos

    @property
    def prefix_token_id(self) -> int:
        return self.ours.eos if self.ours.bos is None else self.ours.bos

    @property
    def tokenizer_name(self) -> str:
        return type(self.ours).__name__

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        ids = self.ours.encode(string)
        there = add_special_tokens is None and ids[:1] == self.bos  # a chat template has written it
        return ids if there or add_special_tokens is False else [*self.bos, *ids]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.ours.chat(chat_history, add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.ours.chat_template if chat_template else None

    # --- how likely texts are

    def _loglikelihood_tokens(self, requests, **kwargs: Any) -> list[tuple[float, bool]]:
        """(log-probability, greedy) of each (texts, context ids, continuation ids)."""
        sequences = [[*context, *said][-self.max_length - 1 :] for _, context, said in requests]
        asked = [len(said) for _, _, said in requests]
        for n, ids in zip(asked, sequences, strict=True):
            if n >= len(ids):
                raise ValueError(f'a continuation of {n} tokens is longer than the context of {self.max_length}')
        return likelihoods(self.model, self.params, sequences, asked)

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each whole text, in windows that each predict as many tokens as fit."""
        pieces, of = [], []
        for i, request in enumerate(requests):
            windows = harness_utils.get_rolling_token_windows(
                token_list=self.tok_encode(*request.args),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for window in map(harness_utils.make_disjoint_window, windows):
                pieces.append((None, *window))
                of.append(i)
        totals = [0.0] * len(requests)
        for i, (value, _) in zip(of, self._loglikelihood_tokens(pieces), strict=True):
            totals[i] += value
        return totals

    # --- what it says

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        """What follows each context, up to the first of its stop texts."""
        out = [''] * len(requests)
        groups: dict[tuple, list[int]] = {}
        settings = [Generation.of(request.args[1]) for request in requests]
        for i, each in enumerate(settings):
            groups.setdefault((each.max_tokens, each.top_p, each.top_k), []).append(i)
        for (limit, top_p, top_k), members in groups.items():
            if limit >= self.max_length:
                raise ValueError(f'max_gen_toks={limit} leaves nothing of the context of {self.max_length} tokens')
            room = self.max_length - limit
            prompts = {i: self.tok_encode(requests[i].args[0])[-room:] or [self.prefix_token_id] for i in members}
            cfg = SampleConfig(limit, max(map(len, prompts.values())), 1.0, top_p, top_k, self.slots, buckets=1)
            sampler = Sampler.create(self.model, cfg, 1, self.ours, self.seed, fixed=True)
            keys = key_data(self.seed, 0, members, [0] * len(members))
            asked = [
                Request(prompts[i], limit, key, settings[i].temperature, tag=i)
                for i, key in zip(members, keys, strict=True)
            ]
            self._generate(sampler, asked, settings, out)
        return out

    def _generate(self, sampler: Sampler, asked: Sequence[Request], settings: Sequence[Generation], out: list[str]):
        """Runs requests to their end, each cancelled where its text has a stop text; writes the texts to `out`, by their tags."""
        engine = sampler.engine
        engine.load(self.params)
        try:
            for request in asked:
                engine.submit(request)
            while not engine.idle:
                over = engine.advance()
                for answer in engine.running:
                    until = settings[answer.request.tag].until
                    if until and any(stop in self.ours.decode(answer.tokens.tolist()) for stop in until):
                        engine.cancel(answer)
                for answer in over:
                    each = settings[answer.request.tag]
                    ids = answer.tokens[: len(answer.tokens) - answer.finished]
                    out[answer.request.tag] = each.cut(self.ours.decode(ids.tolist()))
        finally:
            engine.unload()


@dataclasses.dataclass(frozen=True)
class Generation:
    """How a task wants a text generated."""

    until: tuple[str, ...]
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Generation:
        """Of lm-eval's gen_kwargs. ValueError: one that would be passed over in silence."""
        known = {'until', 'max_gen_toks', 'max_new_tokens', 'max_tokens', 'do_sample', 'temperature', 'top_p', 'top_k'}
        if unknown := set(said) - known:
            raise ValueError(
                f'generation settings {sorted(unknown)} are not known here: there are {", ".join(sorted(known))}'
            )
        until = said.get('until') or ()
        limits = [said[name] for name in ('max_gen_toks', 'max_new_tokens', 'max_tokens') if name in said]
        temperature = float(said.get('temperature') or 0.0)
        draws = said.get('do_sample', temperature > 0)
        return cls(
            (until,) if isinstance(until, str) else tuple(filter(None, until)),
            int(limits[0] if limits else MAX_TOKENS),
            (temperature if 'temperature' in said else 1.0) if draws else 0.0,
            float(said.get('top_p', 1.0)) if draws else 1.0,
            int(said.get('top_k') or 0) if draws else 0,
        )

    def cut(self, text: str) -> str:
        """The text before its first stop text."""
        for stop in self.until:
            text = text.split(stop)[0]
        return text


def evaluate(
    model: Harness,
    name: str,
    folder: str | None = None,
    limit: int = 0,
    shots: int | None = None,
    chat: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Runs a task of lm-eval.

    Args:
      name: of `HARNESS`, or lm-eval:TASK.
      folder: with YAML files of further tasks.
      limit: questions of each task; 0: all.
      shots: examples in the prompt; None: as the task has it.
      chat: ask through the tokenizer's chat template.
      settings: of generation, in place of the task's: {'do_sample': True, 'temperature': 0.6}.

    Returns:
      The figures, shares in 0..1, each with an interval from lm-eval's standard error; and a line a sample, as it logs them.

    Raises:
      ValueError: there is no such task, or a generation setting that is not known.
    """
    task = HARNESS[name].task if name in HARNESS else name.removeprefix(PREFIX)
    own = (
        TaskManager(include_path=folder, include_defaults=False)
        if folder and any(Path(folder).glob('*.yaml'))
        else None
    )
    manager = own if own and task in own.all_tasks else TaskManager()  # which reads thousands of files
    if task not in manager.all_tasks:
        raise ValueError(
            f'lm-eval has no task {task!r}, nor has {folder or "--data"}; `lm-eval ls tasks` lists its own'
        )
    os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
    found = simple_evaluate(
        model,
        tasks=[task],
        num_fewshot=shots,
        limit=limit or None,
        apply_chat_template=chat,
        gen_kwargs=dict(settings) if settings else None,
        task_manager=manager,
        bootstrap_iters=1000,
        confirm_run_unsafe_code=False,
    )
    return figures(found['results'][task], found['n-samples'], task), [
        {'task': of, **line} for of, lines in found['samples'].items() for line in lines
    ]


def figures(said: Mapping[str, Any], counts: Mapping[str, Mapping[str, int]], task: str) -> dict[str, Any]:
    """lm-eval's figures as ours: metric -> number, metric_ci -> [low, high]. Of several filters the first has the plain name."""
    out: dict[str, Any] = {'questions': sum(each['effective'] for each in counts.values()), 'samples': 1}
    out['harness'] = {'task': task, 'figures': dict(said)}
    out['scores'] = []
    for name, value in said.items():
        metric, _, filtered = name.partition(',')
        if not filtered or metric.endswith('_stderr') or not isinstance(value, (int, float)):
            continue
        metric = f'{metric} ({filtered})' if metric in out else metric
        out['scores'].append(metric)
        out[metric] = float(value)
        error = said.get(f'{name.partition(",")[0]}_stderr,{filtered}')
        if isinstance(error, (int, float)):
            out[f'{metric}_ci'] = [value - 1.96 * error, value + 1.96 * error]
    return out
