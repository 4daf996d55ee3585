"""Tables of sums in files, and what is read from them."""

import json

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet


def asked(n: int, start: int = 0) -> list[dict]:
    return [{'problem': f'{i}+1?', 'answer': f'{i + 1}', 'level': i % 3} for i in range(start, start + n)]


def parquet(path, records, **options) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pa.parquet.write_table(pa.Table.from_pylist(records), path, **options)
    return str(path)


def lines(path, records) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(r if isinstance(r, str) else json.dumps(r) for r in records), encoding='utf-8')
    return str(path)


def brief(problems) -> list[tuple]:
    return [(p.id, p.prompt, p.answer) for p in problems]


WHOLE = [(i, f'{i}+1?', f'{i + 1}') for i in range(7)]
