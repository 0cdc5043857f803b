"""Contenders that are quick to fit, and of which tests know what they must say."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from bayeslat.evaluation.base import Array
from bayeslat.observations import Observations


@dataclass(frozen=True)
class FittedLognormal:
    """The same lognormal for every step."""

    location: float
    scale: float

    def predict_quantiles(self, steps, levels) -> Array:
        assert np.isnan(steps.latency_ms).all(), "latencies to predict were shown"
        one = np.exp(self.location + self.scale * ndtri(levels))
        return np.tile(one, (len(steps), 1))


@dataclass(frozen=True)
class Lognormal:
    """Whatever was measured, as one lognormal; it knows nothing of steps."""

    name: str = "lognormal"
    version: str = "1"

    def fit(self, known: Observations, few: Observations | None = None) -> FittedLognormal:
        values = np.log(known.latency_ms)
        return FittedLognormal(float(values.mean()), float(values.std()) + 1e-3)


@dataclass(frozen=True)
class Failing:
    """Cannot answer."""

    name: str = "failing"
    version: str = "1"

    def fit(self, known: Observations, few: Observations | None = None) -> FittedLognormal:
        raise ValueError("no such\nluck")
