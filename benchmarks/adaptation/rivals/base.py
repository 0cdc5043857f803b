"""What every contestant takes and gives, and what those share that know one deployment each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from adaptation.streams import label_of
from bayeslat.schema import Deployment

__all__ = [
    "LEVELS",
    "Contestant",
    "Each",
    "Forecast",
    "Happening",
    "Tracker",
    "from_quantiles",
    "gathered",
]

type Array = NDArray[np.float64]

LEVELS: Final = (0.5, 0.05, 0.95, 0.99)
"""Levels of the median, the lower and upper bound, and p99."""


class Forecast(NamedTuple):
    """Quantiles of the latency of some steps, ms; every field has shape (row,)."""

    median: Array
    lower: Array
    upper: Array
    p99: Array

    def scaled(self, factor: Array) -> "Forecast":
        """All quantiles times a factor."""
        return Forecast(*(part * factor for part in self))


class Happening(NamedTuple):
    """Something that a contestant says of itself; see `bayeslat.online.events.Event`."""

    kind: str
    deployment: str
    n_seen: int
    version: int


class Contestant(Protocol):
    """A belief that changes with the rows that it is shown. Immutable."""

    @property
    def name(self) -> str:
        """For tables."""

    @property
    def alone(self) -> bool:
        """Whether rows of one deployment tell it nothing of another."""

    @property
    def happenings(self) -> tuple[Happening, ...]:
        """What it says of the rows that it was shown last."""

    def observe(self, rows: pd.DataFrame) -> Self:
        """The belief after these rows, in the order of their arrival."""

    def predict(self, deployment: Deployment, steps: pd.DataFrame) -> Forecast:
        """What it believes of steps of one deployment."""

    def evidence(self, deployment: Deployment) -> float:
        """What it holds against its belief, 1 at its threshold; NaN where it looks for nothing."""


class Tracker(Protocol):
    """A belief about one deployment. Immutable."""

    def observe(self, rows: pd.DataFrame) -> Self:
        """The belief after these rows."""

    def predict(self, steps: pd.DataFrame) -> Forecast:
        """What it believes of steps."""


@dataclass(frozen=True)
class Each[T: Tracker]:
    """A contestant that keeps one tracker a deployment.

    Attributes
    ----------
    name : str
        For tables.
    start : callable
        Tracker of a deployment before the first row.
    trackers : mapping of str to Tracker
        By label, of the deployments that were seen.
    """

    name: str
    start: Callable[[Deployment], T]
    trackers: Mapping[str, T] = field(default_factory=lambda: MappingProxyType({}))
    happenings: tuple[Happening, ...] = ()
    alone: bool = True

    def observe(self, rows: pd.DataFrame) -> Self:
        """The belief after these rows, in the order of their arrival."""
        changed = {
            label: self._of(deployment_of(own)).observe(own)
            for label, own in rows.groupby(label_of(rows), sort=False)
        }
        return replace(self, trackers=MappingProxyType({**self.trackers, **changed}))

    def predict(self, deployment: Deployment, steps: pd.DataFrame) -> Forecast:
        """What it believes of steps of one deployment."""
        return self._of(deployment).predict(steps)

    def evidence(self, deployment: Deployment) -> float:
        """It looks for no drift."""
        return np.nan

    def _of(self, deployment: Deployment) -> T:
        found = self.trackers.get(deployment.label)
        return self.start(deployment) if found is None else found


def deployment_of(rows: pd.DataFrame) -> Deployment:
    """The deployment of rows of one."""
    first = rows.iloc[0]
    return Deployment(*(first[name] for name in Deployment._fields if name in rows))


def from_quantiles(median: Array, ratios: Array) -> Forecast:
    """A median with bounds where past latencies lay relative to theirs.

    Parameters
    ----------
    median : array
        Shape (row,), ms.
    ratios : array
        Past latencies relative to their medians.
    """
    low, high, p99 = np.quantile(ratios, LEVELS[1:])
    return Forecast(median, median * low, median * high, median * p99)


def gathered[B: Any](belief: B, rows: pd.DataFrame) -> tuple[B, bool]:
    """A belief with further rows, `window` at most, and whether a fit is due, every `every` rows.

    Parameters
    ----------
    belief : dataclass
        With the fields rows, window, every and waiting.
    rows : pandas.DataFrame
        The new rows.
    """
    kept = pd.concat([belief.rows, rows], ignore_index=True).tail(belief.window)
    waiting = belief.waiting + len(rows)
    due = waiting >= belief.every
    return replace(belief, rows=kept, waiting=waiting % belief.every), due
