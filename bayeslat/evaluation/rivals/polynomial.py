"""Polynomials of B, S and C: what is fitted when nobody thinks of a formula.

They are least squares on relative errors, a deployment at a time. A new deployment gets what is
pooled over the known ones, a ridge regression of log-latency on logarithms of step and datasheet;
its few steps enter as a common factor.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import combinations_with_replacement
from typing import Final

import numpy as np

from bayeslat.evaluation.base import Array
from bayeslat.evaluation.rivals.datasheets import Datasheets
from bayeslat.evaluation.rivals.history import KNOWN, History, Novelty
from bayeslat.evaluation.rivals.spread import Forecaster, PointRival, Ratios, scaled_by_few
from bayeslat.observations import Observations
from bayeslat.schema import Deployment

__all__ = ["LogTerms", "Polynomial", "deployment_weights", "with_products"]

FLOOR: Final = 0.1
"""Least forecast, as a share of the least latency measured: a polynomial may fall below zero."""

NAMES: Final = {1: "linear", 2: "quadratic"}

RIDGE: Final = 1.0
ROWS_A_DEPLOYMENT: Final = 100.0
"""Rows that every deployment counts as in a pooled regression."""

STEP_RANGE: Final = 5.0
SHEET_RANGE: Final = np.array([5.0, 1.0, 3.0, 3.0, 13.0, 1.0])
"""Typical ranges of logarithms, so that one ridge suits products too."""


def with_products(columns: Array, degree: int) -> Array:
    """A constant, and all products of up to so many columns, each of them also with itself."""
    terms = [np.ones(len(columns))]
    for power in range(1, degree + 1):
        for factors in combinations_with_replacement(columns.T, power):
            terms.append(np.prod(factors, axis=0))
    return np.column_stack(terms)


def deployment_weights(steps: Observations) -> Array:
    """Weight of each step, shape (row,), with which every deployment counts alike."""
    size = np.bincount(steps.deployment_index, minlength=len(steps.deployments))
    return ROWS_A_DEPLOYMENT / size[steps.deployment_index]


@dataclass(frozen=True, eq=False)
class LogTerms:
    """Terms of regressions of log-latency: step and phase, and between deployments datasheets.

    Attributes
    ----------
    degree
        Of the products of logarithms.
    sheets
        Datasheets and engines, where there are several deployments.
    """

    degree: int
    sheets: Datasheets | None = None

    def of(self, steps: Observations) -> Array:
        """Terms of each step, shape (row, term)."""
        logs = np.log1p(_step(steps)) / STEP_RANGE
        indicators = [steps.phase == name for name in ("decode", "prefill")]
        if self.sheets is not None:
            logs = np.hstack([logs, np.log(self.sheets.rows(steps)) / SHEET_RANGE])
            engine = self.sheets.engine_codes(steps)
            indicators += [engine == code for code in range(len(self.sheets.engines))]
        return np.hstack([with_products(logs, self.degree), np.column_stack(indicators)])


@dataclass(frozen=True)
class Polynomial(PointRival):
    """Latency linear, or quadratic, in B, S and C.

    The linear one is ``T = a + b B + c S + d C``, the quadratic one has all squares and products.
    ``n_averaged`` is not used: all steps count alike.

    Attributes
    ----------
    degree
        1 or 2.
    """

    degree: int

    @property
    def name(self) -> str:
        """Of the contender."""
        return NAMES[self.degree]

    def _maker(self, history: History) -> Callable[[Novelty], Forecaster]:
        return partial(self._forecaster, history)

    def _forecaster(self, history: History, novelty: Novelty) -> Forecaster:
        steps = history.known
        if novelty == KNOWN:
            fits = {
                each: _OwnPolynomial.of(steps.for_deployment(each), self.degree)
                for each in steps.deployments
            }
            point = partial(_point_each, fits)
            # Least squares on relative errors end below the median: not centred.
            return Forecaster(point, Ratios(steps, steps.latency_ms / point(steps)), centred=False)
        terms = LogTerms(self.degree, Datasheets.of(steps.deployments, self.catalog))
        pooled = partial(_pooled_point, terms, _pooled_weights(terms, steps))
        errors = Ratios(steps, steps.latency_ms / pooled(steps))
        return Forecaster(partial(scaled_by_few, pooled, history), errors)


@dataclass(frozen=True, eq=False)
class _OwnPolynomial:
    """The polynomial of one deployment."""

    degree: int
    weights: Array
    floor: float

    @classmethod
    def of(cls, own: Observations, degree: int) -> "_OwnPolynomial":
        terms = with_products(_step(own), degree)
        scale = np.abs(terms).max(axis=0) + 1e-12
        relative = terms / scale / own.latency_ms[:, None]
        weights = np.linalg.lstsq(relative, np.ones(len(own)))[0] / scale
        return cls(degree, weights, FLOOR * own.latency_ms.min())

    def point(self, steps: Observations) -> Array:
        return np.maximum(with_products(_step(steps), self.degree) @ self.weights, self.floor)


def _point_each(fits: dict[Deployment, _OwnPolynomial], steps: Observations) -> Array:
    parts = [fits[each].point(steps.for_deployment(each)) for each in steps.deployments]
    return np.concatenate(parts)


def _pooled_weights(terms: LogTerms, steps: Observations) -> Array:
    """Ridge weights; every deployment counts alike."""
    columns = terms.of(steps)
    weighted = columns.T * deployment_weights(steps)
    ridge = RIDGE * np.eye(columns.shape[1])
    return np.linalg.solve(weighted @ columns + ridge, weighted @ np.log(steps.latency_ms))


def _pooled_point(terms: LogTerms, weights: Array, steps: Observations) -> Array:
    return np.exp(terms.of(steps) @ weights)


def _step(steps: Observations) -> Array:
    """B, S and C, shape (row, 3)."""
    return np.column_stack([steps.batch_size, steps.total_tokens, steps.context_tokens])
