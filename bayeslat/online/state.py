"""The state of online adaptation: every deployment of a fleet, and the posterior now in force."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final, Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from bayeslat.errors import UnknownDeploymentError
from bayeslat.observations import Observations, concat
from bayeslat.online.detection import DETECTORS, Detector
from bayeslat.online.events import Event
from bayeslat.online.member import Member
from bayeslat.online.settings import OnlineSettings
from bayeslat.online.vectors import Layout, layout_of
from bayeslat.posterior import FleetPosterior
from bayeslat.schema import PARAMETERS, Deployment

__all__ = ["OnlineState", "observations_of"]

type Array = NDArray[np.float64]

SHARED: Final = {"nu_of_deployment": "nu", "discrepancy_scale": "discrepancy_scale"}
"""Variables that deployments share until one of them is adapted, by what they are called then."""


@dataclass(frozen=True, eq=False)
class OnlineState:
    """A fleet's posterior while it is kept true. Immutable: `observe` returns a new one.

    Parameters
    ----------
    base : FleetPosterior
        The fitted fleet, thinned to the settings' draws.
    settings : OnlineSettings
        How it is kept true.
    members : tuple of Member
        One a deployment, in the order of the fleet.
    n_seen : int
        Rows seen, of all deployments of the fleet.
    events : tuple of Event
        What happened in the last call.
    unknown : mapping of str to int
        Rows of deployments that the fleet does not hold, by label; they are counted, not used.
    quarantine : mapping of str to int
        Rows that were refused, by reason.
    """

    base: FleetPosterior
    settings: OnlineSettings
    members: tuple[Member, ...]
    n_seen: int = 0
    events: tuple[Event, ...] = ()
    unknown: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    quarantine: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def __repr__(self) -> str:
        levels = [member.level for member in self.members if member.level != "quiet"]
        return (
            f"OnlineState({len(self.members)} deployments, {self.n_seen:,} rows, version"
            f" {self.version}, {len(levels)} not quiet)"
        )

    @property
    def version(self) -> int:
        """Rises with every belief that is taken into force, of whichever deployment."""
        return sum(member.version for member in self.members)

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """The deployments."""
        return tuple(member.deployment for member in self.members)

    def of(self, deployment: Deployment) -> Member:
        """One deployment.

        Raises
        ------
        UnknownDeploymentError
            The fleet has no such deployment.
        """
        for member in self.members:
            if member.deployment == deployment:
                return member
        known = ", ".join(member.label for member in self.members[:6])
        raise UnknownDeploymentError(
            f"got {Deployment(*deployment).label}, expected one of {known}"
            f"{', ...' if len(self.members) > 6 else ''}; `state.deployments` lists them"
        )

    @cached_property
    def layout(self) -> Layout:
        """Coordinates of every deployment's vector."""
        return layout_of(self.members[0].base_draws, self.base.spec)

    @cached_property
    def detector(self) -> Detector:
        """The detector that the settings name."""
        return DETECTORS[self.settings.detector](self.settings)

    @cached_property
    def fleet(self) -> FleetPosterior:
        """The posterior now in force.

        Deployments whose rows have moved nothing are as the base has them. What is pooled over the
        fleet (effects and scales) is the base's in any case.
        """
        tree, tempered = self.base.tree.copy(), self.settings.pull != 1.0
        moved = {
            position: member.belief.even
            for position, member in enumerate(self.members)
            if member.version or np.ptp(member.belief.log_weights) > 0.0 or tempered
        }
        if moved:
            tree["posterior"] = xr.DataTree(_with_draws(self.base.posterior, moved))
        versions = {self.members[i].label: self.members[i].version for i in moved}
        tree.attrs = {**self.base.tree.attrs, "adapted": json.dumps(versions)}
        return FleetPosterior(tree)

    def rows(self, *, of_regime: bool = True) -> Observations | None:
        """Recent rows of all deployments as observations; None where there are none.

        Parameters
        ----------
        of_regime : bool
            Only rows since the last change of their deployment.
        """
        parts = [
            observations_of(member, member.of_regime if of_regime else member.rows.arrival >= 0)
            for member in self.members
        ]
        found = [part for part in parts if part is not None]
        return concat(*found) if found else None

    def with_member(self, member: Member) -> Self:
        """The same state with one deployment exchanged."""
        members = tuple(
            member if each.deployment == member.deployment else each for each in self.members
        )
        return replace(self, members=members)


def _with_draws(posterior: xr.Dataset, moved: Mapping[int, Any]) -> xr.Dataset:
    """The posterior with the draws of some deployments exchanged, by their position."""
    chains, draws = posterior.sizes["chain"], posterior.sizes["draw"]
    n = posterior.sizes["deployment"]
    front = ("chain", "draw")
    changed: dict[str, tuple[tuple[str, ...], Array]] = {}
    for name in _variables(next(iter(moved.values()))):
        shared = SHARED.get(name, name)
        if name == "unknown_power":
            changed[name] = ((*front, "deployment"), np.full((chains, draws, n), np.nan))
        elif shared in posterior:
            found = posterior[shared]
            rest = [dim for dim in found.dims if dim not in (*front, "deployment")]
            of_all = found.expand_dims(deployment=n) if "deployment" not in found.dims else found
            dims = (*front, *map(str, rest), "deployment")
            changed[name] = (dims, of_all.transpose(*dims).to_numpy().copy())
    for position, own in moved.items():
        for name, values in _variables(own).items():
            if name in changed:
                changed[name][1][..., position] = values.reshape(chains, draws, *values.shape[1:])
    return posterior.assign(changed)


def _variables(own: Any) -> dict[str, Array]:
    """Draws of one deployment under the names of a posterior's variables, draws first."""
    found = {name: own.parameters[name] for name in PARAMETERS if name in own.parameters}
    found |= {"sigma": own.sigma, "log_sigma_slopes": own.slopes, "nu_of_deployment": own.nu}
    if own.discrepancy is not None:
        found |= {
            "discrepancy": own.discrepancy.weights,
            "discrepancy_scale": own.discrepancy.scale,
            "unknown_power": own.discrepancy.power,
        }
    return found


def observations_of(member: Member, which: NDArray[np.bool_]) -> Observations | None:
    """Some of the recent rows of a deployment as observations; None where there are none.

    Parameters
    ----------
    member : Member
        The deployment.
    which : array of bool, shape (row,)
        Which rows.
    """
    rows = member.rows[which]
    if not len(rows):
        return None
    computes = rows.total_tokens > rows.batch_size
    return Observations(
        deployments=(member.deployment,),
        deployment_index=np.zeros(len(rows), dtype=np.int64),
        batch_size=rows.batch_size,
        total_tokens=rows.total_tokens,
        context_tokens=rows.context_tokens,
        latency_ms=rows.latency_ms,
        n_averaged=rows.n_averaged,
        phase=np.where(computes, "", "decode").astype(object),
        timestamp=rows.timestamp,
        replicate=np.zeros(len(rows), dtype=np.int64),
        source="online",
    )
