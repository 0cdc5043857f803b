"""From judgements over time to figures: tables in, numbers out."""

from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "delays",
    "exposure",
    "false_alarms",
    "figures",
    "first_lasting",
    "reference_spread",
]

LASTING: Final = 3
"""Judgements in a row at which a condition has to hold."""

WITHIN: Final = 1.10
COVERED: Final = (0.85, 0.95)
SETTLED: Final = 1 / 3
"""The last part of a stream, in which a belief counts as settled."""

KEYS: Final = ["scenario", "seed", "contestant", "deployment"]


def first_lasting(at: ArrayLike, holds: ArrayLike, lasting: int = LASTING) -> float:
    """Smallest `at` from which a condition holds `lasting` times in a row; NaN if never.

    Parameters
    ----------
    at : array
        Rows since the change, rising.
    holds : array of bool
        Whether the condition holds then.
    lasting : int
        Times in a row.
    """
    where, fine = np.asarray(at, dtype=float), np.asarray(holds, dtype=bool)
    if fine.size < lasting:
        return float("nan")
    runs = np.lib.stride_tricks.sliding_window_view(fine, lasting).all(axis=1)
    return float(where[np.argmax(runs)]) if runs.any() else float("nan")


def reference_spread(references: NDArray[np.float64]) -> float:
    """Standard deviation over time of predicted log-latencies, mean over steps; shape (time, step).

    Times a hundred it is a percentage.
    """
    return float(np.std(references, axis=0).mean())


def figures(judged: pd.DataFrame) -> pd.DataFrame:
    """One row of figures for each scenario, seed, contestant and deployment.

    Parameters
    ----------
    judged : pandas.DataFrame
        From `adaptation.follow.follow`.

    Returns
    -------
    pandas.DataFrame
        `recovered` and `covered`: rows after the change until the error is within 10 % of the
        oracle's and the coverage of 90 % between 85 and 95 %, NaN where never. `settled_...`: mean
        over the last third of the stream. `excess`: settled error over the oracle's. `worst`:
        largest error over the oracle's after the change. `spread`: of predictions over time, once
        settled, %. `row_ms`, `row_worst_ms`: mean time to take in a row, and the largest such mean
        between two judgements.
    """
    rows = [
        {**dict(zip(KEYS, names, strict=True)), **_figures(own.sort_values("seen"))}
        for names, own in judged.groupby(KEYS, sort=False)
    ]
    return pd.DataFrame(rows)


def _figures(own: pd.DataFrame) -> dict[str, Any]:
    after = own[own["since"] >= 0] if own["since"].notna().any() else own
    relative = after["error"] / after["oracle_error"]
    low, high = COVERED
    settled = own.tail(max(1, round(SETTLED * len(own))))
    names = [name for name in own if str(name).startswith("reference_")]
    changed = own["since"].notna().any()
    recovered = first_lasting(after["since"], relative <= WITHIN) if changed else np.nan
    covered = first_lasting(after["since"], after["coverage"].between(low, high))
    return {
        "recovered": recovered,
        "covered": covered if changed else np.nan,
        "settled_error": settled["error"].mean(),
        "settled_oracle": settled["oracle_error"].mean(),
        "excess": settled["error"].mean() / settled["oracle_error"].mean(),
        "worst": relative.max(),
        "mean_error": after["error"].mean(),
        "mean_oracle": after["oracle_error"].mean(),
        "settled_coverage": settled["coverage"].mean(),
        "settled_exceedance": settled["exceedance"].mean(),
        "spread": 100.0 * reference_spread(settled[names].to_numpy()),
        "row_ms": 1e3 * own["row_s"].mean(),
        "row_worst_ms": 1e3 * own["row_s"].max(),
    }


def delays(happenings: pd.DataFrame, onset: int, moved: tuple[str, ...]) -> dict[str, float]:
    """Rows from the change to the first "drift" of each deployment that moved; NaN if none."""
    drifts = happenings[(happenings["kind"] == "drift") & (happenings["n_seen"] > onset)]
    first = drifts.groupby("deployment")["n_seen"].min()
    return {label: float(first.get(label, np.nan)) - onset for label in moved}


def false_alarms(happenings: pd.DataFrame, onset: int | None, moved: tuple[str, ...]) -> int:
    """Drifts that were declared where nothing had changed."""
    drifts = happenings[happenings["kind"] == "drift"]
    true = drifts["deployment"].isin(moved) & (drifts["n_seen"] > (onset or 0))
    return int((~true).sum())


def exposure(rows_by_label: pd.Series, onset: int | None, moved: tuple[str, ...]) -> int:
    """Rows at which a drift would have been false.

    Parameters
    ----------
    rows_by_label : pandas.Series
        Rows of each deployment.
    onset : int, optional
        Rows of each before the change.
    moved : tuple of str
        Labels of the deployments that change.
    """
    still = ~rows_by_label.index.isin(moved)
    return int(rows_by_label[still].sum()) + (onset or 0) * int((~still).sum())
