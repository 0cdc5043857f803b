"""Ways of scheduling an engine side by side: steps over their limit, and what users feel."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayeslat.decisions import SchedulerComparison
from bayeslat.plots.style import (
    ACCENT,
    PRIMARY,
    SECONDARY,
    heading,
    is_simulated,
    legend_below,
    panels,
    plain_log_ticks,
    styled,
)

__all__ = ["plot_schedulers"]

_LEAST = 0.01
"""Shares are drawn from this part of the risk on; what is less stands at the edge."""

_FAR = 5.0
"""Ratio of times from which on they are drawn on a log axis."""


@styled
def plot_schedulers(
    comparison: SchedulerComparison,
    *,
    label: str = "",
    credible: float = 0.9,
    title: str = "Schedulers on the same requests",
) -> Figure:
    """Each scheduler's steps over the limit, attainment, TTFT and TPOT with their intervals.

    Parameters
    ----------
    comparison : SchedulerComparison
        From `bayeslat.decisions.compare_schedulers`.
    label : str
        Of the deployment.
    credible : float
        Mass of the intervals over truths.
    title : str
        Of the picture.
    """
    table = comparison.table(credible=credible)
    limits = comparison.objective.limits()
    names = ["steps over the limit (%)", "requests within the objective (%)", "TTFT p99 (ms)",
             "TPOT p99 (ms)"]  # fmt: skip
    figure, grid, _ = panels(names, width=3.1, height=0.36 * len(table) + 1.2, columns=4)
    over, kept, ttft, tpot = grid
    least = 100.0 * _LEAST * comparison.risk
    _dots(over, table, "over_sla_chosen", scale=100.0, least=least)
    over.axvline(100.0 * comparison.risk, color=SECONDARY, lw=1.2, ls="--", label="admitted risk")
    _log(over, least)
    _dots(kept, table, "attainment", scale=100.0)
    kept.set_xlim(-3.0, 103.0)
    for axes, name in ((ttft, "ttft"), (tpot, "tpot")):
        _dots(axes, table, f"{name}_p99_ms")
        if np.isfinite(limits[f"{name}_ms"]):
            axes.axvline(limits[f"{name}_ms"], color=ACCENT, lw=1.2, ls=":", label="objective")
        _spread(axes)
    for axes in grid[1:]:
        axes.set_yticklabels([])
    legend_below(figure, grid, columns=3)
    question = f"limit of a step {comparison.sla_ms:g} ms; {comparison.objective}"
    second = f"{label}; {question}" if label else question
    figure.suptitle(heading(f"{title}\n{second}", simulated=is_simulated([label])))
    return figure


def _dots(
    axes: Axes, table: pd.DataFrame, name: str, *, scale: float = 1.0, least: float = -np.inf
) -> None:
    """A dot with its interval for each scheduler, from above."""
    place = np.arange(len(table))
    value, lower, upper = (
        np.clip(scale * table[f"{name}{side}"].to_numpy(dtype=float), least, None)
        for side in ("", "_lower", "_upper")
    )
    known = np.isfinite(value)
    axes.hlines(place[known], lower[known], upper[known], color=PRIMARY, lw=2.4, alpha=0.4)
    axes.plot(value[known], place[known], "o", color=PRIMARY, ms=5)
    axes.set_yticks(place, list(table["scheduler"]))
    axes.set_ylim(len(table) - 0.5, -0.5)


def _spread(axes: Axes) -> None:
    """From zero on, or logarithmic where schedulers are far apart."""
    low, high = axes.dataLim.x0, axes.dataLim.x1
    if low > 0.0 and high > _FAR * low:
        _log(axes)
    else:
        axes.set_xlim(left=0.0)


def _log(axes: Axes, least: float | None = None) -> None:
    axes.set_xscale("log")
    if least is not None:
        axes.set_xlim(left=0.8 * least)
    plain_log_ticks(axes.xaxis, *axes.get_xlim())
