"""The saturation formula by robust least squares, one deployment at a time.

    T = tau_0 + (w_0 + S) / (P (1 - exp(-k_B B)) (1 - exp(-k_S S))) + tau_B B + tau_S S [+ tau_C C]

The gauge is w_1 = 1: a work unit is one token of the deployment's own LLM. Everything happens in
the logarithms of the parameters and of the latency.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import least_squares

__all__ = ["PARAMETERS", "Fitter", "Prior", "predict"]

type Array = NDArray[np.float64]

PARAMETERS: Final = ("P", "k_B", "k_S", "w_0", "tau_0", "tau_B", "tau_S", "tau_C")

LOW: Final = np.log([1e-4, 1e-3, 1e-6, 1e-3, 1e-4, 1e-7, 1e-9, 1e-12])
HIGH: Final = np.log([1e5, 1e2, 1e1, 1e6, 1e4, 1e3, 1e1, 1e0])
CENTRE: Final = np.log([10.0, 0.5, 1e-2, 10.0, 3.0, 1e-2, 1e-3, 1e-6])
"""Where fits start, but for P and tau_0, which the data tell."""

START_SPREAD: Final = 1.5
ROBUST_SCALE: Final = 0.1
"""Log-residual at which the soft L1 loss turns from quadratic to linear."""


@dataclass(frozen=True, eq=False)
class Prior:
    """Gaussian on the log-parameters: where a fit with few steps stays.

    Attributes
    ----------
    mean
        Shape (parameter,).
    whitening
        Shape (parameter, parameter): turns a deviation from the mean into standard normals.
    """

    mean: Array
    whitening: Array

    def key(self) -> bytes:
        """Content, for a cache."""
        return self.mean.tobytes() + self.whitening.tobytes()


def predict(theta: Array, frame: pd.DataFrame) -> Array:
    """Latency in ms of the steps at log-parameters `theta`; a missing tau_C counts as zero."""
    return _terms(theta, _steps(frame))[0]


class Fitter:
    """Fits deployments and remembers: the same steps are never fitted twice.

    Parameters
    ----------
    with_context
        Whether the formula has the term in C.
    starts
        Points from which every deployment is fitted; the best fit counts.
    """

    def __init__(self, *, with_context: bool, starts: int = 8):
        self.starts = starts
        self.n_parameters = len(PARAMETERS) - (not with_context)
        self._known: dict[bytes, Array] = {}

    def fit(self, frame: pd.DataFrame, prior: Prior | None = None) -> Array:
        """Log-parameters of one deployment, shape (parameter,)."""
        steps, log_latency = _steps(frame), np.log(frame["latency_ms"].to_numpy())
        key = steps.tobytes() + log_latency.tobytes() + (prior.key() if prior else b"")
        if key not in self._known:
            self._known[key] = self._best(steps, log_latency, prior)
        return self._known[key]

    def fit_all(
        self, frame: pd.DataFrame, priors: dict[str, Prior] | None = None
    ) -> dict[str, Array]:
        """Log-parameters of every deployment in the frame."""
        return {
            label: self.fit(own, priors[label] if priors else None)
            for label, own in frame.groupby("deployment")
        }

    def _best(self, steps: Array, log_latency: Array, prior: Prior | None) -> Array:
        fits = [
            _fit_from(start, steps, log_latency, prior)
            for start in self._starts(steps, log_latency, prior)
        ]
        return min(fits, key=lambda fit: fit[1])[0]

    def _starts(self, steps: Array, log_latency: Array, prior: Prior | None) -> list[Array]:
        low, high = LOW[: self.n_parameters] + 0.1, HIGH[: self.n_parameters] - 0.1
        if prior is not None:
            return [np.clip(prior.mean, low, high)]
        latency = np.exp(log_latency)
        first = CENTRE[: self.n_parameters].copy()
        first[0] = np.log(np.percentile(steps[1] / latency, 95))
        first[4] = np.log(latency.min() / 2)
        rng = np.random.default_rng(0)
        noise = START_SPREAD * rng.standard_normal((self.starts, self.n_parameters))
        noise[0] = 0.0
        return list(np.clip(first + noise, low, high))


def _steps(frame: pd.DataFrame) -> Array:
    """B, S and C of the steps, shape (3, row)."""
    columns = ["batch_size", "total_tokens", "context_tokens"]
    return frame[columns].fillna(0.0).to_numpy(dtype=float).T


def _terms(theta: Array, steps: Array) -> tuple[Array, Array]:
    """Latency, shape (row,), and its derivative by each log-parameter, shape (row, parameter)."""
    batch, tokens, context = steps
    p, k_b, k_s, w_0, tau_0, tau_b, tau_s = np.exp(theta[:7])
    rise_b, rise_s = -np.expm1(-k_b * batch), -np.expm1(-k_s * tokens)
    per_unit = 1.0 / (p * rise_b * rise_s)
    work = (w_0 + tokens) * per_unit
    columns = [
        -work,
        -work * k_b * batch * np.exp(-k_b * batch) / rise_b,
        -work * k_s * tokens * np.exp(-k_s * tokens) / rise_s,
        w_0 * per_unit,
        np.full(batch.size, tau_0),
        tau_b * batch,
        tau_s * tokens,
    ]
    if theta.size == len(PARAMETERS):
        columns.append(np.exp(theta[7]) * context)
    return work + sum(columns[4:]), np.column_stack(columns)


def _fit_from(
    start: Array, steps: Array, log_latency: Array, prior: Prior | None
) -> tuple[Array, float]:
    """Log-parameters and cost of one local fit."""
    n = log_latency.size

    def residuals(theta: Array) -> Array:
        r = (np.log(_terms(theta, steps)[0]) - log_latency) / ROBUST_SCALE
        return r if prior is None else np.concatenate([r, prior.whitening @ (theta - prior.mean)])

    def jacobian(theta: Array) -> Array:
        latency, slopes = _terms(theta, steps)
        j = slopes / latency[:, None] / ROBUST_SCALE
        return j if prior is None else np.vstack([j, prior.whitening])

    def loss(z: Array) -> Array:
        """Soft L1 on the steps, plain squares on the prior."""
        root = np.sqrt(1.0 + z)
        rho = np.array([2.0 * (root - 1.0), 1.0 / root, -0.5 / root**3])
        rho[:, n:] = z[n:], np.ones(z.size - n), np.zeros(z.size - n)
        return rho

    bounds = LOW[: start.size], HIGH[: start.size]
    found = least_squares(residuals, start, jacobian, bounds=bounds, loss=loss, max_nfev=200)
    return found.x, float(found.cost)
