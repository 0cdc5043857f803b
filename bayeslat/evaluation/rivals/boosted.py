"""The strongest rival known: boosted trees on what the saturation formula leaves over."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bayeslat.catalog import Catalog
from bayeslat.evaluation.base import Array, Fitted
from bayeslat.evaluation.rivals.datasheets import FEATURES, Datasheets, step_features
from bayeslat.evaluation.rivals.formula import Fitter, predict, predict_each
from bayeslat.evaluation.rivals.history import KNOWN, N_FOLDS, History, Novelty, folds
from bayeslat.evaluation.rivals.least_squares import rehearsed_errors
from bayeslat.evaluation.rivals.packages import require
from bayeslat.evaluation.rivals.pooled import Newcomer, Pooled, PooledMemory
from bayeslat.evaluation.rivals.spread import FittedPoints, Forecaster, Ratios
from bayeslat.observations import Observations
from bayeslat.schema import Deployment

__all__ = ["BoostedResidual"]

LEVEL_SPREAD: Final = 0.05
SHAPE_SPREAD: Final = 0.1
SHAPE_LENGTH: Final = 2.0
STEP_NOISE: Final = 0.05
"""Of what a few steps may still correct, in logs; the length is in log B, log S and log C."""


class BoostedResidual:
    """Formula by least squares, times LightGBM on the log-residuals of all deployments.

    Quantiles are those of out-of-fold errors. For a new deployment the formula is the pooled one,
    refitted to its few steps, and the trees add the misfit that known deployments share; between
    two known shares of its GPU both forecasts are interpolated. What the few steps still disagree
    with is spread to similar steps by kriging. The folds leave whole GPUs (or LLMs) out.
    ``n_averaged`` is not used: all steps count alike.

    Parameters
    ----------
    catalog
        Datasheets.
    rounds
        Boosting rounds.
    starts
        Points from which every deployment's formula is fitted.
    """

    name = "boosted residual"
    version = "2"

    def __init__(self, catalog: Catalog, *, rounds: int = 1500, starts: int = 8):
        self.memory = PooledMemory(Fitter(with_context=True, starts=starts), catalog)
        self.rounds = rounds
        self._last: tuple[Pooled, list[_Trees]] | None = None

    def fit(self, known: Observations, few: Observations | None = None) -> Fitted:
        """See `Contender`.

        Raises
        ------
        InputError
            LightGBM is not installed, or there is no known step.
        """
        require("lightgbm", rival=self.name)
        history = History.of(known, few)
        return FittedPoints(history, partial(self._forecaster, history))

    def _forecaster(self, history: History, novelty: Novelty) -> Forecaster:
        if novelty == KNOWN:
            return self._known(history.known)
        return self._new(history, novelty)

    def _known(self, steps: Observations) -> Forecaster:
        point = self._both(steps)
        fold, out_of_fold = folds(steps), point(steps)
        for number in range(N_FOLDS):
            rest, held = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            # A deployment of which the others hold no step stays with its own fit.
            reached = np.isin(steps.deployment_index[held], steps.deployment_index[rest])
            if reached.any():
                without = self._both(steps.select(rest), point.fits)
                out_of_fold[held[reached]] = without(steps.select(held[reached]))
        return Forecaster(point, Ratios(steps, steps.latency_ms / out_of_fold))

    def _both(
        self, steps: Observations, starts: Mapping[Deployment, Array] | None = None
    ) -> "_FormulaAndTrees":
        """Formula and trees fitted to steps, the formula from given starts or from several."""
        fits = self.memory.fitter.fit_all(steps, starts=starts)
        sheets = Datasheets.of(steps.deployments, self.memory.catalog)
        trees = _Trees(steps, np.log(predict_each(fits, steps)), sheets, self.rounds)
        return _FormulaAndTrees(fits, trees)

    def _new(self, history: History, novelty: Novelty) -> Forecaster:
        pooled = self.memory.of(history, novelty)
        everyone, *without = self._trees(pooled)
        fold = dict(zip(pooled.known, _group_folds(pooled), strict=True))
        rehearsed = pooled.as_if_new(novelty.n_few)
        log_fitted = [
            _corrected(each, without[fold[each.rest.deployments[0]]], pooled) for each in rehearsed
        ]
        point = partial(_new_point, pooled, history, everyone)
        if not rehearsed:
            return Forecaster(point, self._known(history.known).errors)
        return Forecaster(point, rehearsed_errors(rehearsed, log_fitted))

    def _trees(self, pooled: Pooled) -> list["_Trees"]:
        """Trees on all deployments, then those without each fold of GPUs (or LLMs)."""
        if self._last is None or self._last[0] is not pooled:
            steps, by_deployment = pooled.steps, _group_folds(pooled)
            fits = dict(zip(pooled.known, pooled.theta, strict=True))
            log_fitted = np.log(predict_each(fits, steps))
            fold = by_deployment[steps.deployment_index]
            masks = [fold >= 0]
            if np.unique(by_deployment).size > 1:
                masks += [fold != number for number in np.unique(by_deployment)]
            trees = [
                _Trees(steps.select(rows), log_fitted[rows], pooled.sheets, self.rounds)
                for rows in masks
            ]
            self._last = pooled, trees
        return self._last[1]


class _Trees:
    """Boosted trees on log-residuals, with absolute error; the formula's say is a feature."""

    def __init__(self, steps: Observations, log_fitted: Array, sheets: Datasheets, rounds: int):
        import lightgbm

        self.sheets = sheets
        residual = np.log(steps.latency_ms) - log_fitted
        settings = {"objective": "l1", "num_leaves": 63, "learning_rate": 0.03,
                    "min_data_in_leaf": 10, "feature_fraction": 0.8, "verbosity": -1,
                    "num_threads": 1, "seed": 0, "deterministic": True}  # fmt: skip
        data = lightgbm.Dataset(self._features(steps, log_fitted), residual)
        self._model = lightgbm.train(settings, data, rounds)

    def predict(self, steps: Observations, log_formula: Array) -> Array:
        """Log-residual of steps, given their log-latency by the formula."""
        return np.asarray(self._model.predict(self._features(steps, log_formula)), dtype=float)

    def _features(self, steps: Observations, log_formula: Array) -> Array:
        """Features of the trees; S / B is left out, which extrapolates badly."""
        features = step_features(steps, self.sheets)
        features = np.delete(features, FEATURES.index("tokens_per_request"), axis=1)
        return np.column_stack([features, log_formula])


