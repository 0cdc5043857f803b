"""A Kalman filter of what a law has become, relative to what was believed.

The state is the log-change of all steps and its slopes in the logarithms of B, S, C and in the
share of prompts, each a random walk. A row is log(measured / believed) = features . state + noise.
An innovation beyond a few of its standard deviations counts as that many (Huber), and the noise is
followed by an exponential mean of squared innovations. The predictive interval is that of the
innovation: normal in the logarithm, with the state's variance and the noise's.
"""

from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri

from adaptation.rivals.base import LEVELS, Forecast
from adaptation.rivals.features import Features
from adaptation.rivals.fixed import Fixed
from bayeslat.schema import Deployment

__all__ = ["Kalman", "KalmanSettings", "start_kalman"]

type Array = NDArray[np.float64]


@dataclass(frozen=True)
class KalmanSettings:
    """Settings of the filter, chosen on `adaptation.scenarios.TUNING`.

    Attributes
    ----------
    level_sd, slope_sd : float
        Standard deviation of the steps of the random walks, a row.
    clip : float
        Standard deviations at which an innovation is cut off.
    forget : float
        Weight that the noise's exponential mean gives to a new row.
    """

    level_sd: float = 3e-3
    slope_sd: float = 1e-4
    clip: float = 3.0
    forget: float = 0.003


START_SD: Final = 0.02
"""Standard deviation of the state before the first row: about what the base is unsure of."""

CLIPPED_SHARE: Final = 0.9733
"""E[min(|Z|, 3)^2] of a standard normal relative to one, near enough for other cuts."""


@dataclass(frozen=True, eq=False)
class Kalman:
    """The filter of one deployment.

    Attributes
    ----------
    deployment : Deployment
        Which it is.
    base : Fixed
        What was believed.
    features : Features
        Of a step.
    mean, covariance : array
        Of the state, shapes (feature,) and (feature, feature).
    noise : float
        Variance of a row's logarithm.
    settings : KalmanSettings
        How it walks.
    """

    deployment: Deployment
    base: Fixed
    features: Features
    mean: Array
    covariance: Array
    noise: float
    settings: KalmanSettings

    def observe(self, rows: pd.DataFrame) -> Self:
        """The belief after these rows."""
        x = self.features(rows)
        believed = self.base.median(self.deployment, rows)
        log_ratio = np.log(rows["latency_ms"].to_numpy() / believed)
        mean, covariance, noise, own = self.mean, self.covariance, self.noise, self.settings
        walk = np.diag([own.level_sd**2, *np.full(mean.size - 1, own.slope_sd**2)])
        for features, measured in zip(x, log_ratio, strict=True):
            covariance = covariance + walk
            reached = covariance @ features
            variance = float(features @ reached) + noise
            cut = own.clip * np.sqrt(variance)
            innovation = float(np.clip(measured - features @ mean, -cut, cut))
            gain = reached / variance
            mean = mean + gain * innovation
            covariance = covariance - np.outer(gain, reached)
            noise *= 1.0 + own.forget * (innovation**2 / variance / CLIPPED_SHARE - 1.0)
        return replace(self, mean=mean, covariance=covariance, noise=noise)

    def predict(self, steps: pd.DataFrame) -> Forecast:
        """What it believes of steps."""
        x = self.features(steps)
        believed = self.base.median(self.deployment, steps)
        centre = np.log(believed) + x @ self.mean
        sd = np.sqrt(np.einsum("ri,ij,rj->r", x, self.covariance, x) + self.noise)
        return Forecast(*(np.exp(centre + ndtri(level) * sd) for level in LEVELS))


def start_kalman(
    deployment: Deployment,
    base: Fixed,
    known: pd.DataFrame,
    settings: KalmanSettings | None = None,
) -> Kalman:
    """A filter that starts from the posterior and the rows it was fitted to."""
    features = Features.of(known)
    n = features(known.head(1)).shape[1]
    believed = base.median(deployment, known)
    rest = np.log(known["latency_ms"].to_numpy() / believed)
    noise = float((1.4826 * np.median(np.abs(rest - np.median(rest)))) ** 2)
    return Kalman(
        deployment, base, features, np.zeros(n), START_SD**2 * np.eye(n), noise,
        settings or KalmanSettings(),
    )  # fmt: skip
