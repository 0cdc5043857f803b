"""Deployments that the fleet has not seen: predicted, or conditioned on a few steps.

Without steps their parameters are as `bayeslat.inference.prediction` draws them. With steps these
draws are summarised by a Gaussian that becomes the prior of a small model of the new deployments
alone. That ignores what a handful of steps could teach about the fleet, and the slight
non-normality of the prediction; the tests hold both against a full refit.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from bayeslat.catalog import Catalog
from bayeslat.discrepancy import Basis
from bayeslat.inference.prediction import Prediction, predict, shared_values
from bayeslat.inference.run import SampledModel, sample_from_prior, sample_model
from bayeslat.inference.samplers import SamplerSettings
from bayeslat.inference.tree import (
    DISCREPANCY_SCALES,
    parameter_dataset,
    provenance,
    row_summary,
)
from bayeslat.model.continued import (
    ContinuedDiscrepancy,
    ContinuedPrior,
    build_continued_model,
)
from bayeslat.model.design import FleetDesign, fleet_design
from bayeslat.model.likelihood import NU_OFFSET
from bayeslat.model.priors import STRAY_LOG_ODDS
from bayeslat.model.spec import ModelSpec
from bayeslat.observations import Observations
from bayeslat.schema import Deployment

__all__ = ["Newcomers", "conditioned_newcomers", "newcomer_tree", "predicted_newcomers"]

type Array = NDArray[np.float64]

FEW_STEPS = 100
"""Steps a deployment up to which the prior decides much, and chains may lose their way."""

FEW_DEPLOYMENTS = 12
"""Deployments up to which populations come first: all particles see all steps, and their number
grows with that of coordinates. Of more deployments they are what a failed run is followed by."""


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
    values = predict(fleet, spec, design, catalog, np.random.default_rng(seed)).to_values(spec)
    values = values.assign(shared_values(fleet))
    return Newcomers(design, parameter_dataset(values, spec, design.deployments, design.w_1))


def conditioned_newcomers(
    fleet: xr.Dataset,
    spec: ModelSpec,
    deployments: Sequence[Deployment],
    catalog: Catalog,
    steps: Observations,
    basis: Basis | None,
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
    basis : Basis, optional
        Features of the fleet's discrepancy, where it has one.
    sampler, settings, report
        As in `bayeslat.inference.run.sample_model`.
    """
    design = fleet_design(deployments, catalog)
    rng = np.random.default_rng(settings.seed)
    prediction = predict(fleet, spec, design, catalog, rng)
    measured = np.array([design.deployments.index(item) for item in steps.deployments])
    prior = _continued_prior(fleet, prediction.of(measured), basis)
    model = build_continued_model(steps, spec, design.w_1[measured], prior)
    few = len(steps) <= FEW_STEPS * measured.size

    def by_populations() -> SampledModel:
        draws = partial(_prior_draws, prior, spec)
        return sample_from_prior(model, draws, settings=settings, report=report)

    if few and measured.size <= FEW_DEPLOYMENTS:
        sampled = by_populations()
    else:
        sampled = sample_model(
            model,
            steps,
            spec.quantities,
            design.w_1[measured],
            design.levels["stack"].index[measured],
            mean=prior.mean,
            variance=np.diag(prior.covariance).reshape(prior.mean.shape),
            basis=basis,
            sampler=sampler,
            settings=replace(settings, retry=settings.retry and not few),
            report=report,
        )
        if few and settings.retry and not sampled.verdict.passed:
            report(f"{sampled.verdict}; once more by populations")
            sampled = by_populations()
    values = _spread_news(fleet, sampled.values, prediction, measured, spec, rng)
    posterior = parameter_dataset(values, spec, design.deployments, design.w_1)
    return Newcomers(design, posterior, sampled)


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


def _continued_prior(
    fleet: xr.Dataset, prediction: Prediction, basis: Basis | None
) -> ContinuedPrior:
    flat = prediction.quantities.reshape(-1, *prediction.quantities.shape[2:])
    nu = None
    if "nu" in fleet:
        log_excess = np.log(fleet["nu"].to_numpy() - NU_OFFSET)
        nu = (float(log_excess.mean()), float(log_excess.std()))
    discrepancy = None
    if prediction.discrepancy is not None and basis is not None:
        discrepancy = _continued_discrepancy(fleet, prediction.discrepancy, basis)
    return ContinuedPrior(
        mean=flat.mean(axis=0),
        covariance=np.cov(flat.reshape(len(flat), -1), rowvar=False),
        log_sigma=_moments(prediction.log_sigma),
        log_sigma_slopes=_moments_of_rows(prediction.log_sigma_slopes),
        log_nu_excess=nu,
        discrepancy=discrepancy,
    )


