"""The strongest rival known: boosted trees on what the saturation formula leaves over."""

from typing import Final

import lightgbm
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from contest.rivals.datasheets import FEATURES, step_features
from contest.rivals.formula import predict
from contest.rivals.least_squares import PooledMemory, gathered, predict_each
from contest.rivals.pooled import Newcomer, Pooled
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
    refitted to its few steps, and the trees add the misfit that known deployments share; between
    two known shares of its GPU both forecasts are interpolated. What the few steps still disagree
    with is spread to similar steps by kriging. The folds leave whole GPUs (or LLMs) out.

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
        log_formula = np.log(predict_each(fits, frame))
        return np.exp(log_formula + trees.predict(frame, log_formula))

    def _new(self, task: Task) -> tuple[pd.DataFrame, Array, Array]:
        pooled = self.memory.of(task)
        everyone, *without = self._trees(pooled)
        fold, rehearsed = _group_folds(pooled), pooled.as_if_new(task.k)
        past = pd.concat([each.rest for each in rehearsed.values()], ignore_index=True)
        fitted = [
            _corrected(each, without[fold[label]], pooled) for label, each in rehearsed.items()
        ]
        newcomers = pooled.newcomers(task.few, task.test).items()
        point = {label: _corrected(each, everyone, pooled) for label, each in newcomers}
        return past, np.exp(np.concatenate(fitted)), np.exp(gathered(task.test, point))

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
    """Boosted trees on log-residuals, with absolute error; the formula's say is a feature."""

    def __init__(self, train: pd.DataFrame, log_fitted: Array, rounds: int):
        residual = np.log(train["latency_ms"].to_numpy()) - log_fitted
        settings = {"objective": "l1", "num_leaves": 63, "learning_rate": 0.03,
                    "min_data_in_leaf": 10, "feature_fraction": 0.8, "verbosity": -1,
                    "num_threads": 1, "seed": 0, "deterministic": True}  # fmt: skip
        data = lightgbm.Dataset(_features(train, log_fitted), residual)
        self._model = lightgbm.train(settings, data, rounds)

    def predict(self, frame: pd.DataFrame, log_formula: Array) -> Array:
        """Log-residual of steps, given their log-latency by the formula."""
        return self._model.predict(_features(frame, log_formula))


def _features(frame: pd.DataFrame, log_formula: Array) -> Array:
    """Features of the trees; S / B is left out, which extrapolates badly."""
    features = np.delete(step_features(frame), FEATURES.index("tokens_per_request"), axis=1)
    return np.column_stack([features, log_formula])


def _corrected(new: Newcomer, trees: Trees, pooled: Pooled) -> Array:
    """Log-latency of the other steps: formula, trees, and what the few steps still say."""
    log_rest = _boosted(new, new.rest, new.log_rest, trees, pooled)
    if not len(new.few):
        return log_rest
    log_few = _boosted(new, new.few, new.log_few, trees, pooled)
    left = np.log(new.few["latency_ms"].to_numpy()) - log_few
    at, of = _likeness(new.rest, new.few), _likeness(new.few, new.few)
    return log_rest + at @ np.linalg.solve(of + STEP_NOISE**2 * np.eye(left.size), left)


def _boosted(
    new: Newcomer, frame: pd.DataFrame, log_formula: Array, trees: Trees, pooled: Pooled
) -> Array:
    """Formula and trees; between two known shares, what both say of their own deployments."""
    if not new.shares:
        return log_formula + trees.predict(frame, log_formula)
    total = np.zeros(len(frame))
    for position, weight in new.shares.items():
        own = pooled.known[position]
        as_own = frame.assign(deployment=own.label, gpu=own.gpu)
        log_own = np.log(predict(pooled.theta[position], frame))
        total += weight * (log_own + trees.predict(as_own, log_own))
    return total


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
