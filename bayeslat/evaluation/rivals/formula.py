"""The saturation formula by robust least squares on relative errors, one deployment at a time.

    T = tau_0 + (w_0 + S) / (P (1 - exp(-k_B B)) (1 - exp(-k_S S))) + tau_B B + tau_S S [+ tau_C C]

The gauge is w_1 = 1: a work unit is one token of the deployment's own LLM. Everything happens in
the logarithms of the parameters and of the latency.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from bayeslat.evaluation.base import Array
from bayeslat.observations import Observations
from bayeslat.schema import Deployment

__all__ = ["PARAMETERS", "Fitter", "Prior", "predict", "predict_each"]

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

    def content(self) -> bytes:
        """Content, for a cache."""
        return self.mean.tobytes() + self.whitening.tobytes()


def predict(theta: Array, steps: Observations | pd.DataFrame) -> Array:
    """Latency in ms of the steps at log-parameters `theta`; a missing tau_C counts as zero."""
    return _terms(theta, _columns(steps))[0]


def predict_each(fits: Mapping[Deployment, Array], steps: Observations) -> Array:
    """Latency in ms of every step by the formula of its deployment."""
    result = np.empty(len(steps))
    for deployment in steps.deployments:
        own = steps.for_deployment(deployment)
        result[steps.slice_of(deployment)] = predict(fits[deployment], own)
    return result


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

    def fit(
        self,
        own: Observations | pd.DataFrame,
        prior: Prior | None = None,
        start: Array | None = None,
    ) -> Array:
        """Log-parameters of one deployment, shape (parameter,).

        Parameters
        ----------
        own
            Its steps, with contexts.
        prior
            Gaussian that holds the parameters; its mean is where the fit starts.
        start
            The only start, where a good one is known.
        """
        columns, log_latency = _columns(own), np.log(np.asarray(own.latency_ms))
        start = prior.mean if prior is not None and start is None else start
        content = columns.tobytes() + log_latency.tobytes() + (prior.content() if prior else b"")
        content += b"" if start is None else start.tobytes()
        key = hashlib.sha256(content).digest()
        if key not in self._known:
            starts = self._starts(columns, log_latency) if start is None else [start]
            low, high = LOW[: self.n_parameters] + 0.1, HIGH[: self.n_parameters] - 0.1
            fits = [
                _fit_from(np.clip(each, low, high), columns, log_latency, prior) for each in starts
            ]
            self._known[key] = min(fits, key=lambda fit: fit[1])[0]
        return self._known[key]

    def fit_all(
        self,
        steps: Observations,
        prior: Prior | None = None,
        starts: Mapping[Deployment, Array] | None = None,
    ) -> dict[Deployment, Array]:
        """Log-parameters of every deployment in the steps; see `fit`."""
        return {
            each: self.fit(steps.for_deployment(each), prior, starts[each] if starts else None)
            for each in steps.deployments
        }

    def _starts(self, columns: Array, log_latency: Array) -> list[Array]:
        latency = np.exp(log_latency)
        first = CENTRE[: self.n_parameters].copy()
        first[0] = np.log(np.percentile(columns[1] / latency, 95))
        first[4] = np.log(latency.min() / 2)
        rng = np.random.default_rng(0)
        noise = START_SPREAD * rng.standard_normal((self.starts, self.n_parameters))
        noise[0] = 0.0
        return list(first + noise)


def _columns(steps: Observations | pd.DataFrame) -> Array:
    """B, S and C of the steps, shape (3, row)."""
    return np.array([steps.batch_size, steps.total_tokens, steps.context_tokens])


def _terms(theta: Array, columns: Array) -> tuple[Array, Array]:
    """Latency, shape (row,), and its derivative by each log-parameter, shape (row, parameter)."""
    batch, tokens, context = columns
    p, k_b, k_s, w_0, tau_0, tau_b, tau_s = np.exp(theta[:7])
    rise_b, rise_s = -np.expm1(-k_b * batch), -np.expm1(-k_s * tokens)
    per_unit = 1.0 / (p * rise_b * rise_s)
    work = (w_0 + tokens) * per_unit
    slopes = [
        -work,
        -work * k_b * batch * np.exp(-k_b * batch) / rise_b,
        -work * k_s * tokens * np.exp(-k_s * tokens) / rise_s,
        w_0 * per_unit,
        np.full(batch.size, tau_0),
        tau_b * batch,
        tau_s * tokens,
    ]
    if theta.size == len(PARAMETERS):
        slopes.append(np.exp(theta[7]) * context)
    return work + np.sum(slopes[4:], axis=0), np.column_stack(slopes)


def _fit_from(
    start: Array, columns: Array, log_latency: Array, prior: Prior | None
) -> tuple[Array, float]:
    """Log-parameters and cost of one local fit."""
    n = log_latency.size

    def residuals(theta: Array) -> Array:
        r = (np.log(_terms(theta, columns)[0]) - log_latency) / ROBUST_SCALE
        return r if prior is None else np.concatenate([r, prior.whitening @ (theta - prior.mean)])

    def jacobian(theta: Array) -> Array:
        latency, slopes = _terms(theta, columns)
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
