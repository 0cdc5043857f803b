"""The whole model fitted again and again: what a refit costs that keeps nothing from the last."""

from dataclasses import dataclass, replace
from typing import Final, Self

import pandas as pd

import bayeslat as bl
from adaptation.rivals.base import Forecast, gathered
from adaptation.rivals.fixed import forecast_of
from bayeslat.schema import Deployment

__all__ = ["FullFit"]

DRAWS: Final = 250


@dataclass(frozen=True, eq=False)
class FullFit:
    """`bayeslat.fit` of one deployment alone on its latest rows, every so many rows.

    Attributes
    ----------
    deployment : Deployment
        Which it is.
    fleet : FleetPosterior
        In force; at first the base.
    rows : pandas.DataFrame
        The latest rows, `window` at most.
    window, every : int
        Rows that are kept; rows between two fits.
    waiting : int
        Rows since the last fit.
    """

    deployment: Deployment
    fleet: bl.FleetPosterior
    rows: pd.DataFrame
    window: int = 300
    every: int = 100
    waiting: int = 0

    def observe(self, rows: pd.DataFrame) -> Self:
        """The belief after these rows."""
        held, due = gathered(self, rows)
        if not due:
            return held
        return replace(held, fleet=bl.fit(held.rows, draws=DRAWS))

    def predict(self, steps: pd.DataFrame) -> Forecast:
        """What the posterior in force says of steps."""
        return forecast_of(self.fleet, self.deployment, steps)
