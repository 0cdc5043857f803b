"""The formula for deployments that nobody has measured: known formulas, weighted by likeness.

The log-latency of a new deployment at a step is a weighted sum of what the formulas of the known
deployments say of that step. Where two shares of the same GPU are known in its configuration (LLM,
parallelism, engine and precision) the sum is the straight line between them, over the log of the
share. Else the weights are those of ridge regression (kriging) on the logarithms of the datasheet
quantities and on indicators of engine, GPU, LLM and configuration. Unlike a regression of the
parameters one by one this does not suffer from parameters that stand in for each other. A formula
fitted to these forecasts is where the deployment's own fit starts as soon as it has steps, and a
Gaussian penalty holds it there. How strong the ridge is and how far the forecasts may be trusted
comes from leaving every known GPU (or LLM) out in turn: what is asked of the newcomers, done in
advance. Where all known deployments share one GPU (or LLM) that cannot be done, and both are what
they are by default.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslat.catalog import Catalog
from bayeslat.evaluation.base import Array
from bayeslat.evaluation.rivals.datasheets import Datasheets
from bayeslat.evaluation.rivals.formula import Fitter, Prior, predict
from bayeslat.evaluation.rivals.history import History, Novelty
from bayeslat.observations import Observations
from bayeslat.schema import Deployment

__all__ = ["Newcomer", "Pooled", "PooledMemory", "likeness", "thinned"]

ROWS: Final = 150
"""Steps of a deployment that stand for it in the regression."""

FREE_SPREAD: Final = 2.0
"""Spread of the prior that keeps parameters without information in the fleet's range, in logs."""

RIDGES: Final = (0.01, 0.03, 0.1, 0.3, 1.0)
DEFAULT_RIDGE: Final = 0.1
SLOPE: Final = 0.7
CONSTANT: Final = 3.0
GPU_EFFECT: Final = 0.5
LLM_EFFECT: Final = 0.5
ENGINE_EFFECT: Final = 1.0
CONFIGURATION_EFFECT: Final = 0.5
"""How large effects may be, relative to each other: standard deviations of a Gaussian prior."""

N_SHARES: Final = 2
CLIP: Final = 3.0
DIAGONAL_SHARE: Final = 0.1
LEAST_SPREAD: Final = 0.05


def thinned(own: Observations) -> Observations:
    """At most 150 steps of one deployment, in a random order with a fixed seed."""
    return own.select(np.random.default_rng(0).permutation(len(own))[:ROWS])


@dataclass(frozen=True, eq=False)
class Newcomer:
    """Forecasts of a deployment that is new, or that is treated as if it were.

    Attributes
    ----------
    few, log_few
        Steps known of it, and their log-latency by its formula.
    rest, log_rest
        The other steps, and their log-latency by its formula.
    shares
        Positions and weights of the two known deployments between whose shares it lies; empty
        where there are none.
    """

    few: Observations
    log_few: Array
    rest: Observations
    log_rest: Array
    shares: dict[int, float]


class _Mixture(NamedTuple):
    """Weights of the known deployments, and those of the two shares if it is between two."""

    weights: Array
    shares: dict[int, float]


