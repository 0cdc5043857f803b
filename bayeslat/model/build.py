"""`build_model`: observations and a spec in, a PyMC model out; no sampling here."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from numpy.typing import NDArray

from bayeslat import saturation
from bayeslat.catalog import Catalog, load_catalog
from bayeslat.discrepancy import Basis, basis_for
from bayeslat.model.design import GROUP_LEVELS, FleetDesign, fleet_design
from bayeslat.model.likelihood import LIKELIHOODS, shape_parameter
from bayeslat.model.pooling import (
    MIN_OWN_VARIANCE,
    feature_variances,
    fixed_variances,
    nested_normal,
    pooled_normal,
    prior_mean,
)
from bayeslat.model.priors import (
    DISCREPANCY_OWN,
    DISCREPANCY_STACK,
    NOISE_GPU_SPREAD,
    NOISE_MEAN,
    NOISE_RATIO,
    NOISE_SCALE,
    POOLING_LEVELS,
)
from bayeslat.model.quantities import to_parameters
from bayeslat.model.rows import row_layout
from bayeslat.model.spec import ModelSpec
from bayeslat.noise import FAMILIES
from bayeslat.observations import Observations

__all__ = ["ContinuedPrior", "build_continued_model", "build_model", "observed_basis"]

type Array = NDArray[np.float64]

MIN_OWN_DISCREPANCY = 1e-3**2
"""Least variance of a deployment's own discrepancy: its scale may come near zero."""


def build_model(
    observations: Observations,
    spec: ModelSpec | None = None,
    *,
    catalog: Catalog | None = None,
) -> pm.Model:
    """The hierarchical throughput-saturation model of a fleet.

    Each pooled quantity of the deployments is Gaussian, on its own scale, with a datasheet mean and
    the covariance that global, elasticity, GPU, LLM, engine, stack and deployment effects imply;
    the effects themselves are integrated out (`bayeslat.inference.effects` draws them back). The
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
        fixed, ``log_sigma`` and ``log_sigma_ratio`` (deployment) with their means, GPU effects and
        scale, ``discrepancy`` (basis, deployment) with its two scales, and the likelihood's own.
        Observed: ``latency_ms`` (row, in the order of `bayeslat.model.rows.row_layout`). No
        deterministic has the row dimension.
    """
    spec = spec or ModelSpec()
    design = fleet_design(observations.deployments, catalog or load_catalog())
    basis = observed_basis(observations, spec)
    with pm.Model(coords=_coords(spec, design, basis)) as model:
        quantities = _pooled_quantities(spec, design)
        noise = _pooled_noise(design), _noise_ratio()
        nu = shape_parameter() if FAMILIES[spec.likelihood].has_shape else None
        discrepancy = _discrepancy(design, basis) if basis is not None else None
        _observe(observations, spec, design.w_1, quantities, noise, nu, discrepancy)
    return model


def observed_basis(observations: Observations, spec: ModelSpec) -> Basis | None:
    """Features of the discrepancy at the measured steps; None where the model has none."""
    if not spec.discrepancy:
        return None
    return basis_for(observations.batch_size, observations.total_tokens)


@dataclass(frozen=True)
class ContinuedPrior:
    """A Gaussian summary of what a fleet says about deployments that it has not seen.

    Parameters
    ----------
    mean : array, shape (quantity, deployment)
        Means of the pooled quantities.
    covariance : array, shape (quantity * deployment, quantity * deployment)
        Their joint covariance, raveled quantity first.
    log_sigma, log_sigma_ratio : tuple of array, shapes (deployment,) and (deployment, deployment)
        Mean and covariance of the log relative noise, and of its ratio in prefills.
    log_nu_excess : tuple of float, optional
        Mean and standard deviation of log(nu - 3), for families with a shape parameter.
    discrepancy : Discrepancies, optional
        What the fleet says of the discrepancy.
    """

    mean: Array
    covariance: Array
    log_sigma: tuple[Array, Array]
    log_sigma_ratio: tuple[Array, Array]
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


@dataclass(frozen=True)
class _Discrepancy:
    """The discrepancy in a model on the stack: features, weights and variance."""

    basis: Basis
    weights: Any
    variance: Any


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
    coords: dict[str, Any] = {"quantity": list(spec.quantities), "deployment": labels}
    if prior.discrepancy is not None:
        coords["basis"] = range(prior.discrepancy.basis.size)
    with pm.Model(coords=coords) as model:
        quantities = pm.Flat("quantities", dims=("quantity", "deployment"))
        whiten = np.linalg.inv(np.linalg.cholesky(prior.covariance))
        white = pt.dot(whiten, (quantities - prior.mean).ravel())
        pm.Potential("fleet", -0.5 * pt.square(white).sum())
        noise = tuple(
            pm.MvNormal(name, mu=mean, cov=covariance, dims="deployment")
            for name, (mean, covariance) in (
                ("log_sigma", prior.log_sigma),
                ("log_sigma_ratio", prior.log_sigma_ratio),
            )
        )
        has_shape = FAMILIES[spec.likelihood].has_shape
        nu = shape_parameter(prior.log_nu_excess) if has_shape else None
        discrepancy = _continued_discrepancy(prior.discrepancy) if prior.discrepancy else None
        _observe(observations, spec, w_1, quantities, noise, nu, discrepancy)
    return model


