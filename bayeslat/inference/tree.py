"""The labelled posterior: a DataTree in the formula's own parameters, with its effects."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from bayeslat.catalog import Catalog
from bayeslat.inference.devices import describe_device
from bayeslat.inference.effects import draw_effects
from bayeslat.inference.run import SampledModel
from bayeslat.model.design import FleetDesign
from bayeslat.model.likelihood import NU_OFFSET
from bayeslat.model.observed import observed_basis
from bayeslat.model.pooling import elasticities, median_scales
from bayeslat.model.priors import POOLING_LEVELS, REGRESSORS
from bayeslat.model.quantities import to_parameters
from bayeslat.model.spec import ModelSpec
from bayeslat.noise import NOISE_FEATURES
from bayeslat.observations import Observations, Quarantine
from bayeslat.schema import SCHEMA_VERSION, Deployment

__all__ = ["deployment_coords", "fleet_tree", "parameter_dataset", "provenance", "row_summary"]

type Array = NDArray[np.float64]

DISCREPANCY_SCALES: Final = ("discrepancy_stack_scale", "discrepancy_own_scale")
"""Pooling scales of the discrepancy."""

RECORDED_PACKAGES: Final = ("bayeslat", "pymc", "jax", "numpyro", "nutpie", "blackjax", "arviz")


def fleet_tree(
    sampled: SampledModel,
    observations: Observations,
    spec: ModelSpec,
    design: FleetDesign,
    catalog: Catalog,
    *,
    seed: int,
    sampler: str,
) -> xr.DataTree:
    """Label a fleet's draws: parameters in their units, scales, effects, provenance.

    Groups
    ------
    posterior
        Every parameter of the formula (chain, draw, deployment) in its unit, ``sigma``, ``nu``,
        ``log_sigma_slopes``, pooling scales, ``intercept``, ``elasticity``, the effects of every
        level; ``discrepancy`` with its scales and ``stray_share`` where the model has them.
    sample_stats
        ``diverging``, ``n_steps``, ``energy``.
    constant_data
        ``w_1``, row counts and measured ranges of each deployment.
    """
    values = sampled.values
    scales = _full_scales(values, spec)
    posterior = parameter_dataset(values, spec, design.deployments, design.w_1)
    for level in POOLING_LEVELS:
        posterior[f"{level}_scale"] = (("chain", "draw", "quantity"), scales[level])
    for name in ("log_sigma_mean", "log_sigma_gpu", "log_sigma_slopes_mean"):
        posterior[name] = values[name]
    posterior["log_sigma_scale"] = np.exp(values["log_sigma_scale_log__"])
    posterior = posterior.merge(_effects(values, scales, spec, design, seed))
    tree = xr.DataTree.from_dict(
        {
            "posterior": posterior,
            "sample_stats": sampled.sample_stats,
            "constant_data": row_summary(observations, design),
        }
    )
    tree.attrs = provenance(observations, spec, design, catalog, seed=seed, sampler=sampler)
    tree.attrs["verdict"] = json.dumps(sampled.verdict.to_dict())
    basis = observed_basis(observations, spec)
    tree.attrs["discrepancy_basis"] = basis.to_json() if basis is not None else ""
    return tree


def parameter_dataset(
    values: xr.Dataset, spec: ModelSpec, deployments: Sequence[Deployment], w_1: Array
) -> xr.Dataset:
    """Parameters of the formula in their units, noise and discrepancy, from value variables."""
    draws = values["quantities"].transpose("chain", "draw", "quantity", "deployment").to_numpy()
    quantities = {name: draws[:, :, position] for position, name in enumerate(spec.quantities)}
    found = to_parameters(quantities, w_1)
    dims = ("chain", "draw", "deployment")
    data: dict[str, Any] = {name: (dims, found[name]) for name in spec.parameters}
    data["sigma"] = (dims, np.exp(values["log_sigma"].to_numpy()))
    slopes = values["log_sigma_slopes"].transpose("chain", "draw", "noise_feature", "deployment")
    data["log_sigma_slopes"] = (slopes.dims, slopes.to_numpy())
    if "stray_log_odds" in values:
        odds = values["stray_log_odds"].to_numpy()
        data["stray_share"] = (dims, 1.0 / (1.0 + np.exp(-odds)))
    if "nu_excess_log__" in values:
        excess = values["nu_excess_log__"].to_numpy()
        data["nu"] = (("chain", "draw"), NU_OFFSET + np.exp(excess))
    if "discrepancy" in values:
        weights = values["discrepancy"].transpose("chain", "draw", "basis", "deployment")
        data["discrepancy"] = (("chain", "draw", "basis", "deployment"), weights.to_numpy())
        for name in DISCREPANCY_SCALES:
            scale = np.exp(values[f"{name}_log__"].to_numpy())
            data[name] = (("chain", "draw"), scale)
        data["discrepancy_scale"] = (
            ("chain", "draw"),
            np.hypot(*(data[name][1] for name in DISCREPANCY_SCALES)),
        )
    coords = deployment_coords(deployments) | {"noise_feature": list(NOISE_FEATURES)}
    return xr.Dataset(data, coords=coords)


def deployment_coords(deployments: Sequence[Deployment]) -> dict[str, Any]:
    """Coordinates of the deployment dim: its label, and what makes up each deployment."""
    coords: dict[str, Any] = {"deployment": [item.label for item in deployments]}
    for field in Deployment._fields:
        column = [getattr(item, field) for item in deployments]
        coords[f"deployment_{field}"] = ("deployment", column)
    return coords


def row_summary(
    observations: Observations | None, design: FleetDesign, fallback_context: float | None = None
) -> xr.Dataset:
    """What was measured of each deployment: row counts, ranges, the typical context.

    Where nothing was measured ``n_rows`` is zero, ``measured_range`` (deployment, design_axis,
    bound) is NaN and ``context_per_request`` the given fallback, else the other deployments'
    median, else zero. Where rows have no context it is zero: they are fitted without.
    """
    axes = ("batch_size", "total_tokens", "context_tokens")
    n = len(design.deployments)
    ranges = np.full((n, len(axes), 2), np.nan)
    counts, typical = np.zeros(n, dtype=np.int64), np.full(n, np.nan)
    for position, deployment in enumerate(design.deployments):
        if observations is None or deployment not in observations.deployments:
            continue
        rows = observations.slice_of(deployment)
        counts[position] = rows.stop - rows.start
        for axis, name in enumerate(axes):
            column = getattr(observations, name)[rows]
            column = column[np.isfinite(column)]
            if column.size:
                ranges[position, axis] = column.min(), column.max()
        ratio = observations.context_tokens[rows] / observations.batch_size[rows]
        ratio = ratio[np.isfinite(ratio)]
        typical[position] = np.median(ratio) if ratio.size else 0.0
    known = typical[typical > 0.0]
    if fallback_context is None:
        fallback_context = float(np.median(known)) if known.size else 0.0
    typical[np.isnan(typical)] = fallback_context
    return xr.Dataset(
        {
            "w_1": ("deployment", design.w_1),
            "n_rows": ("deployment", counts),
            "context_per_request": ("deployment", typical),
            "measured_range": (("deployment", "design_axis", "bound"), ranges),
        },
        coords={
            **deployment_coords(design.deployments),
            "design_axis": list(axes),
            "bound": ["low", "high"],
        },
    )


def provenance(
    observations: Observations | None,
    spec: ModelSpec,
    design: FleetDesign,
    catalog: Catalog,
    *,
    seed: int,
    sampler: str,
) -> dict[str, Any]:
    """Root attributes: everything needed to say where a posterior comes from."""
    datasheets = {
        "gpus": [catalog.gpu(name).to_dict() for name in _distinct(design, "gpu")],
        "llms": [catalog.llm(name).to_dict() for name in _distinct(design, "model")],
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "spec": spec.to_json(),
        "datasheets": json.dumps(datasheets),
        **_data_provenance(observations),
        "versions": json.dumps({name: version(name) for name in RECORDED_PACKAGES}),
        "sampler": sampler,
        "device": describe_device(),
        "seed": seed,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _distinct(design: FleetDesign, field: str) -> list[str]:
    return sorted({getattr(deployment, field) for deployment in design.deployments})


def _data_provenance(observations: Observations | None) -> dict[str, Any]:
    if observations is None:
        nothing = json.dumps(Quarantine().to_dict())
        return {"data_fingerprint": "", "data_source": "", "n_rows": 0, "quarantine": nothing}
    return {
        "data_fingerprint": observations.fingerprint,
        "data_source": observations.source,
        "timing_scope": observations.timing_scope,
        "n_rows": len(observations),
        "quarantine": json.dumps(observations.quarantine.to_dict()),
    }


def _full_scales(values: xr.Dataset, spec: ModelSpec) -> dict[str, Array]:
    """Every pooling scale, fixed ones included, each shape (chain, draw, quantity)."""
    shape = (values.sizes["chain"], values.sizes["draw"])
    full = {}
    for level, medians in median_scales(spec).items():
        array = np.broadcast_to(medians, (*shape, medians.size)).copy()
        variable = f"{level}_scale_log__"
        if variable in values:
            sampled = [spec.prior(name).scale(level).spread > 0 for name in spec.quantities]
            array[..., sampled] = np.exp(values[variable].to_numpy())
        full[level] = array
    return full


def _effects(
    values: xr.Dataset,
    scales: dict[str, Array],
    spec: ModelSpec,
    design: FleetDesign,
    seed: int,
) -> xr.Dataset:
    chain, draw = values.sizes["chain"], values.sizes["draw"]
    quantities = values["quantities"].to_numpy()
    flat_scales = {level: array.reshape(chain * draw, -1) for level, array in scales.items()}
    weights = draw_effects(
        quantities.reshape(chain * draw, *quantities.shape[2:]),
        flat_scales,
        spec,
        design,
        np.random.default_rng(seed),
    ).reshape(chain, draw, len(spec.quantities), -1)
    intercept, slopes, *members = np.split(weights, design.bounds, axis=-1)
    front = ("chain", "draw", "quantity")
    effects = {
        f"{level}_effect": ((*front, level), found)
        for level, found in zip(POOLING_LEVELS, members, strict=True)
        if found.shape[-1]  # most fleets have no settings
    }
    return xr.Dataset(
        {
            "intercept": (front, intercept[..., 0]),
            "elasticity": ((*front, "regressor"), elasticities(spec) + slopes),
            **effects,
        },
        coords={
            "quantity": list(spec.quantities),
            "regressor": list(REGRESSORS),
            **{
                level: list(design.levels[level].names)
                for level in POOLING_LEVELS
                if design.levels[level].names
            },
        },
    )
