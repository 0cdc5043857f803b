"""Bets that cannot be expected to win, and what they win when something changes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bayeslat.online.detection import eprocess
from bayeslat.online.detection.eprocess import BATCH, WARNING, EProcess
from bayeslat.online.files import encode
from bayeslat.online.scores import Scores
from bayeslat.online.settings import OnlineSettings
from detection import CHANGES, RIGHT, WRONG, World, scored, watched

SETTINGS = OnlineSettings()
DETECTOR = EProcess(SETTINGS.false_alarms, SETTINGS.tolerance, SETTINGS.seed)


def altered(scores: Scores, factor: float, where: Any) -> Scores:
    error = scores.log_error
    error[where] += np.log(factor)
    return scored(error, scores.stratum)


def test_no_bet_on_ranks_wins_or_loses_in_expectation() -> None:
    p = (np.arange(10_000) + 0.5) / 10_000
    factors = eprocess._factors(p, 1.0 - p, p, 1.0 - p, eprocess._RANK_TAILS)
    np.testing.assert_allclose(factors.mean(axis=0), 1.0, rtol=1e-12)
    assert (factors > 0.0).all()


def test_bets_against_the_predictive_lose_unless_its_tails_are_thrice_as_heavy() -> None:
    p = (np.arange(10_000) + 0.5) / 10_000
    tails = eprocess._OWN_TAILS
    factors = eprocess._factors(p, 1.0 - p, p, 1.0 - p, tails).mean(axis=0)
    stakes = np.array([tail.stake for tail in tails])
    np.testing.assert_allclose(factors[-stakes.size :], 1.0 - stakes * 2.0 / 3.0, rtol=1e-12)
    heavy = np.concatenate([np.full(150, 1e-4), np.full(150, 1.0 - 1e-4), p[: 10_000 - 300]])
    heavy[300:] = 0.5
    factors = eprocess._factors(heavy, 1.0 - heavy, heavy, 1.0 - heavy, tails).mean(axis=0)
    np.testing.assert_allclose(factors[-2:], 1.0 - stakes[-2:] * 0.5, rtol=1e-12)


def test_false_alarms_within_n_rows_are_at_most_n_times_the_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(eprocess, "SPREADS", 0.0)
    detector, n, runs = EProcess(4e-3, 0.0, 0), 100, 200
    alarms = 0
    for seed in range(runs):
        alarms += bool(watched(detector, RIGHT.rows(n, [seed, 1]), block=n, once=True).alarms)
    admitted = n * 4e-3
    error = np.sqrt(admitted * (1.0 - admitted) / runs)
    assert alarms / runs < admitted + 3.0 * error
    # Not merely so because it never alarms.
    assert alarms > 0


def test_a_change_is_named_and_its_start_is_found() -> None:
    for factor, kind in ((1.15, "slower"), (0.85, "faster")):
        rows = altered(RIGHT.rows(3000, 4), factor, slice(2000, None))
        (alarm,) = watched(DETECTOR, rows, block=100, once=True).alarms
        assert alarm.kind == kind
        assert 2000 <= alarm.row < 2040
        assert abs(alarm.since - (alarm.row - 1999)) <= 3


def test_a_change_of_one_load_level_of_ten_is_found() -> None:
    rows = RIGHT.rows(4000, 14)
    late = np.arange(4000) >= 2500
    rows = altered(rows, 1.2, late & (rows.stratum == 6))
    (alarm,) = watched(DETECTOR, rows, block=100, once=True).alarms
    assert alarm.kind == "slower"
    assert 2500 <= alarm.row < 3000
    assert abs(alarm.since - (alarm.row - 2499)) <= 30


def test_what_comes_after_an_alarm_in_its_block_is_not_remembered() -> None:
    rows = altered(RIGHT.rows(3000, 15), 1.2, slice(2000, None))
    rows = replace(rows, stratum=np.where(np.arange(3000) > 2500, -7, rows.stratum))
    memory, verdict = DETECTOR.update(DETECTOR.start(), rows)
    assert verdict.level == "drift"
    again, same = DETECTOR.update(DETECTOR.start(), rows[: verdict.row + 1])
    assert same == verdict
    assert encode(again) == encode(memory)


@pytest.mark.parametrize("sd", [0.04, 0.1])
def test_outliers_and_wider_noise_are_tails(sd: float) -> None:
    world = World(sd=sd)
    for change in ("burst: 10 % of 500 rows at 5x", "noise doubled"):
        kinds = []
        for seed in range(6):
            rows = world.rows(5000, [seed, 5], CHANGES[change][0], 2000)
            alarms = watched(DETECTOR, rows, block=100, once=True).alarms
            kinds += [alarm.kind for alarm in alarms if alarm.row >= 2000]
        assert len(kinds) == 6
        assert kinds.count("tails") >= 5


def test_a_predictive_may_be_wrong_by_the_tolerance_and_no_more() -> None:
    rows = altered(RIGHT.rows(5000, 6), 1.045, slice(None))
    assert not watched(DETECTOR, rows, block=100).alarms
    strict = EProcess(SETTINGS.false_alarms, 0.01, 0)
    bold = replace(rows, p_slower=1.0 - rows.pit, p_faster=rows.pit)
    (alarm,) = watched(strict, bold, block=100, once=True).alarms
    assert alarm.kind == "slower"


@pytest.mark.parametrize(("share", "found"), [(0.025, 0), (0.1, 1)])
def test_tails_may_be_heavier_than_predicted_but_not_much(share: float, found: int) -> None:
    rows = RIGHT.rows(10_000, 7)
    stalled = np.random.default_rng(7).random(10_000) < share - 0.01
    rows = scored(rows.log_error + 2.0 * stalled, rows.stratum)
    alarms = watched(DETECTOR, rows, block=100, once=True).alarms
    assert [alarm.kind for alarm in alarms] == ["tails"] * found


def test_a_warning_comes_before_drift_at_a_hundredth_of_its_wealth() -> None:
    rows = altered(RIGHT.rows(3000, 8), 1.1, slice(2000, None))
    memory, levels, evidence = DETECTOR.start(), [], []
    for row in range(3000):
        memory, verdict = DETECTOR.update(memory, rows[row : row + 1])
        levels.append(verdict.level)
        evidence.append(verdict.evidence)
        if verdict.level == "drift":
            break
    assert "warning" in levels[2000:]
    drift = 3.0 / SETTINGS.false_alarms
    limit = np.log1p(drift / WARNING) / np.log1p(drift)
    for level, value in zip(levels, evidence, strict=True):
        assert (level == "quiet") == (value < limit)
        assert (level == "drift") == (value >= 1.0)


def test_a_rarer_false_alarm_takes_more_rows() -> None:
    rows = altered(RIGHT.rows(3000, 9), 1.1, slice(2000, None))
    found = [
        watched(EProcess(rate, 0.05, 0), rows, block=100, once=True).alarms[0].row
        for rate in (1e-3, 1e-5, 1e-9)
    ]
    assert found[0] < found[1] < found[2]


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_dependence_is_learned(rho: float) -> None:
    memory = DETECTOR.start()
    memory, _ = DETECTOR.update(memory, World(rho=rho).rows(20_000, 10))
    # Grades of a bivariate normal correlate as 6/pi asin(rho/2) (Pearson, 1907).
    lags = np.arange(1, BATCH)
    grades = 6.0 / np.pi * np.arcsin(rho**lags / 2.0)
    expected = 1.0 + 2.0 * ((1.0 - lags / BATCH) * grades).sum()
    error = expected * np.sqrt(2.0 / (20_000 / BATCH))
    assert abs(memory.dependence[0] - expected) < 4.0 * error


def test_rows_that_depend_on_each_other_are_no_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    world, n = World(rho=0.9), 10_000
    alarms = [watched(DETECTOR, world.rows(n, [s, 11]), block=100).alarms for s in range(5)]
    assert sum(map(len, alarms)) <= 1
    # Batches that are taken for independent rows alarm again and again.
    monkeypatch.setattr(eprocess.EProcess, "update", _untempered)
    alarms = [watched(DETECTOR, world.rows(n, [s, 11]), block=25).alarms for s in range(5)]
    assert sum(map(len, alarms)) > 10


_UPDATE = EProcess.update


def _untempered(detector: EProcess, memory: Any, scores: Scores) -> Any:
    return _UPDATE(detector, replace(memory, dependence=np.ones(2)), scores)


def test_what_was_wrong_with_the_reference_too_is_no_drift() -> None:
    rows = World(bias=0.0).rows(6000, 12)
    rows = altered(rows, 1.12, rows.stratum > 4)
    assert watched(DETECTOR, rows[2000:4000], block=100).alarms
    memory = DETECTOR.start(rows[:2000])
    memory, verdict = DETECTOR.update(memory, rows[2000:4000])
    assert verdict.level == "quiet"
    own = slice(-6 - len(eprocess._OWN_TAILS), None)
    assert not memory.wealth[own].any()
    later = altered(rows[4000:], 1.15, slice(None))
    _, verdict = DETECTOR.update(memory, later)
    assert (verdict.level, verdict.kind) == ("drift", "slower")
    assert abs(verdict.since - (verdict.row + 1)) <= 3


@pytest.mark.slow
@pytest.mark.parametrize("world", [RIGHT, WRONG, replace(WRONG, moving=True)])
def test_rate_of_false_alarms(world: World) -> None:
    found = [watched(DETECTOR, world.rows(20_000, [s, 13]), block=100) for s in range(50)]
    # 1,000,000 rows, 10 admitted.
    assert sum(len(run.alarms) for run in found) <= 10
