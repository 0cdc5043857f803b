"""Pictures of the diagnostics: PIT bands, residuals, replications, comparisons, sensitivities."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure
from scipy import special

from bayeslat.evaluation.comparison import Comparison
from bayeslat.evaluation.predictive_checks import STATISTICS, Replicated
from bayeslat.evaluation.sensitivity import AXES, SensitivityGrid
from bayeslat.plots.style import (
    MAX_PANELS,
    MUTED,
    PRIMARY,
    SECONDARY,
    heading,
    is_simulated,
    label_outer,
    legend_below,
    panels,
    plain_log_ticks,
    styled,
)

__all__ = [
    "plot_comparison",
    "plot_pit_bands",
    "plot_replicated",
    "plot_residuals",
    "plot_sensitivity",
]

_SYMBOLS: Final = {"batch_size": "B", "total_tokens": "S", "context_tokens": "C"}
_BOUND: Final = float(special.ndtri(0.995))
"""Normal score that one residual in a hundred goes beyond, on either side."""


@styled
def plot_pit_bands(
    curves: pd.DataFrame, *, title: str = "Distribution of PIT values less the expected one"
) -> Figure:
    """How far PIT values are from uniform, one panel for each deployment.

    A curve that leaves its band anywhere is one that a right model has once in twenty times. Below
    zero on the left and above on the right: intervals are too wide; the other way round: too
    narrow. All above: predictions are too slow; all below: too fast.

    Parameters
    ----------
    curves : DataFrame
        From `bayeslat.evaluation.predictive_checks.pit_curves`.
    title : str
        Of the picture.
    """
    names = list(dict.fromkeys(curves["deployment"]))
    figure, grid, shown = panels(names, height=2.6, share=True)
    for axes, name in zip(grid, shown, strict=True):
        own = curves[curves["deployment"] == name]
        outside = (own["difference"] < own["lower"]) | (own["difference"] > own["upper"])
        axes.fill_between(
            own["at"], own["lower"], own["upper"], color=MUTED, alpha=0.35, lw=0,
            label="band of a right model, 95 % for the whole curve",
        )  # fmt: skip
        axes.axhline(0.0, color=MUTED, lw=0.8)
        axes.plot(own["at"], own["difference"], color=PRIMARY, lw=1.4, label="measured steps")
        axes.plot(
            own["at"], own["difference"].where(outside), color=SECONDARY, lw=2.2, label="outside"
        )
        axes.set_xlim(0, 1)
    label_outer(grid, "predicted probability of a shorter step (PIT)", "share less expected")
    legend_below(figure, grid, columns=3)
    figure.suptitle(heading(title, names=names, simulated=is_simulated(names)))
    return figure


@styled
def plot_residuals(residuals: pd.DataFrame, *, title: str = "Residuals") -> Figure:
    """Residuals of one deployment against what they must not follow, and against a normal.

    Parameters
    ----------
    residuals : DataFrame
        Rows of one deployment from `bayeslat.evaluation.residuals.quantile_residuals`.
    title : str
        Of the picture, before the deployment's name.
    """
    name = str(residuals["deployment"].iloc[0])
    timed = residuals["timestamp"].notna().all() and residuals["timestamp"].nunique() > 1
    axes_of = {
        "fitted": "predicted latency (ms)",
        "total_tokens": "tokens S",
        "context_tokens": "context C",
    }
    if timed:
        axes_of = {"timestamp": "time (s)", **axes_of}
    figure, grid, _ = panels([*axes_of, "normal"], width=4.2, height=2.9, columns=2)
    for axes, (column, label) in zip(grid, axes_of.items(), strict=False):
        _scatter(axes, residuals, column)
        axes.set(title=f"against {label.partition(' (')[0]}", xlabel=label, ylabel="residual z")
    _normal_plot(grid[-1], residuals["z"].to_numpy())
    legend_below(figure, grid, columns=3)
    figure.suptitle(heading(f"{title}, {name}", simulated=is_simulated([name])))
    return figure


def _scatter(axes: Axes, residuals: pd.DataFrame, column: str) -> None:
    x = residuals[column].to_numpy(dtype=float)
    if column == "timestamp":
        x = x - x.min()
    prompts = (residuals["total_tokens"] > residuals["batch_size"]).to_numpy()
    for chosen, colour, label in (
        (~prompts, PRIMARY, "decode step"),
        (prompts, SECONDARY, "step with a prompt"),
    ):
        if chosen.any():
            axes.plot(x[chosen], residuals["z"].to_numpy()[chosen], ".", ms=3, color=colour,
                      alpha=0.7, label=label)  # fmt: skip
    for bound in (-_BOUND, 0.0, _BOUND):
        axes.axhline(
            bound, color="black", lw=0.7, ls="-" if bound == 0.0 else ":",
            label=None if bound <= 0.0 else "99 % of a right model",
        )  # fmt: skip
    if column != "timestamp" and x.min() > 0.0 and x.max() > 3.0 * x.min():
        axes.set_xscale("log")
        plain_log_ticks(axes.xaxis, x.min(), x.max())


def _normal_plot(axes: Axes, z: np.ndarray) -> None:
    expected = special.ndtri((np.arange(z.size) + 0.5) / z.size)
    axes.plot(expected, np.sort(z), ".", ms=3, color=PRIMARY)
    axes.axline((0.0, 0.0), slope=1.0, color="black", lw=0.7)
    axes.set(title="against a normal", xlabel="expected quantile", ylabel="residual z")


@styled
def plot_replicated(
    replicated: Replicated, *, title: str = "Measured steps among replicated ones"
) -> Figure:
    """Statistics of measured steps with the range of replicated ones, a panel each.

    Parameters
    ----------
    replicated : Replicated
        From `bayeslat.evaluation.predictive_checks.replicate`.
    title : str
        Of the picture.
    """
    table = replicated.table()
    labels = list(replicated.deployments)
    shown = labels[:MAX_PANELS]
    height = 1.1 + 0.22 * len(shown)
    figure, grid, _ = panels(list(STATISTICS), width=3.2, height=height, columns=3)
    at = np.arange(len(shown))
    for position, (axes, name) in enumerate(zip(grid, STATISTICS, strict=True)):
        own = table[table["statistic"] == name].set_index("deployment").loc[shown]
        axes.hlines(at, own["lower"], own["upper"], color=MUTED, lw=4,
                    label="99 % of replications")  # fmt: skip
        axes.plot(own["median"], at, "|", color="black", ms=7, label="median replication")
        inside = (own["lower"] <= own["observed"]) & (own["observed"] <= own["upper"])
        for chosen, colour, label in (
            (inside, PRIMARY, "measured, among them"),
            (~inside, SECONDARY, "measured, outside"),
        ):
            if chosen.any():
                axes.plot(own["observed"][chosen], at[chosen], "o", ms=4.5, color=colour,
                          label=label)  # fmt: skip
        axes.set(yticks=at, yticklabels=shown, title=f"{name} (ms)" if name == "mean" else name)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        if own["lower"].min() > 0.0 and own["upper"].max() > 3.0 * own["lower"].min():
            axes.set_xscale("log")
            ends = own[["lower", "observed"]].min().min(), own[["upper", "observed"]].max().max()
            plain_log_ticks(axes.xaxis, *ends)
        if position % 3:
            axes.tick_params(labelleft=False)
    legend_below(figure, grid, columns=4)
    figure.suptitle(heading(title, names=labels, simulated=is_simulated(labels)))
    return figure


@styled
def plot_comparison(
    comparison: Comparison, *, title: str = "What each is worth: expected log density"
) -> Figure:
    """Differences of expected log density with two standard errors.

    Parameters
    ----------
    comparison : Comparison
        From `bayeslat.evaluation.comparison`.
    title : str
        Of the picture.
    """
    differences = comparison.differences
    figure = Figure(figsize=(6.4, 1.5 + 0.34 * len(differences)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0.0, color="black", lw=0.8)
    for position, item in enumerate(differences):
        colour = PRIMARY if item.clear else MUTED
        axes.errorbar(
            item.elpd, position, xerr=2.0 * item.error, fmt="o", ms=5, color=colour, capsize=3,
            markerfacecolor=colour if item.reliable else "white",
            label=None if not item.reliable else "clear" if item.clear else "no clear difference",
        )  # fmt: skip
    texts = [item.name if item.reliable else f"{item.name} (doubtful)" for item in differences]
    axes.set(yticks=range(len(differences)), yticklabels=texts)
    axes.set_ylim(len(differences) - 0.5, -0.5)
    axes.set_xlabel(f"nats over {comparison.n_rows:,} steps, with two standard errors")
    axes.grid(axis="y", visible=False)
    legend_below(figure, [axes], columns=2)
    figure.suptitle(title)
    return figure


@styled
def plot_sensitivity(
    grid: SensitivityGrid,
    *,
    axes: Sequence[str] = ("batch_size", "total_tokens"),
    title: str = "What one more costs",
) -> Figure:
    """Derivatives of latency over batch size and tokens, with the line where their sign changes.

    Parameters
    ----------
    grid : SensitivityGrid
        From `bayeslat.evaluation.sensitivity.sensitivity_grid`.
    axes : sequence of str
        Which of `bayeslat.evaluation.sensitivity.AXES` to draw.
    title : str
        Of the picture, before the deployment's name.
    """
    figure = Figure(figsize=(4.6 * len(axes), 4.2), layout="constrained")
    for panel, name in zip(figure.subplots(1, len(axes), squeeze=False)[0], axes, strict=True):
        values = np.ma.masked_invalid(grid.slopes[name].value)
        largest = float(np.abs(values).max())
        norm = SymLogNorm(max(largest / 300.0, 1e-12), vmin=-largest, vmax=largest)
        shown = panel.pcolormesh(
            grid.total_tokens, grid.batch_size, values, norm=norm, cmap="RdBu_r", shading="nearest"
        )
        panel.set(xscale="log", yscale="log", xlabel="tokens S", ylabel="batch size B")
        plain_log_ticks(panel.xaxis, grid.total_tokens[0], grid.total_tokens[-1])
        plain_log_ticks(panel.yaxis, grid.batch_size[0], grid.batch_size[-1])
        panel.grid(visible=False)
        panel.set_facecolor("#EEEEEE")
        if values.min() < 0.0 < values.max():
            panel.contour(
                grid.total_tokens, grid.batch_size, values, levels=[0.0], colors="black",
                linewidths=1.4,
            )  # fmt: skip
        unsure = np.ma.masked_invalid(np.minimum(grid.negative[name], 1.0 - grid.negative[name]))
        if unsure.max() > 0.05:
            panel.contourf(
                grid.total_tokens, grid.batch_size, unsure, levels=[0.05, 1.0], colors="none",
                hatches=["..."],
            )  # fmt: skip
        panel.set_title(f"dT/d{_SYMBOLS[name]}, posterior mean")
        bar = figure.colorbar(shown, ax=panel)
        bar.set_label(AXES[name])
    note = "black line: the sign changes; dotted: its sign is not certain to 95 %; grey: S < B"
    figure.supxlabel(note, fontsize=8)
    label = grid.deployment
    figure.suptitle(heading(f"{title}, {label}", simulated=is_simulated([label])))
    return figure
