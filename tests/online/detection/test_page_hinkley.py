"""The run length against simulation, and sums that are those of a detector that was kept."""

import numpy as np
import pytest
from river.drift import PageHinkley
from scipy.special import ndtri

from bayeslat.online.detection.page_hinkley import (
    ALLOWANCE,
    PageHinkleyTest,
    run_length,
    threshold,
)
from bayeslat.online.detection.ranks import Ranks
from detection import RIGHT, scored, watched


def test_run_length_is_that_of_simulated_sums() -> None:
    rng, paths, limit = np.random.default_rng(1), 4000, 5.0
    total, rows = np.zeros(paths), np.zeros(paths)
    running = np.ones(paths, bool)
    while running.any():
        total = np.maximum(total + rng.standard_normal(paths) - ALLOWANCE, 0.0)
        rows += running
        running &= total <= limit
    error = rows.std() / np.sqrt(paths)
    # Siegmund's approximation is good to a few per cent at so short a run.
    assert abs(run_length(limit) - rows.mean()) < 4.0 * error + 0.03 * rows.mean()


@pytest.mark.parametrize("rate", [1e-2, 1e-5, 1e-12])
def test_threshold_is_where_either_side_has_half_the_rate(rate: float) -> None:
    assert run_length(threshold(rate)) == pytest.approx(2.0 / rate, rel=1e-9)


def test_threshold_of_a_rate_beyond_reach_is_nought() -> None:
    assert threshold(5.0) == 0.0


def test_sums_are_those_of_a_detector_that_was_kept() -> None:
    error = RIGHT.rows(2000, 2).log_error
    error[1500:] += 0.05
    rows = scored(error, np.zeros(2000, np.int64))
    _, ranks = Ranks.empty().ranked(rows, tolerance=0.0, spreads=0.0, seed=0)
    kept = PageHinkley(min_instances=30, delta=ALLOWANCE, threshold=threshold(1e-5), alpha=1.0)
    values = enumerate(ndtri(ranks.pit).tolist())
    row = next(i for i, value in values if kept.update(value) or kept.drift_detected)
    for block in (1, 100):
        (alarm,) = watched(PageHinkleyTest(1e-5, 0), rows, block=block, once=True).alarms
        assert (alarm.row, alarm.kind) == (row, "slower")
        assert 1495 <= alarm.row - alarm.since < 1510


def test_false_alarms_come_at_the_admitted_rate() -> None:
    rate, n, runs = 2e-3, 2000, 20
    detector = PageHinkleyTest(rate, 0)
    found = sum(len(watched(detector, RIGHT.rows(n, [s, 3]), block=n).alarms) for s in range(runs))
    admitted = rate * n * runs
    assert 0 < found < admitted + 4.0 * np.sqrt(admitted)
