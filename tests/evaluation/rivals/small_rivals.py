"""Rivals small enough to be fitted often, and what tests do with steps."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

import bayeslat as bl
from bayeslat.evaluation.base import Contender
from bayeslat.evaluation.rivals import all_rivals
from bayeslat.evaluation.rivals.boosted import BoostedResidual
from bayeslat.evaluation.rivals.least_squares import SaturationWithContext, StaticSaturation
from bayeslat.evaluation.rivals.trees import LightGBM, RandomForest, XGBoost
from bayeslat.observations import Observations
from bayeslat.schema import Deployment

SHEETS = bl.load_catalog()
SMALL = {
    "saturation": StaticSaturation(SHEETS, starts=1),
    "saturation-context": SaturationWithContext(SHEETS, starts=1),
    "random-forest": RandomForest(SHEETS, trees=20),
    "lightgbm": LightGBM(SHEETS, rounds=20),
    "xgboost": XGBoost(SHEETS, rounds=20),
    "boosted-residual": BoostedResidual(SHEETS, rounds=20, starts=1),
}
"""One of each for all tests, so that fits are kept."""


def small_rival(slug: str) -> Contender:
    """The rival, smaller where it would take long."""
    return SMALL[slug] if slug in SMALL else all_rivals([slug])[0]


def rows_where(steps: Observations, holds: Callable[[Deployment], bool]) -> NDArray[np.bool_]:
    """Mask of the rows whose deployment meets a condition."""
    return np.array([holds(each) for each in steps.deployments])[steps.deployment_index]


def halves(steps: Observations) -> tuple[Observations, Observations]:
    """Every second step, and the others."""
    even = np.arange(len(steps)) % 2 == 0
    return steps.select(even), steps.select(~even)


def first_of_each(steps: Observations, n: int) -> Observations:
    """The first steps of every deployment."""
    parts = [np.arange(len(steps))[steps.slice_of(each)][:n] for each in steps.deployments]
    return steps.select(np.concatenate(parts))


def mape(steps: Observations, median: NDArray[np.float64]) -> float:
    """Mean absolute error of forecasts, in per cent."""
    return float(100 * np.mean(np.abs(median / steps.latency_ms - 1)))
