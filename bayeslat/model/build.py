"""`build_model`: observations and a spec in, a PyMC model out; no sampling here."""

from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt

from bayeslat.catalog import Catalog, load_catalog
from bayeslat.discrepancy import Basis
from bayeslat.model.design import FleetDesign, fleet_design
from bayeslat.model.likelihood import shape_parameter
from bayeslat.model.observed import DiscrepancyTerm, observe, observed_basis, stray_log_odds
from bayeslat.model.pooling import discrepancy_covariance, pooled_covariance, prior_mean
from bayeslat.model.priors import (
    DISCREPANCY_OWN,
    DISCREPANCY_STACK,
    NOISE_GPU_SPREAD,
    NOISE_MEAN,
    NOISE_SCALE,
    NOISE_SLOPE_MEAN_SPREADS,
    NOISE_SLOPE_SPREADS,
    POOLING_LEVELS,
)
from bayeslat.model.spec import ModelSpec
from bayeslat.noise import FAMILIES, NOISE_FEATURES
from bayeslat.observations import Observations

__all__ = ["build_model", "model_coords", "pooling_scale"]


def build_model(
    observations: Observations,
    spec: ModelSpec | None = None,
    *,
    catalog: Catalog | None = None,
) -> pm.Model:
    """The hierarchical throughput-saturation model of a fleet.

    Each pooled quantity of the deployments is Gaussian, on its own scale, with a datasheet mean and
    the covariance that global values, elasticities and the effects of every level imply; the
    effects themselves are integrated out (`bayeslat.inference.effects` draws them back). The
    gauge fixes w_1 at the LLM's active parameters over 7 billion.

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
        Free variables: ``quantities`` (quantity, deployment), the pooling scales that are not
        fixed, ``log_sigma`` (deployment) with its mean, GPU effects and scale,
        ``log_sigma_slopes`` (noise_feature, deployment) with their means, ``discrepancy`` (basis,
        deployment) with its two scales, and the likelihood's own.
        Observed: ``latency_ms`` (row, in the order of `bayeslat.model.rows.row_layout`). No
        deterministic has the row dimension.
    """
    spec = spec or ModelSpec()
    design = fleet_design(observations.deployments, catalog or load_catalog())
    basis = observed_basis(observations, spec)
    with pm.Model(coords=model_coords(spec, design, basis)) as model:
        quantities = _pooled_quantities(spec, design)
        noise = _pooled_noise(design), _noise_slopes()
        nu = shape_parameter() if FAMILIES[spec.likelihood].has_shape else None
        discrepancy = _discrepancy(design, basis) if basis is not None else None
        observe(
            observations, spec, design.w_1, quantities, noise, nu, discrepancy, stray_log_odds(spec)
        )
    return model


def model_coords(
    spec: ModelSpec, design: FleetDesign, basis: Basis | None = None
) -> dict[str, Any]:
    """Names along the dimensions of a fleet's model."""
    coords: dict[str, Any] = {
        "quantity": list(spec.quantities),
        "deployment": [deployment.label for deployment in design.deployments],
        "noise_feature": list(NOISE_FEATURES),
        **{level: list(design.levels[level].names) for level in POOLING_LEVELS},
    }
    for level in POOLING_LEVELS:
        coords[f"{level}_scaled"] = [
            name for name in spec.quantities if spec.prior(name).scale(level).spread > 0
        ]
    if basis is not None:
        coords["basis"] = range(basis.size)
    return coords


def _pooled_quantities(spec: ModelSpec, design: FleetDesign) -> Any:
    """``quantities`` with every effect integrated out."""
    scales = {level: pooling_scale(spec, level) for level in POOLING_LEVELS}
    return pm.MvNormal(
        "quantities",
        mu=prior_mean(spec, design),
        cov=pooled_covariance(spec, design, scales, pt),
        dims=("quantity", "deployment"),
    )


def pooling_scale(spec: ModelSpec, level: str) -> Any:
    """One scale a quantity: sampled where its prior has a spread, constant elsewhere."""
    priors = [spec.prior(name).scale(level) for name in spec.quantities]
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
    mean = location + device[design.levels["gpu"].index]
    return pm.Normal("log_sigma", mu=mean, sigma=spread, dims="deployment")


def _noise_slopes() -> Any:
    """How log noise follows its features, pooled over the fleet."""
    mean = pm.Normal("log_sigma_slopes_mean", sigma=NOISE_SLOPE_MEAN_SPREADS, dims="noise_feature")
    return pm.Normal(
        "log_sigma_slopes",
        mu=mean[:, None],
        sigma=np.array(NOISE_SLOPE_SPREADS)[:, None],
        dims=("noise_feature", "deployment"),
    )


def _discrepancy(design: FleetDesign, basis: Basis) -> DiscrepancyTerm:
    """Weights of the discrepancy, partly shared by the deployments of a stack and of a site."""
    stack, own = (
        pt.square(pm.LogNormal(name, mu=np.log(prior[0]), sigma=prior[1]))
        for name, prior in (
            ("discrepancy_stack_scale", DISCREPANCY_STACK),
            ("discrepancy_own_scale", DISCREPANCY_OWN),
        )
    )
    weights = pm.MvNormal(
        "discrepancy",
        mu=np.zeros((basis.size, len(design.deployments))),
        cov=discrepancy_covariance(design, stack, own),
        dims=("basis", "deployment"),
    )
    return DiscrepancyTerm(basis, weights, stack + own)
