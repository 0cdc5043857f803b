"""Tests of two samples: their direction, their level, and when they look."""

import numpy as np
import pytest
from scipy import stats

from bayeslat.online.detection.windowed import (
    EVERY,
    RECENT,
    WindowedTest,
    kolmogorov_smirnov,
    mann_whitney,
)
from detection import RIGHT, WRONG, scored, watched

BOTH = pytest.mark.parametrize("larger", [kolmogorov_smirnov, mann_whitney])


def made(larger, false_alarms: float = 1e-5) -> WindowedTest:
    return WindowedTest("made", larger, false_alarms, 0.05, 0)


@BOTH
def test_direction(larger) -> None:
    rng = np.random.default_rng(1)
    low, high = rng.normal(0.0, 1.0, 200), rng.normal(1.0, 1.0, 1000)
    assert larger(high, low) < 1e-10
    assert larger(low, high) > 0.9


def test_p_values_are_those_of_the_exact_distributions() -> None:
    rng = np.random.default_rng(2)
    sample, other = rng.normal(0.4, 1.0, 40), rng.normal(0.0, 1.0, 60)
    exact = stats.ks_2samp(sample, other, alternative="less", method="exact").pvalue
    assert kolmogorov_smirnov(sample, other) == pytest.approx(exact, rel=0.2)
    exact = stats.mannwhitneyu(sample, other, alternative="greater", method="exact").pvalue
    assert mann_whitney(sample, other) == pytest.approx(exact, rel=0.05)


@BOTH
def test_false_alarms_are_at_most_the_admitted_rate(larger) -> None:
    rate, n, runs = 2e-3, 2000, 3
    found = [watched(made(larger, rate), RIGHT.rows(n, [s, 3]), block=n) for s in range(runs)]
    admitted = rate * n * runs
    assert sum(len(run.alarms) for run in found) < admitted + 4.0 * np.sqrt(admitted)


@BOTH
def test_looks_are_every_so_many_rows(larger) -> None:
    error = RIGHT.rows(2000, 4).log_error
    error[1210:] += np.log(1.3)
    rows = scored(error, np.zeros(2000, np.int64))
    (alarm,) = watched(made(larger), rows, block=33, once=True).alarms
    assert alarm.kind == "slower"
    assert (alarm.row + 1) % EVERY == 0
    assert abs(alarm.since - (alarm.row - 1209)) <= 5


@BOTH
def test_windows_are_bounded(larger) -> None:
    detector = made(larger)
    memory, _ = detector.update(detector.start(), RIGHT.rows(3000, 5))
    assert memory.rows.shape == (1000 + RECENT, 5)
    assert memory.n_seen == 3000


@BOTH
def test_wider_noise_is_tails(larger) -> None:
    error = RIGHT.rows(4000, 6).log_error
    error[2000:] *= 2.0
    rows = scored(error, np.zeros(4000, np.int64))
    (alarm,) = watched(made(larger), rows, block=100, once=True).alarms
    assert alarm.kind == "tails"
    assert 2000 <= alarm.row < 2400


@BOTH
def test_a_wrong_spread_is_no_shift(larger) -> None:
    rows = scored(0.5 * WRONG.rows(3000, 7).log_error, np.zeros(3000, np.int64))
    assert not watched(made(larger), rows, block=100).alarms
