"""What earlier stages kept, and several sources as one."""

import dataclasses
import json

import pytest

from r1jax.config import Stored, stages_read
from r1jax.data.kept import Kept, Mixture, collected
from r1jax.types import Example

LINES = [
    {'prompt': f'p{i}', 'response': f'r{i}', 'kind': ('math', 'general')[i % 2], 'language': ('en', 'zh')[i // 2 % 2]}
    for i in range(8)
]


@dataclasses.dataclass(frozen=True)
class Letters:
    size: int

    def load(self):
        return [Example('', chr(97 + i)) for i in range(self.size)]


def write(workdir, lines):
    path = collected(str(workdir), 'rejection')
    path.parent.mkdir(exist_ok=True)
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))


@pytest.mark.parametrize(
    ('chosen', 'expected'),
    [
        ({}, range(8)),
        ({'kinds': ('general',)}, (1, 3, 5, 7)),
        ({'kinds': ('math',), 'languages': ('zh',)}, (2, 6)),
        ({'limit': 3}, (0, 1, 2)),
        ({'kinds': ('general',), 'limit': 2}, (1, 3)),
    ],
)
def test_kept_reads_the_lines_that_are_asked_for(tmp_path, chosen, expected):
    write(tmp_path, LINES)
    assert Kept('rejection', **chosen).load(str(tmp_path)) == [Example(f'p{i}', f'r{i}') for i in expected]


def test_kept_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'rejection.jsonl does not exist'):
        Kept('rejection').load(str(tmp_path))
    write(tmp_path, [LINES[0], {'prompt': 'x'}])
    with pytest.raises(ValueError, match=r"rejection.jsonl:2: no text 'response': it has 'prompt'"):
        Kept('rejection').load(str(tmp_path))
    write(tmp_path, LINES)
    with pytest.raises(ValueError, match=r"rejection.jsonl has no examples with kinds=\('code',\)"):
        Kept('rejection', kinds=('code',)).load(str(tmp_path))


def test_a_mixture_repeats_and_thins_evenly(tmp_path):
    texts = [e.response for e in Mixture(((Letters(8), 0.25), (Letters(2), 2.5), (Letters(1), 1))).load()]
    assert texts == ['d', 'h', *'aabbb', 'a']
    write(tmp_path, LINES)
    mixed = Mixture(((Kept('rejection'), 1.0), (Letters(2), 1.0)))
    assert [e.response for e in mixed.load(str(tmp_path))] == [*(f'r{i}' for i in range(8)), 'a', 'b']
    assert mixed.stages == ('rejection',) == stages_read(Stored(mixed, 4)) and stages_read(Letters(3)) == ()


def test_a_mixture_of_nothing_is_refused():
    with pytest.raises(ValueError, match='needs a part'):
        Mixture(())
    with pytest.raises(ValueError, match='how often above 0'):
        Mixture(((Letters(3), 0),))
    with pytest.raises(ValueError, match=r'0.25 of the 3 items of Letters\(size=3\) is none of them'):
        Mixture(((Letters(3), 0.25),)).load()
