"""Predictions may be relied on where everything speaks for it; the worst finding decides."""

import dataclasses
import json

import pytest
import xarray as xr

from bayeslat.checks import PredictionScores
from bayeslat.observations import Quarantine
from bayeslat.posterior import FleetPosterior
from bayeslat.report.agreement import Agreement, Calibration
from bayeslat.report.pictures import Picture
from bayeslat.report.reliance import Level, Reliance, judge

NO_PICTURE = Picture("", "", 1, 1)


@pytest.fixture
def converged(real_fleet) -> FleetPosterior:
    return with_rhat(real_fleet, 1.0)


def with_rhat(fleet: FleetPosterior, rhat: float) -> FleetPosterior:
    verdict = dataclasses.replace(
        fleet.verdict, max_rhat=rhat, min_ess_bulk=1e4, min_ess_tail=1e4, divergences=0
    )
    tree = fleet.tree.copy()
    tree.attrs = {**tree.attrs, "verdict": json.dumps(verdict.to_dict())}
    return FleetPosterior(tree)


def calibration(label: str, coverage: float = 0.9, *, n=1000, beyond=0.01) -> Calibration:
    return Calibration(label, PredictionScores(n, 0.05, 0.5, coverage), beyond)


def agreement(total: Calibration, *deployments: Calibration) -> Agreement:
    own = deployments or (total,)
    return Agreement(True, 1000, total, own, len(own), NO_PICTURE, NO_PICTURE)


def judged(fleet, total=None, *deployments, quarantine=None) -> Reliance:
    met = agreement(total or calibration("all"), *deployments)
    return judge(fleet, met, (quarantine or Quarantine(n_read=1000),))


def test_everything_speaks_for_it(converged):
    found = judged(converged)
    assert found.level is Level.GOOD
    assert str(found) == (
        "You may rely on these predictions: the sampling converged; 90 % intervals hold 90.0 % of"
        " 1,000 measured steps; 1.0 % of the steps lie beyond their predicted p99; every deployment"
        " was measured; no row was put aside."
    )


def test_sampling_that_has_not_converged_decides(converged):
    found = judged(with_rhat(converged, 1.5))
    assert found.level is Level.FAILED
    assert str(found) == "Do not rely on these predictions: the sampling has not converged."
    assert "R-hat 1.500" in found.findings[0].text


@pytest.mark.parametrize(
    ("coverage", "n", "expected"),
    [
        (0.90, 1000, Level.GOOD),
        (0.86, 1000, Level.GOOD),
        (0.82, 1000, Level.CAUTION),
        (0.70, 1000, Level.FAILED),
        (0.80, 20, Level.GOOD),  # four of twenty outside: not rarer than chance allows for
        (0.40, 20, Level.FAILED),
        (1.00, 1000, Level.GOOD),
    ],
)
def test_coverage_decides_as_far_as_it_is_known(converged, coverage, n, expected):
    assert judged(converged, calibration("all", coverage, n=n)).level is expected


@pytest.mark.parametrize(
    ("beyond", "expected"), [(0.01, Level.GOOD), (0.04, Level.CAUTION), (0.08, Level.FAILED)]
)
def test_tail_decides_too(converged, beyond, expected):
    assert judged(converged, calibration("all", beyond=beyond)).level is expected


def test_one_deployment_that_is_met_badly_is_named(converged):
    found = judged(converged, None, calibration("good"), calibration("bad", 0.5, n=100))
    assert found.level is Level.CAUTION
    assert found.reason == "the intervals of bad are too narrow."
    few = judged(converged, None, calibration("good"), calibration("bad", 0.5, n=10))
    assert few.level is Level.GOOD, "ten steps say little about one deployment"


def test_predictions_that_nobody_checked_need_care(converged):
    found = judge(converged, None, (Quarantine(n_read=10),))
    assert found.level is Level.CAUTION
    assert found.reason == "no measured steps were given to check them against."


@pytest.mark.parametrize(
    ("quarantine", "expected"),
    [
        (Quarantine({"bad": 40}, n_read=1000), Level.GOOD),
        (Quarantine({"bad": 60}, n_read=1000), Level.CAUTION),
        (Quarantine(n_read=1000, dropped={"idle": 900}), Level.GOOD),
        (Quarantine(n_read=1000, warnings=("two units",)), Level.CAUTION),
    ],
)
def test_a_log_with_many_impossible_rows_needs_care(converged, quarantine, expected):
    found = judged(converged, quarantine=quarantine)
    assert found.level is expected
    assert all(text in found.findings[-1].text for text in quarantine.warnings)


@pytest.mark.parametrize(("rows", "word"), [(0, "never measured"), (5, "fewer than 20 steps")])
def test_a_deployment_with_few_steps_or_none_is_named(converged, rows, word):
    tree, data = converged.tree.copy(), converged.constant_data
    counts = data["n_rows"].copy(data=[rows, 60])
    tree["constant_data"] = xr.DataTree(data.assign(n_rows=counts))
    found = judged(FleetPosterior(tree))
    assert found.level is Level.CAUTION
    assert word in found.reason
    assert converged.deployments[0].label in found.reason
    assert converged.deployments[1].label not in found.reason


def test_simulated_steps_say_nothing_about_hardware(tiny_fleet):
    found = judged(with_rhat(tiny_fleet, 1.0))
    assert found.level is Level.CAUTION
    assert "simulation" in found.reason
