"""From a PyMC model to draws with a verdict: a Gaussian, pilots, the run that counts.

The pilots only choose the linear map of the run that counts; none of their draws is kept. Where
the run itself does not pass it serves as one more pilot, and a longer run follows.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pymc as pm
import xarray as xr
from numpy.typing import NDArray

from bayeslat.discrepancy import Basis
from bayeslat.errors import InputError
from bayeslat.inference.convergence import MIN_ESS, ConvergenceVerdict, convergence_verdict
from bayeslat.inference.geometry import Geometry, gaussian_geometry, recentred
from bayeslat.inference.samplers import SAMPLERS, SamplerDraws, SamplerSettings
from bayeslat.observations import Observations

__all__ = ["SampledModel", "check_settings", "sample_model"]

type Array = NDArray[np.float64]
type Report = Callable[[str], None]

PILOT_DRAWS: Final = 150
MAX_PILOTS: Final = 2
PILOT_RHAT: Final = 1.03
"""A pilot that mixes this well needs no better map."""
LONGER: Final = (2.0, 6.0)
"""Least and most that a second run is longer, where the first did not pass: as much as its
effective sample size was short."""


@dataclass(frozen=True)
class SampledModel:
    """Draws of a model's value variables with their statistics and verdict.

    Parameters
    ----------
    values : Dataset
        Value variables (unconstrained), dims chain, draw first.
    sample_stats : Dataset
        ``diverging``, ``n_steps``, ``energy``.
    verdict : ConvergenceVerdict
        Convergence of `values`.
    """

    values: xr.Dataset
    sample_stats: xr.Dataset
    verdict: ConvergenceVerdict


def check_settings(sampler: str, settings: SamplerSettings) -> None:
    """Raise `InputError` for a sampler or settings that cannot be."""
    if sampler not in SAMPLERS:
        raise InputError(
            f"got sampler {sampler!r}, expected one of {list(SAMPLERS)}; correct the name"
        )
    if settings.draws < 10 or settings.tune < 10 or settings.chains < 2:
        raise InputError(
            f"got draws={settings.draws}, tune={settings.tune}, chains={settings.chains}, expected"
            " at least 10 draws, 10 tuning draws and 2 chains (R-hat compares chains)"
        )


def sample_model(
    model: pm.Model,
    observations: Observations,
    quantities: tuple[str, ...],
    w_1: Array,
    stack: NDArray[np.int64],
    *,
    mean: Array,
    variance: Array,
    basis: Basis | None,
    sampler: str,
    settings: SamplerSettings,
    report: Report,
    straighten: bool = True,
) -> SampledModel:
    """Sample a model of `bayeslat.model.build`.

    Parameters
    ----------
    model, observations, quantities, w_1, stack, mean, variance, basis
        As in `bayeslat.inference.geometry.gaussian_geometry`.
    sampler : str
        Name in `bayeslat.inference.samplers.SAMPLERS`.
    settings : SamplerSettings
        Of the run that counts.
    report : callable
        Told in a few words what begins.
    straighten : bool
        As in `bayeslat.inference.geometry.gaussian_geometry`.
    """
    check_settings(sampler, settings)
    seeds = iter(np.random.SeedSequence(settings.seed).generate_state(MAX_PILOTS + 3).tolist())
    report("starting points, nearest Gaussian")
    geometry = gaussian_geometry(
        model,
        observations,
        quantities,
        w_1,
        stack,
        mean=mean,
        variance=variance,
        basis=basis,
        seed=next(seeds),
        straighten=straighten,
    )

    def run(geometry: Geometry, **changes: Any) -> tuple[SampledModel, SamplerDraws]:
        now = replace(settings, seed=next(seeds), **changes)
        draws = SAMPLERS[sampler](geometry.log_density, geometry.dim, now)
        return _labelled(model, geometry, draws, now.max_depth), draws

    for number in range(1, MAX_PILOTS + 1):
        report(f"pilot {number}: {PILOT_DRAWS} draws")
        pilot, draws = run(geometry, draws=PILOT_DRAWS)
        geometry = recentred(geometry, draws.position)
        if pilot.verdict.max_rhat <= PILOT_RHAT:
            break
    report(f"{settings.draws} draws")
    sampled, draws = run(geometry)
    if not sampled.verdict.passed:
        longer = _longer(sampled.verdict, settings.draws)
        report(f"{sampled.verdict}; once more with {longer} draws")
        sampled, _ = run(recentred(geometry, draws.position), draws=longer)
    return sampled


def _longer(verdict: ConvergenceVerdict, draws: int) -> int:
    """Draws of a second run; an effective sample size that is not a number counts as none."""
    found = np.nan_to_num([verdict.min_ess_bulk, verdict.min_ess_tail]).min()
    return round(draws * float(np.clip(MIN_ESS / max(found, 1.0), *LONGER)))


def _labelled(
    model: pm.Model, geometry: Geometry, draws: SamplerDraws, max_depth: int
) -> SampledModel:
    values = geometry.to_values(draws.position)
    dims = {variable.name: variable_dims(model, variable.name) for variable in model.value_vars}
    dataset = xr.Dataset(
        {name: (("chain", "draw", *dims[name]), array) for name, array in values.items()},
        coords={
            name: list(model.coords[name])
            for name in {dim for named in dims.values() for dim in named}
        },
    )
    stats = xr.Dataset(
        {
            name: (("chain", "draw"), getattr(draws, name))
            for name in ("diverging", "n_steps", "energy")
        }
    )
    return SampledModel(dataset, stats, convergence_verdict(dataset, stats, max_depth))


def variable_dims(model: pm.Model, value_name: str) -> tuple[str, ...]:
    """Dims of the random variable behind a value variable; () for a scalar."""
    name = value_name.removesuffix("_log__")
    return tuple(model.named_vars_to_dims.get(name) or ())