@dataclass(frozen=True, eq=False)
class _FormulaAndTrees:
    """Point forecasts of known deployments."""

    fits: Mapping[Deployment, Array]
    trees: _Trees

    def __call__(self, steps: Observations) -> Array:
        log_formula = np.log(predict_each(self.fits, steps))
        return np.exp(log_formula + self.trees.predict(steps, log_formula))


def _new_point(pooled: Pooled, history: History, trees: _Trees, steps: Observations) -> Array:
    """Point forecasts of new deployments."""
    newcomers = pooled.newcomers(history, steps)
    return np.exp(np.concatenate([_corrected(each, trees, pooled) for each in newcomers]))


def _corrected(new: Newcomer, trees: _Trees, pooled: Pooled) -> Array:
    """Log-latency of the other steps: formula, trees, and what the few steps still say."""
    log_rest = _boosted(new, new.rest, new.log_rest, trees, pooled)
    if not len(new.few):
        return log_rest
    log_few = _boosted(new, new.few, new.log_few, trees, pooled)
    left = np.log(new.few.latency_ms) - log_few
    at, of = _likeness(new.rest, new.few), _likeness(new.few, new.few)
    return log_rest + at @ np.linalg.solve(of + STEP_NOISE**2 * np.eye(left.size), left)


def _boosted(
    new: Newcomer, steps: Observations, log_formula: Array, trees: _Trees, pooled: Pooled
) -> Array:
    """Formula and trees; between two known shares, what both say of their own deployments."""
    if not new.shares:
        return log_formula + trees.predict(steps, log_formula)
    total = np.zeros(len(steps))
    for position, weight in new.shares.items():
        as_own = replace(steps, deployments=(pooled.known[position],))
        log_own = np.log(predict(pooled.theta[position], steps))
        total += weight * (log_own + trees.predict(as_own, log_own))
    return total


def _likeness(one: Observations, two: Observations) -> Array:
    """Prior covariance of what is left over between two sets of steps."""
    a, b = (
        np.column_stack(
            [
                np.log(steps.batch_size),
                np.log(steps.total_tokens),
                np.log1p(steps.context_tokens),
                2.0 * (steps.phase == "decode"),
                1.0 * (steps.phase == "mixed"),
            ]
        )
        for steps in (one, two)
    )
    squared = ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=-1)
    return LEVEL_SPREAD**2 + SHAPE_SPREAD**2 * np.exp(-0.5 * squared / SHAPE_LENGTH**2)


def _group_folds(pooled: Pooled) -> NDArray[np.int64]:
    """Fold of each deployment; those on the same GPU (or of the same LLM) stay together."""
    _, number = np.unique(pooled.groups, return_inverse=True)
    return number % N_FOLDS
