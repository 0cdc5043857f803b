"""The Gaussian nearest to the posterior: centre and spread of the typical set, without sampling.

At the optimum of the variational Gaussian approximation the gradient averaged over the Gaussian is
zero and its precision is the negative Hessian averaged over it (Opper and Archambeau, 2009, "The
variational Gaussian approximation revisited"). Damped steps towards both are natural-gradient
ascent. A mode says little where the posterior is skewed, and for pooling scales nothing (their
joint mode with the effects they scale runs towards zero); averages over a cloud have neither flaw.
"""

import numpy as np
from numpy.typing import NDArray

from bayeslat.inference.arrow import ArrowFactor
from bayeslat.inference.target import Target

__all__ = ["nearest_gaussian"]

type Array = NDArray[np.float64]

N_PAIRS = 2
"""Antithetic pairs of points in the cloud of one round."""

MAX_ROUNDS = 24
SETTLED_STEP = 1.5
"""Where no whitened coordinate wants to move further than this, only noise of the cloud is left."""

N_AVERAGED = 8
"""Such rounds in a row, or the last ones, averaged by ever smaller steps."""

DAMPING = 0.5
"""Share of a step that is taken before the averaging."""

MAX_STEP = 3.0
"""Limit of what a whitened coordinate may want to move in one round."""

MAX_WIDENING = 4.0
"""Factor by which the variance of a coordinate, given the others, may grow in one round."""


def nearest_gaussian(
    target: Target, centre: Array, rng: np.random.Generator, rounds: int = MAX_ROUNDS
) -> tuple[Array, ArrowFactor]:
    """Centre and factor of the Gaussian nearest to the posterior.

    Parameters
    ----------
    target : Target
        The log-posterior.
    centre : array, shape (dim,)
        Where to begin.
    rng : numpy.random.Generator
        Source of the cloud.
    rounds : int
        At most.

    Returns
    -------
    tuple of array and ArrowFactor
        Centre, shape (dim,), and a factor F whose F F' is the covariance.
    """
    layout = target.structure.layout
    _, precision = target.averaged(centre[None])
    factor = layout.factor(precision)
    radius, averaged = 1.0, 0
    for number in range(rounds):
        cloud = centre + radius * factor.map(_radial_pairs(centre.size, rng))
        gradient, curvature = target.averaged(cloud)
        if not (np.isfinite(gradient).all() and np.isfinite(curvature).all()):
            radius *= 0.5  # the cloud reaches where the density is not a number
            continue
        radius = min(1.0, 2.0 * radius)
        damping = min(DAMPING, 1.0 / (averaged + 1))
        precision = _blended(precision, curvature, damping)
        factor = layout.factor(precision)
        step = factor.pull_back(gradient)
        longest = np.abs(step).max()
        centre = centre + damping * factor.map(np.clip(step, -MAX_STEP, MAX_STEP))
        late = number >= rounds - N_AVERAGED
        averaged = averaged + 1 if longest < SETTLED_STEP or late else 0
        if averaged == N_AVERAGED:
            break
    return centre, factor


def _blended(precision: Array, curvature: Array, share: float) -> Array:
    """Towards the curvature, without losing hold of a coordinate."""
    blended = (1.0 - share) * precision + share * curvature
    least = np.abs(np.diag(precision)) / MAX_WIDENING
    np.fill_diagonal(blended, np.maximum(np.diag(blended), least))
    return blended


def _radial_pairs(dim: int, rng: np.random.Generator) -> Array:
    """Antithetic directions of the length that a standard normal vector typically has."""
    half = rng.standard_normal((N_PAIRS, dim))
    half *= np.sqrt(dim) / np.linalg.norm(half, axis=1, keepdims=True)
    return np.concatenate([half, -half])
