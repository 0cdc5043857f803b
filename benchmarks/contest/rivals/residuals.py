"""From point forecasts to quantiles: the ratios of measured to forecast latency so far."""

from abc import ABC, abstractmethod
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from contest.scores import LEVELS
from contest.splits import Task

__all__ = ["PointRival", "Ratios"]

type Array = NDArray[np.float64]

MIN_OWN: Final = 10
MIN_OWN_OF_PHASE: Final = 100
ROWS_A_DEPLOYMENT: Final = 400
"""Ratios of one deployment that enter a pool, so that large logs do not drown the others."""


class PointRival(ABC):
    """A point forecast with the quantiles of its own past errors around it.

    A centred one keeps the point as the median; one that is not takes the median error off it.
    """

    name: str
    centred = True

    def forecast(self, task: Task) -> Array:
        """Quantiles of the test steps, shape (row, level)."""
        past, fitted, point = self.points(task)
        ratio = past["latency_ms"].to_numpy() / fitted
        return Ratios(past, ratio).spread(task.test, point, centred=self.centred or task.is_new)

    @abstractmethod
    def points(self, task: Task) -> tuple[pd.DataFrame, Array, Array]:
        """Steps with known latency, the point forecasts of these, and those of the test steps."""


class Ratios:
    """Ratios of measured to forecast latency, and their quantiles for any deployment.

    The quantiles are those of the deployment's own ratios in that phase where there are at least
    100, else of its own ratios where there are at least 10, else of its engine's, else of all.

    Parameters
    ----------
    frame
        Steps, with their deployment, phase and engine.
    ratio
        Measured over forecast latency, shape (row,).
    """

    def __init__(self, frame: pd.DataFrame, ratio: Array):
        table = frame[["deployment", "phase", "engine"]].assign(ratio=ratio)
        mixed = table.sample(frac=1.0, random_state=0)
        pool = mixed.groupby("deployment").head(ROWS_A_DEPLOYMENT)
        self._of_phase = _quantiles(table, ["deployment", "phase"], MIN_OWN_OF_PHASE)
        self._own = _quantiles(table, ["deployment"], MIN_OWN)
        self._engine = _quantiles(pool, ["engine"], MIN_OWN)
        self._all = np.quantile(pool["ratio"], LEVELS)

    def spread(self, frame: pd.DataFrame, point: Array, *, centred: bool) -> Array:
        """Quantiles around a point forecast, shape (row, level).

        Centred ratios keep the point as the median. Errors of other deployments say how far off
        a new one may be, and not in which direction; errors on small steps say nothing of the
        direction on large ones.
        """
        factors = np.empty((len(frame), len(LEVELS)))
        columns = ["deployment", "phase", "engine"]
        for (label, phase, engine), rows in frame.groupby(columns).indices.items():
            found = self._of_phase.get((label, phase), self._own.get((label,)))
            factors[rows] = self._engine.get((engine,), self._all) if found is None else found
        if centred:
            factors /= factors[:, [LEVELS.index(0.5)]]
        return point[:, None] * factors


def _quantiles(table: pd.DataFrame, by: list[str], least: int) -> dict[tuple[str, ...], Array]:
    """Quantiles of the ratios in each group of at least so many."""
    groups = table.groupby(by)["ratio"]
    return {name: np.quantile(own, LEVELS) for name, own in groups if len(own) >= least}
