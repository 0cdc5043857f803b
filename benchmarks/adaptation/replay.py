"""Streams of recorded steps: real latencies, in the file's order or shuffled.

The file tells no times. In its order the batch size of a deployment rises from one to the largest,
first in decode steps and then in prefills: what is asked of a posterior moves without pause, while
the server stays the same. A slow-down, where there is one, is injected and no measurement.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import bayeslat as bl
from adaptation.streams import TICK, Stream, of_deployment
from bayeslat.errors import InputError
from bayeslat.schema import Deployment

__all__ = ["REPLAYS", "Replay", "recorded_rows", "replay_stream", "split_rows"]

type Array = NDArray[np.float64]

DEPLOYMENTS: Final = tuple(
    Deployment(gpu, model, tp, "tgis")
    for gpu, model, tp in (
        ("A10-24GB", "llama-13b", 2),
        ("A10-24GB", "llama-7b", 2),
        ("A10-24GB", "starcoder", 2),
        ("A100-40GB", "llama-13b", 4),
        ("A100-40GB", "llama-7b", 2),
        ("A100-40GB", "starcoder", 4),
    )
)
"""One server, two GPUs, three LLMs, with 855 to 1,584 steps each."""

KNOWN: Final = 300
"""Rows of each that the base posterior is fitted to, drawn at random."""

ONSET: Final = 250
INJECTED: Final = 0.15
INJECTED_GPU: Final = "A100-40GB"
PROBES: Final = 200
LEAST_PROBES: Final = 100


@dataclass(frozen=True)
class Replay:
    """One way of replaying.

    Attributes
    ----------
    name, title : str
        For tables.
    shuffled, injected : bool
        Whether the order is random, and whether a slow-down is injected.
    """

    name: str
    title: str
    shuffled: bool
    injected: bool

    @property
    def changes(self) -> bool:
        """Whether the latency law changes."""
        return self.injected


REPLAYS: Final = (
    Replay("replay-shuffled", "recorded steps, shuffled", True, False),
    Replay("replay-file", "recorded steps in file order: batch size rises steadily", False, False),
    Replay("replay-shuffled-slow", "recorded steps, shuffled, with an injected 15 % slow-down of"
           " one GPU type", True, True),
    Replay("replay-file-slow", "recorded steps in file order, with an injected 15 % slow-down of"
           " one GPU type", False, True),
)  # fmt: skip


def recorded_rows(path: Path) -> pd.DataFrame:
    """Steps of the replayed deployments, in file order.

    Raises
    ------
    InputError
        The file is not there.
    """
    if not path.is_file():
        raise InputError(f"got no file {path}, expected the recorded steps; give --data")
    steps = bl.read_steps(path).to_frame()
    steps["context_tokens"] = steps["context_tokens"].fillna(0.0)
    return pd.concat([of_deployment(steps, one) for one in DEPLOYMENTS], ignore_index=True)


def split_rows(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows for the base posterior, and all others in their order."""
    known = np.zeros(len(rows), dtype=bool)
    for deployment in DEPLOYMENTS:
        own = np.flatnonzero(rows.index.isin(of_deployment(rows, deployment).index))
        rng = np.random.default_rng([0, zlib.crc32(deployment.label.encode())])
        known[rng.choice(own, KNOWN, replace=False)] = True
    return rows[known].reset_index(drop=True), rows[~known].reset_index(drop=True)


@dataclass(frozen=True, eq=False)
class _Recorded:
    """What is known of a replay."""

    rows: Mapping[Deployment, pd.DataFrame]
    moved: tuple[Deployment, ...]

    def probe(self, deployment: Deployment, seen: int) -> pd.DataFrame:
        """The rows that come next; none where too few are left to judge by."""
        coming = self.rows[deployment].iloc[seen : seen + PROBES]
        # Behind the change alone: a probe on both sides of it has no one law.
        if deployment in self.moved and seen < ONSET:
            coming = coming.head(ONSET - seen)
        return coming if len(coming) >= LEAST_PROBES else coming.head(0)

    def factor(self, deployment: Deployment, steps: pd.DataFrame, seen: Any) -> Array:
        """The injected slow-down, relative to the end."""
        before = np.broadcast_to(seen, len(steps)) < ONSET
        moved = deployment in self.moved
        return np.where(before & moved, 1.0 / (1.0 + INJECTED), 1.0)


def replay_stream(replay: Replay, rows: pd.DataFrame, *, seed: int) -> Stream:
    """Recorded rows as a stream; all deployments take turns until their rows are at an end.

    Parameters
    ----------
    replay : Replay
        How.
    rows : pandas.DataFrame
        The second part of `split_rows`.
    seed : int
        Of the order, within a deployment where shuffled, and of the turns.
    """
    rng = np.random.default_rng([seed, zlib.crc32(replay.name.encode())])
    moved = tuple(one for one in DEPLOYMENTS if replay.injected and one.gpu == INJECTED_GPU)
    own, turns = {}, []
    for deployment in DEPLOYMENTS:
        mine = of_deployment(rows, deployment).reset_index(drop=True)
        if replay.shuffled:
            mine = mine.iloc[rng.permutation(len(mine))].reset_index(drop=True)
        number = np.arange(len(mine))
        slow = (deployment in moved) & (number >= ONSET)
        factor = np.where(slow, 1.0 + INJECTED, 1.0)
        own[deployment] = mine.assign(latency_ms=mine["latency_ms"] * factor)
        turns.append(number + rng.random(len(mine)))
    steps = pd.concat(own.values(), ignore_index=True)
    # The n-th rows of all deployments come between n and n + 1.
    order = np.argsort(np.concatenate(turns), kind="stable")
    steps = steps.iloc[order].reset_index(drop=True)
    steps["timestamp"] = 1.7e9 + 0.02 * np.arange(len(steps))
    tracked = tuple(one for one in DEPLOYMENTS if one.gpu == INJECTED_GPU)[:2]
    return Stream(
        replay.name,
        seed,
        steps,
        tracked,
        _Recorded(own, moved),
        onset=ONSET if replay.injected else None,
        moved=moved,
        disturbed=moved,
        tick=TICK,
    )
