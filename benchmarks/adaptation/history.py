"""The history of one tracked deployment, as `bayeslat.plots.adaptation` draws it."""

from typing import Final

import pandas as pd
from pandas.api.typing import Rolling

from adaptation.follow import Followed

__all__ = ["history_of"]

ROLLING: Final = 50
"""Rows of a rolling median and a rolling coverage."""


def history_of(
    followed: Followed, contestant: str, deployment: str, onset: int | None, tick: int
) -> pd.DataFrame:
    """Rows of one deployment beside the belief of one contestant, one row a step.

    Parameters
    ----------
    followed : Followed
        With the rows of this contestant recorded.
    contestant, deployment : str
        Name and label.
    onset : int, optional
        Rows before the change.
    tick : int
        Rows that a contestant is shown at a time.
    """
    chosen = followed.rows[
        (followed.rows["contestant"] == contestant) & (followed.rows["deployment"] == deployment)
    ].reset_index(drop=True)
    ratio = chosen["latency_ms"] / chosen["median"]
    inside = chosen["latency_ms"].between(chosen["lower"], chosen["upper"]).astype(float)
    seen = pd.Series(range(1, len(chosen) + 1))
    told = followed.happenings[
        (followed.happenings["contestant"] == contestant)
        & (followed.happenings["deployment"] == deployment)
    ]
    events = told.groupby("n_seen")["kind"].agg(" ".join)
    if onset is not None:
        events.loc[onset] = f"{events.get(onset, '')} change".strip()
    versions = told.groupby("n_seen")["version"].max()
    return pd.DataFrame(
        {
            "rows_seen": seen,
            "timestamp": chosen["timestamp"],
            "ratio": ratio,
            "rolling_ratio": _rolling(ratio).median(),
            "lower": _rolling(chosen["lower"] / chosen["median"]).median(),
            "upper": _rolling(chosen["upper"] / chosen["median"]).median(),
            "coverage": _rolling(inside).mean(),
            # It was asked for before a block of rows, and is of the block before.
            "evidence": chosen["evidence"].shift(-tick),
            "version": seen.map(versions).ffill().fillna(0).astype(int),
            "events": seen.map(events).fillna(""),
        }
    )


def _rolling(values: pd.Series) -> Rolling:
    """The last rows; bounds differ from step to step, and are rolled to be read."""
    return values.rolling(ROLLING, min_periods=1)
