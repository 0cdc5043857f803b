"""The same posterior written as a tutorial would: non-centred effects, sampled as they stand.

Priors and likelihood are those of `bayeslat.model.build`; effects are sampled instead of being
integrated out, in no coordinates but their own.
"""

from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt

import bayeslat as bl
from bayeslat.model.build import model_coords, pooling_scale
from bayeslat.model.design import fleet_design
from bayeslat.model.likelihood import shape_parameter
from bayeslat.model.observed import DiscrepancyTerm, observe, observed_basis
from bayeslat.model.pooling import fixed_variances, prior_mean
from bayeslat.model.priors import (
    DISCREPANCY_OWN,
    DISCREPANCY_SETTING,
    DISCREPANCY_STACK,
    MIN_OWN_DISCREPANCY,
    NOISE_GPU_SPREAD,
    NOISE_MEAN,
    NOISE_SCALE,
    NOISE_SLOPE_MEAN_SPREADS,
    NOISE_SLOPE_SPREADS,
    OWN_SPREAD,
    POOLING_LEVELS,
)

__all__ = ["plain_model"]


def plain_model(observations: bl.Observations, spec: bl.ModelSpec) -> pm.Model:
    """The model with ``quantities`` and ``log_sigma`` as deterministics of standard normals."""
    design = fleet_design(observations.deployments, bl.load_catalog())
    basis = observed_basis(observations, spec)
    with pm.Model(coords=model_coords(spec, design, basis)) as model:
        n_deployments = len(design.deployments)
        quantities = pm.Deterministic("quantities", _quantities(spec, design))
        noise = _noise(design), _slopes(n_deployments)
        discrepancy = _discrepancy(design, basis) if basis is not None else None
        observe(observations, spec, design.w_1, quantities, noise, shape_parameter(), discrepancy)
    return model


def _quantities(spec: bl.ModelSpec, design: Any) -> Any:
    fixed = fixed_variances(spec, design)
    kept = fixed.any(axis=0)  # the others have no variance but that of their level
    n_quantities = len(spec.quantities)
    z_fixed = pm.Normal("z_features", shape=(n_quantities, int(kept.sum())))
    weights = np.sqrt(fixed[:, kept]) * z_fixed
    total = prior_mean(spec, design) + pt.dot(weights, design.features[:, kept].T)
    for level in POOLING_LEVELS:
        members = design.levels[level]
        if members.names:
            z = pm.Normal(f"z_{level}", shape=(n_quantities, len(members.names)))
            effects = pooling_scale(spec, level)[:, None] * z
            total = total + pt.dot(effects, members.indicators.T)
    own = pm.Normal("z_deployment", shape=(n_quantities, len(design.deployments)))
    return total + OWN_SPREAD * own


def _noise(design: Any) -> Any:
    location = pm.Normal("log_sigma_mean", mu=np.log(NOISE_MEAN[0]), sigma=NOISE_MEAN[1])
    gpus = design.levels["gpu"]
    device = pm.Normal("z_noise_gpu", shape=len(gpus.names))
    spread = pm.LogNormal("log_sigma_scale", mu=np.log(NOISE_SCALE[0]), sigma=NOISE_SCALE[1])
    own = pm.Normal("z_sigma", shape=len(design.deployments))
    return pm.Deterministic(
        "log_sigma", location + NOISE_GPU_SPREAD * device[gpus.index] + spread * own
    )


def _slopes(n_deployments: int) -> Any:
    spreads = np.array(NOISE_SLOPE_SPREADS)
    mean = pm.Normal("log_sigma_slopes_mean", sigma=NOISE_SLOPE_MEAN_SPREADS, shape=spreads.size)
    own = pm.Normal("z_slopes", shape=(spreads.size, n_deployments))
    return mean[:, None] + spreads[:, None] * own


def _discrepancy(design: Any, basis: Any) -> Any:
    shared, own = (
        pm.LogNormal(name, mu=np.log(prior[0]), sigma=prior[1])
        for name, prior in (
            ("discrepancy_stack_scale", DISCREPANCY_STACK),
            ("discrepancy_own_scale", DISCREPANCY_OWN),
        )
    )
    stacks, sites = design.levels["stack"], design.levels["site"]
    of_stack = pm.Normal("z_weights_stack", shape=(basis.size, len(stacks.names)))
    of_site = pm.Normal("z_weights_site", shape=(basis.size, len(sites.names)))
    of_own = pm.Normal("z_weights", shape=(basis.size, len(design.deployments)))
    own_scale = pt.sqrt(DISCREPANCY_SETTING * pt.square(own) + MIN_OWN_DISCREPANCY)
    weights = shared * of_stack[:, stacks.index] + own_scale * of_own
    weights = weights + (1.0 - DISCREPANCY_SETTING) ** 0.5 * own * of_site[:, sites.index]
    return DiscrepancyTerm(basis, weights, pt.square(shared) + pt.square(own))
