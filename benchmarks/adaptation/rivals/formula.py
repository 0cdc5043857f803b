"""The throughput-saturation formula that follows a stream: least squares, and a momentum step.

The formula, its bounds and its robust fit are those of `bayeslat.evaluation.rivals.formula`.
"""

from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from adaptation.rivals.base import Forecast, from_quantiles, gathered
from bayeslat.evaluation.rivals.formula import HIGH, LOW, PARAMETERS, Fitter, predict

__all__ = [
    "Momentum",
    "MomentumSettings",
    "SlidingWindow",
    "fit_formula",
    "start_momentum",
    "start_window",
]

type Array = NDArray[np.float64]

STARTS: Final = 8
DIFFERENCE: Final = 1e-5


def fit_formula(known: pd.DataFrame) -> Array:
    """Log-parameters of the rows that the base posterior was fitted to, from several starts."""
    return Fitter(with_context=True, starts=STARTS).fit(known)


@dataclass(frozen=True, eq=False)
class SlidingWindow:
    """Robust least squares on the latest rows, started from the last fit.

    Attributes
    ----------
    theta : array
        Log-parameters in force.
    rows : pandas.DataFrame
        The latest rows, `window` at most.
    window, every : int
        Rows that are kept; rows between two fits.
    waiting : int
        Rows since the last fit.
    """

    theta: Array
    rows: pd.DataFrame
    window: int = 5000
    every: int = 100
    waiting: int = 0

    def observe(self, rows: pd.DataFrame) -> Self:
        """The belief after these rows."""
        held, due = gathered(self, rows)
        if not due:
            return held
        theta = Fitter(with_context=True).fit(held.rows, start=self.theta)
        return replace(held, theta=theta)

    def predict(self, steps: pd.DataFrame) -> Forecast:
        """The formula, with the noise of the window."""
        noise = self.rows["latency_ms"].to_numpy() / predict(self.theta, self.rows)
        return from_quantiles(predict(self.theta, steps), noise)


def start_window(theta: Array, known: pd.DataFrame, *, window: int = 5000) -> SlidingWindow:
    """Least squares that start from the rows that the base posterior was fitted to."""
    return SlidingWindow(theta, known.tail(window), window)


@dataclass(frozen=True)
class MomentumSettings:
    """Settings of the momentum step, chosen on `adaptation.scenarios.TUNING`.

    Attributes
    ----------
    rate : float
        Length of a step, relative to the inverse curvature along each log-parameter.
    momentum : float
        Share of the last step that goes on.
    pull : float
        Weight of the squared distance from the base, relative to the curvature.
    decay : float
        Weight of a row is this to the power of its age in rows.
    """

    rate: float = 4.0
    momentum: float = 0.3
    pull: float = 0.003
    decay: float = 0.99


@dataclass(frozen=True, eq=False)
class Momentum:
    """One gradient step with momentum every hundred rows, on weighted squared log-errors.

    Attributes
    ----------
    theta, base, velocity : array
        Log-parameters in force and at the start, and the last step; shape (parameter,).
    curvature : array
        Diagonal of the Gauss-Newton Hessian at the start, a row.
    rows : pandas.DataFrame
        The latest rows.
    settings : MomentumSettings
        Of the step.
    every, window : int
        Rows between two steps; rows that are kept.
    waiting : int
        Rows since the last step.
    """

    theta: Array
    base: Array
    velocity: Array
    curvature: Array
    rows: pd.DataFrame
    settings: MomentumSettings
    every: int = 100
    window: int = 500
    waiting: int = 0

    def observe(self, rows: pd.DataFrame) -> Self:
        """The belief after these rows."""
        held, due = gathered(self, rows)
        if not due:
            return held
        own = self.settings
        gradient = self._gradient(held.rows) + own.pull * self.curvature * (self.theta - self.base)
        velocity = own.momentum * self.velocity - own.rate * gradient / self.curvature
        theta = np.clip(self.theta + velocity, LOW, HIGH)
        return replace(held, theta=theta, velocity=velocity)

    def predict(self, steps: pd.DataFrame) -> Forecast:
        """The formula, with the noise of the latest rows."""
        noise = self.rows["latency_ms"].to_numpy() / predict(self.theta, self.rows)
        return from_quantiles(predict(self.theta, steps), noise)

    def _gradient(self, rows: pd.DataFrame) -> Array:
        """Of half the weighted mean squared log-error; errors beyond 0.5 count as 0.5."""
        weights = self.settings.decay ** np.arange(len(rows))[::-1]
        error = np.log(predict(self.theta, rows) / rows["latency_ms"].to_numpy())
        error = np.clip(error, -0.5, 0.5)
        return (weights * error) @ slopes(self.theta, rows) / weights.sum()


def slopes(theta: Array, rows: pd.DataFrame) -> Array:
    """Derivatives of log T by log-parameters, shape (row, parameter), by central differences."""
    columns = []
    for step in DIFFERENCE * np.eye(theta.size):
        above, below = (np.log(predict(theta + sign * step, rows)) for sign in (1, -1))
        columns.append((above - below) / (2 * DIFFERENCE))
    return np.column_stack(columns)


def start_momentum(
    theta: Array, known: pd.DataFrame, settings: MomentumSettings | None = None
) -> Momentum:
    """A momentum step that starts from the rows that the base posterior was fitted to."""
    curvature = np.maximum((slopes(theta, known) ** 2).mean(axis=0), 1e-6) * len(PARAMETERS)
    return Momentum(
        theta, theta, np.zeros(theta.size), curvature, known.tail(500),
        settings or MomentumSettings(),
    )  # fmt: skip
