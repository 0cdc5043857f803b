"""Bayesian ridge regression of log-latency: intervals out of the box, without a formula."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from scipy.special import ndtri

from bayeslat.catalog import Catalog
from bayeslat.evaluation.base import Array, Fitted
from bayeslat.evaluation.rivals.datasheets import Datasheets
from bayeslat.evaluation.rivals.history import KNOWN, History
from bayeslat.evaluation.rivals.packages import require
from bayeslat.evaluation.rivals.polynomial import LogTerms, deployment_weights
from bayeslat.evaluation.rivals.spread import scaled_by_few
from bayeslat.observations import Observations
from bayeslat.schema import Deployment

__all__ = ["BayesianRidgeRival"]

OWN_DEGREE: Final = 3
"""One less and known deployments are told worse, one more and what lies beyond is."""

POOLED_DEGREE: Final = 2


@dataclass(frozen=True)
class BayesianRidgeRival:
    """`sklearn.linear_model.BayesianRidge` of log-latency on logarithms of step and datasheet.

    Terms are products of the logarithms of B, S and C, the phase and, between deployments, the
    datasheet and the engine. Every known deployment has a regression of its own;
    a new one gets the pooled regression, in which every deployment counts alike, times a factor
    from its few steps. Quantiles are lognormal with the standard deviation that the regression
    predicts: it takes all steps as independent, those of one deployment too, and is too sure of
    new ones. ``n_averaged`` is not used: all steps count alike.

    Attributes
    ----------
    catalog
        Datasheets.
    """

    catalog: Catalog

    name = "BayesianRidge"
    version = "1"

    def fit(self, known: Observations, few: Observations | None = None) -> Fitted:
        """See `Contender`.

        Raises
        ------
        InputError
            Scikit-learn is not installed, or there is no known step.
        """
        require("sklearn", rival=self.name)
        history = History.of(known, few)
        steps = history.known
        terms = LogTerms(OWN_DEGREE)
        own = {
            each: _Regression.of(steps.for_deployment(each), terms) for each in steps.deployments
        }
        terms = LogTerms(POOLED_DEGREE, Datasheets.of(steps.deployments, self.catalog))
        return _FittedRidge(history, own, _Regression.of(steps, terms))


@dataclass(frozen=True, eq=False)
class _Regression:
    """A regression on those terms that vary, each scaled to the size that it has."""

    terms: LogTerms
    scale: Array
    model: Any

    @classmethod
    def of(cls, steps: Observations, terms: LogTerms) -> "_Regression":
        from sklearn.linear_model import BayesianRidge

        columns = terms.of(steps)
        spread = columns.std(axis=0)
        scale = np.where(spread > 1e-9, 1.0 / np.maximum(spread, 1e-9), 0.0)
        weight = deployment_weights(steps)
        model = BayesianRidge(compute_score=False)
        model.fit(columns * scale, np.log(steps.latency_ms), sample_weight=weight / weight.mean())
        return cls(terms, scale, model)

    def normal(self, steps: Observations) -> tuple[Array, Array]:
        """Mean and standard deviation of the log-latency of steps, each (row,)."""
        return self.model.predict(self.terms.of(steps) * self.scale, return_std=True)

    def median(self, steps: Observations) -> Array:
        """Median latency in ms, shape (row,)."""
        return np.exp(self.normal(steps)[0])


@dataclass(frozen=True, eq=False)
class _FittedRidge:
    history: History
    own: dict[Deployment, _Regression]
    pooled: _Regression

    def predict_quantiles(self, steps: Observations, levels: Sequence[float]) -> Array:
        """See `Fitted`."""
        steps, result = self.history.filled(steps), np.empty((len(steps), len(levels)))
        normal_score = ndtri(np.asarray(levels))
        for deployment in steps.deployments:
            rows, own = steps.slice_of(deployment), steps.for_deployment(deployment)
            regression = self.own.get(deployment, self.pooled)
            median = regression.median
            if self.history.novelty(deployment) != KNOWN:
                median = partial(scaled_by_few, median, self.history)
            spread = regression.normal(own)[1]
            result[rows] = median(own)[:, None] * np.exp(spread[:, None] * normal_score)
        return result