def _prior_draws(
    prior: ContinuedPrior, spec: ModelSpec, n: int, rng: np.random.Generator
) -> dict[str, Array]:
    """Draws of a continued model's value variables from its prior, each (n, ...)."""
    found = {"quantities": _normal(prior.mean.ravel(), prior.covariance, n, rng)}
    found["log_sigma"] = _normal(*prior.log_sigma, n, rng)
    found["log_sigma_slopes"] = _normal_rows(*prior.log_sigma_slopes, n, rng)
    if spec.strays:
        mean, spread = STRAY_LOG_ODDS
        size = (n, prior.log_sigma[0].size)
        found["stray_log_odds"] = mean + spread * rng.standard_normal(size)
    if prior.log_nu_excess is not None:
        mean, spread = prior.log_nu_excess
        found["nu_excess_log__"] = mean + spread * rng.standard_normal(n)
    if prior.discrepancy is not None:
        weights = prior.discrepancy
        found["discrepancy"] = _normal_rows(weights.mean, weights.covariance, n, rng)
    return found


def _normal(mean: Array, covariance: Array, n: int, rng: np.random.Generator) -> Array:
    return mean + rng.standard_normal((n, mean.size)) @ np.linalg.cholesky(covariance).T


def _normal_rows(means: Array, covariances: Array, n: int, rng: np.random.Generator) -> Array:
    """Draws of independent rows of normals, shape (n, row, deployment)."""
    rows = zip(means, covariances, strict=True)
    return np.stack([_normal(mean, covariance, n, rng) for mean, covariance in rows], axis=1)


def _moments(draws: Array) -> tuple[Array, Array]:
    """Mean and covariance over draws, shape (chain, draw, deployment)."""
    flat = draws.reshape(-1, draws.shape[-1])
    return flat.mean(axis=0), np.atleast_2d(np.cov(flat, rowvar=False))


def _moments_of_rows(draws: Array) -> tuple[Array, Array]:
    """Moments of each row of draws, shape (chain, draw, row, deployment)."""
    moments = [_moments(draws[:, :, position]) for position in range(draws.shape[2])]
    means, covariances = zip(*moments, strict=True)
    return np.stack(means), np.stack(covariances)


def _continued_discrepancy(fleet: xr.Dataset, draws: Array, basis: Basis) -> ContinuedDiscrepancy:
    mean, covariance = _moments_of_rows(draws)
    variance = sum(np.square(fleet[name].to_numpy()).mean() for name in DISCREPANCY_SCALES)
    return ContinuedDiscrepancy(
        basis,
        mean=mean,
        covariance=covariance,
        scale=float(np.sqrt(variance)),
    )


def _spread_news(
    fleet: xr.Dataset,
    values: xr.Dataset,
    prediction: Prediction,
    measured: NDArray[np.int64],
    spec: ModelSpec,
    rng: np.random.Generator,
) -> xr.Dataset:
    """All deployments' values: the measured ones as sampled, the others moved along with them."""
    chains, draws = values.sizes["chain"], values.sizes["draw"]
    pick = rng.integers(int(np.prod(prediction.log_sigma.shape[:2])), size=chains * draws)

    def moved(prior: Array, known: Array) -> Array:
        found = _moved_along(prior, known, measured, pick)
        return found.reshape(chains, draws, *found.shape[1:])

    def moved_rows(prior: Array, known: Array) -> Array:
        rows = range(known.shape[2])
        return np.stack([moved(prior[:, :, row], known[:, :, row]) for row in rows], axis=2)

    discrepancy = None
    if prediction.discrepancy is not None:
        discrepancy = moved_rows(prediction.discrepancy, values["discrepancy"].to_numpy())
    result = Prediction(
        moved(prediction.quantities, values["quantities"].to_numpy()),
        moved(prediction.log_sigma, values["log_sigma"].to_numpy()),
        moved_rows(prediction.log_sigma_slopes, values["log_sigma_slopes"].to_numpy()),
        discrepancy,
    ).to_values(spec)
    for name, draw in shared_values(fleet).items():
        picked = draw.to_numpy().ravel()[pick].reshape(chains, draws)
        result[name] = values.get(name, xr.DataArray(picked, dims=("chain", "draw")))
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
