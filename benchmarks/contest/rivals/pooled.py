"""The formula for deployments that nobody has measured: known formulas, weighted by likeness.

The log-latency of a new deployment at a step is a weighted sum of what the formulas of the known
deployments say of that step. The weights are those of ridge regression (kriging) on the logarithms
of the datasheet quantities and on indicators of engine, GPU, LLM and configuration (LLM,
parallelism and engine together). Unlike a regression of the parameters one by one this does not
suffer from parameters that stand in for each other. A formula fitted to these forecasts is where
the deployment's own fit starts as soon as it has steps, and a Gaussian penalty holds it there. How
strong the ridge is and how far the forecasts may be trusted comes from leaving every known GPU (or
LLM) out in turn: what the task does, done in advance.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from contest.rivals.datasheets import datasheet
from contest.rivals.formula import Fitter, Prior, predict
from contest.splits import Task, deployment_of

__all__ = ["Pooled", "Rehearsal", "left_out_column", "thinned"]

type Array = NDArray[np.float64]

ROWS: Final = 150
"""Steps of a deployment that stand for it in the regression."""

FREE_SPREAD: Final = 2.0
"""Spread of the prior that keeps parameters without information in the fleet's range, in logs."""

RIDGES: Final = (0.01, 0.03, 0.1, 0.3, 1.0)
DATASHEET_CENTRE: Final = np.log([312.0, 2.04, 7.0, 14.0, 524_288.0, 1.0])
SLOPE: Final = 0.7
CONSTANT: Final = 3.0
EFFECTS: Final = {"engine": 1.0, "gpu": 0.5, "model": 0.5, "configuration": 0.5}
"""How large effects may be, relative to each other: standard deviations of a Gaussian prior."""

CLIP: Final = 3.0
DIAGONAL_SHARE: Final = 0.1
LEAST_SPREAD: Final = 0.05


def left_out_column(task: Task) -> str:
    """Column whose names are new in a task: ``model``, unless a GPU is new."""
    return "gpu" if set(task.test["gpu"]) - set(task.train["gpu"]) else "model"


def thinned(frame: pd.DataFrame, rows: int = ROWS) -> pd.DataFrame:
    """At most so many steps, in a random order with a fixed seed."""
    return frame.sample(min(rows, len(frame)), random_state=0)


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """A known deployment forecast as if it were new.

    Attributes
    ----------
    few, log_few
        Steps that were given away, and their log-latency by the refitted formula.
    rest, log_rest
        The other steps, and their log-latency by the same.
    """

    few: pd.DataFrame
    log_few: Array
    rest: pd.DataFrame
    log_rest: Array


