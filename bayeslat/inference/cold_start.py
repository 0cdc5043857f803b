"""Deployments that the fleet has not seen: predicted, or conditioned on a few steps.

Without steps the parameters of a new deployment are drawn, for each posterior draw of the fleet,
from the pooling prior: fleet-wide values, elasticities and known effects from the draw, effects of
a new GPU or LLM from their pooled scale. With steps these draws are summarised by a Gaussian that
becomes the prior of a small model of the new deployments alone. That ignores what a handful of
steps could teach about the fleet, and the slight non-normality of the prediction; the tests hold
both against a full refit.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from bayeslat.catalog import Catalog
from bayeslat.inference.run import SampledModel, sample_model
from bayeslat.inference.samplers import SamplerSettings
from bayeslat.inference.tree import parameter_dataset, provenance, row_summary
from bayeslat.model.build import ContinuedPrior, build_continued_model
from bayeslat.model.design import FleetDesign, fleet_design
from bayeslat.model.likelihood import NU_OFFSET
from bayeslat.model.pooling import MIN_OWN_VARIANCE, fixed_variances
from bayeslat.model.priors import NOISE_GPU_SPREAD, REGRESSORS
from bayeslat.model.spec import ModelSpec
from bayeslat.observations import Observations
from bayeslat.schema import Deployment

__all__ = ["Newcomers", "conditioned_newcomers", "newcomer_tree", "predicted_newcomers"]

type Array = NDArray[np.float64]

MANY_STEPS = 100
"""Steps a deployment, about ten a parameter, from which the data rather than the prior decide."""


@dataclass(frozen=True)
class Newcomers:
    """Draws of deployments that the fleet was not fitted on.

    Parameters
    ----------
    design : FleetDesign
        The new deployments.
    posterior : Dataset
        Their parameters, sigma and nu; dims chain, draw, deployment.
    sampled : SampledModel, optional
        The run that conditioned on steps, with its verdict; None for a pure prediction.
    """

    design: FleetDesign
    posterior: xr.Dataset
    sampled: SampledModel | None = None


def predicted_newcomers(
    fleet: xr.Dataset,
    spec: ModelSpec,
    deployments: Sequence[Deployment],
    catalog: Catalog,
    *,
    seed: int,
) -> Newcomers:
    """Predict new deployments from the fleet's posterior and their datasheets.

    Parameters
    ----------
    fleet : Dataset
        Posterior of the fleet, effects and scales included.
    spec : ModelSpec
        The spec of the fleet.
    deployments : sequence of Deployment
        The new deployments.
    catalog : Catalog
        Datasheets; unknown entries widen the prediction.
    seed : int
        Seed of the new effects.
    """
    design = fleet_design(deployments, catalog)
    rng = np.random.default_rng(seed)
    log_parameters = _predicted_log_parameters(fleet, spec, design, rng)
    log_sigma = _predicted_log_sigma(fleet, design, rng)
    values = _values(log_parameters, log_sigma, spec, design)
    if "nu" in fleet:
        values["nu_excess_log__"] = np.log(fleet["nu"] - NU_OFFSET)
    return Newcomers(design, parameter_dataset(values, spec, design.deployments))


def conditioned_newcomers(
    fleet: xr.Dataset,
    spec: ModelSpec,
    deployments: Sequence[Deployment],
    catalog: Catalog,
    steps: Observations,
    *,
    sampler: str,
    settings: SamplerSettings,
    report: Callable[[str], None],
) -> Newcomers:
    """Condition the prediction of new deployments on a few of their steps.

    Deployments without steps follow those with steps by the joint covariance of the prediction.

    Parameters
    ----------
    fleet, spec, deployments, catalog
        As in `predicted_newcomers`; every deployment of the steps is among the deployments.
    steps : Observations
        Steps of the new deployments.
    sampler, settings, report
        As in `bayeslat.inference.run.sample_model`.
    """
    design = fleet_design(deployments, catalog)
    rng = np.random.default_rng(settings.seed)
    log_parameters = _predicted_log_parameters(fleet, spec, design, rng)
    measured = np.array([design.deployments.index(item) for item in steps.deployments])
    log_sigma = _predicted_log_sigma(fleet, design, rng)
    prior = _continued_prior(fleet, log_parameters[..., measured], log_sigma[..., measured])
    shape = prior.mean.shape
    sampled = sample_model(
        build_continued_model(steps, spec, design.w_1[measured], prior),
        steps,
        spec.parameters,
        design.w_1[measured],
        mean=prior.mean,
        variance=np.diag(prior.covariance).reshape(shape),
        sampler=sampler,
        settings=settings,
        report=report,
        straighten=len(steps) > MANY_STEPS * shape[1],
    )
    values = _spread_news(sampled.values, log_parameters, log_sigma, measured, spec, design, rng)
    return Newcomers(design, parameter_dataset(values, spec, design.deployments), sampled)


def newcomer_tree(
    found: Newcomers,
    observations: Observations | None,
    spec: ModelSpec,
    catalog: Catalog,
    typical_context: float,
    *,
    seed: int,
    sampler: str,
) -> xr.DataTree:
    """Label newcomers like a fleet, without the effects that only a fleet has.

    Parameters
    ----------
    found : Newcomers
        Draws of the new deployments.
    observations : Observations, optional
        The steps that they were conditioned on.
    spec, catalog, seed, sampler
        As in `conditioned_newcomers`.
    typical_context : float
        Context per request where no step tells it.
    """
    groups = {
        "posterior": found.posterior,
        "constant_data": row_summary(observations, found.design, typical_context),
    }
    if found.sampled is not None:
        groups["sample_stats"] = found.sampled.sample_stats
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = provenance(observations, spec, found.design, catalog, seed=seed, sampler=sampler)
    verdict = found.sampled.verdict.to_dict() if found.sampled is not None else None
    tree.attrs["verdict"] = json.dumps(verdict) if verdict else ""
    return tree


def _predicted_log_parameters(
    fleet: xr.Dataset, spec: ModelSpec, design: FleetDesign, rng: np.random.Generator
) -> Array:
    """Draws of the log-parameters, shape (chain, draw, parameter, deployment)."""
    medians = np.log([spec.prior(name).median for name in spec.parameters])
    slopes = fleet["elasticity"].transpose(..., "parameter", "regressor").to_numpy()
    base = medians + fleet["intercept"].transpose(..., "parameter").to_numpy()
    fixed = np.split(
        fixed_variances(spec, design),
        np.cumsum([1 + len(REGRESSORS), len(design.gpus)]),
        axis=1,
    )
    gpu = _level_effects(fleet, "gpu", design.gpus, fixed[1], rng)
    model = _level_effects(fleet, "model", design.models, fixed[2], rng)
    own = np.sqrt(np.square(fleet["deployment_scale"].to_numpy()) + MIN_OWN_VARIANCE)[..., None]
    noise = rng.standard_normal((*base.shape, len(design.deployments)))
    return (
        base[..., None]
        + slopes @ design.regressors.T
        + gpu[..., design.gpu_index]
        + model[..., design.model_index]
        + own * noise
    )


def _level_effects(
    fleet: xr.Dataset,
    level: str,
    names: tuple[str, ...],
    fixed: Array,
    rng: np.random.Generator,
) -> Array:
    """Effects of GPUs or LLMs: the fleet's draws where known, fresh ones elsewhere.

    `fixed` has shape (parameter, name): the variance that a silent datasheet adds. The result has
    shape (chain, draw, parameter, name).
    """
    effect = fleet[f"{level}_effect"].transpose("chain", "draw", "parameter", level)
    scale = fleet[f"{level}_scale"].to_numpy()
    known = list(effect.coords[level].to_numpy())
    columns = []
    for position, name in enumerate(names):
        if name in known:
            columns.append(effect.to_numpy()[..., known.index(name)])
        else:
            spread = np.sqrt(np.square(scale) + fixed[:, position])
            columns.append(spread * rng.standard_normal(scale.shape))
    return np.stack(columns, axis=-1)


def _predicted_log_sigma(fleet: xr.Dataset, design: FleetDesign, rng: np.random.Generator) -> Array:
    """Draws of the log noise of new deployments, shape (chain, draw, deployment)."""
    mean = fleet["log_sigma_mean"].to_numpy()
    own = fleet["log_sigma_scale"].to_numpy()[..., None]
    shape = (*mean.shape, len(design.gpus))
    device = NOISE_GPU_SPREAD * rng.standard_normal(shape)
    effect = fleet["log_sigma_gpu"].transpose("chain", "draw", "gpu")
    known = list(effect.coords["gpu"].to_numpy())
    for position, name in enumerate(design.gpus):
        if name in known:
            device[..., position] = effect.to_numpy()[..., known.index(name)]
    noise = own * rng.standard_normal((*mean.shape, len(design.deployments)))
    return mean[..., None] + device[..., design.gpu_index] + noise


def _continued_prior(fleet: xr.Dataset, log_parameters: Array, log_sigma: Array) -> ContinuedPrior:
    flat = log_parameters.reshape(-1, *log_parameters.shape[2:])
    noise = log_sigma.reshape(-1, log_sigma.shape[-1])
    nu = None
    if "nu" in fleet:
        log_excess = np.log(fleet["nu"].to_numpy() - NU_OFFSET)
        nu = (float(log_excess.mean()), float(log_excess.std()))
    return ContinuedPrior(
        mean=flat.mean(axis=0),
        covariance=np.cov(flat.reshape(len(flat), -1), rowvar=False),
        log_sigma=(noise.mean(axis=0), np.atleast_2d(np.cov(noise, rowvar=False))),
        log_nu_excess=nu,
    )


def _spread_news(
    values: xr.Dataset,
    log_parameters: Array,
    log_sigma: Array,
    measured: NDArray[np.int64],
    spec: ModelSpec,
    design: FleetDesign,
    rng: np.random.Generator,
) -> xr.Dataset:
    """All deployments' values: the measured ones as sampled, the others moved along with them."""
    chains, draws = values.sizes["chain"], values.sizes["draw"]
    pick = rng.integers(log_sigma.shape[0] * log_sigma.shape[1], size=chains * draws)
    parameters = _moved_along(log_parameters, values["log_parameters"].to_numpy(), measured, pick)
    noise = _moved_along(log_sigma, values["log_sigma"].to_numpy(), measured, pick)
    result = _values(
        parameters.reshape(chains, draws, *parameters.shape[1:]),
        noise.reshape(chains, draws, -1),
        spec,
        design,
    )
    if "nu_excess_log__" in values:
        result["nu_excess_log__"] = values["nu_excess_log__"]
    return result


