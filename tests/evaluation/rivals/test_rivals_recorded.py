"""Rivals on recorded steps: as strong as they have been measured to be."""

from pathlib import Path

import numpy as np
import pytest
from small_rivals import mape

import bayeslat as bl
from bayeslat.evaluation.rivals import all_rivals
from bayeslat.evaluation.splits import Fold, make_folds

LEVELS = (0.05, 0.5, 0.95)


@pytest.fixture(scope="module")
def fold(shared_data: Path) -> Fold:
    """Thirty per cent of the design points of 63 deployments held out."""
    [fold] = make_folds(bl.read_steps(shared_data / "fleet_steps.csv"), "points")
    return fold


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slug", "error"),
    [
        ("linear", 8.5),
        ("quadratic", 7.6),
        ("table", 7.5),
        ("roofline-knee", 7.5),
        ("saturation", 7.4),
        ("bayesian-ridge", 7.9),
        ("random-forest", 7.2),
        ("lightgbm", 5.8),
    ],
)
def test_median_error_and_coverage_over_deployments(slug: str, error: float, fold: Fold) -> None:
    [rival] = all_rivals([slug])
    found = rival.fit(fold.known, fold.few).predict_quantiles(fold.questions, LEVELS)
    errors, covered = [], []
    for deployment in fold.test.deployments:
        rows, own = fold.test.slice_of(deployment), fold.test.for_deployment(deployment)
        low, median, high = found[rows].T
        errors.append(mape(own, median))
        covered.append(np.mean((low <= own.latency_ms) & (own.latency_ms <= high)))
    # Another choice of design points moves the median error by half a point or so.
    assert np.median(errors) == pytest.approx(error, abs=1.5)
    assert 0.8 < np.median(covered) < 0.99
