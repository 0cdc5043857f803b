"""Serving over loads: latency and goodput, ways of batching, prefill and decode apart."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayeslat.decisions import Disaggregation, LoadCurve, PolicyComparison
from bayeslat.plots.style import (
    ACCENT,
    MUTED,
    PRIMARY,
    SECONDARY,
    SERIES,
    heading,
    is_simulated,
    legend_below,
    panels,
    plain_log_ticks,
    styled,
)

__all__ = ["plot_disaggregation", "plot_load_curve", "plot_policies"]

_LOAD = "offered load (requests/s)"
_MARKERS = ("o", "s", "^", "D", "v", "P")


@styled
def plot_load_curve(
    curve: LoadCurve,
    *,
    label: str = "",
    credible: float = 0.9,
    title: str = "Latency and goodput over load",
) -> Figure:
    """TTFT, TPOT and goodput over load, with intervals and the lines of the objective.

    Parameters
    ----------
    curve : LoadCurve
        From `bayeslat.decisions.ServedDeployment.load_curve`.
    label : str
        Of the deployment.
    credible : float
        Mass of the bands.
    title : str
        Of the picture.
    """
    table = curve.table(credible=credible)
    limits = curve.objective.limits()
    figure, grid, _ = panels(["TTFT", "TPOT", "goodput"], width=3.6, height=3.0)
    for axes, name in zip(grid, ("ttft", "tpot"), strict=False):
        for column, colour, marker in (("p50", PRIMARY, "o"), ("p99", SECONDARY, "s")):
            _line(axes, table, f"{name}_{column}_ms", colour, column, marker)
        _limit(axes, limits[f"{name}_ms"])
        _log(axes, "time (ms)")
    loads = table["arrivals_per_s"].to_numpy()
    grid[2].plot(loads, loads, color=MUTED, lw=1.0, ls="--", label="offered")
    _line(grid[2], table, "goodput_per_s", SERIES[2], "goodput", "^")
    grid[2].set(ylabel="requests/s within the objective", ylim=(0.0, 1.08 * loads.max()))
    _mark_behind(grid, loads, table["p_behind"].to_numpy())
    _finish(figure, grid, title, f"{label}; {curve.objective}".removeprefix("; "), label)
    return figure


@styled
def plot_policies(
    comparison: PolicyComparison,
    *,
    label: str = "",
    credible: float = 0.9,
    sla_ms: float | None = None,
    title: str = "From arrival to answer, by how requests are batched",
) -> Figure:
    """Median and p99 over load for each policy; a curve ends with a cross where it is unstable.

    Parameters
    ----------
    comparison : PolicyComparison
        From `bayeslat.decisions.ServedDeployment.compare_policies`.
    label : str
        Of the deployment.
    credible : float
        Mass of the bands.
    sla_ms : float, optional
        Limit on the p99.
    title : str
        Of the picture.
    """
    table = comparison.table(credible=credible)
    figure, grid, _ = panels(["p50", "p99"], width=4.4, height=3.4, columns=2)
    for axes, name in zip(grid, ("p50_ms", "p99_ms"), strict=True):
        finite = table[[name, f"{name}_upper"]].to_numpy()
        top = 1.3 * finite[np.isfinite(finite)].max(initial=1.0)
        for position, policy in enumerate(comparison.policies):
            rows = table[table["policy"] == policy.name]
            colour, marker = (kind[position % len(kind)] for kind in (SERIES, _MARKERS))
            _line(axes, rows, name, colour, policy.name, marker, alpha=0.1, top=top)
            _end(axes, rows, name)
        _log(axes, "time (ms)", top=top)
    if sla_ms is not None:
        _limit(grid[1], sla_ms)
        plain_log_ticks(grid[1].yaxis, *grid[1].get_ylim())
    _finish(figure, grid, title, label, label, columns=3)
    return figure


@styled
def plot_disaggregation(
    comparison: Disaggregation,
    *,
    label: str = "",
    credible: float = 0.9,
    title: str = "Prefill and decode together or apart",
) -> Figure:
    """Goodput a device, TTFT and TPOT of both ways over load, and the probability that one wins.

    Parameters
    ----------
    comparison : Disaggregation
        From `bayeslat.decisions.ServedDeployment.compare_disaggregation`.
    label : str
        Of the deployment.
    credible : float
        Mass of the bands.
    title : str
        Of the picture.
    """
    table = comparison.table(credible=credible)
    limits = comparison.aggregated.objective.limits()
    names = ["goodput a device", "P(apart has the larger goodput)", "TTFT p99", "TPOT p99"]
    figure, grid, _ = panels(names, width=4.2, height=2.6, columns=2)
    goodput, wins, ttft, tpot = grid
    for side, text, colour, marker in (
        ("aggregated", "together", PRIMARY, "o"),
        ("disaggregated", "apart", SECONDARY, "s"),
    ):
        _line(goodput, table, f"{side}_goodput_per_gpu_s", colour, text, marker)
        _line(ttft, table, f"{side}_ttft_p99_ms", colour, text, marker)
        _line(tpot, table, f"{side}_tpot_p99_ms", colour, text, marker)
    goodput.set(ylabel="requests/s a device")
    goodput.set_ylim(bottom=0.0)
    wins.axhline(0.5, color=MUTED, lw=0.8)
    wins.plot(
        table["arrivals_per_s"], table["p_disaggregated_wins"], "^-", color=SERIES[2], ms=4, lw=1.6
    )
    wins.set(ylim=(-0.03, 1.03), ylabel="probability")
    for axes, name in ((ttft, "ttft_ms"), (tpot, "tpot_ms")):
        _limit(axes, limits[name])
        _log(axes, "time (ms)")
    objective = comparison.aggregated.objective
    _finish(figure, grid, title, f"{label}; {objective}".removeprefix("; "), label)
    return figure


def _line(
    axes: Axes,
    table: pd.DataFrame,
    name: str,
    colour: str,
    text: str,
    marker: str,
    *,
    alpha: float = 0.18,
    top: float = np.inf,
) -> None:
    """A curve with its band, where its value is finite; a band without end reaches to `top`."""
    loads = table["arrivals_per_s"].to_numpy()
    value, lower, upper = (
        table[column].to_numpy(dtype=float) for column in (name, f"{name}_lower", f"{name}_upper")
    )
    known = np.isfinite(value)
    upper = np.minimum(upper, top)
    axes.fill_between(loads[known], lower[known], upper[known], color=colour, alpha=alpha, lw=0)
    axes.plot(loads[known], value[known], color=colour, lw=1.6, marker=marker, ms=4, label=text)


def _end(axes: Axes, rows: pd.DataFrame, name: str) -> None:
    """A cross at the last load that is sustained, where there are larger ones that are not."""
    known = np.isfinite(rows[name].to_numpy(dtype=float))
    if known.any() and not known.all():
        last = rows[known].iloc[-1]
        axes.plot(
            last["arrivals_per_s"],
            last[name],
            marker="x",
            ms=10,
            mew=2.0,
            color="black",
            ls="none",
            zorder=5,
            label="unstable beyond",
        )


def _limit(axes: Axes, limit_ms: float) -> None:
    if np.isfinite(limit_ms):
        axes.axhline(limit_ms, color=ACCENT, lw=1.2, ls=":", label="limit")


def _log(axes: Axes, text: str, *, top: float | None = None) -> None:
    axes.set(yscale="log", ylabel=text)
    axes.set_ylim(top=top)
    plain_log_ticks(axes.yaxis, *axes.get_ylim())


def _mark_behind(grid: Sequence[Axes], loads: np.ndarray, behind: np.ndarray) -> None:
    """Grey where requests more likely than not pile up."""
    late = np.flatnonzero(behind > 0.5)
    if late.size:
        start = loads[late[0] - 1 : late[0] + 1].mean() if late[0] else loads[0]
        for axes in grid:
            axes.axvspan(start, loads[-1], color=MUTED, alpha=0.2, lw=0, label="requests pile up")


def _finish(
    figure: Figure,
    grid: Sequence[Axes],
    title: str,
    second: str,
    label: str,
    *,
    columns: int = 6,
) -> None:
    """Labels, one legend for all panels, and the title."""
    for axes in grid:
        axes.set_xlabel(_LOAD)
    legend_below(figure, grid, columns=columns)
    named = f"{title}\n{second}" if second else title
    figure.suptitle(heading(named, simulated=is_simulated([label])))
