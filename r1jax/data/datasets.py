"""Where problems and stored texts come from: the only door to tensorflow_datasets and reasoning_gym.

A source is a frozen dataclass with `load()`, so that it can be written into config.json. Sources here: `TFDS` (stock
builders), `JSONLines` and `JSONLinesExamples` (files), `ReasoningGym` (procedural tasks). The tiny world's own are in
`r1jax.data.tiny` and go through `prepared`, which keeps what a seed generates as a TFDS dataset.

TFDS is used through data sources over ArrayRecord files, with no tensorflow. Every row is read before training, so that a
broken one is found there. The sources here are lists, but for large TFDS datasets; files that do not fit in memory are for
`r1jax.data.table`.

Both libraries are imported where they are used, since the command line has to answer `--help` quickly.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import io
import logging
import os
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from r1jax.data.rows import Row, json_lines
from r1jax.data.stored import Made
from r1jax.types import Example, Problem

LARGE = 100_000  # rows of a TFDS dataset from which on they stay on disk


@dataclasses.dataclass(frozen=True)
class TFDS:
    """Problems of a TFDS dataset, downloaded and prepared at the first use.

    `TFDS('gsm8k', 'train', 'question', 'answer', answer_after='####')` is GSM8K, whose answers end in '#### 18'.
    """

    name: str  # builder, or builder/config
    split: str  # TFDS slices included: 'train[:1000]'
    prompt_field: str
    answer_field: str
    answer_after: str = ''  # the answer is what follows the last of these marks; '': the whole field
    kind: str = 'math'

    def load(self) -> Sequence[Problem]:
        """Reads the split: into memory, or if it is large, row by row when asked for.

        Raises:
          ValueError: no such dataset, split or field; it cannot be prepared; or it has no rows.
        """
        import tensorflow_datasets as tfds

        # older builders are known only once their group is imported; TFDS 4.9.10 means to do so by itself, and does not
        for group in ('text', 'question_answering'):
            importlib.import_module(f'tensorflow_datasets.{group}')
        make = functools.partial(tfds.builder, self.name, data_dir=_data_dir(), file_format='array_record')
        try:
            rows = _open(make, self.split, self.name)
        except tfds.core.registered.DatasetNotFoundError as error:
            raise ValueError(f'TFDS has no dataset {self.name!r}: see tfds.list_builders()') from error
        problems = Made(range(len(rows)), lambda i: self._problem(i, _decoded(rows[i])))
        if len(problems) <= LARGE:
            return list(problems)
        for _ in problems:  # broken rows are found here
            pass
        return problems

    def _problem(self, i: int, row: Row) -> Problem:
        where = f'{self.name}/{self.split} row {i}'
        answer = str(field(row, self.answer_field, where))
        if self.answer_after:
            answer = answer.rpartition(self.answer_after)[2].strip()
        return Problem(i, str(field(row, self.prompt_field, where)), answer, self.kind)


@dataclasses.dataclass(frozen=True)
class JSONLines:
    """Problems of a file with one JSON object a line; a problem's id is its 0-based line."""

    path: str
    prompt: str = 'problem'  # field names
    answer: str = 'answer'
    where: tuple[str, Any] | None = None  # (field, value): only the lines that have it, such as ('split', 'test')
    limit: int = 0  # the first so many of those; 0: all
    kind: str = 'math'

    def load(self) -> list[Problem]:
        """Reads the file.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: a broken line or a missing field, with file and line; or no line is left.
        """
        problems = []
        for line, row in json_lines(self.path):
            where = f'{self.path}:{line}'
            if self.where and field(row, self.where[0], where) != self.where[1]:
                continue
            prompt, answer = field(row, self.prompt, where), field(row, self.answer, where)
            problems.append(Problem(line - 1, str(prompt), str(answer), self.kind))
            if len(problems) == self.limit:
                break
        what = f' with {self.where[0]}={self.where[1]!r}' if self.where else ''
        return _not_empty(problems, f'{self.path}{what}')


