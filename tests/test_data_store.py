"""The data position is one integer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.data.store import ordered, take


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), position=st.integers(0, 60), count=st.integers(0, 20))
def test_resuming_at_any_position_gives_the_same_items(seed, position, count):
    through, end = take(ordered(range(13), seed), 0, position + count)
    resumed, also_end = take(ordered(range(13), seed), position, count)
    assert resumed == through[position:] and end == also_end == position + count


def test_every_epoch_is_another_permutation():
    dataset = ordered(list(range(50)), seed=3)
    epochs = [take(dataset, 50 * epoch, 50)[0] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert take(ordered(list(range(50)), seed=4), 0, 50)[0] != epochs[0]


def test_without_shuffling_the_order_is_the_given_one():
    assert take(ordered('abc', seed=0, shuffle=False), 2, 4) == (['c', 'a', 'b', 'c'], 6)


def test_nothing_cannot_be_ordered():
    with pytest.raises(ValueError, match='empty dataset'):
        ordered([], seed=0)
