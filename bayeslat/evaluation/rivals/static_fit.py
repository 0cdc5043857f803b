"""What a fit of the static model says: parameters and their errors, predictions, a picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from bayeslat.errors import InputError
from bayeslat.evaluation.base import Array
from bayeslat.evaluation.rivals.static_problem import (
    PARAMETERS,
    Curvature,
    Problem,
    gradient,
    latency,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SaturationBootstrap", "SaturationFit"]

RATIOS: Final = ("w_0/P_max", "w_1/P_max")
"""What the data decide of the three parameters with a redundant scale."""

RESIDUALS_A_DRAW: Final = 20


@dataclass(frozen=True, eq=False)
class SaturationFit:
    """A fitted static model.

    Attributes
    ----------
    problem
        The steps that were used, and the loss.
    theta
        Values of the parameters, shape (parameter,).
    at_bound
        Parameters that ended at a bound.
    dropped
        Steps that were not used, by reason.
    """

    problem: Problem
    theta: Array
    at_bound: tuple[str, ...]
    dropped: Mapping[str, int]

    @property
    def parameters(self) -> dict[str, float]:
        """Parameters by name, in the units of `bayeslat.schema.PARAMETER_UNITS`."""
        return dict(zip(PARAMETERS, self.theta.tolist(), strict=True))

    @property
    def n_rows(self) -> int:
        """Steps that were used."""
        return len(self.problem.rows)

    @property
    def scores(self) -> dict[str, float]:
        """R2, RMSE and MAE (ms) and MAPE (a share) on the steps that were used, unweighted.

        R2 is NaN where all latencies are the same.
        """
        batch, tokens, latency_ms, _ = self.problem.rows.T
        error = latency(self.theta, batch, tokens) - latency_ms
        spread = np.sum((latency_ms - latency_ms.mean()) ** 2)
        return {
            "R2": float(1.0 - np.sum(error**2) / spread) if spread > 0 else float("nan"),
            "RMSE": float(np.sqrt(np.mean(error**2))),
            "MAE": float(np.mean(np.abs(error))),
            "MAPE": float(np.mean(np.abs(error) / latency_ms)),
        }

    @cached_property
    def curvature(self) -> Curvature:
        """Covariance and flat directions at the solution."""
        return self.problem.curvature(self.theta, self.at_bound)

    @property
    def covariance(self) -> Array:
        """Covariance of the parameters, shape (parameter, parameter); see `Curvature`.

        It is always singular: P_max, w_0 and w_1 carry one redundant scale.
        """
        return self.curvature.covariance

    @property
    def covariance_is_singular(self) -> bool:
        """Whether there are directions in which the fit does not change."""
        return self.curvature.flat.shape[1] > 0

    @property
    def standard_errors(self) -> dict[str, float]:
        """Standard error of every parameter, and of w_0 / P_max and w_1 / P_max.

        Infinite where the data do not decide: always for P_max and w_1, and for w_0 unless it is
        zero. NaN for a parameter at a bound, and for w_0 / P_max where w_0 is.
        """
        errors = self.curvature.standard_errors(_reported_slopes(self.theta))
        named = dict(zip((*PARAMETERS, *RATIOS), errors.tolist(), strict=True))
        unknown = [name for name in named if name.partition("/")[0] in self.at_bound]
        return {**named, **dict.fromkeys(unknown, float("nan"))}

    def intervals(self, level: float = 0.9) -> pd.DataFrame:
        """Estimates with intervals from the covariance, by Student's t.

        Parameters
        ----------
        level
            Confidence, between 0 and 1.

        Returns
        -------
        DataFrame
            A row a parameter and ratio; columns ``estimate``, ``standard_error``, ``low``, ``high``
            and ``at_bound``.
        """
        error = pd.Series(self.standard_errors)
        half = self._t_quantile(level) * error
        table = pd.DataFrame({"estimate": _reported(self.theta), "standard_error": error})
        table = table.assign(low=table["estimate"] - half, high=table["estimate"] + half)
        return table.assign(at_bound=table.index.isin(self.at_bound))

    def predict(self, batch_size: ArrayLike, total_tokens: ArrayLike) -> float | Array:
        """Latency of steps.

        Parameters
        ----------
        batch_size, total_tokens : number or array
            B and S, broadcast against each other.

        Returns
        -------
        float or array
            Milliseconds.

        Raises
        ------
        InputError
            B below 1, or S below B.
        """
        batch, tokens = _steps(batch_size, total_tokens)
        result = latency(self.theta, batch, tokens)
        return result if result.ndim else float(result)

    def predict_interval(
        self,
        batch_size: ArrayLike,
        total_tokens: ArrayLike,
        level: float = 0.9,
        *,
        weight: ArrayLike = 1.0,
    ) -> tuple[Array, Array]:
        """Interval for the latency of one step, from covariance and residuals by Student's t.

        Parameters
        ----------
        batch_size, total_tokens : number or array
            B and S.
        level : float
            Confidence, between 0 and 1.
        weight : number or array
            That the step would have had in the fit. With equal weights all steps are taken to
            spread alike, which long ones do not.

        Returns
        -------
        low, high : array
            Milliseconds, not below zero; unbounded where the data do not decide.

        Raises
        ------
        InputError
            B below 1, S below B, or a level that is no share.
        """
        batch, tokens = _steps(batch_size, total_tokens)
        slopes = gradient(self.theta, batch.ravel(), tokens.ravel())
        error = self.curvature.standard_errors(slopes).reshape(batch.shape)
        spread = self.curvature.spread / np.sqrt(np.asarray(weight, dtype=float))
        half = self._t_quantile(level) * np.hypot(error, spread)
        centre = latency(self.theta, batch, tokens)
        return np.maximum(centre - half, 0.0), centre + half

    def bootstrap(self, n: int = 200, seed: int = 0) -> "SaturationBootstrap":
        """Fit again to steps drawn with replacement, from where this fit ended.

        Parameters
        ----------
        n
            Refits.
        seed
            Of the drawing.

        Raises
        ------
        InputError
            No refit is asked for.
        """
        if n < 1:
            raise InputError(f"got n {n}, expected at least one refit; raise it")
        rng, rows = np.random.default_rng(seed), self.problem.rows
        draws = []
        for _ in range(n):
            drawn = rows[rng.integers(len(rows), size=len(rows))]
            problem = Problem(drawn, self.problem.loss, self.problem.loss_scale)
            draws.append(problem.solve(self.theta)[0])
        residuals = self.problem.residuals(self.theta)
        errors = rng.choice(residuals, size=(n, RESIDUALS_A_DRAW))
        return SaturationBootstrap(np.array(draws), errors)

    def plot_contour(
        self,
        batch_range: tuple[float, float] = (1, 64),
        token_range: tuple[float, float] = (1, 2048),
    ) -> "Figure":
        """Contours of the predicted latency over B and S.

        Parameters
        ----------
        batch_range, token_range
            Least and largest B and S.

        Raises
        ------
        InputError
            A range that is empty or starts below 1.
        """
        # Only pictures need matplotlib, which takes a while to import.
        from bayeslat.evaluation.rivals.contours import latency_contours

        def predict(batch: Array, tokens: Array) -> Array:
            return latency(self.theta, batch, tokens)

        title = f"Static saturation fit to {self.n_rows:,} steps"
        return latency_contours(predict, batch_range, token_range, title=title)

    def _t_quantile(self, level: float) -> float:
        freedom = max(self.n_rows - self.curvature.rank, 1)
        return float(stats.t.ppf(0.5 + 0.5 * _checked_level(level), freedom))


@dataclass(frozen=True, eq=False)
class SaturationBootstrap:
    """Refits of a static model to resampled steps.

    Attributes
    ----------
    draws
        Parameters of every refit, shape (draw, parameter).
    errors
        Weighted residuals drawn for each refit, shape (draw, residual).
    """

    draws: Array
    errors: Array

    def intervals(self, level: float = 0.9) -> pd.DataFrame:
        """Percentile intervals; columns ``low`` and ``high``, a row a parameter and ratio.

        Of P_max, w_0 and w_1 only the ratios mean anything: along their common scale the refits
        stay where they started.
        """
        drawn = pd.DataFrame([_reported(theta) for theta in self.draws])
        low, high = _tails(level)
        return pd.DataFrame({"low": drawn.quantile(low), "high": drawn.quantile(high)})

    def predict_interval(
        self,
        batch_size: ArrayLike,
        total_tokens: ArrayLike,
        level: float = 0.9,
        *,
        weight: ArrayLike = 1.0,
    ) -> tuple[Array, Array]:
        """Interval for the latency of one step: refits, each with residuals of the fit around it.

        Parameters and result are those of `SaturationFit.predict_interval`.
        """
        batch, tokens = _steps(batch_size, total_tokens)
        each = (..., *(None for _ in range(batch.ndim)))
        centre = latency(self.draws.T[each], batch, tokens)[:, None]
        step = centre + self.errors[each] / np.sqrt(np.asarray(weight, dtype=float))
        low, high = np.quantile(step, _tails(level), axis=(0, 1))
        return np.maximum(low, 0.0), high


def _steps(batch_size: ArrayLike, total_tokens: ArrayLike) -> tuple[Array, Array]:
    """B and S of one shape, as floats."""
    batch, tokens = np.broadcast_arrays(
        np.asarray(batch_size, dtype=float), np.asarray(total_tokens, dtype=float)
    )
    if not (batch >= 1).all() or not (tokens >= batch).all():
        wrong = np.flatnonzero(~((batch >= 1) & (tokens >= batch)))[0]
        raise InputError(
            f"got batch_size {batch.flat[wrong]:g} with total_tokens {tokens.flat[wrong]:g},"
            " expected 1 <= batch_size <= total_tokens: every request computes a token; correct it"
        )
    return batch, tokens


def _reported(theta: Array) -> dict[str, float]:
    """Parameters and ratios by name."""
    values = (*theta.tolist(), theta[3] / theta[0], theta[4] / theta[0])
    return dict(zip((*PARAMETERS, *RATIOS), map(float, values), strict=True))


def _reported_slopes(theta: Array) -> Array:
    """Derivatives of parameters and ratios by the parameters, shape (quantity, parameter)."""
    p_max, work = theta[0], theta[3:5]
    ratios = np.zeros((2, theta.size))
    ratios[:, 0] = -work / p_max**2
    ratios[[0, 1], [3, 4]] = 1.0 / p_max
    return np.vstack([np.eye(theta.size), ratios])


def _checked_level(level: float) -> float:
    if not 0 < level < 1:
        raise InputError(f"got level {level}, expected a number between 0 and 1; correct it")
    return level


def _tails(level: float) -> tuple[float, float]:
    return 0.5 - 0.5 * _checked_level(level), 0.5 + 0.5 * level
