"""The posterior as it was fitted, which never changes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import bayeslat as bl
from adaptation.rivals.base import LEVELS, Forecast, Happening
from bayeslat.predictive import DeploymentDraws, LatencyDistribution
from bayeslat.schema import Deployment

__all__ = ["Fixed", "forecast_of", "quantiles_of"]

type Array = NDArray[np.float64]

STEP_COLUMNS: Final = ("batch_size", "total_tokens", "context_tokens", "n_averaged")


def quantiles_of(
    draws: DeploymentDraws, steps: pd.DataFrame, levels: Sequence[float] = LEVELS
) -> list[Array]:
    """Quantiles of steps under draws, each of shape (row,); equal steps are computed once."""
    values, back = np.unique(
        steps[list(STEP_COLUMNS)].to_numpy(dtype=float), axis=0, return_inverse=True
    )
    batch, tokens, context, averaged = values.T
    latency = LatencyDistribution(draws, batch, tokens, context, averaged)
    return [np.asarray(latency.ppf(level))[back] for level in levels]


def forecast_of(fleet: bl.FleetPosterior, deployment: Deployment, steps: pd.DataFrame) -> Forecast:
    """What a posterior says of steps."""
    return Forecast(*quantiles_of(fleet.draws(deployment), steps))


@dataclass(frozen=True, eq=False)
class Fixed:
    """A posterior that is asked and never told.

    Attributes
    ----------
    fleet : FleetPosterior
        What it is.
    """

    fleet: bl.FleetPosterior
    name: str = "static posterior"
    happenings: tuple[Happening, ...] = ()
    alone: bool = True
    _answered: dict[str, Forecast] = field(default_factory=dict, repr=False)
    _medians: dict[str, Array] = field(default_factory=dict, repr=False)

    def observe(self, rows: pd.DataFrame) -> Self:
        """The same as before."""
        return self

    def predict(self, deployment: Deployment, steps: pd.DataFrame) -> Forecast:
        """What the posterior says of steps; remembered, since others start from it."""
        key = _key(deployment, steps)
        if key not in self._answered:
            self._answered[key] = forecast_of(self.fleet, deployment, steps)
        return self._answered[key]

    def median(self, deployment: Deployment, steps: pd.DataFrame) -> Array:
        """The median alone, shape (row,); remembered too."""
        key = _key(deployment, steps)
        if key in self._answered:
            return self._answered[key].median
        if key not in self._medians:
            self._medians[key] = quantiles_of(self.fleet.draws(deployment), steps, LEVELS[:1])[0]
        return self._medians[key]

    def evidence(self, deployment: Deployment) -> float:
        """It looks for no drift."""
        return np.nan


def _key(deployment: Deployment, steps: pd.DataFrame) -> str:
    values = steps[list(STEP_COLUMNS)].to_numpy(dtype=float).tobytes()
    return deployment.label + hashlib.sha256(values).hexdigest()
