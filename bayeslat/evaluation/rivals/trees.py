"""Tree ensembles over the whole fleet: one model of the log-latency for all deployments."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from bayeslat.catalog import Catalog
from bayeslat.evaluation.base import Array, Fitted
from bayeslat.evaluation.rivals.datasheets import Datasheets, step_features
from bayeslat.evaluation.rivals.history import History
from bayeslat.evaluation.rivals.packages import require
from bayeslat.observations import Observations, concat

__all__ = ["LightGBM", "RandomForest", "XGBoost", "between_levels"]

TRAINED_LEVELS: Final = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
FEW_WEIGHT: Final = 10.0
"""Weight of a step of a new deployment: it has few, and they are all it is known by."""

FOLDS: Final = 5
DRAWS_A_LEAF: Final = 4


@dataclass(frozen=True, eq=False)
class _Lesson:
    """What trees learn from: features, log-latency and weight of each step."""

    sheets: Datasheets
    features: Array
    target: Array
    weight: Array

    @classmethod
    def of(cls, known: Observations, few: Observations | None, catalog: Catalog) -> "_Lesson":
        few = History.of(known, few).few
        sheets = Datasheets.of(known.deployments, catalog)
        steps = concat(known, few)
        is_few = np.array([each in few.deployments for each in steps.deployments])
        return cls(
            sheets=sheets,
            features=step_features(steps, sheets),
            target=np.log(steps.latency_ms),
            weight=np.where(is_few[steps.deployment_index], FEW_WEIGHT, 1.0),
        )


class _QuantileTrees(ABC):
    """Boosted quantiles at a few levels, linear between them in the normal score of the level."""

    name: ClassVar[str]
    package: ClassVar[str]
    version: ClassVar[str] = "1"

    def __init__(self, catalog: Catalog, *, rounds: int):
        self.catalog, self.rounds = catalog, rounds

    def fit(self, known: Observations, few: Observations | None = None) -> Fitted:
        """See `Contender`.

        Raises
        ------
        InputError
            The package of the trees is not installed, or there is no known step.
        """
        require(self.package, rival=self.name)
        lesson = _Lesson.of(known, few, self.catalog)
        return _FittedTrees(lesson.sheets, self._train(lesson))

    @abstractmethod
    def _train(self, lesson: _Lesson) -> Callable[[Array], Array]:
        """Log-latency at `TRAINED_LEVELS`, shape (row, trained level), as function of features."""


@dataclass(frozen=True, eq=False)
class _FittedTrees:
    sheets: Datasheets
    trained: Callable[[Array], Array]

    def predict_quantiles(self, steps: Observations, levels: Sequence[float]) -> Array:
        """See `Fitted`."""
        if not len(steps):
            return np.empty((0, len(levels)))
        log_latency = self.trained(step_features(steps, self.sheets)).astype(float)
        return np.exp(between_levels(np.sort(log_latency, axis=1), levels))


class LightGBM(_QuantileTrees):
    """One gradient-boosted model a level, with LightGBM.

    ``n_averaged`` is not used: the steps of a deployment count alike. A context that is not
    recorded is a missing value to the trees.

    Parameters
    ----------
    catalog
        Datasheets.
    rounds
        Boosting rounds.
    """

    name = "LightGBM quantile"
    package = "lightgbm"

    def __init__(self, catalog: Catalog, *, rounds: int = 500):
        super().__init__(catalog, rounds=rounds)

    def _train(self, lesson: _Lesson) -> Callable[[Array], Array]:
        import lightgbm

        data = lightgbm.Dataset(
            lesson.features, lesson.target, weight=lesson.weight, free_raw_data=False
        )
        shared = {"objective": "quantile", "num_leaves": 31, "learning_rate": 0.05,
                  "min_data_in_leaf": 10, "verbosity": -1, "num_threads": 1, "seed": 0,
                  "deterministic": True}  # fmt: skip
        boosters = [
            lightgbm.train({**shared, "alpha": level}, data, self.rounds)
            for level in TRAINED_LEVELS
        ]
        return partial(_boosted_columns, boosters)


def _boosted_columns(boosters: Sequence[Any], features: Array) -> Array:
    return np.column_stack([booster.predict(features) for booster in boosters])


class XGBoost(_QuantileTrees):
    """Boosted quantiles of the errors of a boosted mean, with XGBoost.

    Alone, extreme quantiles of latencies that differ a hundredfold do not move: where no latency
    is above the current quantile all gradients are equal, and no split gains anything. The mean is
    cross-fitted, so that its errors are as large as on new steps. ``n_averaged`` is not used: the
    steps of a deployment count alike. A context that is not recorded is a missing value to the
    trees.

    Parameters
    ----------
    catalog
        Datasheets.
    rounds
        Boosting rounds.
    """

    name = "XGBoost quantile"
    package = "xgboost"

    def __init__(self, catalog: Catalog, *, rounds: int = 400):
        super().__init__(catalog, rounds=rounds)

    def _train(self, lesson: _Lesson) -> Callable[[Array], Array]:
        import xgboost

        shared = {"max_depth": 6, "eta": 0.05, "min_child_weight": 5, "nthread": 1, "seed": 0}
        features, target, weight = lesson.features, lesson.target, lesson.weight
        fold = np.random.default_rng(0).integers(FOLDS, size=target.size)
        means, centre = [], np.empty(target.size)
        for number in np.unique(fold):
            # Where all steps are in one fold there is no other to learn from.
            rest = fold != number if (fold != number).any() else fold == number
            data = xgboost.DMatrix(features[rest], target[rest], weight=weight[rest], nthread=1)
            means.append(xgboost.train(shared, data, self.rounds))
            held = xgboost.DMatrix(features[fold == number], nthread=1)
            centre[fold == number] = means[-1].predict(held)
        levels = {"objective": "reg:quantileerror", "quantile_alpha": np.array(TRAINED_LEVELS)}
        data = xgboost.QuantileDMatrix(features, target - centre, weight=weight, nthread=1)
        errors = xgboost.train({**shared, **levels}, data, self.rounds)
        return partial(_mean_and_errors, means, errors)


def _mean_and_errors(means: Sequence[Any], errors: Any, features: Array) -> Array:
    import xgboost

    at = xgboost.DMatrix(features, nthread=1)
    centre = np.mean([mean.predict(at) for mean in means], axis=0)
    return centre[:, None] + errors.predict(at)


class RandomForest:
    """Quantile regression forest (Meinshausen 2006), on the trees of scikit-learn.

    A forecast is the distribution of the training latencies that share a leaf with the step, each
    tree with the same weight: every leaf gives four latencies, one from each quarter. Known and few
    steps and ``n_averaged`` ones all count alike. A context that is not recorded is a missing value
    to the trees.

    Parameters
    ----------
    catalog
        Datasheets.
    trees
        Trees of the forest.
    """

    name = "random forest"
    version = "1"

    def __init__(self, catalog: Catalog, *, trees: int = 150):
        self.catalog, self.trees = catalog, trees

    def fit(self, known: Observations, few: Observations | None = None) -> Fitted:
        """See `Contender`.

        Raises
        ------
        InputError
            Scikit-learn is not installed, or there is no known step.
        """
        require("sklearn", rival=self.name)
        from sklearn.ensemble import RandomForestRegressor

        lesson = _Lesson.of(known, few, self.catalog)
        forest = RandomForestRegressor(
            self.trees, min_samples_leaf=3, max_features=0.6, n_jobs=1, random_state=0
        ).fit(lesson.features, lesson.target)
        return _FittedForest(lesson.sheets, forest, forest.apply(lesson.features), lesson.target)


@dataclass(frozen=True, eq=False)
class _FittedForest:
    sheets: Datasheets
    forest: Any
    seen: NDArray[np.int64]
    target: Array

    def predict_quantiles(self, steps: Observations, levels: Sequence[float]) -> Array:
        """See `Fitted`."""
        if not len(steps):
            return np.empty((0, len(levels)))
        asked = self.forest.apply(step_features(steps, self.sheets))
        rng = np.random.default_rng(0)
        drawn = [
            _drawn(leaves, self.target, at, rng)
            for leaves, at in zip(self.seen.T, asked.T, strict=True)
        ]
        return np.exp(np.quantile(np.hstack(drawn), levels, axis=1).T)


def _drawn(
    leaves: NDArray[np.int64], target: Array, at: NDArray[np.int64], rng: np.random.Generator
) -> Array:
    """Latencies from the leaf of every asked step in one tree, shape (row, draw).

    They stand at the same levels in all leaves, so that a forecast does not depend on what else is
    asked.
    """
    order = np.lexsort((target, leaves))
    first = np.searchsorted(leaves[order], at, side="left")
    last = np.searchsorted(leaves[order], at, side="right")
    levels = (np.arange(DRAWS_A_LEAF) + rng.random(DRAWS_A_LEAF)) / DRAWS_A_LEAF
    return target[order[first[:, None] + (levels * (last - first)[:, None]).astype(int)]]


def between_levels(trained: Array, levels: Sequence[float]) -> Array:
    """Quantiles at any levels from those at `TRAINED_LEVELS`; both in the normal score.

    The outermost pieces are continued beyond the outermost trained levels.

    Parameters
    ----------
    trained
        Sorted quantiles, shape (row, trained level).
    levels
        Wanted probabilities, increasing.

    Returns
    -------
    array
        Shape (row, level).
    """
    known, wanted = ndtri(TRAINED_LEVELS), ndtri(np.asarray(levels))
    piece = np.clip(np.searchsorted(known, wanted) - 1, 0, known.size - 2)
    share = (wanted - known[piece]) / (known[piece + 1] - known[piece])
    between = trained[:, piece] + share * (trained[:, piece + 1] - trained[:, piece])
    # Where quantiles are equal, rounding must not turn their order.
    return np.maximum.accumulate(between, axis=1)
