"""`build_model`: observations and a spec in, a PyMC model out; no sampling here."""

from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt

from bayeslat import saturation
from bayeslat.catalog import Catalog, load_catalog
from bayeslat.model.design import FleetDesign, fleet_design
from bayeslat.model.likelihood import LIKELIHOODS
from bayeslat.model.pooling import (
    JITTER,
    POOLING_LEVELS,
    feature_variances,
    fixed_variances,
    pooled_normal,
    prior_mean,
)
from bayeslat.model.rows import row_layout
from bayeslat.model.spec import ModelSpec
from bayeslat.observations import Observations

__all__ = ["build_model"]


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
        fixed, ``log_sigma`` (deployment) with its mean and scale, and the likelihood's own.
        Observed: ``latency_ms`` (row, in the order of `bayeslat.model.rows.row_layout`). No
        deterministic has the row dimension.
    """
    spec = spec or ModelSpec()
    design = fleet_design(observations.deployments, catalog or load_catalog())
    with pm.Model(coords=_coords(spec, design)) as model:
        log_parameters = _pooled_parameters(spec, design)
        sigma = _relative_noise()
        rows = row_layout(observations.deployment_index)
        parameters = {
            name: rows.spread(pt.exp(log_parameters[position]))
            for position, name in enumerate(spec.parameters)
        }
        mu = saturation.latency(
            {**parameters, "w_1": design.w_1[observations.deployment_index[rows.order]]},
            observations.batch_size[rows.order],
            observations.total_tokens[rows.order],
            np.nan_to_num(observations.context_tokens, nan=0.0)[rows.order],
            xp=pt,
        )
        LIKELIHOODS[spec.likelihood](
            mu,
            rows.spread(sigma) / np.sqrt(observations.n_averaged[rows.order]),
            observations.latency_ms[rows.order],
        )
    return model


def _coords(spec: ModelSpec, design: FleetDesign) -> dict[str, Any]:
    coords: dict[str, Any] = {
        "parameter": list(spec.parameters),
        "deployment": [deployment.label for deployment in design.deployments],
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
        pt.square(scales["deployment"]) + JITTER,
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


def _relative_noise() -> Any:
    """Relative noise of each deployment, pooled on the log scale around a few per cent."""
    location = pm.Normal("log_sigma_mean", mu=np.log(0.05), sigma=0.7)
    spread = pm.LogNormal("log_sigma_scale", mu=np.log(0.5), sigma=0.4)
    log_sigma = pm.Normal("log_sigma", mu=location, sigma=spread, dims="deployment")
    return pt.exp(log_sigma)