def _continued_discrepancy(prior: ContinuedDiscrepancy) -> _Discrepancy:
    weights = pm.Flat("discrepancy", dims=("basis", "deployment"))
    whiten = np.linalg.inv(np.linalg.cholesky(prior.covariance))
    white = (whiten * (weights - prior.mean)[:, None, :]).sum(axis=-1)
    pm.Potential("fleet_discrepancy", -0.5 * pt.square(white).sum())
    return _Discrepancy(prior.basis, weights, prior.scale**2)


def _observe(
    observations: Observations,
    spec: ModelSpec,
    w_1: Array,
    quantities: Any,
    log_noise: tuple[Any, Any],
    nu: Any,
    discrepancy: _Discrepancy | None,
) -> None:
    """Add the likelihood of the rows to the model on the stack."""
    rows = row_layout(observations)
    batch, tokens = rows.batch_size, rows.total_tokens
    parameters = to_parameters(
        {name: quantities[position] for position, name in enumerate(spec.quantities)}, w_1, xp=pt
    )
    tau_C = parameters.pop("tau_C", None)
    of_points = {name: rows.spread(values) for name, values in parameters.items()}
    location = saturation.latency(of_points, batch, tokens, xp=pt)
    share = saturation.prefill_share(batch, tokens)
    log_sigma, log_ratio = (rows.spread(values) for values in log_noise)
    variance = rows.of_rows(pt.exp(2.0 * (log_sigma + share * log_ratio)))
    variance = variance / observations.n_averaged[rows.order]
    factor: Any = 1.0
    if discrepancy is not None:
        features = discrepancy.basis.features(batch.ravel(), tokens.ravel())
        by_chunk = features.reshape(*batch.shape, -1)
        factor = pt.exp(rows.product(by_chunk, discrepancy.weights))
        missing = discrepancy.basis.missing(features)[rows.point]
        variance = variance + discrepancy.variance * missing
    mu = rows.of_rows(location * factor)
    if tau_C is not None:
        context = np.nan_to_num(observations.context_tokens, nan=0.0)[rows.order]
        mu = mu + rows.of_rows(rows.spread(tau_C) * factor) * context
    LIKELIHOODS[spec.likelihood](
        mu,
        pt.sqrt(variance),
        nu,
        observations.latency_ms[rows.order],
        observations.n_averaged[rows.order].astype(float),
    )


def _coords(spec: ModelSpec, design: FleetDesign, basis: Basis | None) -> dict[str, Any]:
    coords: dict[str, Any] = {
        "quantity": list(spec.quantities),
        "deployment": [deployment.label for deployment in design.deployments],
        **{level: list(design.levels[level].names) for level in GROUP_LEVELS},
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
    scales = {level: _pooling_scale(spec, level) for level in POOLING_LEVELS}
    variances = feature_variances(fixed_variances(spec, design), scales, design, pt)
    return pooled_normal(
        "quantities",
        prior_mean(spec, design),
        variances,
        pt.square(scales["deployment"]) + MIN_OWN_VARIANCE,
        design.features,
        dims=("quantity", "deployment"),
    )


def _pooling_scale(spec: ModelSpec, level: str) -> Any:
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


def _noise_ratio() -> Any:
    """Log of the noise of prefills over that of decode steps, pooled over the fleet."""
    location = pm.Normal("log_sigma_ratio_mean", sigma=NOISE_RATIO[0])
    return pm.Normal("log_sigma_ratio", mu=location, sigma=NOISE_RATIO[1], dims="deployment")


def _discrepancy(design: FleetDesign, basis: Basis) -> _Discrepancy:
    """Weights of the discrepancy, partly shared by the deployments of a stack."""
    stack, own = (
        pt.square(pm.LogNormal(name, mu=np.log(prior[0]), sigma=prior[1]))
        for name, prior in (
            ("discrepancy_stack_scale", DISCREPANCY_STACK),
            ("discrepancy_own_scale", DISCREPANCY_OWN),
        )
    )
    weights = nested_normal(
        "discrepancy",
        np.zeros((basis.size, len(design.deployments))),
        stack,
        own + MIN_OWN_DISCREPANCY,
        design.levels["stack"].index,
        dims=("basis", "deployment"),
    )
    return _Discrepancy(basis, weights, stack + own)
