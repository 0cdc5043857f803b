"""Rooflines: what datasheets say of a step, with a knee or with efficiencies fitted to steps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

import numpy as np
from scipy.optimize import nnls

from bayeslat.evaluation.base import Array
from bayeslat.evaluation.rivals.datasheets import Datasheets, least_times
from bayeslat.evaluation.rivals.history import KNOWN, History, Novelty
from bayeslat.evaluation.rivals.polynomial import FLOOR, deployment_weights
from bayeslat.evaluation.rivals.spread import Forecaster, PointRival, Ratios, scaled_by_few
from bayeslat.observations import Observations
from bayeslat.schema import Deployment

__all__ = ["RooflineDatasheet", "RooflineKnee"]

KNEES: Final = np.geomspace(1e-3, 1e3, 61)
"""Ratios of the two efficiencies that are tried."""


class RooflineKnee(PointRival):
    """Roofline with one knee: a + max(b, c S) + d C, no coefficient negative.

    In milliseconds that the datasheet allows: M to read the weights, F for the arithmetic, K to
    read the context; then T = a + c max(q M, F) + d K by least squares on relative errors. For one
    deployment the two are the same. New deployments get the fit of their engine, times a factor
    from their few steps. ``n_averaged`` is not used: all steps count alike.
    """

    name = "roofline knee"

    def _maker(self, history: History) -> Callable[[Novelty], Forecaster]:
        return partial(self._forecaster, history)

    def _forecaster(self, history: History, novelty: Novelty) -> Forecaster:
        steps, sheets = history.known, Datasheets.of(history.known.deployments, self.catalog)
        if novelty == KNOWN:
            own = {each: _Knee.of(steps.for_deployment(each), sheets) for each in steps.deployments}
            point = partial(_knee_each, sheets, own)
            return Forecaster(point, Ratios(steps, steps.latency_ms / point(steps)), centred=False)
        by_engine = {
            engine: _Knee.of(part, sheets) for engine, part in _by_engine(steps, sheets).items()
        }
        pooled = partial(_knee_of_engine, sheets, by_engine, _Knee.of(steps, sheets))
        errors = Ratios(steps, steps.latency_ms / pooled(steps))
        return Forecaster(partial(scaled_by_few, pooled, history), errors)


@dataclass(frozen=True, eq=False)
class _Knee:
    """Knee and coefficients of some deployments."""

    knee: float
    weights: Array
    floor: float

    @classmethod
    def of(cls, steps: Observations, sheets: Datasheets) -> "_Knee":
        """Non-negative least squares at each of many knees; the best one counts."""
        least = least_times(steps, sheets)
        scale = np.sqrt(deployment_weights(steps))
        fits = []
        for knee in KNEES:
            relative = _knee_terms(least, knee) / steps.latency_ms[:, None]
            weights, error = nnls(relative * scale[:, None], scale)
            fits.append((error, knee, weights))
        _, knee, weights = min(fits, key=lambda fit: fit[0])
        return cls(float(knee), weights, FLOOR * steps.latency_ms.min())

    def point(self, steps: Observations, sheets: Datasheets) -> Array:
        terms = _knee_terms(least_times(steps, sheets), self.knee)
        return np.maximum(terms @ self.weights, self.floor)


def _knee_terms(least: tuple[Array, Array, Array], knee: float) -> Array:
    memory, compute, context = least
    return np.column_stack([np.ones(memory.size), np.maximum(knee * memory, compute), context])


def _knee_each(sheets: Datasheets, fits: Mapping[Deployment, _Knee], steps: Observations) -> Array:
    parts = [fits[each].point(steps.for_deployment(each), sheets) for each in steps.deployments]
    return np.concatenate(parts)


def _knee_of_engine(
    sheets: Datasheets, fits: Mapping[str, _Knee], otherwise: _Knee, steps: Observations
) -> Array:
    parts = [
        fits.get(each.engine, otherwise).point(steps.for_deployment(each), sheets)
        for each in steps.deployments
    ]
    return np.concatenate(parts)


def _by_engine(steps: Observations, sheets: Datasheets) -> dict[str, Observations]:
    """Steps of each known engine."""
    code = sheets.engine_codes(steps)
    return {engine: steps.select(code == number) for number, engine in enumerate(sheets.engines)}


class _Efficiencies(NamedTuple):
    """Shares of the datasheet's peak throughput (MFU) and bandwidth (MBU) that are reached."""

    mfu: float
    mbu: float


class RooflineDatasheet(PointRival):
    """Roofline without a fit of its own: T = max(F / MFU, (M + K) / MBU).

    F is the time of the arithmetic, M of reading the weights, K of reading the context, as the
    datasheet allows them. MFU and MBU are one pair for each engine, with the least mean absolute
    log error over its known steps; an engine that is not known gets the pair of all steps. It
    treats known and new deployments alike. ``n_averaged`` is not used: all steps count alike.
    """

    name = "roofline datasheet"

    def _maker(self, history: History) -> Callable[[Novelty], Forecaster]:
        return partial(self._forecaster, history.everything())

    def _forecaster(self, steps: Observations, novelty: Novelty) -> Forecaster:
        sheets = Datasheets.of(steps.deployments, self.catalog)
        by_engine = {
            engine: _efficiencies(part, sheets)
            for engine, part in _by_engine(steps, sheets).items()
        }
        point = partial(_roofline, sheets, by_engine, _efficiencies(steps, sheets))
        # A deployment's own errors would tell of its own efficiencies, which it does not have here.
        return Forecaster(point, Ratios(steps, steps.latency_ms / point(steps), own=False))


def _efficiencies(steps: Observations, sheets: Datasheets) -> _Efficiencies:
    """The pair with the least mean absolute log error; every deployment counts alike."""
    weights, compute, context = least_times(steps, sheets)
    share = deployment_weights(steps)
    fits = []
    for knee in KNEES:
        log_ratio = np.log(steps.latency_ms / np.maximum(compute, knee * (weights + context)))
        level = _weighted_median(log_ratio, share)
        fits.append((share @ np.abs(log_ratio - level), knee, level))
    _, knee, level = min(fits)
    return _Efficiencies(mfu=float(np.exp(-level)), mbu=float(np.exp(-level) / knee))


def _weighted_median(values: Array, weights: Array) -> float:
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(below, 0.5 * below[-1])])


def _roofline(
    sheets: Datasheets,
    by_engine: Mapping[str, _Efficiencies],
    otherwise: _Efficiencies,
    steps: Observations,
) -> Array:
    pairs = [by_engine.get(each.engine, otherwise) for each in steps.deployments]
    mfu, mbu = np.array(pairs).reshape(-1, 2)[steps.deployment_index].T
    weights, compute, context = least_times(steps, sheets)
    return np.maximum(compute / mfu, (weights + context) / mbu)
