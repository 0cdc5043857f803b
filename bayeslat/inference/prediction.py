"""What a fleet says about deployments that it has not seen, before any of their steps.

For each posterior draw of the fleet the parameters of a new deployment are drawn from the pooling
prior: fleet-wide values, elasticities and known effects from the draw, effects of a new GPU, LLM or
other member of a level from its pooled scale.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from bayeslat.catalog import Catalog
from bayeslat.inference.tree import DISCREPANCY_SCALES
from bayeslat.model.design import FleetDesign, fleet_design
from bayeslat.model.likelihood import NU_OFFSET
from bayeslat.model.pooling import discrepancy_covariance, fixed_variances, prior_medians
from bayeslat.model.priors import NOISE_GPU_SPREAD, NOISE_SLOPE_SPREADS, OWN_SPREAD, POOLING_LEVELS
from bayeslat.model.spec import ModelSpec
from bayeslat.schema import Deployment

__all__ = ["Prediction", "predict", "shared_values"]

type Array = NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """Draws of what the fleet says of new deployments, each (chain, draw, ..., deployment).

    Parameters
    ----------
    quantities : array, shape (chain, draw, quantity, deployment)
        Logarithms and logits.
    log_sigma : array, shape (chain, draw, deployment)
        Log noise.
    log_sigma_slopes : array, shape (chain, draw, noise_feature, deployment)
        How it follows its features.
    discrepancy : array, shape (chain, draw, basis, deployment), optional
        Weights; None where the model has none.
    """

    quantities: Array
    log_sigma: Array
    log_sigma_slopes: Array
    discrepancy: Array | None

    def of(self, members: NDArray[np.int64]) -> "Prediction":
        """Some of the deployments."""
        discrepancy = None if self.discrepancy is None else self.discrepancy[..., members]
        return Prediction(
            self.quantities[..., members],
            self.log_sigma[..., members],
            self.log_sigma_slopes[..., members],
            discrepancy,
        )

    def to_values(self, spec: ModelSpec) -> xr.Dataset:
        """The draws as a model's value variables."""
        front = ("chain", "draw")
        data: dict[str, Any] = {
            "quantities": ((*front, "quantity", "deployment"), self.quantities),
            "log_sigma": ((*front, "deployment"), self.log_sigma),
            "log_sigma_slopes": ((*front, "noise_feature", "deployment"), self.log_sigma_slopes),
        }
        if self.discrepancy is not None:
            data["discrepancy"] = ((*front, "basis", "deployment"), self.discrepancy)
        return xr.Dataset(data, coords={"quantity": list(spec.quantities)})


def predict(
    fleet: xr.Dataset,
    spec: ModelSpec,
    design: FleetDesign,
    catalog: Catalog,
    rng: np.random.Generator,
) -> Prediction:
    """One draw of new deployments for each draw of the fleet.

    Parameters
    ----------
    fleet : Dataset
        Posterior of the fleet, effects and scales included.
    spec : ModelSpec
        The spec of the fleet.
    design : FleetDesign
        The new deployments.
    catalog : Catalog
        Datasheets of the fleet.
    rng : numpy.random.Generator
        Source of the new effects.
    """
    discrepancy = None
    if "discrepancy" in fleet:
        discrepancy = _predicted_discrepancy(fleet, design, catalog, rng)
    quantities = _predicted_quantities(fleet, spec, design, rng)
    return Prediction(
        quantities,
        _predicted_log_sigma(fleet, design, rng),
        _predicted_slopes(fleet, len(design.deployments), rng),
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
    for level, variances in zip(POOLING_LEVELS, fixed, strict=True):
        effects = _level_effects(fleet, level, design.levels[level].names, variances, rng)
        total = total + effects @ design.levels[level].indicators.T
    return total + OWN_SPREAD * rng.standard_normal(total.shape)


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


def _predicted_slopes(fleet: xr.Dataset, n: int, rng: np.random.Generator) -> Array:
    """Draws of the noise's slopes, shape (chain, draw, noise_feature, deployment)."""
    mean = fleet["log_sigma_slopes_mean"].transpose("chain", "draw", "noise_feature").to_numpy()
    own = np.array(NOISE_SLOPE_SPREADS)[:, None] * rng.standard_normal((*mean.shape, n))
    return mean[..., None] + own


def _predicted_discrepancy(
    fleet: xr.Dataset, design: FleetDesign, catalog: Catalog, rng: np.random.Generator
) -> Array:
    """Draws of the weights, shape (chain, draw, basis, deployment), given those of their stacks.

    By Matheron's rule: a draw from the prior, moved by what the fleet's weights say more. Stacks
    have nothing in common.
    """
    weights = fleet["discrepancy"].transpose("chain", "draw", "basis", "deployment").to_numpy()
    variances = [np.square(fleet[name].to_numpy()) for name in DISCREPANCY_SCALES]
    old = _deployments_of(fleet)
    known, stack = fleet_design(old, catalog).levels["stack"], design.levels["stack"]
    result = np.empty((*weights.shape[:3], len(design.deployments)))
    for position, name in enumerate(stack.names):
        new = np.flatnonzero(stack.index == position)
        related = [i for i, member in enumerate(known.index) if known.names[member] == name]
        both = [*(old[i] for i in related), *(design.deployments[i] for i in new)]
        covariance = discrepancy_covariance(fleet_design(both, catalog), *variances)
        noise = rng.standard_normal((*weights.shape[:3], len(both)))
        drawn = noise @ np.swapaxes(np.linalg.cholesky(covariance), -1, -2)
        n = len(related)
        gain = np.linalg.solve(covariance[..., :n, :n], covariance[..., :n, n:])
        result[..., new] = drawn[..., n:] + (weights[..., related] - drawn[..., :n]) @ gain
    return result


def _deployments_of(fleet: xr.Dataset) -> list[Deployment]:
    fields = [fleet[f"deployment_{name}"].to_numpy().tolist() for name in Deployment._fields]
    return [Deployment(*values) for values in zip(*fields, strict=True)]


def shared_values(fleet: xr.Dataset) -> dict[str, xr.DataArray]:
    """Value variables that new deployments share with the fleet."""
    found: dict[str, Any] = {}
    if "nu" in fleet:
        found["nu_excess_log__"] = np.log(fleet["nu"] - NU_OFFSET)
    if "discrepancy" in fleet:
        found |= {f"{name}_log__": np.log(fleet[name]) for name in DISCREPANCY_SCALES}
    return found
