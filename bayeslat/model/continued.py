"""The model of new deployments, under the prior that a fitted fleet has left for them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from numpy.typing import NDArray

from bayeslat.discrepancy import Basis
from bayeslat.model.likelihood import shape_parameter
from bayeslat.model.observed import DiscrepancyTerm, observe, stray_log_odds
from bayeslat.model.spec import ModelSpec
from bayeslat.noise import FAMILIES, NOISE_FEATURES
from bayeslat.observations import Observations

__all__ = ["ContinuedDiscrepancy", "ContinuedPrior", "build_continued_model"]

type Array = NDArray[np.float64]


@dataclass(frozen=True)
class ContinuedPrior:
    """A Gaussian summary of what a fleet says about deployments that it has not seen.

    Parameters
    ----------
    mean : array, shape (quantity, deployment)
        Means of the pooled quantities.
    covariance : array, shape (quantity * deployment, quantity * deployment)
        Their joint covariance, raveled quantity first.
    log_sigma : tuple of array, shapes (deployment,) and (deployment, deployment)
        Mean and covariance of the log relative noise.
    log_sigma_slopes : tuple of array
        Means of its slopes, shape (feature, deployment), and the covariance of each over the
        deployments, shape (feature, deployment, deployment).
    log_nu_excess : tuple of float, optional
        Mean and standard deviation of log(nu - 3), for families with a shape parameter.
    discrepancy : ContinuedDiscrepancy, optional
        What the fleet says of the discrepancy.
    """

    mean: Array
    covariance: Array
    log_sigma: tuple[Array, Array]
    log_sigma_slopes: tuple[Array, Array]
    log_nu_excess: tuple[float, float] | None = None
    discrepancy: "ContinuedDiscrepancy | None" = None


@dataclass(frozen=True)
class ContinuedDiscrepancy:
    """A Gaussian summary of the discrepancy of new deployments.

    Parameters
    ----------
    basis : Basis
        Its features.
    mean : array, shape (basis, deployment)
        Means of the weights.
    covariance : array, shape (basis, deployment, deployment)
        Covariance of each weight over the deployments.
    scale : float
        Prior standard deviation of the discrepancy.
    """

    basis: Basis
    mean: Array
    covariance: Array
    scale: float


def build_continued_model(
    observations: Observations, spec: ModelSpec, w_1: Array, prior: ContinuedPrior
) -> pm.Model:
    """The same likelihood under a prior that a fitted fleet has left for new deployments.

    Parameters
    ----------
    observations : Observations
        Steps of the new deployments.
    spec : ModelSpec
        The spec of the fitted fleet.
    w_1 : array, shape (deployment,)
        The gauge of the new deployments.
    prior : ContinuedPrior
        What the fleet says about them.
    """
    labels = [deployment.label for deployment in observations.deployments]
    coords: dict[str, Any] = {
        "quantity": list(spec.quantities),
        "deployment": labels,
        "noise_feature": list(NOISE_FEATURES),
    }
    if prior.discrepancy is not None:
        coords["basis"] = range(prior.discrepancy.basis.size)
    with pm.Model(coords=coords) as model:
        quantities = pm.Flat("quantities", dims=("quantity", "deployment"))
        whiten = np.linalg.inv(np.linalg.cholesky(prior.covariance))
        white = pt.dot(whiten, (quantities - prior.mean).ravel())
        pm.Potential("fleet", -0.5 * pt.square(white).sum())
        noise = tuple(
            pm.MvNormal(name, mu=mean, cov=covariance, dims=dims)
            for name, (mean, covariance), dims in (
                ("log_sigma", prior.log_sigma, "deployment"),
                ("log_sigma_slopes", prior.log_sigma_slopes, ("noise_feature", "deployment")),
            )
        )
        has_shape = FAMILIES[spec.likelihood].has_shape
        nu = shape_parameter(prior.log_nu_excess) if has_shape else None
        discrepancy = _continued_discrepancy(prior.discrepancy) if prior.discrepancy else None
        observe(observations, spec, w_1, quantities, noise, nu, discrepancy, stray_log_odds(spec))
    return model


def _continued_discrepancy(prior: ContinuedDiscrepancy) -> DiscrepancyTerm:
    weights = pm.Flat("discrepancy", dims=("basis", "deployment"))
    whiten = np.linalg.inv(np.linalg.cholesky(prior.covariance))
    white = (whiten * (weights - prior.mean)[:, None, :]).sum(axis=-1)
    pm.Potential("fleet_discrepancy", -0.5 * pt.square(white).sum())
    return DiscrepancyTerm(prior.basis, weights, prior.scale**2)
