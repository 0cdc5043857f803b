"""Measured against predicted latency, and whether measured steps fall where they should."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayeslat.plots.style import (
    MUTED,
    PRIMARY,
    SECONDARY,
    heading,
    is_simulated,
    label_outer,
    panels,
    plain_log_ticks,
    styled,
)

__all__ = ["plot_fit", "plot_pit"]


@styled
def plot_fit(table: pd.DataFrame, *, title: str = "Measured against predicted latency") -> Figure:
    """Measured against predicted latency with 90 % intervals, one panel for each deployment.

    Parameters
    ----------
    table : DataFrame
        From `bayeslat.checks.predict_rows`.
    title : str
        Of the picture.
    """
    names = list(dict.fromkeys(table["deployment"]))
    figure, grid, shown = panels(names)
    for axes, name in zip(grid, shown, strict=True):
        draw_agreement(axes, table[table["deployment"] == name])
    label_outer(grid, "predicted latency (ms)", "measured latency (ms)")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.suptitle(heading(title, names=names, simulated=is_simulated(names)))
    return figure


@styled
def plot_pit(table: pd.DataFrame, *, title: str = "Posterior predictive check") -> Figure:
    """Cumulative share of PIT values of each deployment, which a true model puts on the diagonal.

    The grey band is where 95 % of such curves would be at any one place if the model were true.

    Parameters
    ----------
    table : DataFrame
        From `bayeslat.checks.predict_rows`.
    title : str
        Of the picture.
    """
    names = list(dict.fromkeys(table["deployment"]))
    figure, grid, shown = panels(names, height=2.6, share=True)
    for axes, name in zip(grid, shown, strict=True):
        pit = np.sort(table.loc[table["deployment"] == name, "pit"].to_numpy())
        at = np.linspace(0.0, 1.0, 101)
        half = 1.96 * np.sqrt(at * (1.0 - at) / pit.size)
        axes.fill_between(
            at, at - half, at + half, color=MUTED, alpha=0.35, lw=0, label="expected, 95 % band"
        )
        axes.plot([0, 1], [0, 1], color=MUTED, lw=0.8)
        share = np.arange(1, pit.size + 1) / pit.size
        axes.step(pit, share, where="post", color=PRIMARY, lw=1.4, label="measured steps")
        axes.set(xlim=(0, 1), ylim=(0, 1))
    label_outer(grid, "predicted probability of a shorter step (PIT)", "share of measured steps")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    figure.suptitle(heading(title, names=names, simulated=is_simulated(names)))
    return figure


def draw_agreement(axes: Axes, table: pd.DataFrame) -> None:
    """Measured against predicted latency on log axes: dots, 90 % intervals, the diagonal."""
    observed = table["observed"].to_numpy()
    median = table["median"].to_numpy()
    lower, upper = table["lower_90"].to_numpy(), table["upper_90"].to_numpy()
    inside = (lower <= observed) & (observed <= upper)
    positive = np.maximum(lower, 1e-3 * median)
    axes.hlines(observed, positive, upper, color=MUTED, lw=0.7, label="90 % interval", zorder=1)
    for mask, colour, label in (
        (inside, PRIMARY, "measured, inside"),
        (~inside, SECONDARY, "measured, outside"),
    ):
        axes.plot(median[mask], observed[mask], ".", ms=3, color=colour, label=label, zorder=3)
    bounds = observed.min() / 1.3, observed.max() * 1.3
    axes.plot(bounds, bounds, color="black", lw=0.7, zorder=2)
    axes.set(xscale="log", yscale="log", ylim=bounds)
    for axis in (axes.xaxis, axes.yaxis):
        plain_log_ticks(axis, *bounds)
