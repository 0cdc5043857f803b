"""`build_model`: observations and a spec in, a PyMC model out; no sampling here."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from numpy.typing import NDArray

from bayeslat import saturation
from bayeslat.catalog import Catalog, load_catalog
from bayeslat.model.design import FleetDesign, fleet_design
from bayeslat.model.likelihood import LIKELIHOODS, shape_parameter
from bayeslat.model.pooling import (
    MIN_OWN_VARIANCE,
    POOLING_LEVELS,
    feature_variances,
    fixed_variances,
    pooled_normal,
    prior_mean,
)
from bayeslat.model.priors import NOISE_GPU_SPREAD, NOISE_MEAN, NOISE_SCALE
from bayeslat.model.rows import row_layout
from bayeslat.model.spec import ModelSpec
from bayeslat.noise import FAMILIES
from bayeslat.observations import Observations

__all__ = ["ContinuedPrior", "build_continued_model", "build_model"]

type Array = NDArray[np.float64]


def build_model(
    observations: Observations,
    spec: ModelSpec | None = None,
    *,
    catalog: Catalog | None = None,
) -> pm.Model:
    """The hierarchical throughput-saturation model of a fleet.

    The logarithm of each parameter of the deployments is Gaussian with a datasheet mean and the
    covariance that global, elasticity, GPU, LLM and deployment effects imply; the effects
    themselves are integrated out (`bayeslat.inference.effects` draws them back). The gauge fixes
    w_1 at the LLM's active parameters over 7 billion.

    Parameters
    ----------
    observations : Observations
        Validated steps.
    spec : ModelSpec, optional
        Terms, likelihood and priors.
    catalog : Catalog, optional
        Datasheets; the bundled ones by default.

    Returns
    -------
    pymc.Model
        Free variables: ``log_parameters`` (parameter, deployment), the pooling scales that are not
        fixed, ``log_sigma`` (deployment) with its mean, GPU effects and scale, and the
        likelihood's own. Observed: ``latency_ms`` (row, in the order of
        `bayeslat.model.rows.row_layout`). No deterministic has the row dimension.
    """
    spec = spec or ModelSpec()
    design = fleet_design(observations.deployments, catalog or load_catalog())
    with pm.Model(coords=_coords(spec, design)) as model:
        log_parameters = _pooled_parameters(spec, design)
        log_sigma = _pooled_noise(design)
        nu = shape_parameter() if FAMILIES[spec.likelihood].has_shape else None
        _observe(observations, spec, design.w_1, log_parameters, log_sigma, nu)
    return model


@dataclass(frozen=True)
class ContinuedPrior:
    """A Gaussian summary of what a fleet says about deployments that it has not seen.

    Parameters
    ----------
    mean : array, shape (parameter, deployment)
        Means of the log-parameters.
    covariance : array, shape (parameter * deployment, parameter * deployment)
        Their joint covariance, raveled parameter first.
    log_sigma : tuple of array, shapes (deployment,) and (deployment, deployment)
        Mean and covariance of the log relative noise.
    log_nu_excess : tuple of float, optional
        Mean and standard deviation of log(nu - 1), for families with a shape parameter.
    """

    mean: Array
    covariance: Array
    log_sigma: tuple[Array, Array]
    log_nu_excess: tuple[float, float] | None = None


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
    coords = {"parameter": list(spec.parameters), "deployment": labels}
    with pm.Model(coords=coords) as model:
        log_parameters = pm.Flat("log_parameters", dims=("parameter", "deployment"))
        whiten = np.linalg.inv(np.linalg.cholesky(prior.covariance))
        white = pt.dot(whiten, (log_parameters - prior.mean).ravel())
        pm.Potential("fleet", -0.5 * pt.square(white).sum())
        mean, covariance = prior.log_sigma
        log_sigma = pm.MvNormal("log_sigma", mu=mean, cov=covariance, dims="deployment")
        has_shape = FAMILIES[spec.likelihood].has_shape
        nu = shape_parameter(prior.log_nu_excess) if has_shape else None
        _observe(observations, spec, w_1, log_parameters, log_sigma, nu)
    return model


def _observe(
    observations: Observations,
    spec: ModelSpec,
    w_1: Array,
    log_parameters: Any,
    log_sigma: Any,
    nu: Any,
) -> None:
    """Add the likelihood of the rows to the model on the stack."""
    rows = row_layout(observations.deployment_index)
    parameters = {
        name: rows.spread(pt.exp(log_parameters[position]))
        for position, name in enumerate(spec.parameters)
    }
    mu = saturation.latency(
        {**parameters, "w_1": w_1[observations.deployment_index[rows.order]]},
        observations.batch_size[rows.order],
        observations.total_tokens[rows.order],
        np.nan_to_num(observations.context_tokens, nan=0.0)[rows.order],
        xp=pt,
    )
    sigma = rows.spread(pt.exp(log_sigma)) / np.sqrt(observations.n_averaged[rows.order])
    LIKELIHOODS[spec.likelihood](mu, sigma, nu, observations.latency_ms[rows.order])


def _coords(spec: ModelSpec, design: FleetDesign) -> dict[str, Any]:
    coords: dict[str, Any] = {
        "parameter": list(spec.parameters),
        "deployment": [deployment.label for deployment in design.deployments],
        "gpu": list(design.gpus),
    }
    for level in POOLING_LEVELS:
        coords[f"{level}_scaled"] = [
            name for name in spec.parameters if getattr(spec.prior(name), level).spread > 0
        ]
    return coords


def _pooled_parameters(spec: ModelSpec, design: FleetDesign) -> Any:
    """``log_parameters`` with every effect integrated out."""
    scales = {level: _pooling_scale(spec, level) for level in POOLING_LEVELS}
    variances = feature_variances(fixed_variances(spec, design), scales, design, pt)
    return pooled_normal(
        "log_parameters",
        prior_mean(spec, design),
        variances,
        pt.square(scales["deployment"]) + MIN_OWN_VARIANCE,
        design.features,
        dims=("parameter", "deployment"),
    )


def _pooling_scale(spec: ModelSpec, level: str) -> Any:
    """One scale a parameter: sampled where its prior has a spread, constant elsewhere."""
    priors = [getattr(spec.prior(name), level) for name in spec.parameters]
    medians = np.array([prior.median for prior in priors])
    sampled = np.array([prior.spread > 0 for prior in priors])
    if not sampled.any():
        return pt.as_tensor(medians)
    spreads = np.array([prior.spread for prior in priors])[sampled]
    scale = pm.LogNormal(
        f"{level}_scale", mu=np.log(medians[sampled]), sigma=spreads, dims=f"{level}_scaled"
    )
    return pt.set_subtensor(pt.as_tensor(medians)[np.flatnonzero(sampled)], scale)


def _pooled_noise(design: FleetDesign) -> Any:
    """Log relative noise of each deployment, pooled by GPU around a few per cent."""
    location = pm.Normal("log_sigma_mean", mu=np.log(NOISE_MEAN[0]), sigma=NOISE_MEAN[1])
    device = pm.Normal("log_sigma_gpu", sigma=NOISE_GPU_SPREAD, dims="gpu")
    spread = pm.LogNormal("log_sigma_scale", mu=np.log(NOISE_SCALE[0]), sigma=NOISE_SCALE[1])
    mean = location + device[design.gpu_index]
    return pm.Normal("log_sigma", mu=mean, sigma=spread, dims="deployment")
