"""Tree ensembles over the whole fleet: one model of the log-latency for all deployments."""

from abc import ABC, abstractmethod
from typing import Final

import lightgbm
import numpy as np
import xgboost
from numpy.typing import NDArray
from scipy.special import ndtri
from sklearn.ensemble import RandomForestRegressor

from contest.rivals.datasheets import step_features
from contest.scores import LEVELS
from contest.splits import Task

__all__ = ["Forest", "LightGBM", "QuantileTrees", "XGBoost"]

type Array = NDArray[np.float64]

TRAINED_LEVELS: Final = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
FEW_WEIGHT: Final = 10.0
"""Weight of a step of a new deployment: it has few, and they are all it is known by."""


class QuantileTrees(ABC):
    """Boosted quantiles at a few levels, linear between them in the normal score of the level."""

    name: str

    def forecast(self, task: Task) -> Array:
        """Quantiles of the test steps, shape (row, level)."""
        known = task.known
        weight = np.where(np.arange(len(known)) < len(task.train), 1.0, FEW_WEIGHT)
        target = np.log(known["latency_ms"].to_numpy())
        trained = self.trained(step_features(known), target, weight, step_features(task.test))
        return np.exp(between_levels(np.sort(trained, axis=1)))

    @abstractmethod
    def trained(self, features: Array, target: Array, weight: Array, at: Array) -> Array:
        """Log-latency at `TRAINED_LEVELS`, shape (row, trained level)."""


class LightGBM(QuantileTrees):
    """One gradient-boosted model a level."""

    name = "LightGBM quantile"

    def __init__(self, rounds: int = 500):
        self.rounds = rounds

    def trained(self, features: Array, target: Array, weight: Array, at: Array) -> Array:
        """See `QuantileTrees`."""
        data = lightgbm.Dataset(features, target, weight=weight, free_raw_data=False)
        columns = []
        for level in TRAINED_LEVELS:
            settings = {"objective": "quantile", "alpha": level, "num_leaves": 31,
                        "learning_rate": 0.05, "min_data_in_leaf": 10, "verbosity": -1,
                        "num_threads": 1, "seed": 0, "deterministic": True}  # fmt: skip
            columns.append(lightgbm.train(settings, data, self.rounds).predict(at))
        return np.column_stack(columns)


class XGBoost(QuantileTrees):
    """Boosted quantiles of the errors of a boosted mean.

    Alone, extreme quantiles of latencies that differ a hundredfold do not move: where no latency
    is above the current quantile all gradients are equal, and no split gains anything. The mean is
    cross-fitted, so that its errors are as large as on new steps.
    """

    name = "XGBoost quantile"
    FOLDS = 5

    def __init__(self, rounds: int = 400):
        self.rounds = rounds

    def trained(self, features: Array, target: Array, weight: Array, at: Array) -> Array:
        """See `QuantileTrees`."""
        shared = {"max_depth": 6, "eta": 0.05, "min_child_weight": 5, "nthread": 1, "seed": 0}
        fold = np.random.default_rng(0).integers(self.FOLDS, size=target.size)
        centre, centre_at = np.empty(target.size), np.zeros(len(at))
        for number in range(self.FOLDS):
            rest, held = fold != number, fold == number
            data = xgboost.DMatrix(features[rest], target[rest], weight=weight[rest], nthread=1)
            mean = xgboost.train(shared, data, self.rounds)
            centre[held] = mean.predict(xgboost.DMatrix(features[held], nthread=1))
            centre_at += mean.predict(xgboost.DMatrix(at, nthread=1)) / self.FOLDS
        levels = {"objective": "reg:quantileerror", "quantile_alpha": np.array(TRAINED_LEVELS)}
        data = xgboost.QuantileDMatrix(features, target - centre, weight=weight, nthread=1)
        errors = xgboost.train({**shared, **levels}, data, self.rounds)
        return centre_at[:, None] + errors.predict(xgboost.DMatrix(at, nthread=1))


class Forest:
    """Quantile regression forest (Meinshausen 2006).

    A forecast is the distribution of the training latencies that share a leaf with the step, each
    tree with the same weight: from every leaf so many latencies are drawn with replacement.
    """

    name = "random forest"
    DRAWS_A_LEAF = 4

    def __init__(self, trees: int = 150):
        self.trees = trees

    def forecast(self, task: Task) -> Array:
        """Quantiles of the test steps, shape (row, level)."""
        known = task.known
        features, target = step_features(known), np.log(known["latency_ms"].to_numpy())
        forest = RandomForestRegressor(
            self.trees, min_samples_leaf=3, max_features=0.6, n_jobs=1, random_state=0
        ).fit(features, target)
        seen, asked = forest.apply(features), forest.apply(step_features(task.test))
        rng = np.random.default_rng(0)
        drawn = [
            self._drawn(leaves, target, at, rng) for leaves, at in zip(seen.T, asked.T, strict=True)
        ]
        return np.exp(np.quantile(np.hstack(drawn), LEVELS, axis=1).T)

    def _drawn(
        self, leaves: NDArray[np.int64], target: Array, at: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> Array:  # fmt: skip
        """Latencies drawn from the leaf of every asked step in one tree, shape (row, draw)."""
        order = np.argsort(leaves, kind="stable")
        first = np.searchsorted(leaves[order], at, side="left")
        last = np.searchsorted(leaves[order], at, side="right")
        uniform = rng.random((at.size, self.DRAWS_A_LEAF))
        return target[order[first[:, None] + (uniform * (last - first)[:, None]).astype(int)]]


def between_levels(trained: Array) -> Array:
    """Quantiles at `LEVELS` from those at `TRAINED_LEVELS`; both in the normal score.

    The outermost pieces are continued beyond the outermost trained levels.
    """
    known, wanted = ndtri(TRAINED_LEVELS), ndtri(LEVELS)
    piece = np.clip(np.searchsorted(known, wanted) - 1, 0, known.size - 2)
    share = (wanted - known[piece]) / (known[piece + 1] - known[piece])
    return trained[:, piece] * (1.0 - share) + trained[:, piece + 1] * share