@dataclasses.dataclass(frozen=True)
class JSONLinesExamples:
    """Stored texts of a file with one JSON object a line."""

    path: str
    prompt: str = 'prompt'  # field names; '' for plain text, all of which is learned
    response: str = 'response'

    def load(self) -> list[Example]:
        """Reads the file; raises as `JSONLines.load`."""
        examples = []
        for line, row in json_lines(self.path):
            where = f'{self.path}:{line}'
            prompt = str(field(row, self.prompt, where)) if self.prompt else ''
            examples.append(Example(prompt, str(field(row, self.response, where))))
        return _not_empty(examples, self.path)


@dataclasses.dataclass(frozen=True)
class ReasoningGym:
    """Problems of a procedural task of the package reasoning-gym, graded by `rewards.accuracy.reasoning_gym`.

    reasoning-gym draws item i from `seed + i`, so its datasets of seeds 0 and 1 are the same items moved by one. Here
    the seed is hashed first. Small tasks repeat themselves by chance as well: a question is taken once, and an evaluation can be
    kept `apart_from` the training set.
    """

    task: str  # its name there, such as 'chain_sum'
    size: int
    seed: int = 0
    settings: tuple[tuple[str, Any], ...] = ()  # of the task's config: (('min_terms', 2), ('max_terms', 3))
    apart_from: ReasoningGym | None = None  # none of its questions occurs here

    def load(self) -> list[Problem]:
        """Generates the problems; ids count up from 0.

        Raises:
          ImportError: reasoning-gym is not installed.
          ValueError: no such task or setting, or too few different questions that are not in `apart_from`.
        """
        taken = {problem.prompt for problem in self.apart_from.load()} if self.apart_from else set()
        draws = 20 * self.size
        seed = int.from_bytes(hashlib.sha256(str(self.seed).encode()).digest()[:4])
        data = gym_task(self.task, self.settings, seed, draws)
        problems: list[Problem] = []
        for i in range(draws):
            entry = data[i]
            if entry['question'] in taken:
                continue
            taken.add(entry['question'])
            meta = {'task': self.task, 'settings': self.settings, 'entry': entry}
            problems.append(Problem(len(problems), entry['question'], str(entry['answer']), 'reasoning_gym', meta=meta))
            if len(problems) == self.size:
                return problems
        raise ValueError(
            f'{self.task} gave only {len(problems)} of size={self.size} different questions outside apart_from in {draws} draws: '
            'widen its settings'
        )


def gym_task(task: str, settings: tuple[tuple[str, Any], ...] = (), seed: int = 0, size: int = 1) -> Any:
    """A dataset of reasoning-gym; its class also holds the task's scorer.

    Raises:
      ImportError: reasoning-gym is not installed.
      ValueError: it has no such task, or the task has no such setting.
    """
    try:
        import reasoning_gym
    except ImportError as error:
        raise ImportError(f"the task {task!r} needs reasoning-gym: run pip install 'r1jax[tasks]'") from error
    if task not in reasoning_gym.factory.DATASETS:
        known = ', '.join(sorted(reasoning_gym.factory.DATASETS))
        raise ValueError(f'reasoning-gym has no task {task!r}: it has {known}')
    try:
        return reasoning_gym.create_dataset(task, seed=seed, size=size, **dict(settings))
    except (TypeError, AssertionError) as error:  # an unknown name, a value its config's own checks refuse
        raise ValueError(f'the task {task!r} refuses {settings=}: {error}') from error


