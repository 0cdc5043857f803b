"""Phases of a request as distributions, and the choice of a chunk size."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayeslat.decisions import ChunkTradeoff, RequestPhases
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
from bayeslat.predictive import Estimate, SampledDistribution

__all__ = ["plot_chunks", "plot_phases"]

_SHOWN = (0.005, 0.997)
_POINTS = 200
_LINES = 40
"""About so many draws are drawn one by one."""


@styled
def plot_phases(
    phases: RequestPhases,
    *,
    label: str = "",
    credible: float = 0.9,
    ttft_limit_ms: float | None = None,
    tpot_limit_ms: float | None = None,
    title: str = "Time to first token and time per output token",
) -> Figure:
    """Distribution functions of TTFT and TPOT: of some draws, and of all together.

    Parameters
    ----------
    phases : RequestPhases
        From `bayeslat.decisions.ServedDeployment.request_phases`.
    label : str
        Of the deployment.
    credible : float
        Mass of the intervals of median and p99.
    ttft_limit_ms, tpot_limit_ms : float, optional
        Limits to draw.
    title : str
        Of the picture.
    """
    figure, grid, _ = panels(["TTFT", "TPOT"], width=4.2, height=3.0, columns=2)
    parts = (phases.ttft, phases.tpot)
    for axes, part, limit in zip(grid, parts, (ttft_limit_ms, tpot_limit_ms), strict=True):
        _distribution(axes, part, credible, limit)
    grid[0].set_ylabel("share of requests at most that long")
    legend_below(figure, grid, columns=5)
    figure.suptitle(_headed(title, label))
    return figure


@styled
def plot_chunks(
    tradeoff: ChunkTradeoff,
    *,
    label: str = "",
    quantile: float = 0.99,
    limit_ms: float | None = None,
    chosen: int | None = None,
    title: str = "Chunk size: the prefill against the steps of others",
) -> Figure:
    """What decoding requests wait for a step, and how long the prefill takes, over chunk sizes.

    Parameters
    ----------
    tradeoff : ChunkTradeoff
        From `bayeslat.decisions.ServedDeployment.chunk_tradeoff`.
    label : str
        Of the deployment.
    quantile : float
        Which the trade-off was asked for.
    limit_ms : float, optional
        Limit on the step.
    chosen : int, optional
        Chunk size to mark.
    title : str
        Of the picture.
    """
    names = [f"a step with a chunk, p{100 * quantile:g}", "prefill of the whole prompt"]
    figure, grid, _ = panels(names, width=4.2, height=3.0, columns=2)
    sizes = tradeoff.chunk_tokens
    _band(grid[0], sizes, tradeoff.step_ms, PRIMARY, "with a chunk")
    alone = Estimate(*(np.full(sizes.size, value) for value in tradeoff.decode_ms))
    _band(grid[0], sizes, alone, SECONDARY, "without one", style="--")
    _band(grid[1], sizes, tradeoff.prefill_ms, PRIMARY, "")
    if limit_ms is not None:
        grid[0].axhline(limit_ms, color=ACCENT, lw=1.2, ls=":", label=f"limit, {limit_ms:g} ms")
    for axes in grid:
        if chosen is not None:
            axes.axvline(chosen, color="black", lw=0.8, label=f"best chunk, {chosen} tokens")
        axes.set(yscale="log", xlabel="chunk size (tokens)", ylabel="time (ms)")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes[::2], [f"{size}" for size in sizes[::2]])
        axes.margins(y=0.08)
        plain_log_ticks(axes.yaxis, *axes.get_ylim())
    legend_below(figure, grid, columns=5)
    figure.suptitle(_headed(title, label))
    return figure


def _distribution(
    axes: Axes, part: SampledDistribution, credible: float, limit: float | None
) -> None:
    low, high = part.ppf(np.array(_SHOWN))
    if limit is not None:
        low, high = min(low, 0.98 * limit), max(high, 1.02 * limit)
    share = (np.arange(part.n_replicates) + 1.0) / part.n_replicates
    for row in part.samples[:: max(1, part.n_draws // _LINES)]:
        axes.plot(np.sort(row), share, color=PRIMARY, alpha=0.2, lw=0.6, label="one posterior draw")
    at = np.linspace(low, high, _POINTS)
    axes.plot(at, part.cdf(at), color="black", lw=1.8, label="all draws")
    for q, marker in ((0.5, "o"), (0.99, "s")):
        value, lower, upper = part.ppf(q, credible=credible)
        label = f"p{100 * q:g}, {100 * credible:g} % interval"
        axes.hlines(q, lower, upper, color=SECONDARY, lw=2.5, zorder=3)
        axes.plot(value, q, marker, color=SECONDARY, ms=5, ls="none", label=label, zorder=4)
    if limit is not None:
        axes.axvline(limit, color=ACCENT, lw=1.2, ls=":", label="limit")
    axes.set(xlabel="time (ms)", ylim=(0.0, 1.03), xlim=(low, high))


def _band(
    axes: Axes, at: np.ndarray, found: Estimate, colour: str, label: str, *, style: str = "-"
) -> None:
    axes.fill_between(at, found.lower, found.upper, color=colour, alpha=0.22, lw=0)
    axes.plot(at, found.value, color=colour, lw=1.6, ls=style, label=label or None)


def _headed(title: str, label: str) -> str:
    named = f"{title}\n{label}" if label else title
    return heading(named, simulated=is_simulated([label]))
