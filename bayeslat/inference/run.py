"""From a PyMC model to draws with a verdict: a Gaussian, a pilot, the run that counts.

The pilot only chooses the linear map of the run that counts; none of its draws is kept. Where the
run itself does not pass it serves as one more pilot, and a longer run follows.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pymc as pm
import xarray as xr
from numpy.typing import NDArray

from bayeslat.discrepancy import Basis
from bayeslat.errors import InputError
from bayeslat.inference.convergence import (
    MAX_RHAT,
    MIN_ESS,
    ConvergenceVerdict,
    convergence_verdict,
)
from bayeslat.inference.density import flat_density
from bayeslat.inference.geometry import Geometry, gaussian_geometry, recentred
from bayeslat.inference.samplers import SAMPLERS, SamplerDraws, SamplerSettings
from bayeslat.inference.target import Target
from bayeslat.inference.tempering import SETS, temper
from bayeslat.observations import Observations

__all__ = ["SampledModel", "check_settings", "sample_from_prior", "sample_model"]

type Array = NDArray[np.float64]
type Report = Callable[[str], None]

PILOT_DRAWS: Final = 150
MIN_PARTICLES: Final = 4
"""Particles a coordinate, at least: populations are whitened by their own covariance."""
LONGER: Final = (2.0, 6.0)
"""Least and most that a second run is longer, where the first did not pass."""
MARGIN: Final = 1.5
"""By how much a second run is to pass: its figures are themselves uncertain."""


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
    target: Target | None = None,
    sampler: str,
    settings: SamplerSettings,
    report: Report,
) -> SampledModel:
    """Sample a model of `bayeslat.model.build`.

    Parameters
    ----------
    model, observations, quantities, w_1, stack, mean, variance, basis, target
        As in `bayeslat.inference.geometry.gaussian_geometry`.
    sampler : str
        Name in `bayeslat.inference.samplers.SAMPLERS`.
    settings : SamplerSettings
        Of the run that counts.
    report : callable
        Told in a few words what begins.
    """
    seeds = iter(np.random.SeedSequence(settings.seed).generate_state(4).tolist())
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
        target=target,
        seed=next(seeds),
    )

    def run(geometry: Geometry, settings: SamplerSettings) -> tuple[SampledModel, SamplerDraws]:
        now = replace(settings, seed=next(seeds))
        draws = SAMPLERS[sampler](geometry.log_density, geometry.dim, now)
        values = geometry.to_values(draws.position)
        return _labelled(model, values, draws, now.max_depth), draws

    report(f"pilot: {PILOT_DRAWS} draws")
    _, draws = run(geometry, replace(settings, draws=PILOT_DRAWS))
    geometry = recentred(geometry, draws.position)
    report(f"{settings.draws} draws")
    sampled, draws = run(geometry, settings)
    if settings.retry and not sampled.verdict.passed:
        more = _more_careful(sampled.verdict, settings)
        report(f"{sampled.verdict}; once more with {more.draws} draws")
        sampled, _ = run(recentred(geometry, draws.position), more)
    return sampled


def sample_from_prior(
    model: pm.Model,
    prior_draws: Callable[[int, np.random.Generator], dict[str, Array]],
    *,
    settings: SamplerSettings,
    report: Report,
) -> SampledModel:
    """Sample a model of few steps by populations that start in its prior.

    Parameters
    ----------
    model : pymc.Model
        From `bayeslat.model.continued`.
    prior_draws : callable
        Value variables by name, each (n, ...), from n and a random generator.
    settings : SamplerSettings
        Of these chains, draws (more where the posterior has many coordinates), seed and retry
        are heeded.
    report : callable
        Told in a few words what begins.
    """
    density = flat_density(model)
    rng = np.random.default_rng([settings.seed, 2])  # the prediction has taken the seed itself
    least = -(-MIN_PARTICLES * density.dim // settings.chains)

    def run(draws: int) -> SampledModel:
        size = max(-(-draws // SETS), least)
        drawn = prior_draws(settings.chains * size, rng)
        starts = density.join(drawn).reshape(settings.chains, size, -1)
        found = temper(density, starts, settings, report)
        return _labelled(model, density.split(found.position), found, settings.max_depth)

    report(f"populations of {settings.draws} draws")
    sampled = run(settings.draws)
    if settings.retry and not sampled.verdict.passed:
        more = _more_careful(sampled.verdict, settings).draws
        report(f"{sampled.verdict}; once more with {more} draws")
        sampled = run(more)
    return sampled


def _more_careful(verdict: ConvergenceVerdict, settings: SamplerSettings) -> SamplerSettings:
    """A second run: longer by what the first lacked, in smaller steps where it diverged.

    The excess of R-hat falls as effective sample size grows. Figures that are not numbers count as
    the worst ones.
    """
    ess = np.nan_to_num([verdict.min_ess_bulk, verdict.min_ess_tail]).min()
    excess = np.nan_to_num(verdict.max_rhat - 1.0, nan=np.inf) / (MAX_RHAT - 1.0)
    lacking = MARGIN * max(MIN_ESS / max(ess, 1.0), excess)
    longer = replace(settings, draws=round(settings.draws * float(np.clip(lacking, *LONGER))))
    if verdict.divergences:
        return replace(longer, target_accept=0.5 * (1.0 + settings.target_accept))
    return longer


def _labelled(
    model: pm.Model, values: dict[str, Array], draws: SamplerDraws, max_depth: int
) -> SampledModel:
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