def _moved_along(
    prior: Array, known: Array, measured: NDArray[np.int64], pick: NDArray[np.int64]
) -> Array:
    """Matheron's rule: a prior draw of everything, moved by what the measured ones tell.

    Parameters
    ----------
    prior : array, shape (chain, draw, ..., deployment)
        Predictions of all deployments.
    known : array, shape (chain, draw, ..., measured)
        Draws of the measured ones, given their steps.
    measured : array of int, shape (measured,)
        Which deployments were measured.
    pick : array of int, shape (n,)
        Prior draw to start from, for each of the n draws of `known`.

    Returns
    -------
    array, shape (n, ..., deployment)
    """
    prior = prior.reshape(-1, *prior.shape[2:])
    known = known.reshape(-1, *known.shape[2:])
    moved = prior[pick]
    rest = np.setdiff1d(np.arange(prior.shape[-1]), measured)
    if rest.size:
        gain = _regression(prior[..., rest], prior[..., measured])
        news = (known - moved[..., measured]).reshape(pick.size, -1)
        moved[..., rest] += (news @ gain).reshape(moved[..., rest].shape)
    moved[..., measured] = known
    return moved


def _regression(target: Array, source: Array) -> Array:
    """Coefficients of the linear regression of target draws on source draws (both raveled)."""
    x = source.reshape(len(source), -1)
    y = target.reshape(len(target), -1)
    return np.linalg.lstsq(x - x.mean(axis=0), y - y.mean(axis=0))[0]


def _values(
    log_parameters: Array, log_sigma: Array, spec: ModelSpec, design: FleetDesign
) -> xr.Dataset:
    front = ("chain", "draw")
    data: dict[str, Any] = {
        "log_parameters": ((*front, "parameter", "deployment"), log_parameters),
        "log_sigma": ((*front, "deployment"), log_sigma),
    }
    return xr.Dataset(data, coords={"parameter": list(spec.parameters)})
