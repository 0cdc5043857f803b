"""One deployment followed through a change: what was measured, what was believed, what was said."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bayeslat.errors import InputError
from bayeslat.plots.style import ACCENT, MUTED, PRIMARY, SECONDARY, heading, is_simulated, styled

__all__ = ["EVENT_MARKS", "HISTORY_COLUMNS", "plot_adaptation"]

HISTORY_COLUMNS: Final = (
    "rows_seen",
    "ratio",
    "rolling_ratio",
    "lower",
    "upper",
    "coverage",
    "evidence",
    "version",
    "events",
)
"""Columns of a history; a column ``timestamp`` may come along."""

EVENT_MARKS: Final = {
    "warning": ("warning", "#E3C565", "solid", 4.0),
    "drift": ("drift declared", "#EE8866", "solid", 4.0),
    "carried": ("moved with its neighbours", "#44AAEE", "solid", 1.2),
    "accepted": ("update in force", "#009E73", "solid", 1.2),
    "rejected": ("update rejected", "#AA4499", (0, (1, 1)), 1.2),
    "rollback": ("rolled back", "#AA4499", "solid", 1.2),
    "change": ("change (truth)", "black", (0, (4, 2)), 1.2),
}
"""Events that are marked: text of the legend, colour, line style and width; others are not drawn.

What an alarm leads to often comes at the same row: it is drawn upon it, thinner and darker.
"""

NOMINAL: Final = 0.9
SHOWN_SPREAD: Final = (0.002, 0.96)
"""Quantiles of the measured ratios between which the upper panel reaches; outliers lie beyond."""

MARGIN: Final = 1.15


@styled
def plot_adaptation(
    history: pd.DataFrame, *, label: str = "", title: str = "A belief kept true"
) -> Figure:
    """Measured over predicted latency with the band of the belief in force, coverage, evidence.

    Parameters
    ----------
    history : pandas.DataFrame
        One row a step or a block of steps, in the order of their arrival, with the columns of
        `HISTORY_COLUMNS`: ``rows_seen`` rows of the deployment up to then; ``ratio`` measured over
        predicted latency and ``rolling_ratio`` its rolling median; ``lower`` and ``upper`` the
        bounds of the predicted 90 % over the predicted median; ``coverage`` the rolling share of
        rows between them; ``evidence`` of drift, 1 at the detector's threshold, NaN where unknown;
        ``version`` of the belief; ``events`` the kinds of what happened, separated by blanks, of
        which those of `EVENT_MARKS` are drawn.
    label : str
        Of the deployment.
    title : str
        Of the picture.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        Columns are missing, or there are no rows.
    """
    missing = [name for name in HISTORY_COLUMNS if name not in history]
    if missing or history.empty:
        found = f"{len(history)} rows without {', '.join(missing)}" if missing else "no rows"
        raise InputError(
            f"history: got {found}, expected at least one row with the columns"
            f" {', '.join(HISTORY_COLUMNS)}; add them"
        )
    told = bool(history["evidence"].notna().any())
    figure = Figure(figsize=(8.0, 5.6 if told else 4.4), layout="constrained")
    heights = [3.0, 1.2, 1.2][: 2 + told]
    grid = figure.subplots(2 + told, 1, sharex=True, height_ratios=heights)
    _draw_ratio(grid[0], history)
    _draw_coverage(grid[1], history)
    if told:
        _draw_evidence(grid[2], history)
    drawn = _draw_events(grid, history)
    grid[-1].set_xlabel("rows of this deployment")
    handles, texts = grid[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=4 if len(drawn) < 5 else 5)
    simulated = is_simulated([label])
    figure.suptitle(heading(f"{title}\n{label}".strip(), simulated=simulated))
    return figure


def _columns(history: pd.DataFrame, *names: str) -> list[NDArray[np.float64]]:
    return [history[name].to_numpy(dtype=float) for name in names]


def _draw_ratio(axes: Axes, history: pd.DataFrame) -> None:
    seen, ratio, rolling, lower, upper = _columns(
        history, "rows_seen", "ratio", "rolling_ratio", "lower", "upper"
    )
    axes.fill_between(seen, lower, upper, color=PRIMARY, alpha=0.18, lw=0, label="predicted 90 %")
    axes.scatter(seen, ratio, s=3.0, color=MUTED, lw=0, alpha=0.6, label="measured", zorder=2)
    axes.plot(seen, rolling, color=PRIMARY, lw=1.4, label="rolling median", zorder=3)
    axes.axhline(1.0, color="black", lw=0.7)
    low, high = np.nanquantile(ratio, SHOWN_SPREAD)
    low, high = min(low, np.nanmin([lower, rolling])), max(high, np.nanmax([upper, rolling]))
    axes.set_ylim(low / MARGIN, high * MARGIN)
    axes.set_ylabel("measured / predicted")
    axes.set_xlim(float(seen.min()), float(seen.max()))


def _draw_coverage(axes: Axes, history: pd.DataFrame) -> None:
    seen, coverage = _columns(history, "rows_seen", "coverage")
    axes.plot(seen, 100.0 * coverage, color=SECONDARY, lw=1.4)
    axes.axhline(100.0 * NOMINAL, color="black", lw=0.7)
    axes.set_ylim(min(60.0, 100.0 * float(np.nanmin(coverage)) - 3.0), 101.0)
    axes.set_ylabel("within 90 %,\n% of rows")


def _draw_evidence(axes: Axes, history: pd.DataFrame) -> None:
    seen, evidence = _columns(history, "rows_seen", "evidence")
    axes.plot(seen, evidence, color=ACCENT, lw=1.2)
    axes.axhline(1.0, color="black", lw=0.7)
    axes.set_ylim(0.0, max(1.2, 1.1 * float(np.nanmax(evidence))))
    axes.set_ylabel("evidence /\nthreshold")


def _draw_events(grid: Sequence[Axes], history: pd.DataFrame) -> list[str]:
    """Lines through all panels; kinds that were drawn."""
    found: dict[str, list[Any]] = {}
    for seen, kinds in zip(history["rows_seen"], history["events"], strict=True):
        for kind in str(kinds).split():
            if kind in EVENT_MARKS:
                found.setdefault(kind, []).append(seen)
    for kind, (text, colour, style, width) in EVENT_MARKS.items():
        for position, seen in enumerate(found.get(kind, [])):
            for axes in grid:
                first = position == 0 and axes is grid[0]
                line = axes.axvline(seen, color=colour, ls=style, lw=width, zorder=1)
                if first:
                    line.set_label(text)
    return list(found)
