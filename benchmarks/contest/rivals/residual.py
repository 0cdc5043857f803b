"""The strongest rival known: boosted trees on what the saturation formula leaves over."""

from typing import Final

import lightgbm
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from contest.rivals.datasheets import step_features
from contest.rivals.least_squares import PooledMemory, new_log_latency, predict_each
from contest.rivals.pooled import Pooled, Rehearsal
from contest.rivals.residuals import PointRival
from contest.splits import DESIGN_POINT, Task

__all__ = ["BoostedResidual"]

type Array = NDArray[np.float64]

ROUNDS: Final = 1500
FOLDS: Final = 5
LEVEL_SPREAD: Final = 0.05
SHAPE_SPREAD: Final = 0.1
SHAPE_LENGTH: Final = 2.0
STEP_NOISE: Final = 0.05
"""Of what a few steps may still correct, in logs; the length is in log B, log S and log C."""


class BoostedResidual(PointRival):
    """Formula by least squares, times LightGBM on the log-residuals of all deployments.

    Quantiles are those of out-of-fold errors. For a new deployment the formula is the pooled one,
    refitted to its few steps; the trees add the misfit that known deployments share; what the few
    steps still disagree with is spread to similar steps by kriging; and the folds leave whole GPUs
    (or LLMs) out.

    Parameters
    ----------
    memory
        Fits with the context term.
    rounds
        Boosting rounds.
    """

    name = "boosted residual"

    def __init__(self, memory: PooledMemory, rounds: int = ROUNDS):
        self.memory, self.rounds = memory, rounds
        self._last: tuple[Pooled, list[Trees]] | None = None

    def points(self, task: Task) -> tuple[pd.DataFrame, Array, Array]:
        """See `PointRival`."""
        return self._new(task) if task.is_new else self._known(task)

    def _known(self, task: Task) -> tuple[pd.DataFrame, Array, Array]:
        fold = _folds_by_design_point(task.train)
        out_of_fold = np.empty(len(task.train))
        for number in range(FOLDS):
            rest, held = task.train[fold != number], task.train[fold == number]
            out_of_fold[fold == number] = self._fit_and_predict(rest, held)
        return task.train, out_of_fold, self._fit_and_predict(task.train, task.test)

    def _fit_and_predict(self, train: pd.DataFrame, frame: pd.DataFrame) -> Array:
        fits = self.memory.fitter.fit_all(train)
        trees = Trees(train, np.log(predict_each(fits, train)), self.rounds)
        return predict_each(fits, frame) * np.exp(trees.predict(frame))

    def _new(self, task: Task) -> tuple[pd.DataFrame, Array, Array]:
        pooled = self.memory.of(task)
        everyone, *without = self._trees(pooled)
        groups = _group_folds(pooled)
        rehearsals = pooled.as_if_new(task.k)
        fitted = [
            _corrected(each, without[groups[label]])
            for label, each in zip(pooled.labels, rehearsals, strict=True)
        ]
        past = pd.concat([each.rest for each in rehearsals], ignore_index=True)
        return past, np.exp(np.concatenate(fitted)), np.exp(self._point(task, pooled, everyone))

    def _point(self, task: Task, pooled: Pooled, trees: "Trees") -> Array:
        log_test = new_log_latency(pooled, task)
        log_few = new_log_latency(pooled, task, task.few) if task.k else np.empty(0)
        result = np.empty(len(task.test))
        few_rows = task.few.groupby("deployment").indices
        for label, rows in task.test.groupby("deployment").indices.items():
            few = few_rows.get(label, np.array([], dtype=int))
            own = task.few.iloc[few], log_few[few], task.test.iloc[rows], log_test[rows]
            result[rows] = _corrected(Rehearsal(*own), trees)
        return result

    def _trees(self, pooled: Pooled) -> list["Trees"]:
        """Trees on all deployments, then those without each fold of GPUs (or LLMs)."""
        if self._last is None or self._last[0] is not pooled:
            fits = dict(zip(pooled.labels, pooled.theta, strict=True))
            train = pooled.train
            log_fitted = np.log(predict_each(fits, train))
            fold = train["deployment"].map(_group_folds(pooled)).to_numpy()
            masks = [np.ones(len(train), dtype=bool), *(fold != n for n in np.unique(fold))]
            trees = [Trees(train[rows], log_fitted[rows], self.rounds) for rows in masks]
            self._last = pooled, trees
        return self._last[1]


class Trees:
    """Boosted trees on log-residuals, with absolute error."""

    def __init__(self, train: pd.DataFrame, log_fitted: Array, rounds: int):
        residual = np.log(train["latency_ms"].to_numpy()) - log_fitted
        settings = {"objective": "l1", "num_leaves": 63, "learning_rate": 0.03,
                    "min_data_in_leaf": 10, "feature_fraction": 0.8, "verbosity": -1,
                    "num_threads": 1, "seed": 0, "deterministic": True}  # fmt: skip
        data = lightgbm.Dataset(step_features(train), residual)
        self._model = lightgbm.train(settings, data, rounds)

    def predict(self, frame: pd.DataFrame) -> Array:
        """Log-residual of steps."""
        return self._model.predict(step_features(frame)) if len(frame) else np.empty(0)


def _corrected(steps: Rehearsal, trees: Trees) -> Array:
    """Log-latency of the other steps: formula, trees, and what the few steps still say."""
    log_rest = steps.log_rest + trees.predict(steps.rest)
    if not len(steps.few):
        return log_rest
    left = np.log(steps.few["latency_ms"].to_numpy())
    left = left - steps.log_few - trees.predict(steps.few)
    at, of = _likeness(steps.rest, steps.few), _likeness(steps.few, steps.few)
    return log_rest + at @ np.linalg.solve(of + STEP_NOISE**2 * np.eye(left.size), left)


def _likeness(one: pd.DataFrame, two: pd.DataFrame) -> Array:
    """Prior covariance of what is left over between two sets of steps."""
    a, b = (
        np.column_stack(
            [
                np.log(frame["batch_size"]),
                np.log(frame["total_tokens"]),
                np.log1p(frame["context_tokens"]),
                2.0 * (frame["phase"] == "decode"),
                1.0 * (frame["phase"] == "mixed"),
            ]
        )
        for frame in (one, two)
    )
    squared = ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=-1)
    return LEVEL_SPREAD**2 + SHAPE_SPREAD**2 * np.exp(-0.5 * squared / SHAPE_LENGTH**2)


def _folds_by_design_point(frame: pd.DataFrame) -> NDArray[np.int64]:
    """Fold of each step; repeats of a design point stay together."""
    point = frame.groupby(["deployment", *DESIGN_POINT], dropna=False).ngroup().to_numpy()
    rng = np.random.default_rng(0)
    return rng.permutation(np.arange(point.max() + 1) % FOLDS)[point]


def _group_folds(pooled: Pooled) -> dict[str, int]:
    """Fold of each deployment; those on the same GPU (or of the same LLM) stay together."""
    names = list(np.unique(pooled.groups))
    folds = [names.index(name) % FOLDS for name in pooled.groups]
    return dict(zip(pooled.labels, folds, strict=True))
