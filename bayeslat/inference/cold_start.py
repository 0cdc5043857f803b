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
from bayeslat.discrepancy import Basis
from bayeslat.inference.run import SampledModel, sample_model
from bayeslat.inference.samplers import SamplerSettings
from bayeslat.inference.tree import (
    DISCREPANCY_SCALES,
    parameter_dataset,
    provenance,
    row_summary,
)
from bayeslat.model.build import (
    MIN_OWN_DISCREPANCY,
    ContinuedDiscrepancy,
    ContinuedPrior,
    build_continued_model,
)
from bayeslat.model.design import GROUP_LEVELS, FleetDesign, fleet_design
from bayeslat.model.likelihood import NU_OFFSET
from bayeslat.model.pooling import MIN_OWN_VARIANCE, fixed_variances, prior_medians
from bayeslat.model.priors import NOISE_GPU_SPREAD, NOISE_RATIO
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


@dataclass(frozen=True)
class _Prediction:
    """Draws of what the fleet says of new deployments, each (chain, draw, ..., deployment).

    Parameters
    ----------
    quantities : array, shape (chain, draw, quantity, deployment)
        Logarithms and logits.
    log_sigma, log_sigma_ratio : array, shape (chain, draw, deployment)
        Log noise, and log of its ratio in prefills.
    discrepancy : array, shape (chain, draw, basis, deployment), optional
        Weights; None where the model has none.
    """

    quantities: Array
    log_sigma: Array
    log_sigma_ratio: Array
    discrepancy: Array | None

    def of(self, members: NDArray[np.int64]) -> "_Prediction":
        """Some of the deployments."""
        discrepancy = None if self.discrepancy is None else self.discrepancy[..., members]
        return _Prediction(
            self.quantities[..., members],
            self.log_sigma[..., members],
            self.log_sigma_ratio[..., members],
            discrepancy,
        )

    def to_values(self, spec: ModelSpec) -> xr.Dataset:
        """The draws as a model's value variables."""
        front = ("chain", "draw")
        data: dict[str, Any] = {
            "quantities": ((*front, "quantity", "deployment"), self.quantities),
            "log_sigma": ((*front, "deployment"), self.log_sigma),
            "log_sigma_ratio": ((*front, "deployment"), self.log_sigma_ratio),
        }
        if self.discrepancy is not None:
            data["discrepancy"] = ((*front, "basis", "deployment"), self.discrepancy)
        return xr.Dataset(data, coords={"quantity": list(spec.quantities)})


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
    values = _predicted(fleet, spec, design, catalog, np.random.default_rng(seed)).to_values(spec)
    for name in _shared_values(fleet):
        values[name] = _shared_values(fleet)[name]
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
    prediction = _predicted(fleet, spec, design, catalog, rng)
    measured = np.array([design.deployments.index(item) for item in steps.deployments])
    prior = _continued_prior(fleet, prediction.of(measured), basis)
    shape = prior.mean.shape
    sampled = sample_model(
        build_continued_model(steps, spec, design.w_1[measured], prior),
        steps,
        spec.quantities,
        design.w_1[measured],
        design.levels["stack"].index[measured],
        mean=prior.mean,
        variance=np.diag(prior.covariance).reshape(shape),
        basis=basis,
        sampler=sampler,
        settings=settings,
        report=report,
        straighten=len(steps) > MANY_STEPS * shape[1],
    )
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


def _predicted(
    fleet: xr.Dataset,
    spec: ModelSpec,
    design: FleetDesign,
    catalog: Catalog,
    rng: np.random.Generator,
) -> _Prediction:
    """One draw of the new deployments for each draw of the fleet."""
    discrepancy = None
    if "discrepancy" in fleet:
        discrepancy = _predicted_discrepancy(fleet, design, catalog, rng)
    quantities = _predicted_quantities(fleet, spec, design, rng)
    return _Prediction(
        quantities,
        _predicted_log_sigma(fleet, design, rng),
        _predicted_log_ratio(fleet, len(design.deployments), rng),
        discrepancy,
    )


def _predicted_quantities(
    fleet: xr.Dataset, spec: ModelSpec, design: FleetDesign, rng: np.random.Generator
) -> Array:
    """Draws of the pooled quantities, shape (chain, draw, quantity, deployment)."""
    slopes = fleet["elasticity"].transpose(..., "quantity", "regressor").to_numpy()
    base = prior_medians(spec) + fleet["intercept"].transpose(..., "quantity").to_numpy()
    fixed = np.split(fixed_variances(spec, design), design.bounds, axis=1)[2:]
    total = base[..., None] + slopes @ design.regressors.T
    for level, variances in zip(GROUP_LEVELS, fixed, strict=True):
        effects = _level_effects(fleet, level, design.levels[level].names, variances, rng)
        total = total + effects @ design.levels[level].indicators.T
    own = np.sqrt(np.square(fleet["deployment_scale"].to_numpy()) + MIN_OWN_VARIANCE)[..., None]
    return total + own * rng.standard_normal(total.shape)


def _level_effects(
    fleet: xr.Dataset,
    level: str,
    names: tuple[str, ...],
    fixed: Array,
    rng: np.random.Generator,
) -> Array:
    """Effects of a level's members: the fleet's draws where known, fresh ones elsewhere.

    `fixed` has shape (quantity, name): the variance that a silent datasheet adds. The result has
    shape (chain, draw, quantity, name).
    """
    scale = fleet[f"{level}_scale"].to_numpy()
    known, effect = [], scale[..., :0]
    if f"{level}_effect" in fleet:
        labelled = fleet[f"{level}_effect"].transpose("chain", "draw", "quantity", level)
        known, effect = labelled.coords[level].to_numpy().tolist(), labelled.to_numpy()
    columns = np.empty((*scale.shape, len(names)))
    for position, name in enumerate(names):
        if name in known:
            columns[..., position] = effect[..., known.index(name)]
        else:
            spread = np.sqrt(np.square(scale) + fixed[:, position])
            columns[..., position] = spread * rng.standard_normal(scale.shape)
    return columns


