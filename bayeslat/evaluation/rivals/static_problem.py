"""The least squares behind the static model: what is minimised, and its curvature at the end."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import least_squares

from bayeslat import saturation
from bayeslat.evaluation.base import Array

__all__ = ["LOSSES", "PARAMETERS", "Curvature", "Loss", "Problem", "gradient", "latency"]

type Loss = Literal["linear", "soft_l1", "huber", "cauchy"]

LOSSES: Final = ("linear", "soft_l1", "huber", "cauchy")

PARAMETERS: Final = ("P_max", "k_B", "k_S", "w_0", "w_1", "tau_0", "tau_B", "tau_S")

LOW: Final = np.array([0.1, 1e-4, 1e-4, 0.0, 1e-6, 0.0, 0.0, 0.0])
HIGH: Final = np.array([1e4, 10.0, 1.0, np.inf, np.inf, np.inf, np.inf, np.inf])
"""Bounds of `PARAMETERS`."""

INNER: Final = 1e-9
"""How far inside its bounds a search starts."""

RANK: Final = 1e-12
"""Curvature, relative to the largest, below which a direction counts as flat."""

ALONG: Final = 1e-4
"""Cosine with a flat direction from which on a quantity counts as undecided by the data."""

MAD_TO_SPREAD: Final = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


def latency(theta: Array, batch_size: ArrayLike, total_tokens: ArrayLike) -> Array:
    """Latency in ms at the values of `PARAMETERS`, of the broadcast shape.

    Parameters
    ----------
    theta
        Shape (parameter,) or (parameter, ...), the latter to be broadcast against the steps.
    batch_size, total_tokens
        B and S.
    """
    named = dict(zip(PARAMETERS, theta, strict=True))
    return saturation.latency(named, np.asarray(batch_size), np.asarray(total_tokens))


def gradient(theta: Array, batch_size: Array, total_tokens: Array) -> Array:
    """Derivatives of the latency by `PARAMETERS`, shape (row, parameter)."""
    p_max, k_b, k_s, w_0, w_1, *_ = theta
    rise_b, rise_s = -np.expm1(-k_b * batch_size), -np.expm1(-k_s * total_tokens)
    per_unit = 1.0 / (p_max * rise_b * rise_s)
    processing = (w_0 + w_1 * total_tokens) * per_unit
    return np.column_stack(
        [
            -processing / p_max,
            -processing * batch_size * np.exp(-k_b * batch_size) / rise_b,
            -processing * total_tokens * np.exp(-k_s * total_tokens) / rise_s,
            per_unit,
            total_tokens * per_unit,
            np.ones_like(per_unit),
            batch_size,
            total_tokens,
        ]
    )


@dataclass(frozen=True, eq=False)
class Curvature:
    """What the data say of the parameters near the best fit.

    Attributes
    ----------
    covariance
        Of the parameters, shape (parameter, parameter): without the flat directions (a
        pseudo-inverse), and zero for parameters at a bound, which count as known.
    flat
        Directions in which the fit does not change, each of length one in units of the parameters'
        sizes, shape (parameter, direction).
    size
        Weight of a change of each parameter in the fit, shape (parameter,).
    spread
        Standard deviation of the weighted residuals.
    rank
        Directions that the data decide.
    n_rows
        Steps.
    """

    covariance: Array
    flat: Array
    size: Array
    spread: float
    rank: int
    n_rows: int

    def standard_errors(self, slopes: Array) -> Array:
        """Standard errors of quantities of the parameters, to first order.

        Parameters
        ----------
        slopes
            Derivatives of each quantity by the parameters, shape (quantity, parameter).

        Returns
        -------
        array
            Shape (quantity,); infinite where a quantity changes along a flat direction, and where
            there are no more steps than decided directions.
        """
        variance = np.einsum("qp,pr,qr->q", slopes, self.covariance, slopes)
        scaled = slopes / self.size
        length = np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), np.finfo(float).tiny)
        undecided = (np.abs(scaled / length @ self.flat) > ALONG).any(axis=1)
        undecided |= self.n_rows <= self.rank
        return np.where(undecided, np.inf, np.sqrt(np.maximum(variance, 0.0)))


@dataclass(frozen=True, eq=False)
class Problem:
    """What is minimised over the parameters: a loss of the weighted residuals.

    Attributes
    ----------
    rows
        B, S, T and weight of each step, shape (row, 4).
    loss, loss_scale
        As in `scipy.optimize.least_squares`.
    """

    rows: Array
    loss: Loss
    loss_scale: float

    def start(self) -> Array:
        """Start values of `PARAMETERS`."""
        _, tokens, latency_ms, _ = self.rows.T
        slope = np.polyfit(tokens, latency_ms, 1)[0] if np.ptp(tokens) > 0 else 0.0
        w_1 = max(float(slope), LOW[4])
        w_0 = 0.1 * w_1 * np.median(tokens)
        p_max = np.percentile(tokens / latency_ms, 95)
        return np.array([p_max, 0.1, 0.01, w_0, w_1, latency_ms.min() / 2, 1e-3, 1e-3])

    def solve(self, start: Array) -> tuple[Array, tuple[str, ...]]:
        """Search from a start by bounded trust regions, B and S divided by their medians.

        Returns
        -------
        theta : array
            Values of `PARAMETERS`.
        at_bound : tuple of str
            The parameters that ended at a bound.
        """
        batch, tokens, latency_ms, weight = self.rows.T
        of_batch, of_tokens = np.median(batch), np.median(tokens)
        unit = np.array([1, of_batch, of_tokens, 1, of_tokens, 1, of_batch, of_tokens])
        b, s, root = batch / of_batch, tokens / of_tokens, np.sqrt(weight)
        low, high = LOW * unit, HIGH * unit
        found = least_squares(
            lambda x: root * (latency(x, b, s) - latency_ms),
            np.clip(start * unit, low + INNER, high - INNER),
            lambda x: root[:, None] * gradient(x, b, s),
            bounds=(low, high),
            x_scale="jac",
            loss=self.loss,
            f_scale=self.loss_scale,
            max_nfev=500,
        )
        at_bound = tuple(np.array(PARAMETERS)[found.active_mask != 0].tolist())
        return found.x / unit, at_bound

    def residuals(self, theta: Array) -> Array:
        """Weighted residuals, measured minus fitted, shape (row,)."""
        batch, tokens, latency_ms, weight = self.rows.T
        return np.sqrt(weight) * (latency_ms - latency(theta, batch, tokens))

    def curvature(self, theta: Array, at_bound: tuple[str, ...]) -> Curvature:
        """Sandwich covariance and flat directions at a solution.

        The sandwich (Huber 1967, White 1980) holds for every loss, and where the spread of the
        residuals differs between steps.
        """
        batch, tokens, _, weight = self.rows.T
        residuals, free = self.residuals(theta), ~np.isin(PARAMETERS, at_bound)
        slopes = np.sqrt(weight)[:, None] * gradient(theta, batch, tokens) * free
        pull, bend = _loss_derivatives(self.loss, residuals / self.loss_scale)
        size = np.sqrt(bend @ slopes**2)
        size[size == 0.0] = 1.0
        slopes = slopes / size
        bends, directions = np.linalg.eigh((slopes.T * bend) @ slopes)
        decided = bends > RANK * bends.max()
        inverse = (directions[:, decided] / bends[decided]) @ directions[:, decided].T
        rank, n_rows = int(decided.sum()), len(residuals)
        scores = slopes * (pull * residuals)[:, None]
        covariance = inverse @ (scores.T @ scores) @ inverse
        covariance *= n_rows / max(n_rows - rank, 1) / np.outer(size, size)
        # A parameter at a bound is taken as known: it is no direction at all.
        flat = directions[:, ~decided & (free @ directions**2 > 0.5)]
        return Curvature(covariance, flat, size, self._spread(residuals, rank), rank, n_rows)

    def _spread(self, residuals: Array, rank: int) -> float:
        if self.loss == "linear":
            return float(np.sqrt((residuals**2).sum() / max(residuals.size - rank, 1)))
        deviation = np.abs(residuals - np.median(residuals))
        return MAD_TO_SPREAD * float(np.median(deviation))


def _loss_derivatives(loss: Loss, scaled: Array) -> tuple[Array, Array]:
    """First derivative of a loss over its residual, and its second, never below zero."""
    z = scaled**2
    if loss == "soft_l1":
        return (1.0 + z) ** -0.5, (1.0 + z) ** -1.5
    if loss == "huber":
        return np.maximum(z, 1.0) ** -0.5, np.where(z <= 1.0, 1.0, 0.0)
    if loss == "cauchy":
        return 1.0 / (1.0 + z), np.maximum(1.0 - z, 0.0) / (1.0 + z) ** 2
    return np.ones_like(z), np.ones_like(z)
