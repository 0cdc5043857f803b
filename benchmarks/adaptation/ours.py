"""The contestant that this is all about: a posterior kept true by `bayeslat.online`."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Self

import numpy as np
import pandas as pd

import bayeslat as bl
from adaptation.rivals.base import Forecast, Happening
from adaptation.rivals.fixed import quantiles_of
from adaptation.streams import of_deployment
from bayeslat import online
from bayeslat.online.rows import Rows
from bayeslat.online.scoring import score
from bayeslat.online.settings import OnlineSettings
from bayeslat.schema import Deployment

__all__ = ["Online", "start_online"]


@dataclass(frozen=True, eq=False)
class Online:
    """A posterior under online adaptation.

    Attributes
    ----------
    state : OnlineState
        All that it remembers.
    watched : tuple of Deployment
        Whose evidence of drift is kept.
    found : mapping of Deployment to float
        That evidence, at the last rows.
    """

    state: online.OnlineState
    watched: tuple[Deployment, ...] = ()
    found: Mapping[Deployment, float] = field(default_factory=lambda: MappingProxyType({}))
    name: str = "bayeslat online"
    happenings: tuple[Happening, ...] = ()
    alone: bool = False

    def observe(self, rows: pd.DataFrame) -> Self:
        """The belief after these rows, in the order of their arrival."""
        state = online.observe(self.state, rows)
        return replace(
            self,
            state=state,
            found=MappingProxyType({one: self._held_against(one, rows) for one in self.watched}),
            happenings=tuple(
                Happening(event.kind, event.deployment, event.n_seen, event.version)
                for event in state.events
            ),
        )

    def predict(self, deployment: Deployment, steps: pd.DataFrame) -> Forecast:
        """What the posterior in force says of steps."""
        # The draws that `state.fleet` would hold; it lays out those of all deployments.
        return Forecast(*quantiles_of(self.state.of(deployment).belief.even, steps))

    def evidence(self, deployment: Deployment) -> float:
        """What was held against the belief at the last rows, 1 at the threshold."""
        return self.found.get(deployment, np.nan)

    def _held_against(self, deployment: Deployment, rows: pd.DataFrame) -> float:
        """What the detector says of new rows: a state keeps its memory and not its verdict."""
        member, own = self.state.of(deployment), of_deployment(rows, deployment)
        if member.regime.waits or own.empty:  # it waits for rows, and does not look
            return np.nan
        steps = bl.validate_steps(own)
        block = Rows.of(steps, arrival=member.n_looked, order=np.arange(len(steps)))
        scores = score(member.belief, block, tolerance=self.state.settings.tolerance)
        return self.state.detector.update(member.detection, scores)[1].evidence


def start_online(
    fleet: bl.FleetPosterior, settings: OnlineSettings, watched: tuple[Deployment, ...] = ()
) -> Online:
    """Start from a fitted fleet."""
    return Online(online.start(fleet, settings), watched)
