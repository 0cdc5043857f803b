"""PyMC side of the noise families: one function a family, all with the same signature."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from numpy.typing import NDArray

__all__ = ["LIKELIHOODS", "NU_OFFSET", "STRAY_SPREAD", "observe_with_strays", "shape_parameter"]

NU_OFFSET: Final = 3.0
"""Lower bound of the degrees of freedom. The predictive always has a mean and a variance, and rows
of one design point cannot be outliers together at so little cost that the posterior has two modes,
with the point and without it."""

STRAY_SPREAD: Final = 1.0
"""Standard deviation of the logarithm of what a stray row shows, around the step's own latency."""

type Array = NDArray[np.float64]
type Likelihood = Callable[..., Any]


def shape_parameter(log_excess: tuple[float, float] | None = None) -> Any:
    """Degrees of freedom ``nu`` of the Student-t, above `NU_OFFSET`.

    Parameters
    ----------
    log_excess : tuple of float, optional
        Mean and standard deviation of log(nu - 3), for a model that continues another posterior.
        By default nu - 3 is Gamma(2, 0.1), which keeps nu away from both ends (Juarez and Steel,
        2010).
    """
    if log_excess is None:
        excess = pm.Gamma("nu_excess", alpha=2.0, beta=0.1)
    else:
        excess = pm.LogNormal("nu_excess", mu=log_excess[0], sigma=log_excess[1])
    return pm.Deterministic("nu", NU_OFFSET + excess)


def _student_t(mu: Any, sigma: Any, nu: Any, observed: Array, n_averaged: Array) -> None:
    """Degrees of freedom of a mean of n steps add up to n nu (Satterthwaite, 1946)."""
    if np.unique(n_averaged).size == 1:
        pm.StudentT("latency_ms", nu=nu * n_averaged[0], mu=mu, sigma=sigma * mu, observed=observed)
        return

    def logp(value: Any, mu: Any, scale: Any, nu: Any) -> Any:
        return _student_t_logp(value, mu, scale, nu, n_averaged)

    def random(mu: Array, scale: Array, nu: Array, rng: np.random.Generator, size: Any) -> Array:
        return mu + scale * rng.standard_t(nu * n_averaged, size)

    pm.CustomDist("latency_ms", mu, sigma * mu, nu, logp=logp, random=random, observed=observed)


def _student_t_logp(value: Any, mu: Any, scale: Any, nu: Any, n_averaged: Array) -> Any:
    # Gamma functions of every row would take longer than all else. A product hands them out: a
    # compiler fuses an index into what it indexes and computes that once a row after all.
    counts, index = np.unique(n_averaged, return_inverse=True)
    member = (index[:, None] == np.arange(counts.size)).astype(float)
    dof = nu * counts
    constant = pt.gammaln(0.5 * (dof + 1.0)) - pt.gammaln(0.5 * dof) - 0.5 * pt.log(np.pi * dof)
    dof = nu * n_averaged
    square = pt.square((value - mu) / scale) / dof
    return pt.dot(member, constant) - pt.log(scale) - 0.5 * (dof + 1.0) * pt.log1p(square)


def _normal(mu: Any, sigma: Any, nu: Any, observed: Array, n_averaged: Array) -> None:
    pm.Normal("latency_ms", mu=mu, sigma=sigma * mu, observed=observed)


def _lognormal(mu: Any, sigma: Any, nu: Any, observed: Array, n_averaged: Array) -> None:
    pm.LogNormal("latency_ms", mu=pt.log(mu), sigma=sigma, observed=observed)


LIKELIHOODS: Final[dict[str, Likelihood]] = {
    "student_t": _student_t,
    "normal": _normal,
    "lognormal": _lognormal,
}
"""Adds the observed ``latency_ms`` to the model on the stack.

f(mu, sigma, nu, observed, n_averaged): sigma is that of the mean of n steps, nu that of one."""


def observe_with_strays(
    family: str, mu: Any, sigma: Any, nu: Any, log_odds: Any, observed: Array, n_averaged: Array
) -> None:
    """Add ``latency_ms`` where some rows are no steps of the deployment: a mixture.

    A stray row is lognormal around the step's own latency, wide enough to be anything. What is
    predicted from the draws later is a step, never a stray.

    Parameters
    ----------
    family : str
        Noise of the steps, a key of `LIKELIHOODS`.
    mu, sigma, nu, observed, n_averaged
        As in `LIKELIHOODS`.
    log_odds : tensor, shape (row,)
        Log odds that a row is a stray.
    """

    def logp(value: Any, mu: Any, sigma: Any, nu: Any, log_odds: Any) -> Any:
        if family == "student_t":
            step = _student_t_logp(value, mu, sigma * mu, nu, n_averaged)
        elif family == "normal":
            step = _normal_logp(value - mu, sigma * mu)
        else:
            step = _normal_logp(pt.log(value / mu), sigma) - pt.log(value)
        stray = _normal_logp(pt.log(value / mu), STRAY_SPREAD) - pt.log(value)
        return step - pt.softplus(log_odds) + pt.softplus(stray - step + log_odds)

    shape = nu if nu is not None else pt.as_tensor(np.inf)
    pm.CustomDist("latency_ms", mu, sigma, shape, log_odds, logp=logp, observed=observed)


def _normal_logp(deviation: Any, scale: Any) -> Any:
    return -0.5 * (pt.square(deviation / scale) + np.log(2.0 * np.pi)) - pt.log(scale)
