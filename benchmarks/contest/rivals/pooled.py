"""The formula for deployments that nobody has measured: known formulas, weighted by likeness.

The log-latency of a new deployment at a step is a weighted sum of what the formulas of the known
deployments say of that step. Where two shares of the same GPU are known in its configuration (LLM,
parallelism and engine) the sum is the straight line between them, over the log of the share. Else
the weights are those of ridge regression (kriging) on the logarithms of the datasheet quantities
and on indicators of engine, GPU, LLM and configuration. Unlike a regression of the parameters one
by one this does not suffer from parameters that stand in for each other. A formula fitted to these
forecasts is where the deployment's own fit starts as soon as it has steps, and a Gaussian penalty
holds it there. How strong the ridge is and how far the forecasts may be trusted comes from leaving
every known GPU (or LLM) out in turn: what the task does, done in advance.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslat.schema import Deployment
from contest.rivals.datasheets import catalog, datasheet
from contest.rivals.formula import Fitter, Prior, predict
from contest.splits import Task, deployment_of

__all__ = ["Newcomer", "Pooled", "left_out_column", "thinned"]

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

N_SHARES: Final = 2
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
class Newcomer:
    """Forecasts of a deployment that is new, or that is treated as if it were.

    Attributes
    ----------
    few, log_few
        Steps known of it, and their log-latency by its formula.
    rest, log_rest
        The other steps, and their log-latency by its formula.
    shares
        Positions and weights of the two known deployments between whose shares it lies; empty
        where there are none.
    """

    few: pd.DataFrame
    log_few: Array
    rest: pd.DataFrame
    log_rest: Array
    shares: dict[int, float]


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
        self.known = list(deployment_of(train).values())
        self.groups = np.array([getattr(each, column) for each in self.known])
        free = np.median(_stacked(fitter.fit_all(train)), axis=0)
        self.weak = Prior(free, np.eye(free.size) / FREE_SPREAD)
        priors = dict.fromkeys(self.labels, self.weak)
        self.theta = _stacked(fitter.fit_all(train, priors))
        self.kernel = _kernel(train, train)
        self.ridge = min(RIDGES, key=self._error_as_if_new)
        self.whitening = self._whitening()

    def newcomers(self, few: pd.DataFrame, test: pd.DataFrame) -> dict[str, Newcomer]:
        """Every deployment of the test steps, forecast from its datasheet and its few steps."""
        everyone = np.ones(len(self.known), dtype=bool)
        likeness = _kernel(test, self.train)
        found = {}
        for like, (label, new) in zip(likeness, deployment_of(test).items(), strict=True):
            own = [part[part["deployment"] == label] for part in (few, test)]
            found[label] = self._newcomer(*own, self._weights(new, like, everyone, self.ridge))
        return found

    def as_if_new(self, k: int) -> dict[str, Newcomer]:
        """The known deployments as if each GPU (or LLM) were new and k steps of each known."""
        found = {}
        for label, own in self.own.items():
            weights = self._weights_as_if_new(label, self.ridge)
            found[label] = self._newcomer(own.iloc[:k], own.iloc[k:], weights)
        return found

    def _newcomer(self, few: pd.DataFrame, rest: pd.DataFrame, weights: Array) -> Newcomer:
        log_few, log_rest = (weights @ self._formulas(part) for part in (few, rest))
        if len(few):
            prior = Prior(self._nearest(rest, log_rest), self.whitening)
            theta = self.fitter.fit(few, prior)
            log_few, log_rest = (np.log(predict(theta, part)) for part in (few, rest))
        used = {int(i): float(weights[i]) for i in np.flatnonzero(weights)}
        return Newcomer(few, log_few, rest, log_rest, used if len(used) == N_SHARES else {})

    def _nearest(self, at: pd.DataFrame, log_latency: Array) -> Array:
        """The formula nearest to given log-latencies."""
        return self.fitter.fit(thinned(at.assign(latency_ms=np.exp(log_latency))), self.weak)

    def _formulas(self, frame: pd.DataFrame) -> Array:
        """Log-latency by the formula of every known deployment, shape (deployment, row)."""
        return np.log([predict(theta, frame) for theta in self.theta])

    def _weights_as_if_new(self, label: str, ridge: float) -> Array:
        """Weights for a known deployment, zero for all of its own group."""
        position = self.labels.index(label)
        rest = self.groups != self.groups[position]
        return self._weights(self.known[position], self.kernel[position], rest, ridge)

    def _weights(
        self, new: Deployment, like: Array, usable: NDArray[np.bool_], ridge: float
    ) -> Array:
        """Weights of the known deployments, zero for those that may not be used."""
        weights = np.zeros(len(self.known))
        shares = np.where(usable, _log_shares(new, self.known), np.nan)
        if np.isfinite(shares).sum() >= N_SHARES:
            first, second = _around(shares)
            weights[first] = shares[second] / (shares[second] - shares[first])
            weights[second] = 1.0 - weights[first]
        else:
            inner = self.kernel[np.ix_(usable, usable)]
            weights[usable] = np.linalg.solve(inner + ridge * np.eye(len(inner)), like[usable])
        return weights

    def _expected_as_if_new(self, label: str, ridge: float) -> Array:
        return self._weights_as_if_new(label, ridge) @ self._formulas(self.own[label])

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


def _log_shares(new: Deployment, known: list[Deployment]) -> Array:
    """Log of each known share over the new one; NaN but on the same GPU and configuration."""
    shares = np.full(len(known), np.nan)
    gpu = catalog().gpu(new.gpu)
    for position, other in enumerate(known):
        same = other._replace(gpu=new.gpu) == new
        if same and other.gpu.split("@")[0] == new.gpu.split("@")[0]:
            shares[position] = np.log(catalog().gpu(other.gpu).sm_share / gpu.sm_share)
    return shares


def _around(log_shares: Array) -> tuple[int, int]:
    """Positions of the nearest below and above zero; at an edge of the two nearest."""
    below = np.where(log_shares < 0.0, log_shares, -np.inf)
    above = np.where(log_shares > 0.0, log_shares, np.inf)
    if np.isfinite(below).any() and np.isfinite(above).any():
        return int(below.argmax()), int(above.argmin())
    first, second = np.argsort(np.abs(log_shares))[:2]
    return int(first), int(second)
