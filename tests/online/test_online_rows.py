"""Bounded buffers, discounts and repeated rows, against what they mean row by row."""

from dataclasses import replace

import numpy as np
import pytest

from bayeslat.online.rows import Rows, stratum_of


def made(batch: np.ndarray, tokens: np.ndarray, timestamp: np.ndarray | None = None) -> Rows:
    n = len(batch)
    whole = np.arange(n)
    times = np.full(n, np.nan) if timestamp is None else timestamp
    return Rows(whole, whole, times, batch, tokens, tokens, np.ones(n), np.ones(n))


def test_load_levels_tell_decode_from_prompts_and_powers_of_two():
    found = stratum_of(np.array([1.0, 3.0, 4.0, 1.0]), np.array([1.0, 3.0, 4.0, 4.0]))
    assert found.tolist() == [0, 2, 4, 5]


@pytest.mark.parametrize("capacity", [1, 7, 40, 99, 200, 500])
def test_the_most_crowded_levels_give_up_their_oldest_rows(capacity):
    rng = np.random.default_rng(1)
    tokens = 2.0 ** rng.choice([0, 3, 5, 9], p=[0.02, 0.08, 0.3, 0.6], size=200)
    rows = made(np.ones(200), tokens)
    kept = rows.kept(capacity)
    assert kept.sum() == min(capacity, 200)
    counts = {level: (rows.stratum == level).sum() for level in np.unique(rows.stratum)}
    left = {level: (rows.stratum[kept] == level).sum() for level in counts}
    most = max(left.values())
    for level, count in counts.items():
        # A level that lost rows has as many as the fullest, but for what cannot be divided.
        assert left[level] == count or left[level] >= most - 1
        newest = np.flatnonzero(rows.stratum == level)[count - left[level] :]
        assert kept[newest].all()


def test_without_a_bound_every_row_stays():
    assert made(np.ones(9), np.ones(9)).kept(None).all()


def test_discounts_are_powers_of_the_age():
    rows = made(np.ones(4), np.ones(4))
    np.testing.assert_allclose(rows.discounts(n_seen=6, decay=0.5), [1 / 32, 1 / 16, 1 / 8, 1 / 4])
    assert (rows.discounts(n_seen=6, decay=1.0) == 1.0).all()


def test_the_same_row_with_the_same_time_stamp_is_a_repetition():
    times = np.array([1.0, 2.0, 2.0, np.nan, np.nan])
    rows = made(np.ones(5), np.ones(5), times)
    assert rows.repeated(Rows.empty()).tolist() == [False, False, True, False, False]
    assert rows.repeated(rows[:1]).tolist() == [True, False, True, False, False]
    other = replace(rows, latency_ms=rows.latency_ms + np.arange(5))
    assert not other.repeated(rows[:0]).any()


def test_joining_and_selecting_keep_every_column():
    rows = made(np.arange(1.0, 6.0), np.arange(1.0, 6.0))
    again = rows[:2].joined(rows[2:])
    for name in ("arrival", "batch_size", "timestamp", "latency_ms"):
        np.testing.assert_array_equal(getattr(again, name), getattr(rows, name))
