"""Robust regression of what a law has become on what was believed: a refit of one deployment.

The logarithm of measured over believed latency is a polynomial in the logarithms of the step, with
a Gaussian prior around "as it was" and Student-t noise (iteratively reweighted least squares).
"""

from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from adaptation.rivals.base import Forecast, from_quantiles, gathered
from adaptation.rivals.features import Features
from adaptation.rivals.fixed import Fixed
from bayeslat.schema import Deployment

__all__ = ["Refit", "Shift", "shift_of", "start_refit"]

type Array = NDArray[np.float64]

SD_LEVEL: Final = 1.0
SD_SLOPE: Final = 0.2
"""Prior standard deviations of a log-change: of all steps, and by standardised feature."""

T_DEGREES: Final = 4.0
ROUNDS: Final = 30
LEAST_ROWS: Final = 200
"""Rows behind the empirical quantiles of the noise; those before the change fill up."""


@dataclass(frozen=True, eq=False)
class Shift:
    """What a law has become, relative to what was believed.

    Attributes
    ----------
    features : Features
        Of a step.
    weights : array
        Shape (feature,); zero is "as it was".
    ratios : array
        Measured over fitted latency: the noise.
    """

    features: Features
    weights: Array
    ratios: Array

    def __call__(self, believed: Array, steps: pd.DataFrame) -> Forecast:
        """Forecast of steps, from the median that was believed of them."""
        return from_quantiles(believed * np.exp(self.features(steps) @ self.weights), self.ratios)


def shift_of(log_ratio: Array, steps: pd.DataFrame, features: Features, noise: Array) -> Shift:
    """Fit a shift.

    Parameters
    ----------
    log_ratio : array
        log(measured / believed), shape (row,).
    steps : pandas.DataFrame
        The steps, of the same length.
    features : Features
        In which the law may have changed.
    noise : array
        Ratios of measured to believed latency before, which fill up where rows are few.
    """
    x = features(steps)
    prior = np.diag([1 / SD_LEVEL**2, *np.full(x.shape[1] - 1, 1 / SD_SLOPE**2)])
    weights = np.zeros(x.shape[1])
    weights[0] = np.median(log_ratio) if log_ratio.size else 0.0
    for _ in range(ROUNDS if log_ratio.size else 0):
        rest = log_ratio - x @ weights
        scale = max(1.4826 * float(np.median(np.abs(rest))), 1e-4)
        kept = (T_DEGREES + 1) / (T_DEGREES + (rest / scale) ** 2) / scale**2
        weights = np.linalg.solve(x.T @ (kept[:, None] * x) + prior, x.T @ (kept * log_ratio))
    ratios = np.exp(log_ratio - x @ weights)
    filling = noise[: max(0, LEAST_ROWS - ratios.size)]
    return Shift(features, weights, np.concatenate([ratios, filling]))


@dataclass(frozen=True, eq=False)
class Refit:
    """A refit on the latest rows, every so many rows.

    Attributes
    ----------
    deployment : Deployment
        Which it is.
    base : Fixed
        What was believed.
    shift : Shift
        In force.
    noise : array
        Measured over believed latency of the rows that the base was fitted to.
    rows : pandas.DataFrame
        The latest rows, `window` at most, with their log_ratio to what the base believed.
    window, every : int
        Rows that are kept; rows between two refits.
    waiting : int
        Rows since the last refit.
    """

    deployment: Deployment
    base: Fixed
    shift: Shift
    noise: Array
    rows: pd.DataFrame
    window: int = 200
    every: int = 100
    waiting: int = 0

    def observe(self, rows: pd.DataFrame) -> Self:
        """The belief after these rows."""
        believed = self.base.median(self.deployment, rows)
        rows = rows.assign(log_ratio=np.log(rows["latency_ms"].to_numpy() / believed))
        held, due = gathered(self, rows)
        if not due:
            return held
        ratios = held.rows["log_ratio"].to_numpy()
        shift = shift_of(ratios, held.rows, self.shift.features, self.noise)
        return replace(held, shift=shift)

    def predict(self, steps: pd.DataFrame) -> Forecast:
        """What it believes of steps."""
        return self.shift(self.base.median(self.deployment, steps), steps)


def start_refit(
    deployment: Deployment, base: Fixed, known: pd.DataFrame, *, window: int = 200, degree: int = 1
) -> Refit:
    """A refit that starts from the posterior and the rows it was fitted to."""
    noise = known["latency_ms"].to_numpy() / base.median(deployment, known)
    features = Features.of(known, degree)
    still = shift_of(np.zeros(0), known.head(0), features, noise)
    rows = known.assign(log_ratio=np.log(noise)).tail(window)
    return Refit(deployment, base, still, noise, rows, window)
