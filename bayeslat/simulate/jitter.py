"""Noise of simulated steps: a lognormal body, and now and then a stall with a heavy tail.

A step takes its typical latency times ``exp(sigma Z - sigma^2 / 2)``. With probability
``stall_share`` it stalls: the time is further multiplied by ``stall_factor`` times a Pareto
variable of index ``stall_index``. The logarithm of a stalled step is then a normal plus an
exponential variable, whose distribution function is known in closed form (exponentially modified
Gaussian), so that the survival function of a simulated step is exact.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr, ndtr

__all__ = ["StepJitter"]

_LOG_BRACKET: Final = (-10.0, 40.0)
_BISECTIONS: Final = 70


@dataclass(frozen=True)
class StepJitter:
    """Distribution of a simulated step's latency relative to its typical latency.

    Attributes
    ----------
    body_sd : float
        Standard deviation of the logarithm of the body.
    stall_share : float
        Probability of a stall.
    stall_factor : float
        Least factor by which a stall lengthens a step.
    stall_index : float
        Index of the Pareto tail; moments of this order and above are infinite.
    """

    body_sd: float
    stall_share: float = 0.015
    stall_factor: float = 1.2
    stall_index: float = 4.0

    @property
    def mean(self) -> float:
        """Expected ratio of a step to its typical latency."""
        stalled = self.stall_factor * self.stall_index / (self.stall_index - 1)
        return 1 - self.stall_share + self.stall_share * stalled

    def sf(self, ratio: ArrayLike) -> NDArray[np.float64]:
        """P(step / typical > ratio), exact; one where the ratio is not positive."""
        ratio = np.asarray(ratio, dtype=float)
        with np.errstate(divide="ignore"):
            log_ratio = np.log(np.maximum(ratio, 0.0))
        return self._log_sf(log_ratio)

    def ppf(self, q: ArrayLike) -> NDArray[np.float64]:
        """Quantile of the ratio for `q` in (0, 1), by bisection to double precision."""
        q = np.asarray(q, dtype=float)
        low, high = (np.full(q.shape, edge) for edge in _LOG_BRACKET)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            beyond = self._log_sf(middle) > 1 - q
            low, high = np.where(beyond, middle, low), np.where(beyond, high, middle)
        return np.exp((low + high) / 2)

    def rvs(self, rng: np.random.Generator, size: tuple[int, ...]) -> NDArray[np.float64]:
        """Draw ratios of the given shape."""
        body = np.exp(self.body_sd * rng.standard_normal(size) - self.body_sd**2 / 2)
        stall = self.stall_factor * (1 + rng.pareto(self.stall_index, size))
        return body * np.where(rng.random(size) < self.stall_share, stall, 1.0)

    def _log_sf(self, log_ratio: NDArray[np.float64]) -> NDArray[np.float64]:
        centred = log_ratio + self.body_sd**2 / 2
        body = ndtr(-centred / self.body_sd)
        stall = self._stalled_sf(np.maximum(centred - np.log(self.stall_factor), -1e3))
        return (1 - self.stall_share) * body + self.stall_share * stall

    def _stalled_sf(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """P(sigma Z + E > x) with E exponential of rate `stall_index`."""
        scaled, rate = x / self.body_sd, self.stall_index * self.body_sd
        # One exponent for both factors: apart, the first overflows where the second vanishes.
        tail = np.exp(rate**2 / 2 - rate * scaled + log_ndtr(scaled - rate))
        return ndtr(-scaled) + tail