def _predicted_log_sigma(fleet: xr.Dataset, design: FleetDesign, rng: np.random.Generator) -> Array:
    """Draws of the log noise of new deployments, shape (chain, draw, deployment)."""
    mean = fleet["log_sigma_mean"].to_numpy()
    own = fleet["log_sigma_scale"].to_numpy()[..., None]
    gpus = design.levels["gpu"]
    device = NOISE_GPU_SPREAD * rng.standard_normal((*mean.shape, len(gpus.names)))
    effect = fleet["log_sigma_gpu"].transpose("chain", "draw", "gpu")
    known = list(effect.coords["gpu"].to_numpy())
    for position, name in enumerate(gpus.names):
        if name in known:
            device[..., position] = effect.to_numpy()[..., known.index(name)]
    noise = own * rng.standard_normal((*mean.shape, len(design.deployments)))
    return mean[..., None] + device[..., gpus.index] + noise


def _predicted_log_ratio(fleet: xr.Dataset, n: int, rng: np.random.Generator) -> Array:
    """Draws of the log noise ratio of new deployments, shape (chain, draw, deployment)."""
    mean = fleet["log_sigma_ratio_mean"].to_numpy()
    return mean[..., None] + NOISE_RATIO[1] * rng.standard_normal((*mean.shape, n))


def _predicted_discrepancy(
    fleet: xr.Dataset, design: FleetDesign, catalog: Catalog, rng: np.random.Generator
) -> Array:
    """Draws of the weights, shape (chain, draw, basis, deployment): the stack's part and its own.

    Given its members' weights in a draw, a stack's part is Gaussian.
    """
    weights = fleet["discrepancy"].transpose("chain", "draw", "basis", "deployment").to_numpy()
    shared, own = (np.square(fleet[name].to_numpy())[..., None] for name in DISCREPANCY_SCALES)
    stack = design.levels["stack"]
    known = fleet_design(_deployments_of(fleet), catalog).levels["stack"]
    parts = np.empty((*weights.shape[:3], len(stack.names)))
    for position, name in enumerate(stack.names):
        index = known.names.index(name) if name in known.names else -2  # -1 is no stack at all
        members = np.flatnonzero(known.index == index)
        total = own + MIN_OWN_DISCREPANCY + members.size * shared
        mean = shared / total * weights[..., members].sum(axis=-1)
        spread = np.sqrt(shared * (own + MIN_OWN_DISCREPANCY) / total)
        parts[..., position] = mean + spread * rng.standard_normal(mean.shape)
    noise = rng.standard_normal((*weights.shape[:3], len(design.deployments)))
    return parts[..., stack.index] + np.sqrt(own + MIN_OWN_DISCREPANCY)[..., None] * noise


def _deployments_of(fleet: xr.Dataset) -> list[Deployment]:
    fields = [fleet[f"deployment_{name}"].to_numpy().tolist() for name in Deployment._fields]
    return [Deployment(*values) for values in zip(*fields, strict=True)]


def _shared_values(fleet: xr.Dataset) -> dict[str, xr.DataArray]:
    """Value variables that new deployments share with the fleet."""
    found: dict[str, Any] = {}
    if "nu" in fleet:
        found["nu_excess_log__"] = np.log(fleet["nu"] - NU_OFFSET)
    if "discrepancy" in fleet:
        found |= {f"{name}_log__": np.log(fleet[name]) for name in DISCREPANCY_SCALES}
    return found


def _continued_prior(
    fleet: xr.Dataset, prediction: _Prediction, basis: Basis | None
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
        log_sigma_ratio=_moments(prediction.log_sigma_ratio),
        log_nu_excess=nu,
        discrepancy=discrepancy,
    )


def _moments(draws: Array) -> tuple[Array, Array]:
    """Mean and covariance over draws, shape (chain, draw, deployment)."""
    flat = draws.reshape(-1, draws.shape[-1])
    return flat.mean(axis=0), np.atleast_2d(np.cov(flat, rowvar=False))


def _continued_discrepancy(fleet: xr.Dataset, draws: Array, basis: Basis) -> ContinuedDiscrepancy:
    moments = [_moments(draws[:, :, position]) for position in range(draws.shape[2])]
    variance = sum(np.square(fleet[name].to_numpy()).mean() for name in DISCREPANCY_SCALES)
    return ContinuedDiscrepancy(
        basis,
        mean=np.stack([mean for mean, _ in moments]),
        covariance=np.stack([covariance for _, covariance in moments]),
        scale=float(np.sqrt(variance)),
    )


def _spread_news(
    fleet: xr.Dataset,
    values: xr.Dataset,
    prediction: _Prediction,
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

    discrepancy = None
    if prediction.discrepancy is not None:
        known = values["discrepancy"].to_numpy()
        columns = [
            moved(prediction.discrepancy[:, :, position], known[:, :, position])
            for position in range(known.shape[2])
        ]
        discrepancy = np.stack(columns, axis=2)
    result = _Prediction(
        moved(prediction.quantities, values["quantities"].to_numpy()),
        moved(prediction.log_sigma, values["log_sigma"].to_numpy()),
        moved(prediction.log_sigma_ratio, values["log_sigma_ratio"].to_numpy()),
        discrepancy,
    ).to_values(spec)
    for name, draw in _shared_values(fleet).items():
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
