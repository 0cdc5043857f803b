"""PyMC side of the noise families: one function a family, all with the same signature."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pymc as pm
import pytensor.tensor as pt

__all__ = ["LIKELIHOODS", "NU_OFFSET", "shape_parameter"]

NU_OFFSET: Final = 1.0
"""Lower bound of the degrees of freedom, so that the predictive always has a mean."""

type Likelihood = Callable[..., Any]


def shape_parameter(log_excess: tuple[float, float] | None = None) -> Any:
    """Degrees of freedom ``nu`` of the Student-t, above `NU_OFFSET`.

    Parameters
    ----------
    log_excess : tuple of float, optional
        Mean and standard deviation of log(nu - 1), for a model that continues another posterior.
        By default nu - 1 is Gamma(2, 0.1), which keeps nu away from both ends (Juarez and Steel,
        2010).
    """
    if log_excess is None:
        excess = pm.Gamma("nu_excess", alpha=2.0, beta=0.1)
    else:
        excess = pm.LogNormal("nu_excess", mu=log_excess[0], sigma=log_excess[1])
    return pm.Deterministic("nu", NU_OFFSET + excess)


def _student_t(mu: Any, sigma: Any, nu: Any, observed: np.ndarray) -> None:
    pm.StudentT("latency_ms", nu=nu, mu=mu, sigma=sigma * mu, observed=observed)


def _normal(mu: Any, sigma: Any, nu: Any, observed: np.ndarray) -> None:
    pm.Normal("latency_ms", mu=mu, sigma=sigma * mu, observed=observed)


def _lognormal(mu: Any, sigma: Any, nu: Any, observed: np.ndarray) -> None:
    pm.LogNormal("latency_ms", mu=pt.log(mu), sigma=sigma, observed=observed)


LIKELIHOODS: Final[dict[str, Likelihood]] = {
    "student_t": _student_t,
    "normal": _normal,
    "lognormal": _lognormal,
}
"""Adds the observed ``latency_ms`` to the model on the stack: f(mu, sigma, nu, observed)."""
