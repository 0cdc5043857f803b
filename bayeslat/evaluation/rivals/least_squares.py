"""The saturation formula as people fit it: robust least squares and the errors that it leaves."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from bayeslat.catalog import Catalog
from bayeslat.evaluation.base import Array, Fitted
from bayeslat.evaluation.rivals.formula import ROBUST_SCALE, Fitter, predict_each
from bayeslat.evaluation.rivals.history import KNOWN, History, Novelty
from bayeslat.evaluation.rivals.pooled import Newcomer, PooledMemory
from bayeslat.evaluation.rivals.spread import FittedPoints, Forecaster, Ratios
from bayeslat.evaluation.rivals.static import ThroughputSaturationModel
from bayeslat.evaluation.rivals.static_fit import SaturationFit
from bayeslat.observations import Observations, concat
from bayeslat.schema import Deployment

__all__ = ["SaturationWithContext", "StaticSaturation", "rehearsed_errors"]


class StaticSaturation:
    """The static model, one for each deployment, with relative errors and a robust loss.

    Left to its defaults it counts errors in ms and drops steps beyond 300 ms: it is weaker then,
    and such steps are asked for too.
    For new deployments the pooled formula, refitted to their few steps. ``n_averaged`` is not used:
    all steps count alike.

    Parameters
    ----------
    catalog
        Datasheets.
    starts
        Points from which every deployment is fitted for the pooled formula.
    """

    name = "saturation LSQ"
    version = "2"

    def __init__(self, catalog: Catalog, *, starts: int = 8):
        self.memory = PooledMemory(Fitter(with_context=False, starts=starts), catalog)

    def fit(self, known: Observations, few: Observations | None = None) -> Fitted:
        """See `Contender`."""
        history = History.of(known, few)
        steps = history.known
        fits = {each: _static_fit(steps.for_deployment(each)) for each in steps.deployments}
        point = partial(_static_each, fits)
        errors = Ratios(steps, steps.latency_ms / point(steps))
        return FittedPoints(history, _Maker(history, self.memory, Forecaster(point, errors)))


def _static_fit(own: Observations) -> SaturationFit:
    model = ThroughputSaturationModel(
        loss="soft_l1", loss_scale=ROBUST_SCALE, min_latency_ms=0.0, max_latency_ms=np.inf
    )
    return model.fit(own, weights=own.latency_ms**-2)


def _static_each(fits: Mapping[Deployment, SaturationFit], steps: Observations) -> Array:
    result = np.empty(len(steps))
    for deployment, fit in fits.items():
        if deployment in steps.deployments:
            own = steps.slice_of(deployment)
            result[own] = fit.predict(steps.batch_size[own], steps.total_tokens[own])
    return result


class SaturationWithContext:
    """The formula with a term in C, from several starts, on relative errors.

    For new deployments the pooled formula, refitted to their few steps. ``n_averaged`` is not used:
    all steps count alike.

    Parameters
    ----------
    catalog
        Datasheets.
    starts
        Points from which every deployment is fitted.
    """

    name = "saturation+context LSQ"
    version = "2"

    def __init__(self, catalog: Catalog, *, starts: int = 8):
        self.memory = PooledMemory(Fitter(with_context=True, starts=starts), catalog)

    def fit(self, known: Observations, few: Observations | None = None) -> Fitted:
        """See `Contender`."""
        history = History.of(known, few)
        point = partial(predict_each, self.memory.fitter.fit_all(history.known))
        errors = Ratios(history.known, history.known.latency_ms / point(history.known))
        return FittedPoints(history, _Maker(history, self.memory, Forecaster(point, errors)))


@dataclass(frozen=True, eq=False)
class _Maker:
    """Makes the forecaster of each novelty: that of known deployments, or the pooled formula.

    The past of new deployments is that of known ones as if new.
    """

    history: History
    memory: PooledMemory
    known: Forecaster

    def __call__(self, novelty: Novelty) -> Forecaster:
        if novelty == KNOWN:
            return self.known
        rehearsed = self.memory.of(self.history, novelty).as_if_new(novelty.n_few)
        log_fitted = [each.log_rest for each in rehearsed]
        errors = rehearsed_errors(rehearsed, log_fitted) if rehearsed else self.known.errors
        return Forecaster(partial(self._new_point, novelty), errors)

    def _new_point(self, novelty: Novelty, steps: Observations) -> Array:
        newcomers = self.memory.of(self.history, novelty).newcomers(self.history, steps)
        return np.exp(np.concatenate([new.log_rest for new in newcomers]))


def rehearsed_errors(rehearsed: list[Newcomer], log_fitted: list[Array]) -> Ratios:
    """Ratios of the steps that known deployments were asked for as if they were new.

    Parameters
    ----------
    rehearsed
        The deployments; at least one.
    log_fitted
        Forecast log-latency of the other steps of each.
    """
    past = concat(*(each.rest for each in rehearsed))
    return Ratios(past, past.latency_ms / np.exp(np.concatenate(log_fitted)))
