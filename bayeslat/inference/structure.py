"""Which coordinates of a posterior meet in which of its parts.

The likelihood of one deployment does not depend on the coordinates of another. In the prior one
pooled quantity does not depend on another, nor does a weight of the discrepancy on another weight,
nor a slope of the noise on another slope.
Both are what makes exact Hessians cheap (`bayeslat.inference.curvature`) and the Gaussian of the
posterior an arrow (`bayeslat.inference.arrow`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
from numpy.typing import NDArray

from bayeslat.inference.arrow import ArrowLayout, arrow_layout
from bayeslat.inference.curvature import IGNORED, SHARED
from bayeslat.inference.density import FlatDensity

__all__ = ["Structure", "structure_of"]

type Array = NDArray[np.float64]
type Index = NDArray[np.int64]

OF_DEPLOYMENTS = ("quantities", "log_sigma", "log_sigma_slopes", "stray_log_odds", "discrepancy")
"""Variables with a deployment as their last axis; a model may lack the last two."""

NOISE = ("log_sigma", "log_sigma_mean", "log_sigma_gpu", "log_sigma_scale_log__")
STRAYS = ("stray_log_odds",)

SCALE_SUFFIX = "_scale_log__"


@dataclass(frozen=True)
class Structure:
    """Groups of coordinates, as `bayeslat.inference.curvature.derivatives` takes them.

    Parameters
    ----------
    prior, likelihood : array of int, shape (dim,)
        Group of each coordinate in the prior and in the likelihood.
    layout : ArrowLayout
        Core and leaves of the posterior's Gaussian.
    """

    prior: Index
    likelihood: Index
    layout: ArrowLayout

    @property
    def blocks(self) -> Index:
        """Coordinates of each deployment, shape (deployment, n)."""
        order = np.argsort(self.likelihood, kind="stable")
        own = order[self.likelihood[order] >= 0]
        return own.reshape(self.likelihood.max() + 1, -1)

    def definite(self, prior: Array, likelihood: Array) -> Array:
        """A precision that is positive definite, shared scales aside, from two that may not be.

        Given the scales the prior is Gaussian and definite. What is added to it is the likelihood's
        part of each deployment without its negative eigenvalues, in units of the prior.

        Parameters
        ----------
        prior, likelihood : array, shape (dim, dim)
            Minus the Hessians.
        """
        if not np.isfinite(likelihood).all():
            return prior + likelihood
        blocks = self.blocks
        where = blocks[:, :, None], blocks[:, None, :]
        scale = np.sqrt(np.abs(np.diagonal(prior)))[blocks]
        unit = scale[:, :, None] * scale[:, None, :]
        values, vectors = np.linalg.eigh(likelihood[where] / unit)
        kept = (vectors * np.maximum(values, 0.0)[:, None, :]) @ np.swapaxes(vectors, 1, 2)
        total = prior + likelihood
        total[where] += kept * unit - likelihood[where]
        return total


def structure_of(model: pm.Model, density: FlatDensity, stack: Index) -> Structure:
    """Read the structure off a model.

    Parameters
    ----------
    model : pymc.Model
        From `bayeslat.model.build` or `bayeslat.model.continued`.
    density : FlatDensity
        Its density.
    stack : array of int, shape (deployment,)
        Software stack of each deployment, whose discrepancies have a part in common.
    """
    slices = density.slices()
    return Structure(
        _prior_groups(model, density, slices),
        _likelihood_groups(density, slices),
        _layout(density, slices, stack),
    )


def _prior_groups(model: pm.Model, density: FlatDensity, slices: Mapping[str, slice]) -> Index:
    """One group a pooled quantity with its scales, one a weight or slope, and the rest."""
    groups = np.full(density.dim, SHARED)
    names = list(model.coords["quantity"])
    first = len(names)
    for name in ("discrepancy", "log_sigma_slopes"):
        if name in slices:
            n_rows, n_deployments = density.shapes[name]
            groups[slices[name]] = np.repeat(first + np.arange(n_rows), n_deployments)
            if f"{name}_mean" in slices:
                groups[slices[f"{name}_mean"]] = first + np.arange(n_rows)
            first += n_rows
    for position, members in enumerate((NOISE, STRAYS)):
        for name in set(members) & set(slices):
            groups[slices[name]] = first + position
    if "fleet" in model.named_vars:  # a fleet's summary ties all quantities to each other
        return groups
    n_deployments = density.shapes["quantities"][1]
    groups[slices["quantities"]] = np.repeat(np.arange(len(names)), n_deployments)
    for name, where in slices.items():
        scaled = model.coords.get(f"{name.removesuffix(SCALE_SUFFIX)}_scaled")
        if scaled is not None:
            groups[where] = [names.index(quantity) for quantity in scaled]
    return groups


def _likelihood_groups(density: FlatDensity, slices: Mapping[str, slice]) -> Index:
    groups = np.full(density.dim, IGNORED)
    for name, where in slices.items():
        if name in OF_DEPLOYMENTS:
            groups[where] = np.broadcast_to(
                np.arange(density.shapes[name][-1]), density.shapes[name]
            ).ravel()
        elif name.startswith(("nu_", "discrepancy_")):
            groups[where] = SHARED
    return groups


def _layout(density: FlatDensity, slices: Mapping[str, slice], stack: Index) -> ArrowLayout:
    shared = np.zeros(density.dim, dtype=bool)
    for name, where in slices.items():
        shared[where] = name.endswith(SCALE_SUFFIX) or name.startswith("nu_")
    tail = np.flatnonzero(shared)
    if "discrepancy" not in slices:
        return arrow_layout(density.dim, [], [], tail)

    def of(name: str, members: Any) -> Index:
        where = np.arange(density.dim)[slices[name]].reshape(density.shapes[name])
        return where[..., members].ravel()

    of_weights = [
        np.arange(where.start, where.stop)
        for name, where in slices.items()
        if name.startswith(("discrepancy_", "nu_"))
    ]
    own = [name for name in OF_DEPLOYMENTS if name in slices and name != "discrepancy"]
    leaves, near = [], []
    for member in np.unique(stack):
        members = np.flatnonzero(stack == member)
        leaves.append(of("discrepancy", members))
        near.append(np.concatenate([*(of(name, members) for name in own), *of_weights]))
    return arrow_layout(density.dim, leaves, near, tail)
