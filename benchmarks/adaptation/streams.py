"""Streams of steps in time, and the steps at which a belief is judged on the way."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslat.schema import DEPLOYMENT_COLUMNS, Deployment

__all__ = ["TICK", "Stream", "Tick", "World", "label_of", "of_deployment"]

type Array = NDArray[np.float64]

TICK: Final = 50
"""Rows of each deployment between two judgements."""


def label_of(rows: pd.DataFrame) -> pd.Series:
    """Label of the deployment of each row."""
    columns = [name for name in DEPLOYMENT_COLUMNS if name in rows]
    known = {
        row: Deployment(*row).label
        for row in rows[columns].drop_duplicates().itertuples(index=False, name=None)
    }
    keys = rows[columns].itertuples(index=False, name=None)
    return pd.Series([known[key] for key in keys], index=rows.index)


def of_deployment(rows: pd.DataFrame, deployment: Deployment) -> pd.DataFrame:
    """Rows of one deployment, in their order."""
    same = [rows[name] == value for name, value in deployment._asdict().items() if name in rows]
    return rows[np.logical_and.reduce(same)]


class World(Protocol):
    """What is true while a stream runs."""

    def probe(self, deployment: Deployment, seen: int) -> pd.DataFrame:
        """Steps with their latencies under the law in force after `seen` rows; may be empty."""

    def factor(self, deployment: Deployment, steps: pd.DataFrame, seen: Any) -> Array:
        """Typical latency after `seen` rows, relative to that at the end of the stream.

        `seen` is one number, or one a step.
        """


@dataclass(frozen=True, eq=False)
class Tick:
    """Rows that arrive between two judgements.

    Attributes
    ----------
    seen : int
        Rows of each deployment that came before.
    rows : pandas.DataFrame
        In the order of their arrival.
    """

    seen: int
    rows: pd.DataFrame


@dataclass(frozen=True, eq=False)
class Stream:
    """Steps of several deployments in time.

    Attributes
    ----------
    name : str
        Of the scenario.
    seed : int
        Of the rows.
    steps : pandas.DataFrame
        Canonical columns and a timestamp, in the order of arrival.
    tracked : tuple of Deployment
        The deployments whose belief is judged.
    world : World
        What to judge it by.
    onset : int, optional
        Rows of each deployment before something happens; None where nothing does.
    moved : tuple of Deployment
        The deployments whose latency law changes.
    disturbed : tuple of Deployment
        The deployments whose rows are not of one law, moved or not: of them no alarm is false.
    tick : int
        Rows of the deployment that has most, between two judgements.
    """

    name: str
    seed: int
    steps: pd.DataFrame
    tracked: tuple[Deployment, ...]
    world: World
    onset: int | None = None
    moved: tuple[Deployment, ...] = ()
    disturbed: tuple[Deployment, ...] = ()
    tick: int = TICK

    def ticks(self) -> Iterator[Tick]:
        """The rows in blocks."""
        labels = label_of(self.steps)
        number = self.steps.groupby(labels, sort=False).cumcount().to_numpy()
        block = np.maximum.accumulate(number) // self.tick
        for position in range(int(block.max()) + 1):
            yield Tick(position * self.tick, self.steps[block == position])
