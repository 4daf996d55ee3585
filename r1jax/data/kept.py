"""What earlier stages wrote, as a source of later ones; and several sources as one.

    Stored(Mixture(((Kept('rejection'), 1.0), (Kept('greetings', kinds=('general',)), 0.5), (General(), 2.0))), batch=16, epochs=2)

A stage that collects writes WORKDIR/data/STAGE.jsonl, an object a line: at least `prompt`, the whole of what the model was shown, and
`response`; besides, what one may choose by: `kind` and `language`. The file is plain text on purpose: it can be read, and edited before
the next stage learns from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r1jax.data.rows import json_lines
from r1jax.data.stored import Made
from r1jax.types import Example


def collected(workdir: str, stage: str) -> Path:
    """Where a stage writes the examples that it keeps."""
    return Path(workdir, 'data', f'{stage}.jsonl')


@dataclasses.dataclass(frozen=True)
class Kept:
    """The examples that an earlier stage kept, in the order of its file."""

    stage: str
    kinds: tuple[str, ...] = ()  # only problems of these kinds; (): all
    languages: tuple[str, ...] = ()  # only problems asked in these languages; (): all
    limit: int = 0  # the first so many of those; 0: all

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages whose output is read."""
        return (self.stage,)

    def load(self, workdir: str) -> list[Example]:
        """Reads the file.

        Raises:
          FileNotFoundError: the stage has written none.
          ValueError: a broken line, with file and line; or no line is left.
        """
        path, found = collected(workdir, self.stage), []
        for line, row in json_lines(str(path)):
            if missing := next((name for name in ('prompt', 'response') if not isinstance(row.get(name), str)), None):
                raise ValueError(f'{path}:{line}: no text {missing!r}: it has {", ".join(map(repr, row))}')
            if self._wanted(row):
                found.append(Example(row['prompt'], row['response']))
            if len(found) == self.limit != 0:
                break
        if not found:
            chosen = [f'{n}={getattr(self, n)}' for n in ('kinds', 'languages') if getattr(self, n)]
            raise ValueError(f'{path} has no examples{" with " + ", ".join(chosen) if chosen else ""}')
        return found

    def _wanted(self, row: dict[str, Any]) -> bool:
        chosen = (('kind', self.kinds), ('language', self.languages))
        return all(not allowed or row.get(name) in allowed for name, allowed in chosen)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Several sources one after another, each so many times over: 2 is each item twice, 0.25 every fourth.

    Nothing is drawn: of a fraction the items are spread evenly over the source. `Stored.shuffle` mixes them.
    """

    parts: tuple[tuple[Any, float], ...]  # (source, how often each of its items occurs)

    def __post_init__(self):
        if not self.parts:
            raise ValueError('a Mixture needs a part')
        for source, repeat in self.parts:
            if not (hasattr(source, 'load') and 0 < repeat < float('inf')):
                raise ValueError(
                    f'a part of a Mixture is (source, how often above 0), not ({source!r:.60}, {repeat!r})'
                )

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages whose output is read."""
        return tuple(dict.fromkeys(name for source, _ in self.parts for name in getattr(source, 'stages', ())))

    def load(self, workdir: str | None = None) -> Sequence[Any]:
        """The items: read when asked for where one of the sources is.

        Raises:
          ValueError: so small a share of a source is none of it; or what the sources raise.
        """
        loaded, places = [], []
        for i, (source, repeat) in enumerate(self.parts):
            items = source.load(workdir) if getattr(source, 'stages', ()) else source.load()
            loaded.append(items)
            mine = [(i, j) for j in range(len(items)) for _ in range(int((j + 1) * repeat) - int(j * repeat))]
            if not mine:
                raise ValueError(f'{repeat} of the {len(items)} items of {source!r:.80} is none of them')
            places += mine
        mixed = Made(places, lambda place: loaded[place[0]][place[1]])
        return list(mixed) if all(isinstance(items, (list, tuple)) for items in loaded) else mixed
