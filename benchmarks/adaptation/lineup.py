"""Who takes part: the rivals as they start from one base posterior and the rows behind it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from adaptation.rivals.base import Contestant, Each
from adaptation.rivals.fixed import Fixed
from adaptation.rivals.formula import (
    MomentumSettings,
    SlidingWindow,
    fit_formula,
    start_momentum,
    start_window,
)
from adaptation.rivals.full import FullFit
from adaptation.rivals.kalman import KalmanSettings, start_kalman
from adaptation.rivals.refit import start_refit
from adaptation.streams import of_deployment
from bayeslat.schema import Deployment

__all__ = ["FULL", "OURS", "RIVALS", "LineUp"]

OURS: Final = "bayeslat online"

FULL: Final = "full fit every 100, window 300"

RIVALS: Final = (
    "static posterior",
    "refit every 100, window 200",
    "least squares, window 5,000",
    "least squares, window 200",
    "momentum step",
    "Kalman tracker",
)


@dataclass(frozen=True, eq=False)
class LineUp:
    """Everyone at the start.

    Attributes
    ----------
    base : Fixed
        The posterior that all know.
    known : pandas.DataFrame
        The rows that it was fitted to.
    """

    base: Fixed
    known: pd.DataFrame

    @cached_property
    def thetas(self) -> Mapping[Deployment, NDArray[np.float64]]:
        """The formula fitted to each deployment."""
        return {
            deployment: fit_formula(own)
            for deployment in self.base.fleet.deployments
            if len(own := of_deployment(self.known, deployment))
        }

    def rivals(self) -> tuple[Contestant, ...]:
        """Everyone but ours, in the order of `RIVALS`."""
        return (
            self.base,
            self.refit(200),
            self.window(5000),
            self.window(200),
            self.momentum(),
            self.kalman(),
        )

    def refit(self, window: int, degree: int = 1) -> Contestant:
        """A regression on the base over the latest rows."""
        return Each(
            f"refit every 100, window {window:,}",
            lambda one: start_refit(one, self.base, self._own(one), window=window, degree=degree),
        )

    def window(self, window: int) -> Contestant:
        """Least squares of the formula over the latest rows."""

        def start(one: Deployment) -> SlidingWindow:
            return start_window(self.thetas[one], self._own(one), window=window)

        return Each(f"least squares, window {window:,}", start)

    def momentum(self, settings: MomentumSettings | None = None) -> Contestant:
        """The momentum step."""
        return Each(
            "momentum step", lambda one: start_momentum(self.thetas[one], self._own(one), settings)
        )

    def kalman(self, settings: KalmanSettings | None = None) -> Contestant:
        """The Kalman tracker."""
        return Each(
            "Kalman tracker", lambda one: start_kalman(one, self.base, self._own(one), settings)
        )

    def full(self) -> Contestant:
        """The whole model of one deployment, fitted again and again."""
        return Each(FULL, lambda one: FullFit(one, self.base.fleet, self._own(one)))

    def _own(self, deployment: Deployment) -> pd.DataFrame:
        return of_deployment(self.known, deployment)
