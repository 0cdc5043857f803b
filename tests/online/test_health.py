"""Verdicts with their reasons, and a false-alarm rate that holds under repeated looks."""

from dataclasses import replace

import numpy as np
import pytest
from made_scores import scores

from bayeslat.online.health import LEVEL, LOOK, degradation, health
from bayeslat.online.monitor import Monitor


def right(n: int = 1000, seed: int = 1) -> Monitor:
    return Monitor.empty().update(scores(n, seed))


def test_a_right_prediction_is_healthy() -> None:
    found = health(right(), parameter_drift=0.02)
    assert (found.verdict, found.reasons) == ("healthy", ())


def test_few_rows_are_a_verdict_of_their_own() -> None:
    found = health(Monitor.empty().update(scores(99, 1, slower=3.0)))
    assert found.verdict == "too few rows"
    assert found.reasons == ("99 rows were seen, and fewer than 100 say nothing.",)
    assert health(Monitor.empty().update(scores(100, 1, slower=3.0))).verdict == "failing"


def test_an_error_above_its_limit_fails() -> None:
    found = health(Monitor.empty().update(scores(1000, 2, slower=1.3)))
    assert found.verdict == "failing"
    assert found.reasons[0].startswith("The mean relative error of the last 1000 rows is 22.9 %")
    assert any("90 % interval holds" in reason for reason in found.reasons)


def test_an_error_within_noise_of_its_limit_does_not() -> None:
    monitor = replace(right(), relative_error=np.tile([0.0, 0.301], 500))
    assert monitor.mean_error.value > 0.15
    assert health(monitor).verdict == "healthy"


def test_intervals_that_hold_too_much_or_too_little_degrade() -> None:
    monitor = right()
    for pit in (0.5 + 0.1 * (monitor.pit - 0.5), np.where(monitor.pit < 0.3, 0.01, monitor.pit)):
        found = health(replace(monitor, pit=pit))
        assert found.verdict == "degraded"
        assert "90 % interval holds" in found.reasons[0]


def test_rejected_updates_degrade_once_they_are_many() -> None:
    assert health(right().counted(accepted=19, rejected=2)).verdict == "healthy"
    found = health(right().counted(accepted=10, rejected=5))
    assert found.verdict == "degraded"
    assert found.reasons == ("5 of 15 updates were rejected, more than 5 %.",)


def test_parameters_far_from_the_base_degrade() -> None:
    found = health(right(), parameter_drift=0.14)
    assert found.verdict == "degraded"
    assert "14 % from those of the base" in found.reasons[0]


def test_growing_errors_degrade() -> None:
    monitor = right(2000).update(scores(200, 5, slower=1.08))
    assert degradation(monitor).found
    found = health(monitor)
    assert found.verdict == "degraded"
    assert any("larger than those before them" in reason for reason in found.reasons)


def test_larger_errors_that_were_predicted_are_no_degradation() -> None:
    """Steps of another size have other errors; where they were foretold nothing is worse."""
    monitor = right(1000, 6)
    error = monitor.relative_error.copy()
    error[-200:] *= 4.0
    assert not degradation(replace(monitor, relative_error=error)).found


def test_smaller_errors_are_no_degradation() -> None:
    early = Monitor.empty().update(scores(800, 7, slower=1.2))
    assert not degradation(early.update(scores(200, 8))).found


def test_a_look_is_the_same_until_the_next() -> None:
    rows = scores(2 * LOOK + 1500, 9)
    monitor = Monitor.empty().update(rows[:1500])
    first = degradation(monitor)
    for extra in (1, 50, 99):
        assert degradation(monitor.update(rows[1500 : 1500 + extra])) == first
    assert degradation(monitor.update(rows[1500:1600])) != first


def test_shares_of_the_error_probability_sum_to_it() -> None:
    thresholds = [
        degradation(replace(right(), n_seen=n_seen)).threshold
        for n_seen in range(1000, 20_000, LOOK)
    ]
    assert np.all(np.diff(thresholds) < 0.0)
    assert sum(thresholds) < LEVEL


def ever_found(seed: int, n_looks: int) -> bool:
    rows = scores(n_looks * LOOK, seed)
    monitor = Monitor.empty()
    for start in range(0, len(rows), LOOK):
        monitor = monitor.update(rows[start : start + LOOK])
        if degradation(monitor).found:
            return True
    return False


def test_false_alarms_stay_within_their_level_over_all_looks() -> None:
    n_runs = 60
    found = sum(ever_found(1000 + run, 14) for run in range(n_runs))
    assert found <= LEVEL * n_runs + 3.0 * np.sqrt(LEVEL * (1.0 - LEVEL) * n_runs)


@pytest.mark.slow
def test_false_alarms_stay_within_their_level_over_many_looks() -> None:
    n_runs = 60
    found = sum(ever_found(5000 + run, 60) for run in range(n_runs))
    assert found <= LEVEL * n_runs + 3.0 * np.sqrt(LEVEL * (1.0 - LEVEL) * n_runs)
