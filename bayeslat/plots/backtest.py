"""A backtest: error and coverage of every contender, a point a deployment."""

from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayeslat.evaluation.backtesting import ALL_REGIMES, Backtest
from bayeslat.evaluation.tables import TITLES
from bayeslat.plots.style import (
    ACCENT,
    MUTED,
    PRIMARY,
    heading,
    is_simulated,
    plain_log_ticks,
    styled,
)

__all__ = ["plot_backtest"]

OURS: Final = "bayeslat"
NOMINAL: Final = 0.9
SPREAD: Final = 0.28
"""Half the height over which the points of one contender are spread."""


@styled
def plot_backtest(found: Backtest, split: str) -> Figure:
    """Error of the median and coverage of the 90 % interval by contender; the bar is the median.

    A row of two panels for each number of known steps.

    Parameters
    ----------
    found : Backtest
        The backtest.
    split : str
        One of its splits.
    """
    medians = found.medians(split)
    contenders = list(dict.fromkeys(medians["contender"]))
    own = found.scores[(found.scores["split"] == split) & (found.scores["regime"] == ALL_REGIMES)]
    own = own[own["contender"].isin(contenders)]
    conditions = list(dict.fromkeys(own["k"].fillna(-1.0)))
    rows = len(conditions)
    figure = Figure(
        figsize=(9.0, (0.24 * len(contenders) + 0.75) * rows + 1.0), layout="constrained"
    )
    grid = figure.subplots(rows, 2, squeeze=False, sharey=True, sharex="col")
    bounds = _log_bounds(own["mape"])
    for k, (errors, coverages) in zip(conditions, grid, strict=True):
        part = own[own["k"].fillna(-1.0) == k]
        if k >= 0:
            errors.set_title(f"{k:.0f} steps known of each new deployment", loc="left")
        _dots(errors, part, "mape", contenders)
        errors.set(xscale="log", xlim=bounds)
        plain_log_ticks(errors.xaxis, *bounds)
        _dots(coverages, part, "coverage90", contenders)
        coverages.axvline(NOMINAL, color=ACCENT, lw=1.0, ls="--", label="nominal")
        coverages.set(xlim=(-0.03, 1.03))
    grid[-1, 0].set_xlabel("MAPE of the median, %")
    grid[-1, 1].set_xlabel("share within the 90 % interval")
    figure.suptitle(
        heading(TITLES[split], simulated=is_simulated(own["deployment"].unique())),
    )
    return figure


def _log_bounds(values: pd.Series) -> tuple[float, float]:
    low, high = np.nanquantile(values, [0.0, 0.995])
    return float(low) / 1.15, float(high) * 1.15


def _dots(axes: Axes, part: pd.DataFrame, score: str, contenders: list[str]) -> None:
    """A row a contender: points of the deployments in a fixed order, and their median."""
    order = {label: i for i, label in enumerate(sorted(part["deployment"].unique()))}
    for position, contender in enumerate(contenders):
        own = part[part["contender"] == contender]
        offset = own["deployment"].map(order) / max(len(order) - 1, 1) - 0.5
        colour = PRIMARY if contender == OURS else MUTED
        axes.scatter(own[score], position + 2 * SPREAD * offset, s=8, color=colour, lw=0, alpha=0.8)
        middle = own[score].median()
        axes.plot([middle, middle], [position - 0.36, position + 0.36], color="black", lw=1.8)
    axes.set_yticks(range(len(contenders)), contenders)
    axes.set_ylim(len(contenders) - 0.5, -0.5)
    for text in axes.get_yticklabels():
        text.set_fontweight("bold" if text.get_text() == OURS else "normal")
