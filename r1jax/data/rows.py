"""Rows of tables on disk, one after another: the only door to pyarrow and yaml.

In: a path. Out: its files, and their rows as plain dictionaries, in bounded memory: a thousand rows of a Parquet or Arrow
file at a time, one of a JSON or CSV file.

What a path may be: a file (`.parquet`, `.jsonl`, `.jsonl.gz`, `.json`, `.csv`, `.arrow`), a pattern such as
`data/*.parquet`, a folder that `datasets.Dataset.save_to_disk` wrote, or a copy of a dataset's repository on the Hugging
Face hub, whose README says which files belong to which split, or whose file names do.

Left out: files elsewhere than on a local disk (download first), and formats that run code to be read, such as loading
scripts and pickles.
"""

from __future__ import annotations

import csv
import glob
import gzip
import json
import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]

BATCH = 1000  # rows that are in memory at once
CHUNK = 1 << 20  # characters of a JSON array, bytes of a Parquet column, that are
SUFFIXES = ('.parquet', '.jsonl', '.jsonl.gz', '.json', '.csv', '.arrow')
NOT_DATA = {'dataset_info.json', 'dataset_infos.json', 'dataset_dict.json', 'state.json', 'config.json'}


# --- which files


def files(path: str, split: str = '', config: str = '') -> list[Path]:
    """The data files behind a path, in a fixed order.

    Args:
      path: a file, a pattern, or a folder (see the module).
      split: of a folder; '' if it has only one; '*' for all.
      config: of a folder whose README or subfolders name several, such as GSM8K's 'main'; '' and '*' as for the split.

    Raises:
      FileNotFoundError: there is nothing at the path.
      ValueError: no such split or config, or several and none was named; or nothing there is data.
    """
    here = Path(path)
    if here.is_file():
        return [here]
    if not here.exists():
        found = sorted(Path(name) for name in glob.glob(path, recursive=True))
        if not found:
            raise FileNotFoundError(f'dataset {path} does not exist: give a file, a pattern or a folder')
        return found
    if (here / 'dataset_dict.json').is_file():  # DatasetDict.save_to_disk
        splits = _json(here / 'dataset_dict.json')['splits']
        if split == '*':
            return [file for name in splits for file in files(str(here / name))]
        here = here / _only(split, splits, f'{path}: split')[0]
    if (here / 'state.json').is_file():  # Dataset.save_to_disk
        return [here / entry['filename'] for entry in _json(here / 'state.json')['_data_files']]
    if by_card := _card(here):
        configs = [by_card[name] for name in _only(config, by_card, f'{path}: config')]
        names = {name for splits in configs for name in splits}
        wanted = _only(split, names, f'{path}: split')
        chosen = [p for splits in configs for name in wanted for p in splits.get(name, ())]
        found = sorted({Path(name) for p in chosen for name in glob.glob(str(here / p), recursive=True)})
        if not found:
            raise ValueError(
                f'{path}: its README names the files {", ".join(chosen)}, and none is there: download them'
            )
        return found
    return _by_name(here, split, config)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f'{path}: not JSON: {error}') from error


def _only(name: str, names: Collection[str], what: str) -> list[str]:
    """`name`; or all for '*'; or where none is given the default, or the only one."""
    if name == '*':
        return sorted(names)
    if name in names:
        return [name]
    if not name and len(names) == 1:
        return list(names)
    if not name and 'default' in names:
        return ['default']
    said = f'there is no {name!r}' if name else 'name one'
    raise ValueError(f'{what}: {said}: there are {", ".join(map(repr, sorted(names)))}')


def _card(folder: Path) -> dict[str, dict[str, list[str]]] | None:
    """config -> split -> patterns, from the YAML at the head of a README, if that says."""
    readme = folder / 'README.md'
    match = readme.is_file() and re.match(r'---\s*\n(.*?)\n---', readme.read_text(encoding='utf-8'), re.DOTALL)
    if not match:
        return None
    import yaml

    try:
        card = yaml.safe_load(match[1]) or {}
    except yaml.YAMLError as error:
        raise ValueError(f'{readme}: its head is not YAML: {error}') from error
    found: dict[str, dict[str, list[str]]] = {}
    for entry in card.get('configs') or ():
        splits: dict[str, list[str]] = {}
        data = entry.get('data_files') or []
        for each in [data] if isinstance(data, (str, dict)) else data:
            split, patterns = ('train', each) if isinstance(each, str) else (each['split'], each['path'])
            splits.setdefault(split, []).extend([patterns] if isinstance(patterns, str) else patterns)
        if splits:
            found['default' if entry.get('default') else entry['config_name']] = splits
    return found or None


def _by_name(folder: Path, split: str, config: str) -> list[Path]:
    """The files with the split's name in theirs, as the hub goes by where no README says: train-00000-of-00002.parquet."""
    every = sorted(p for p in folder.rglob('*') if p.name.endswith(SUFFIXES) and p.name not in NOT_DATA)
    if not every:
        raise ValueError(f'{folder} has no data files: those end in {", ".join(SUFFIXES)}')
    if config not in ('', '*'):
        parts = {part for p in every for part in p.relative_to(folder).parts[:-1]}
        every = [p for p in every if config in p.relative_to(folder).parts[:-1]]
        if not every:
            raise ValueError(
                f'{folder} has no folder {config!r}: it has {", ".join(map(repr, sorted(parts))) or "none"}'
            )
    splits: dict[str, list[Path]] = {}
    for path in every:
        words = re.split(r'[0-9]*[-._/\s]', path.relative_to(folder).as_posix().lower())  # test2.jsonl is test too
        known = [
            w for w in words if w in ('train', 'test', 'validation', 'valid', 'dev') or (split and w == split.lower())
        ]
        splits.setdefault(known[0] if known else 'train', []).append(path)
    return [path for name in _only(split.lower(), splits, f'{folder}: split') for path in splits[name]]


