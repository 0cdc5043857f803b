"""Fit a fleet: observations and a spec in, a labelled posterior out."""

from collections.abc import Callable
from typing import Final

import numpy as np
import xarray as xr

from bayeslat.catalog import Catalog
from bayeslat.inference.run import sample_model
from bayeslat.inference.samplers import SamplerSettings
from bayeslat.inference.tree import fleet_tree
from bayeslat.model.build import build_model
from bayeslat.model.design import fleet_design
from bayeslat.model.observed import observed_basis
from bayeslat.model.pooling import marginal_variance, prior_mean
from bayeslat.model.spec import ModelSpec
from bayeslat.observations import Observations

__all__ = ["sample_fleet", "spec_for"]


INFORMED_SHARE: Final = 0.5
"""Share of the deployments that must tell r_C for it to be in the model."""


def spec_for(observations: Observations, spec: ModelSpec | None) -> ModelSpec:
    """The spec in force: without the terms that no row can tell anything about.

    Context is left out where no row records it, and what prefills cost where every row is a decode
    step. What context costs beside a prefill is left out where no step computes prompts and attends
    to more than their tokens; unless asked for, also where fewer than half of the deployments have
    such steps: sampling then takes many times as long for a ratio that few predictions use.
    """
    needed = INFORMED_SHARE if spec is None else 0.0
    spec = spec or ModelSpec()
    if not observations.has_context:
        spec = spec.without("tau_C")
    if (observations.total_tokens <= observations.batch_size).all():
        spec = spec.without("r_F", "r_B")
    with_prefill = observations.total_tokens > observations.batch_size
    # Unknown contexts are NaN, which exceeds nothing.
    older = with_prefill & (observations.context_tokens > observations.total_tokens)
    informed = np.unique(observations.deployment_index[older]).size
    if informed == 0 or informed < needed * len(observations.deployments):
        spec = spec.without("r_C")
    return spec


def sample_fleet(
    observations: Observations,
    spec: ModelSpec | None,
    catalog: Catalog,
    *,
    sampler: str,
    settings: SamplerSettings,
    report: Callable[[str], None],
) -> xr.DataTree:
    """Build the model of a fleet, sample it and label the draws.

    Parameters
    ----------
    observations : Observations
        Validated steps.
    spec : ModelSpec, optional
        The default model where None.
    catalog : Catalog
        Datasheets.
    sampler : str
        Name in `bayeslat.inference.samplers.SAMPLERS`.
    settings : SamplerSettings
        Draws, chains, seed.
    report : callable
        Told in a few words what begins.
    """
    spec = spec_for(observations, spec)
    design = fleet_design(observations.deployments, catalog)
    sampled = sample_model(
        build_model(observations, spec, catalog=catalog),
        observations,
        spec.quantities,
        design.w_1,
        design.levels["stack"].index,
        mean=prior_mean(spec, design),
        variance=marginal_variance(spec, design),
        basis=observed_basis(observations, spec),
        sampler=sampler,
        settings=settings,
        report=report,
    )
    return fleet_tree(
        sampled, observations, spec, design, catalog, seed=settings.seed, sampler=sampler
    )
