"""What a step can deliver under an SLA: throughput, contours over B and S, tenants that share."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bayeslat.decisions import BestStep, Frontier, StepContours, TenantFront
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

__all__ = ["plot_contours", "plot_frontier", "plot_tenant_front"]

type Array = NDArray[np.float64]

_PROBABILITIES: Final = (1e-4, 1e-3, 1e-2, 0.1, 0.5, 0.9, 1.0)
_BEST: Final = {
    "marker": "*",
    "ms": 13,
    "color": ACCENT,
    "mec": "white",
    "ls": "none",
    "clip_on": False,
    "zorder": 5,
}


@styled
def plot_frontier(
    frontier: Frontier,
    *,
    label: str = "",
    title: str = "Throughput of the best step under an SLA",
) -> Figure:
    """Throughput with its band over the limit, and which step delivers it.

    Parameters
    ----------
    frontier : Frontier
        From `bayeslat.decisions.frontier`.
    label : str
        Of the deployment.
    title : str
        Of the picture.
    """
    table = frontier.table()
    limits = table["sla_ms"].to_numpy()
    figure, grid, _ = panels(["throughput", "best step"], width=4.4, height=3.2, columns=2)
    rate, step = grid
    rate.fill_between(
        limits,
        table["tokens_per_s_lower"],
        table["tokens_per_s_upper"],
        color=PRIMARY,
        alpha=0.18,
        lw=0,
        label="credible interval",
    )
    rate.plot(limits, table["tokens_per_s"], "o-", color=PRIMARY, ms=4, lw=1.6, label="throughput")
    rate.set_ylabel("tokens/s")
    for name, colour, marker, text in (
        ("total_tokens", SECONDARY, "s", "tokens S"),
        ("batch_size", SERIES[2], "^", "requests B"),
    ):
        step.plot(limits, table[name], marker=marker, color=colour, ms=4, lw=1.6, label=text)
    step.set(yscale="log", ylabel="of the best step")
    plain_log_ticks(step.yaxis, *step.get_ylim())
    ended = table[table["at_end"]]
    if len(ended):
        step.plot(
            ended["sla_ms"],
            ended["total_tokens"],
            marker="o",
            ms=10,
            mfc="none",
            mec="black",
            ls="none",
            label="end of the search",
        )
    for axes in grid:
        axes.set(xscale="log", xlabel="SLA of a step (ms)")
        plain_log_ticks(axes.xaxis, *axes.get_xlim())
    legend_below(figure, grid, columns=5)
    figure.suptitle(heading(f"{title}\n{label}".strip(), simulated=is_simulated([label])))
    return figure


@styled
def plot_contours(
    contours: StepContours,
    *,
    risk: float = 0.01,
    best: BestStep | None = None,
    label: str = "",
    title: str = "Latency of a step over requests and tokens",
) -> Figure:
    """Mean latency, its high quantile and P(T > SLA) over B and S, with the best step.

    Parameters
    ----------
    contours : StepContours
        From `bayeslat.decisions.contours`.
    risk : float
        Where the line of the admitted risk is.
    best : BestStep, optional
        A star where it is.
    label : str
        Of the deployment.
    title : str
        Of the picture.
    """
    chance = f"P(T > {contours.sla_ms:g} ms)"
    names = ["mean latency", f"p{100 * contours.quantile:g} latency", chance]
    figure, grid, _ = panels(names, width=4.0, height=3.2)
    for axes, values in zip(grid, (contours.mean_ms, contours.quantile_ms), strict=False):
        _time_contours(figure, axes, contours, values)
    filled = grid[2].contourf(
        contours.batch_size,
        contours.total_tokens,
        np.clip(contours.p_exceeds, _PROBABILITIES[0], _PROBABILITIES[-1]).T,
        levels=_PROBABILITIES,
        norm=BoundaryNorm(_PROBABILITIES, 256),
        cmap="Blues",
    )
    figure.colorbar(filled, ax=grid[2], format="%g", spacing="uniform").set_label("probability")
    for axes in grid:
        for line in contours.lines("p_exceeds", risk):
            axes.plot(*line.T, color=ACCENT, lw=2.0, label=f"{chance} = {100 * risk:g} %")
        if best is not None:
            axes.plot(best.batch_size, best.total_tokens, **_BEST, label="best step")  # type: ignore[arg-type]
        axes.set(xlabel="batch size B (requests)", ylabel="total tokens S")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
    legend_below(figure, grid, columns=3)
    figure.suptitle(heading(f"{title}\n{label}".strip(), simulated=is_simulated([label])))
    return figure


@styled
def plot_tenant_front(
    front: TenantFront,
    *,
    label: str = "",
    title: str = "Tenants that share a step: throughput against fairness",
) -> Figure:
    """The front with intervals of the throughput, and what each tenant has in each allocation.

    Parameters
    ----------
    front : TenantFront
        From `bayeslat.decisions.pareto_front`.
    label : str
        Of the deployment.
    title : str
        Of the picture.
    """
    table = front.table()
    numbers = [str(n + 1) for n in range(len(table))]
    figure, grid, _ = panels(["front", "allocations"], width=4.6, height=3.4, columns=2)
    rates = table[["tokens_per_s", "tokens_per_s_lower", "tokens_per_s_upper"]].to_numpy().T
    grid[0].errorbar(
        table["jain"],
        rates[0],
        yerr=np.maximum([rates[0] - rates[1], rates[2] - rates[0]], 0.0),
        fmt="o-",
        color=PRIMARY,
        ecolor=MUTED,
        ms=5,
        lw=1.2,
        elinewidth=1.0,
        label="throughput, credible interval",
    )
    for number, place in zip(numbers, zip(table["jain"], rates[0], strict=True), strict=True):
        grid[0].annotate(number, place, xytext=(4, 5), textcoords="offset points", fontsize=7.5)
    grid[0].set(xlabel="Jain's index of tokens over weight", ylabel="tokens/s")
    below = np.zeros(len(table))
    for position, tenant in enumerate(front.tenants):
        own = table[f"tokens {tenant.name}"].to_numpy(dtype=float)
        colour = SERIES[position % len(SERIES)]
        hatch = ("", "//", "..", "xx")[position // len(SERIES) % 4]
        grid[1].bar(
            numbers, own, bottom=below, color=colour, hatch=hatch, ec="white", label=tenant.name
        )
        below += own
    grid[1].set(xlabel="allocation", ylabel="tokens in the step")
    grid[1].grid(False, axis="x")
    if len(numbers) > 12:
        grid[1].tick_params(axis="x", labelsize=6.0)
    legend_below(figure, grid, columns=5)
    limit = f"P(T > {front.sla_ms:g} ms) <= {front.risk:g}"
    second = f"{label}; {limit}".removeprefix("; ")
    figure.suptitle(heading(f"{title}\n{second}", simulated=is_simulated([label])))
    return figure


def _time_contours(figure: Figure, axes: Axes, contours: StepContours, values: Array) -> None:
    """Filled contours of a time on a log scale, with a bar."""
    known = values[np.isfinite(values)]
    levels = _levels(float(known.min()), float(known.max()))
    filled = axes.contourf(
        contours.batch_size,
        contours.total_tokens,
        values.T,
        levels=levels,
        norm=LogNorm(levels[0], levels[-1]),
        cmap="viridis",
        extend="both",
    )
    figure.colorbar(filled, ax=axes, format="%g").set_label("ms")


def _levels(low: float, high: float) -> Sequence[float]:
    """Round numbers of milliseconds from below `low` to above `high`, at least two."""
    exponents = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    every = [
        step * 10.0**exponent for exponent in exponents for step in (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    ]
    first = max(int(np.searchsorted(every, low, side="right")) - 1, 0)
    return every[first : max(int(np.searchsorted(every, high)) + 1, first + 2)]