# --- which rows


def read(path: Path, wanted: Collection[str] = ()) -> Iterator[tuple[str, Row]]:
    """The rows of a file, with the place of each for messages: 'FILE:LINE' or 'FILE row N', from 0.

    Args:
      path: the file; its suffix says what it is.
      wanted: dotted names of the fields that are needed; the columns of others are not read where the format allows.

    Raises:
      ImportError: pyarrow is not installed and the file needs it.
      ValueError: a broken file, a row that is no object, or a field that no row of the table has; the message has the file.
    """
    name = path.name
    if name.endswith('.parquet'):
        yield from _numbered(path, _parquet(path, wanted))
    elif name.endswith('.arrow'):
        yield from _numbered(path, _arrow(path, wanted))
    elif name.endswith('.csv'):
        yield from _numbered(path, _csv(path, wanted))
    elif name.endswith('.json') and _starts_with(path, b'['):
        yield from _numbered(path, _array(path))
    elif name.endswith(('.jsonl', '.jsonl.gz', '.json')):
        yield from ((f'{path}:{number}', row) for number, row in json_lines(path))
    else:
        raise ValueError(f'{path} is no table: give a file that ends in {", ".join(SUFFIXES)}')


def json_lines(path: str | Path) -> Iterator[tuple[int, Row]]:
    """The objects of a file with their 1-based line numbers; blank lines are passed over.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a line that is no JSON object, with file and line.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'dataset {path} does not exist: give the path of a JSON lines file')
    with (gzip.open if str(path).endswith('.gz') else open)(path, 'rb') as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f'{path}:{number}: not a JSON line: {error.msg} at column {error.pos + 1}') from error
            except UnicodeDecodeError as error:
                raise ValueError(f'{path}:{number}: not a JSON line: {error}') from error
            if not isinstance(row, dict):
                raise ValueError(f'{path}:{number}: expected a JSON object, found {type(row).__name__}')
            yield number, row


def _numbered(path: Path, rows: Iterator[Row]) -> Iterator[tuple[str, Row]]:
    return ((f'{path} row {i}', row) for i, row in enumerate(rows))


def _arrow_library():
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Parquet and Arrow files need pyarrow: run pip install 'r1jax[data]'") from error
    return pyarrow


def _columns(path: Path, names: Collection[str], wanted: Collection[str]) -> list[str]:
    """The columns that hold the wanted fields."""
    chosen: dict[str, None] = {}
    for field in wanted:
        column = field if field in names else field.partition('.')[0]
        if column not in names:
            raise ValueError(f'{path}: no field {field!r}: it has {", ".join(map(repr, names))}')
        chosen[column] = None
    return list(chosen) or list(names)


def _parquet(path: Path, wanted: Collection[str]) -> Iterator[Row]:
    pyarrow = _arrow_library()
    try:
        # else all that was read is kept, and a row group's whole column is read at once: many files have one row group
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=CHUNK) as file:
            columns = _columns(path, file.schema_arrow.names, wanted)
            for batch in file.iter_batches(BATCH, columns=columns, use_threads=False):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f'{path}: not a whole Parquet file: {error}') from error


def _arrow(path: Path, wanted: Collection[str]) -> Iterator[Row]:
    pyarrow = _arrow_library()
    try:
        with pyarrow.OSFile(str(path), 'rb') as file:
            if _starts_with(path, b'ARROW1'):
                reader = pyarrow.ipc.open_file(file)
                batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
            else:
                batches = reader = pyarrow.ipc.open_stream(file)  # what `datasets` writes
            columns = _columns(path, reader.schema.names, wanted)
            for batch in batches:
                for start in range(0, batch.num_rows, BATCH):
                    yield from batch.select(columns).slice(start, BATCH).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f'{path}: not a whole Arrow file: {error}') from error


def _csv(path: Path, wanted: Collection[str]) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    try:
        with open(path, newline='', encoding='utf-8-sig') as file:
            reader = csv.DictReader(file)
            _columns(path, reader.fieldnames or (), wanted)
            yield from reader
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f'{path}: not a CSV file: {error}') from error


def _array(path: Path) -> Iterator[Row]:
    """The objects of a file that is one JSON array, decoded one by one."""
    decoder, between = json.JSONDecoder(), re.compile(r'[\s,]*')
    with open(path, encoding='utf-8-sig') as file:
        text, at = file.read(CHUNK).lstrip(), 1  # after the bracket
        while True:
            at = between.match(text, at).end()
            if text.startswith(']', at):
                return
            try:
                row, at = decoder.raw_decode(text, at)
            except json.JSONDecodeError as error:  # perhaps it goes on in what has not been read yet
                text, at = text[at:], 0
                more = file.read(max(CHUNK, len(text)))  # as much again, so that a long row is not tried too often
                if not more:
                    raise ValueError(f'{path}: not a whole JSON array: {error}') from error
                text += more
                continue
            if not isinstance(row, dict):
                raise ValueError(f'{path}: expected an array of JSON objects, found {type(row).__name__}')
            yield row


def _starts_with(path: Path, mark: bytes) -> bool:
    with open(path, 'rb') as file:
        return file.read(64).lstrip().startswith(mark)