class Pooled:
    """Formulas of the known deployments, and what they imply for others.

    Parameters
    ----------
    known
        Steps of the known deployments, with contexts.
    fitter
        Fits one deployment.
    by
        ``gpu`` or ``model``: which names new deployments bring.
    catalog
        Datasheets.
    """

    def __init__(self, known: Observations, fitter: Fitter, by: str, catalog: Catalog):
        self.steps, self.fitter, self.catalog = known, fitter, catalog
        self.known = known.deployments
        self.sheets = Datasheets.of(self.known, catalog)
        self.own = [thinned(known.for_deployment(each)) for each in self.known]
        self.groups = np.array([getattr(each, by) for each in self.known])
        free = np.median(list(fitter.fit_all(known).values()), axis=0)
        self.weak = Prior(free, np.eye(free.size) / FREE_SPREAD)
        self.theta = list(fitter.fit_all(known, self.weak).values())
        self.kernel = likeness(self.known, self.known, self.sheets)
        self.ridge, self.whitening = DEFAULT_RIDGE, self.weak.whitening
        if np.unique(self.groups).size > 1:
            self.ridge = min(RIDGES, key=self._error_as_if_new)
            self.whitening = self._whitening_as_if_new()

    def newcomers(self, history: History, steps: Observations) -> list[Newcomer]:
        """Every deployment of the steps, forecast from its datasheet and its few steps."""
        like = likeness(steps.deployments, self.known, self.sheets)
        everyone = np.ones(len(self.known), dtype=bool)
        found = []
        for new, row in zip(steps.deployments, like, strict=True):
            mixture = self._mixture(new, row, everyone, self.ridge)
            found.append(self._newcomer(history.few_of(new), steps.for_deployment(new), mixture))
        return found

    def as_if_new(self, count: int) -> list[Newcomer]:
        """The known deployments as if each GPU (or LLM) were new and so many steps of each known.

        Deployments with no more steps than that are left out; none is left where all deployments
        share one GPU (or LLM).
        """
        if np.unique(self.groups).size < 2:
            return []
        return [
            self._newcomer(
                own.select(np.arange(count)),
                own.select(np.arange(count, len(own))),
                self._mixture_as_if_new(position, self.ridge),
            )
            for position, own in enumerate(self.own)
            if len(own) > count
        ]

    def _newcomer(self, few: Observations, rest: Observations, mixture: _Mixture) -> Newcomer:
        log_few, log_rest = (mixture.weights @ self._formulas(part) for part in (few, rest))
        if len(few):
            prior = Prior(self._nearest(rest, log_rest), self.whitening)
            theta = self.fitter.fit(few, prior)
            log_few, log_rest = (np.log(predict(theta, part)) for part in (few, rest))
        return Newcomer(few, log_few, rest, log_rest, mixture.shares)

    def _nearest(self, at: Observations, log_latency: Array) -> Array:
        """The formula nearest to given log-latencies."""
        return self.fitter.fit(thinned(replace(at, latency_ms=np.exp(log_latency))), self.weak)

    def _formulas(self, steps: Observations) -> Array:
        """Log-latency by the formula of every known deployment, shape (deployment, row)."""
        return np.log([predict(theta, steps) for theta in self.theta])

    def _mixture_as_if_new(self, position: int, ridge: float) -> _Mixture:
        """Weights for a known deployment, zero for all of its own group."""
        rest = self.groups != self.groups[position]
        return self._mixture(self.known[position], self.kernel[position], rest, ridge)

    def _mixture(
        self, new: Deployment, like: Array, usable: NDArray[np.bool_], ridge: float
    ) -> _Mixture:
        """Weights of the known deployments, zero for those that may not be used."""
        weights = np.zeros(len(self.known))
        shares = np.where(usable, _log_shares(new, self.known, self.catalog), np.nan)
        if np.isfinite(shares).sum() >= N_SHARES:
            first, second = _around(shares)
            weights[first] = shares[second] / (shares[second] - shares[first])
            weights[second] = 1.0 - weights[first]
            return _Mixture(weights, {i: float(weights[i]) for i in (first, second)})
        inner = self.kernel[np.ix_(usable, usable)]
        weights[usable] = np.linalg.solve(inner + ridge * np.eye(len(inner)), like[usable])
        return _Mixture(weights, {})

    def _expected_as_if_new(self, position: int, ridge: float) -> Array:
        mixture = self._mixture_as_if_new(position, ridge)
        return mixture.weights @ self._formulas(self.own[position])

    def _error_as_if_new(self, ridge: float) -> float:
        """Median over deployments of the mean absolute log-error."""
        errors = [
            np.abs(self._expected_as_if_new(position, ridge) - np.log(own.latency_ms)).mean()
            for position, own in enumerate(self.own)
        ]
        return float(np.median(errors))

    def _whitening_as_if_new(self) -> Array:
        """Inverse root of the covariance of the parameters' errors as if new, outliers clipped."""
        nearest = [
            self._nearest(own, self._expected_as_if_new(position, self.ridge))
            for position, own in enumerate(self.own)
        ]
        errors = np.array(nearest) - np.array(self.theta)
        bound = CLIP * np.maximum(1.4826 * np.median(np.abs(errors), axis=0), LEAST_SPREAD)
        errors = np.clip(errors, -bound, bound)
        covariance = errors.T @ errors / len(errors)
        diagonal = np.diag(np.diag(covariance))
        covariance += DIAGONAL_SHARE * (diagonal - covariance)
        covariance += LEAST_SPREAD**2 * np.eye(len(covariance))
        return np.linalg.inv(np.linalg.cholesky(covariance))


class PooledMemory:
    """One `Pooled` for all fits to the same known steps: the last is kept.

    Parameters
    ----------
    fitter
        Fits one deployment.
    catalog
        Datasheets.
    """

    def __init__(self, fitter: Fitter, catalog: Catalog):
        self.fitter, self.catalog = fitter, catalog
        self._last: tuple[tuple[str, str], Pooled] | None = None

    def of(self, history: History, novelty: Novelty) -> Pooled:
        """Pooled formula of the known steps, for deployments that are new in this way."""
        key = history.known.fingerprint, novelty.by
        if self._last is None or self._last[0] != key:
            self._last = key, Pooled(history.known, self.fitter, novelty.by, self.catalog)
        return self._last[1]


def likeness(left: Sequence[Deployment], right: Sequence[Deployment], sheets: Datasheets) -> Array:
    """Prior covariance of what deployments are like, shape (left, right)."""
    centre = np.log(sheets.typical)
    slopes = [np.log(sheets.table(each)) - centre for each in (left, right)]
    total = CONSTANT**2 + SLOPE**2 * slopes[0] @ slopes[1].T
    for size, effect in (
        (GPU_EFFECT, lambda each: each.gpu),
        (LLM_EFFECT, lambda each: each.model),
        (ENGINE_EFFECT, lambda each: each.engine),
        (CONFIGURATION_EFFECT, lambda each: each._replace(gpu="")),
    ):
        same = [[effect(one) == effect(other) for other in right] for one in left]
        total = total + size**2 * np.array(same, dtype=float).reshape(total.shape)
    return total


def _log_shares(new: Deployment, known: Sequence[Deployment], catalog: Catalog) -> Array:
    """Log of each known share over the new one; NaN but on the same GPU and configuration."""
    shares = np.full(len(known), np.nan)
    gpu = catalog.gpu(new.gpu)
    for position, other in enumerate(known):
        entry = catalog.gpu(other.gpu)
        if other._replace(gpu=new.gpu) == new and entry.device == gpu.device:
            shares[position] = np.log(entry.sm_share / gpu.sm_share)
    return shares


def _around(log_shares: Array) -> tuple[int, int]:
    """Positions of the nearest below and above zero; at an edge of the two nearest."""
    below = np.where(log_shares < 0.0, log_shares, -np.inf)
    above = np.where(log_shares > 0.0, log_shares, np.inf)
    if np.isfinite(below).any() and np.isfinite(above).any():
        return int(below.argmax()), int(above.argmin())
    first, second = np.argsort(np.abs(log_shares))[:2]
    return int(first), int(second)
