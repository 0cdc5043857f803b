"""Rivals without the saturation formula: polynomials and the roofline with one knee.

All are least squares on relative errors. A new deployment gets what is pooled over the known ones:
the polynomials as a regression of log-latency on logarithms of step and datasheet, the roofline by
engine, as it is a statement about datasheets anyway. Its few steps enter as a common factor.
"""

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import nnls

from contest.rivals.datasheets import ENGINES, datasheet
from contest.rivals.residuals import PointRival
from contest.splits import Task

__all__ = ["Knee", "Polynomial"]

type Array = NDArray[np.float64]

FLOOR: Final = 0.1
"""Least forecast, as a share of the least latency measured: a polynomial may fall below zero."""

RIDGE: Final = 1.0
KNEES: Final = np.geomspace(1e-3, 1e3, 61)
SHRINKAGE: Final = 1.0
"""Steps' worth of belief that a new deployment needs no factor of its own."""


class Polynomial(PointRival):
    """Latency linear, or quadratic, in B, S and C."""

    # Least squares on relative errors end below the median.
    centred = False

    def __init__(self, degree: int):
        self.degree = degree
        self.name = {1: "linear", 2: "quadratic"}[degree]

    def points(self, task: Task) -> tuple[pd.DataFrame, Array, Array]:
        """See `PointRival`."""
        if task.is_new:
            weights = self._pooled(task.train)
            return _with_factor(task, lambda frame: np.exp(self._log_terms(frame) @ weights))
        frames = task.train, task.test
        fitted, point = (np.empty(len(frame)) for frame in frames)
        for label, rows in task.train.groupby("deployment").indices.items():
            own = task.train.iloc[rows]
            at = task.test.groupby("deployment").indices.get(label, np.array([], dtype=int))
            fitted[rows], point[at] = self._fit(own, own), self._fit(own, task.test.iloc[at])
        return task.train, fitted, point

    def _fit(self, own: pd.DataFrame, at: pd.DataFrame) -> Array:
        terms, latency = self._terms(own), own["latency_ms"].to_numpy()
        scale = np.abs(terms).max(axis=0) + 1e-12
        weights = np.linalg.lstsq(terms / scale / latency[:, None], np.ones(len(own)))[0]
        return np.maximum(self._terms(at) / scale @ weights, FLOOR * latency.min())

    def _terms(self, frame: pd.DataFrame) -> Array:
        step = frame[["batch_size", "total_tokens", "context_tokens"]].to_numpy(dtype=float)
        return self._with_products(step)

    def _log_terms(self, frame: pd.DataFrame) -> Array:
        """Terms of the pooled regression: logarithms, their products, phase and engine."""
        step = frame[["batch_size", "total_tokens", "context_tokens"]].to_numpy(dtype=float)
        sheet = datasheet(frame).loc[frame["deployment"]].to_numpy()
        # Divided by typical ranges, so that one ridge suits products too.
        logs = np.hstack([np.log1p(step) / 5.0, np.log(sheet) / np.array([5, 1, 3, 3, 13, 1])])
        indicators = [frame["phase"] == name for name in ("decode", "prefill")]
        indicators += [frame["engine"] == name for name in ENGINES]
        return np.hstack([self._with_products(logs), np.column_stack(indicators)])

    def _with_products(self, columns: Array) -> Array:
        n = columns.shape[1]
        terms = [np.ones(len(columns)), *columns.T]
        if self.degree > 1:
            terms += [columns[:, i] * columns[:, j] for i in range(n) for j in range(i, n)]
        return np.column_stack(terms)

    def _pooled(self, train: pd.DataFrame) -> Array:
        """Ridge weights; every deployment counts alike."""
        terms, target = self._log_terms(train), np.log(train["latency_ms"].to_numpy())
        size = train.groupby("deployment")["gpu"].transform("size").to_numpy()
        weighted = terms.T * (100.0 / size)
        return np.linalg.solve(weighted @ terms + RIDGE * np.eye(terms.shape[1]), weighted @ target)


class Knee(PointRival):
    """Roofline with one knee: a + max(b, c S) + d C, no coefficient negative.

    In milliseconds that the datasheet allows: M to read the weights, F for the arithmetic, K to
    read the context; then T = a + c max(q M, F) + d K. For one deployment the two are the same.
    """

    name = "roofline knee"
    centred = False

    def points(self, task: Task) -> tuple[pd.DataFrame, Array, Array]:
        """See `PointRival`."""
        if task.is_new:
            return _with_factor(task, lambda frame: self._by(task.train, frame, "engine"))
        fitted = self._by(task.train, task.train, "deployment")
        return task.train, fitted, self._by(task.train, task.test, "deployment")

    def _by(self, train: pd.DataFrame, frame: pd.DataFrame, column: str) -> Array:
        """Fit every group of the training steps; a group without any is fitted to all."""
        result = np.empty(len(frame))
        for name, rows in frame.groupby(column).indices.items():
            own = train[train[column] == name]
            result[rows] = _knee_fit(own if len(own) else train, frame.iloc[rows])
        return result


def _knee_fit(own: pd.DataFrame, at: pd.DataFrame) -> Array:
    """Non-negative least squares on relative errors at each of many knees; the best one counts."""
    latency, best = own["latency_ms"].to_numpy(), (np.inf, 0.0, np.zeros(3))
    size = own.groupby("deployment")["gpu"].transform("size").to_numpy()
    scale = np.sqrt(1.0 / size)
    least, least_at = _least_times(own), _least_times(at)
    for knee in KNEES:
        terms = _knee_terms(least, knee)
        weights, error = nnls(terms / latency[:, None] * scale[:, None], scale)
        best = min(best, (error, knee, weights), key=lambda fit: fit[0])
    return np.maximum(_knee_terms(least_at, best[1]) @ best[2], FLOOR * latency.min())


def _knee_terms(least: tuple[Array, Array, Array], knee: float) -> Array:
    memory, compute, context = least
    return np.column_stack([np.ones(memory.size), np.maximum(knee * memory, compute), context])


def _least_times(frame: pd.DataFrame) -> tuple[Array, Array, Array]:
    """Milliseconds that the datasheet allows: weights, arithmetic, context; each (row,)."""
    sheet = datasheet(frame).loc[frame["deployment"]].reset_index(drop=True)
    tokens, context = frame["total_tokens"].to_numpy(), frame["context_tokens"].to_numpy()
    memory = sheet["weights"] / sheet["bandwidth"] / sheet["tp"]
    compute = 2.0 * sheet["active"] * tokens / sheet["peak"] / sheet["tp"]
    reading = 1e-9 * sheet["kv"] * context / sheet["bandwidth"] / sheet["tp"]
    return memory.to_numpy(), compute.to_numpy(), reading.to_numpy()


def _with_factor(task: Task, predict) -> tuple[pd.DataFrame, Array, Array]:
    """Pooled forecasts, those of new deployments times the typical ratio of their few steps."""
    point, few = predict(task.test), task.few
    if len(few):
        log_ratio = pd.Series(np.log(few["latency_ms"].to_numpy() / predict(few)))
        total = log_ratio.groupby(few["deployment"].to_numpy()).agg(["sum", "size"])
        factor = np.exp(total["sum"] / (total["size"] + SHRINKAGE))
        point = point * task.test["deployment"].map(factor).to_numpy()
    return task.train, predict(task.train), point