def prepared(
    source: Any,
    split: str,
    fields: Mapping[str, type],
    rows: Callable[[], Iterable[Row]],
    also: Sequence[types.ModuleType] = (),
) -> list[Row]:
    """Rows of a generated dataset: generated and stored by TFDS the first time, read ever after.

    The folder's name is a digest of the source's fields and of the code that generates, so a changed seed, size or
    generator never reads stale data.

    Args:
      source: the frozen dataclass that describes the dataset.
      split: name of its only split.
      fields: the columns, str or int each.
      rows: makes the rows, in the order in which they are returned; called only if they are not stored yet.
      also: modules that `rows` calls, whose code counts as its own does.
    """
    code = b''.join(Path(name).read_bytes() for name in (rows.__code__.co_filename, *(each.__file__ for each in also)))
    digest = hashlib.sha256(f'{source!r} {split} {fields}'.encode() + code).hexdigest()[:16]
    with _quiet():
        config_class, builder_class = _generated_builder()
        config = config_class(name=f'{type(source).__name__.lower()}-{digest}', split=split, fields=fields, rows=rows)
        make = functools.partial(builder_class, config=config, data_dir=_data_dir(), file_format='array_record')
        return _read(make, split, type(source).__name__)


@functools.cache
def _generated_builder() -> tuple[type, type]:
    """The project's TFDS builder and its config. A function, since the classes need TFDS imported."""
    import tensorflow_datasets as tfds

    @dataclasses.dataclass(eq=False)
    class GeneratedConfig(tfds.core.BuilderConfig):
        split: str = ''
        fields: Any = None
        rows: Any = None

    class R1jaxGenerated(tfds.core.GeneratorBasedBuilder):
        """Texts that r1jax generates from a seed."""

        VERSION = tfds.core.Version('1.0.0')

        def _info(self):
            kinds = {str: tfds.features.Text(), int: tfds.features.Scalar(np.int64)}
            fields = {name: kinds[kind] for name, kind in self.builder_config.fields.items()}
            # unshuffled: rows stay in the order in which they were generated, so that an index is an identity
            features = tfds.features.FeaturesDict(fields)
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, download_manager):
            return {self.builder_config.split: self._generate_examples()}

        def _generate_examples(self):
            yield from enumerate(self.builder_config.rows())

    return GeneratedConfig, R1jaxGenerated


def _read(make: Callable[[], Any], split: str, origin: str) -> list[Row]:
    """All rows of a split of the builder that `make` makes."""
    data = _open(make, split, origin)
    return [_decoded(row) for row in data.__getitems__(range(len(data)))]


def _decoded(row: Row) -> Row:
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in row.items()}


def _open(make: Callable[[], Any], split: str, origin: str) -> Any:
    """A split of the builder that `make` makes, a data source of TFDS, to be read in any order; downloads or generates what is missing."""
    builder = make()
    try:
        builder.download_and_prepare(file_format='array_record')
    except OSError as error:  # the network's errors are OSErrors too
        folder = builder.data_dir
        builder = make()
        if not builder.is_prepared():  # else a run beside this one was faster, and its data are the same
            raise ValueError(f'cannot prepare {origin} in {folder} (TFDS_DATA_DIR sets another): {error}') from error
    if split.partition('[')[0] not in builder.info.splits:
        raise ValueError(f'{origin} has no split {split!r}: it has {", ".join(sorted(builder.info.splits))}')
    return _not_empty(builder.as_data_source(split), f'{origin} split {split!r}')


def _data_dir() -> str | None:
    """Where TFDS keeps prepared data: TFDS_DATA_DIR, or None for its own default, a folder in the user's home."""
    return os.environ.get('TFDS_DATA_DIR')


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No words from TFDS: preparing what we generate takes seconds, and the run has its own display."""
    import tensorflow_datasets as tfds

    log = logging.getLogger('absl')
    level = log.level
    log.setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        log.setLevel(level)
        tfds.enable_progress_bar()


def field(row: Row, name: str, where: str) -> Any:
    if name not in row:
        raise ValueError(f'{where}: no field {name!r}: it has {", ".join(map(repr, row))}')
    return row[name]


Items = TypeVar('Items', bound=Sequence)


def _not_empty(items: Items, origin: str) -> Items:
    if not len(items):
        raise ValueError(f'{origin} is an empty dataset: nothing to learn from or to measure')
    return items
