"""What every contender of a backtest takes and gives: fit, then predict quantiles."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bayeslat.observations import Observations

__all__ = ["Array", "Contender", "Fitted"]

type Array = NDArray[np.float64]


class Fitted(Protocol):
    """A contender that has learnt from steps."""

    def predict_quantiles(self, steps: Observations, levels: Sequence[float]) -> Array:
        """Quantiles of the latency of every step, in ms.

        Parameters
        ----------
        steps : Observations
            Steps to predict. Their latencies are NaN: nobody can learn from what it predicts. A row
            with ``n_averaged`` above one is the mean of that many steps.
        levels : sequence of float
            Increasing probabilities between 0 and 1.

        Returns
        -------
        array
            Shape (row, level), positive and not decreasing along the levels. A contender without
            intervals gives NaN at all levels but 0.5.
        """
        ...


class Contender(Protocol):
    """A way of predicting step latencies."""

    @property
    def name(self) -> str:
        """As in tables."""
        ...

    @property
    def version(self) -> str:
        """Changes wherever predictions may change; kept ones of another version are made anew."""
        ...

    def fit(self, known: Observations, few: Observations | None = None) -> Fitted:
        """Learn from steps.

        Parameters
        ----------
        known : Observations
            Steps of deployments with plenty of them.
        few : Observations, optional
            The few steps of deployments that are not in `known`. Steps to be predicted later may
            also be of deployments of which nothing was measured.
        """
        ...
