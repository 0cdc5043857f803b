"""The saturation formula as people fit it: robust least squares and the errors that it leaves."""

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from contest.rivals.datasheets import datasheet
from contest.rivals.formula import Fitter, predict
from contest.rivals.pooled import Pooled, left_out_column
from contest.rivals.residuals import PointRival
from contest.splits import Task, deployment_of

__all__ = ["FormulaRival", "PooledMemory", "new_log_latency", "predict_each"]

type Array = NDArray[np.float64]

MIN_NEIGHBOURS: Final = 2


class PooledMemory:
    """One `Pooled` for all tasks that share their training steps."""

    def __init__(self, fitter: Fitter):
        self.fitter = fitter
        self._last: tuple[pd.DataFrame, Pooled] | None = None

    def of(self, task: Task) -> Pooled:
        """Pooled formula of the task's training steps."""
        if self._last is None or not self._last[0].equals(task.train):
            pooled = Pooled(task.train, self.fitter, left_out_column(task))
            self._last = task.train, pooled
        return self._last[1]


class FormulaRival(PointRival):
    """Least squares a deployment; for new ones the pooled formula, refitted to their few steps.

    A new deployment whose configuration was measured on other shares of its GPU, and of which no
    step is known, is interpolated between these: log-latency, linear in the log of the share.

    Parameters
    ----------
    name
        Of the contender.
    memory
        Fits with or without the context term; contenders may share it.
    """

    def __init__(self, name: str, memory: PooledMemory):
        self.name, self.memory = name, memory

    def points(self, task: Task) -> tuple[pd.DataFrame, Array, Array]:
        """See `PointRival`; the past of new deployments is that of known ones as if new."""
        if not task.is_new:
            fits = self.memory.fitter.fit_all(task.train)
            return task.train, predict_each(fits, task.train), predict_each(fits, task.test)
        pooled = self.memory.of(task)
        rehearsals = pooled.as_if_new(task.k)
        past = pd.concat([each.rest for each in rehearsals], ignore_index=True)
        fitted = np.exp(np.concatenate([each.log_rest for each in rehearsals]))
        return past, fitted, np.exp(new_log_latency(pooled, task))


def new_log_latency(pooled: Pooled, task: Task, frame: pd.DataFrame | None = None) -> Array:
    """Log-latency of steps of new deployments, by default of the test steps."""
    frame = task.test if frame is None else frame
    if task.k:
        return np.log(predict_each(pooled.refit(task.few, task.test), frame))
    between = interpolated_shares(task.train, frame, pooled.fitter)
    return np.where(np.isnan(between), pooled.log_latency(frame), between)


def predict_each(fits: dict[str, Array], frame: pd.DataFrame) -> Array:
    """Latency of every step by the formula of its deployment."""
    result = np.empty(len(frame))
    for label, rows in frame.groupby("deployment").indices.items():
        result[rows] = predict(fits[label], frame.iloc[rows])
    return result


def interpolated_shares(train: pd.DataFrame, frame: pd.DataFrame, fitter: Fitter) -> Array:
    """Log-latency between the two nearest shares of the same GPU; NaN where there are none."""
    result = np.full(len(frame), np.nan)
    known, sheet = deployment_of(train), datasheet(pd.concat([train, frame]))
    fits = fitter.fit_all(train)
    for label, deployment in deployment_of(frame).items():
        rows = frame.groupby("deployment").indices[label]
        alike = [
            other
            for other, found in known.items()
            if found._replace(gpu="") == deployment._replace(gpu="")
            and _physical(found.gpu) == _physical(deployment.gpu)
        ]
        if len(alike) < MIN_NEIGHBOURS:
            continue
        share = np.log(sheet.loc[alike, "peak"] / sheet.loc[label, "peak"])
        first, second = _around(share)
        weight = share[second] / (share[second] - share[first])
        steps = frame.iloc[rows]
        one, two = (np.log(predict(fits[other], steps)) for other in (first, second))
        result[rows] = weight * one + (1.0 - weight) * two
    return result


def _physical(gpu: str) -> str:
    return gpu.split("@")[0]


def _around(distance: pd.Series) -> tuple[str, str]:
    """Nearest below and above zero; at an edge the two nearest."""
    below, above = distance[distance < 0], distance[distance > 0]
    if len(below) and len(above):
        return below.idxmax(), above.idxmin()
    nearest = distance.abs().sort_values().index
    return nearest[0], nearest[1]
