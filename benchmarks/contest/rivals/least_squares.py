"""The saturation formula as people fit it: robust least squares and the errors that it leaves."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from contest.rivals.formula import Fitter, predict
from contest.rivals.pooled import Pooled, left_out_column
from contest.rivals.residuals import PointRival
from contest.splits import Task

__all__ = ["FormulaRival", "PooledMemory", "gathered", "predict_each"]

type Array = NDArray[np.float64]


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
        rehearsed = pooled.as_if_new(task.k).values()
        past = pd.concat([each.rest for each in rehearsed], ignore_index=True)
        fitted = np.exp(np.concatenate([each.log_rest for each in rehearsed]))
        newcomers = pooled.newcomers(task.few, task.test)
        point = gathered(task.test, {name: new.log_rest for name, new in newcomers.items()})
        return past, fitted, np.exp(point)


def gathered(frame: pd.DataFrame, parts: dict[str, Array]) -> Array:
    """Values of every deployment's steps in the order of the frame."""
    result = np.empty(len(frame))
    for label, rows in frame.groupby("deployment").indices.items():
        result[rows] = parts[label]
    return result


def predict_each(fits: dict[str, Array], frame: pd.DataFrame) -> Array:
    """Latency of every step by the formula of its deployment."""
    groups = frame.groupby("deployment")
    return gathered(frame, {label: predict(fits[label], own) for label, own in groups})
