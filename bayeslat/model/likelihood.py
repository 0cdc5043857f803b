"""PyMC side of the noise families: one function a family, all with the same signature."""

from collections.abc import Callable
from typing import Any, Final

import pymc as pm
import pytensor.tensor as pt

__all__ = ["LIKELIHOODS", "NU_OFFSET"]

NU_OFFSET: Final = 1.0
"""Lower bound of the degrees of freedom, so that the predictive always has a mean."""

type Likelihood = Callable[..., Any]


def _student_t(mu: Any, sigma: Any, observed: Any) -> None:
    # Gamma(2, 0.1) keeps nu away from zero and from a flat tail towards the normal
    # (Juarez and Steel, 2010).
    excess = pm.Gamma("nu_excess", alpha=2.0, beta=0.1)
    nu = pm.Deterministic("nu", NU_OFFSET + excess)
    pm.StudentT("latency_ms", nu=nu, mu=mu, sigma=sigma * mu, observed=observed)


def _normal(mu: Any, sigma: Any, observed: Any) -> None:
    pm.Normal("latency_ms", mu=mu, sigma=sigma * mu, observed=observed)


def _lognormal(mu: Any, sigma: Any, observed: Any) -> None:
    pm.LogNormal("latency_ms", mu=pt.log(mu), sigma=sigma, observed=observed)


LIKELIHOODS: Final[dict[str, Likelihood]] = {
    "student_t": _student_t,
    "normal": _normal,
    "lognormal": _lognormal,
}
"""Adds the observed variable ``latency_ms`` to the model on the stack: f(mu, sigma, observed)."""
