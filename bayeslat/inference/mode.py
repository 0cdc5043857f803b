"""The nearest mode uphill: damped Newton steps with exact Hessians."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

__all__ = ["Climbed", "climb"]

type Array = NDArray[np.float64]


class _Here(Protocol):
    @property
    def value(self) -> float:
        """Log-density."""

    @property
    def gradient(self) -> Array:
        """Its gradient, shape (dim,)."""

    @property
    def hessian(self) -> Array:
        """Its Hessian, or one that stands for it, shape (dim, dim)."""


class Climbed(Protocol):
    """A log-density that can be climbed."""

    def derivatives(self, y: Array, /) -> _Here:
        """Value, gradient and Hessian at y."""


MAX_STEPS = 20
MIN_GAIN = 0.05
"""Log-density that a step must gain for another to follow."""

MAX_STEP = 10.0
"""Longest step of a coordinate."""

MAX_DAMPING = 1e8
"""Damping at which no step uphill is left to be found."""


def climb(target: Climbed, y: Array, free: NDArray[np.bool_]) -> Array:
    """Climb over the free coordinates until a step gains less than `MIN_GAIN`.

    Parameters
    ----------
    target : Climbed
        The log-posterior.
    y : array, shape (dim,)
        Where to begin.
    free : array of bool, shape (dim,)
        Coordinates that may move.
    """
    here = target.derivatives(y)
    damping = 1e-3
    for _ in range(MAX_STEPS):
        curvature = -here.hessian[np.ix_(free, free)]
        diagonal = np.diag(np.maximum(np.abs(np.diag(curvature)), 1e-8))
        gain = 0.0
        while not gain > 0.0 and damping < MAX_DAMPING:  # a NaN is no gain
            try:
                factor = linalg.cho_factor(curvature + damping * diagonal)
            except linalg.LinAlgError:  # not definite here: more damping makes it so
                damping *= 5.0
                continue
            step = linalg.cho_solve(factor, here.gradient[free])
            proposal = y.copy()
            proposal[free] += step / max(1.0, np.abs(step).max() / MAX_STEP)
            there = target.derivatives(proposal)
            gain = there.value - here.value
            damping = max(damping * 0.2, 1e-9) if gain > 0.0 else damping * 5.0
        if not gain > 0.0:
            return y
        y, here = proposal, there
        if gain < MIN_GAIN:
            return y
    return y