class Pooled:
    """Formulas of the known deployments, and what they imply for others.

    Parameters
    ----------
    train
        Steps of the known deployments.
    fitter
        Fits one deployment.
    column
        ``gpu`` or ``model``: which names new deployments will bring.
    """

    def __init__(self, train: pd.DataFrame, fitter: Fitter, column: str):
        self.train, self.fitter = train, fitter
        self.own = {label: thinned(steps) for label, steps in train.groupby("deployment")}
        self.labels = list(self.own)
        known = deployment_of(train)
        self.groups = np.array([getattr(known[label], column) for label in self.labels])
        free = np.median(_stacked(fitter.fit_all(train)), axis=0)
        self.weak = Prior(free, np.eye(free.size) / FREE_SPREAD)
        priors = dict.fromkeys(self.labels, self.weak)
        self.theta = _stacked(fitter.fit_all(train, priors))
        self.kernel = _kernel(train, train)
        self.ridge = min(RIDGES, key=self._error_as_if_new)
        self.whitening = self._whitening()

    def log_latency(self, frame: pd.DataFrame) -> Array:
        """Log-latency of steps of new deployments, from their datasheets alone."""
        weights = _weights(_kernel(frame, self.train), self.kernel, self.ridge)
        result = np.empty(len(frame))
        rows = frame.groupby("deployment").indices
        for own_weights, label in zip(weights, deployment_of(frame), strict=True):
            result[rows[label]] = own_weights @ self._formulas(frame.iloc[rows[label]])
        return result

    def refit(self, few: pd.DataFrame, test: pd.DataFrame) -> dict[str, Array]:
        """Log-parameters of the new deployments, each from its few steps and its datasheet."""
        expected = self.log_latency(test)
        return {
            label: self._refit_one(own, test.iloc[rows], expected[rows])
            for label, own in few.groupby("deployment")
            if (rows := test.groupby("deployment").indices.get(label)) is not None
        }

    def as_if_new(self, k: int) -> list[Rehearsal]:
        """Forecasts of the known deployments as if each were new and k of its steps known."""
        return [self._rehearsal(label, k) for label in self.labels]

    def _rehearsal(self, label: str, k: int) -> Rehearsal:
        own, expected = self.own[label], self._expected_as_if_new(label, self.ridge)
        if k:
            theta = self._refit_one(own.iloc[:k], own, expected)
            expected = np.log(predict(theta, own))
        return Rehearsal(own.iloc[:k], expected[:k], own.iloc[k:], expected[k:])

    def _refit_one(self, few: pd.DataFrame, at: pd.DataFrame, expected: Array) -> Array:
        """Fit to few steps, held near the formula that is nearest to the expected latencies."""
        nearest = self._nearest(at, expected)
        return self.fitter.fit(few, Prior(nearest, self.whitening))

    def _nearest(self, at: pd.DataFrame, expected: Array) -> Array:
        return self.fitter.fit(thinned(at.assign(latency_ms=np.exp(expected))), self.weak)

    def _formulas(self, frame: pd.DataFrame) -> Array:
        """Log-latency by the formula of every known deployment, shape (deployment, row)."""
        return np.log([predict(theta, frame) for theta in self.theta])

    def _expected_as_if_new(self, label: str, ridge: float) -> Array:
        """Log-latency of a known deployment's steps from the deployments of other groups."""
        position = self.labels.index(label)
        rest = self.groups != self.groups[position]
        inner = self.kernel[np.ix_(rest, rest)]
        weights = _weights(self.kernel[position, rest], inner, ridge)
        return weights @ self._formulas(self.own[label])[rest]

    def _error_as_if_new(self, ridge: float) -> float:
        """Median over deployments of the mean absolute log-error."""
        errors = [
            np.abs(self._expected_as_if_new(label, ridge) - np.log(own["latency_ms"])).mean()
            for label, own in self.own.items()
        ]
        return float(np.median(errors))

    def _whitening(self) -> Array:
        """Inverse root of the covariance of the parameters' errors as if new, outliers clipped."""
        nearest = [
            self._nearest(own, self._expected_as_if_new(label, self.ridge))
            for label, own in self.own.items()
        ]
        errors = np.array(nearest) - self.theta
        bound = CLIP * np.maximum(1.4826 * np.median(np.abs(errors), axis=0), LEAST_SPREAD)
        errors = np.clip(errors, -bound, bound)
        covariance = errors.T @ errors / len(errors)
        diagonal = np.diag(np.diag(covariance))
        covariance += DIAGONAL_SHARE * (diagonal - covariance)
        covariance += LEAST_SPREAD**2 * np.eye(len(covariance))
        return np.linalg.inv(np.linalg.cholesky(covariance))


def _stacked(fits: dict[str, Array]) -> Array:
    return np.array(list(fits.values()))


def _kernel(left: pd.DataFrame, right: pd.DataFrame) -> Array:
    """Likeness of the deployments of two frames, shape (left, right), labels sorted."""
    slopes = [np.log(datasheet(frame).to_numpy()) - DATASHEET_CENTRE for frame in (left, right)]
    total = CONSTANT**2 + SLOPE**2 * slopes[0] @ slopes[1].T
    names = [_effect_names(frame) for frame in (left, right)]
    for effect, size in EFFECTS.items():
        same = names[0][effect].to_numpy()[:, None] == names[1][effect].to_numpy()[None, :]
        total = total + size**2 * same
    return total


def _effect_names(frame: pd.DataFrame) -> pd.DataFrame:
    table = pd.DataFrame(deployment_of(frame).values())
    configuration = table["model"] + "/" + table["tp"].astype(str) + "/" + table["engine"]
    return table.assign(configuration=configuration)


def _weights(at: Array, kernel: Array, ridge: float) -> Array:
    """Weights of the known deployments, shape (..., deployment)."""
    return np.linalg.solve(kernel + ridge * np.eye(len(kernel)), at.T).T
