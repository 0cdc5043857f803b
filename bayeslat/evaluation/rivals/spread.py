"""From point forecasts to quantiles: the ratios of measured to forecast latency so far."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

import numpy as np

from bayeslat.catalog import Catalog
from bayeslat.evaluation.base import Array, Fitted
from bayeslat.evaluation.rivals.history import History, Novelty
from bayeslat.observations import Observations
from bayeslat.schema import Deployment

__all__ = ["FittedPoints", "Forecaster", "PointRival", "Ratios", "scaled_by_few"]

MIN_OWN: Final = 10
MIN_OWN_OF_PHASE: Final = 100
ROWS_A_DEPLOYMENT: Final = 400
"""Ratios of one deployment that enter a pool, so that large logs do not drown the others."""

SHRINKAGE: Final = 1.0
"""Steps' worth of belief that a new deployment needs no factor of its own."""


class Ratios:
    """Ratios of measured to forecast latency, and their quantiles for any deployment.

    The quantiles are those of the deployment's own ratios in that phase where there are at least
    100, else of its own ratios where there are at least 10, else of its engine's, else of all.

    Parameters
    ----------
    steps
        Measured steps; at least one.
    ratio
        Measured over forecast latency, shape (row,).
    own
        Whether a deployment's own ratios come before those of its engine.
    """

    def __init__(self, steps: Observations, ratio: Array, *, own: bool = True):
        self._of_phase: dict[tuple[Deployment, str], Array] = {}
        self._own: dict[Deployment, Array] = {}
        pools: dict[str, list[Array]] = {}
        rng = np.random.default_rng(0)
        for deployment in steps.deployments:
            rows = steps.slice_of(deployment)
            mine, phase = ratio[rows], steps.phase[rows]
            if own and mine.size >= MIN_OWN:
                self._own[deployment] = mine
            for name in set(phase) if own else ():
                if (phase == name).sum() >= MIN_OWN_OF_PHASE:
                    self._of_phase[deployment, name] = mine[phase == name]
            part = rng.permutation(mine)[:ROWS_A_DEPLOYMENT]
            pools.setdefault(deployment.engine, []).append(part)
        joined = {engine: np.concatenate(parts) for engine, parts in pools.items()}
        self._engine = {engine: pool for engine, pool in joined.items() if pool.size >= MIN_OWN}
        self._all = np.concatenate(list(joined.values()))

    def quantiles(
        self, steps: Observations, point: Array, levels: Sequence[float], *, centred: bool
    ) -> Array:
        """Quantiles around a point forecast, shape (row, level).

        Centred ratios keep the point as the median. Errors of other deployments say how far off
        a new one may be, and not in which direction; errors on small steps say nothing of the
        direction on large ones.
        """
        factors = np.empty((len(steps), len(levels)))
        for deployment in steps.deployments:
            rows = steps.slice_of(deployment)
            for name in set(steps.phase[rows]):
                ratio = self._relevant(deployment, name)
                own = np.quantile(ratio, levels)
                if centred:
                    own = own / np.median(ratio)
                factors[rows][steps.phase[rows] == name] = own
        return point[:, None] * factors

    def _relevant(self, deployment: Deployment, phase: str) -> Array:
        found = self._of_phase.get((deployment, phase), self._own.get(deployment))
        return self._engine.get(deployment.engine, self._all) if found is None else found


@dataclass(frozen=True, eq=False)
class Forecaster:
    """Point forecasts, and how far such forecasts were off.

    Attributes
    ----------
    point
        Latency of steps in ms, shape (row,).
    errors
        Ratios of measured to forecast latency.
    centred
        Whether the point is the median, or the median error is taken off it.
    """

    point: Callable[[Observations], Array]
    errors: Ratios
    centred: bool = True

    def quantiles(self, steps: Observations, levels: Sequence[float]) -> Array:
        """Quantiles of the latency of every step, shape (row, level)."""
        return self.errors.quantiles(steps, self.point(steps), levels, centred=self.centred)


@dataclass(frozen=True, eq=False)
class FittedPoints:
    """A fitted rival that forecasts points: one forecaster for every novelty, made when asked for.

    Attributes
    ----------
    history
        What was learnt from.
    make
        Gives the forecaster of deployments that are new in a certain way, or not new at all.
    """

    history: History
    make: Callable[[Novelty], Forecaster]
    _made: dict[Novelty, Forecaster] = field(default_factory=dict, repr=False)

    def predict_quantiles(self, steps: Observations, levels: Sequence[float]) -> Array:
        """See `Fitted`."""
        result = np.empty((len(steps), len(levels)))
        filled = self.history.filled(steps)
        for novelty, rows in self.history.split(steps).items():
            if novelty not in self._made:
                self._made[novelty] = self.make(novelty)
            result[rows] = self._made[novelty].quantiles(filled.select(rows), levels)
        return result


@dataclass(frozen=True)
class PointRival(ABC):
    """A rival that forecasts points; its past errors give the quantiles around them.

    Attributes
    ----------
    catalog
        Datasheets.
    """

    catalog: Catalog
    version: ClassVar[str] = "1"

    def fit(self, known: Observations, few: Observations | None = None) -> Fitted:
        """See `Contender`."""
        history = History.of(known, few)
        return FittedPoints(history, self._maker(history))

    @abstractmethod
    def _maker(self, history: History) -> Callable[[Novelty], Forecaster]:
        """What makes the forecaster of each novelty."""


def scaled_by_few(
    point: Callable[[Observations], Array], history: History, steps: Observations
) -> Array:
    """Pooled forecasts, those of new deployments times the typical ratio of their few steps.

    Parameters
    ----------
    point
        The pooled forecast in ms, shape (row,).
    history
        Holds the few steps.
    steps
        Steps to forecast.

    Returns
    -------
    array
        Milliseconds, shape (row,).
    """
    factor = np.ones(len(steps.deployments))
    for number, deployment in enumerate(steps.deployments):
        few = history.few_of(deployment)
        if len(few):
            total = np.log(few.latency_ms / point(few)).sum()
            factor[number] = np.exp(total / (len(few) + SHRINKAGE))
    return point(steps) * factor[steps.deployment_index]
