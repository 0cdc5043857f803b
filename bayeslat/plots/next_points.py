"""A design of what to measure next: where the points lie, and what each is expected to tell."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayeslat.decisions import NextPoints
from bayeslat.plots.style import (
    MUTED,
    PRIMARY,
    heading,
    is_simulated,
    panels,
    plain_log_ticks,
    styled,
)

__all__ = ["plot_next_points"]


@styled
def plot_next_points(
    design: NextPoints, *, label: str = "", title: str = "What to measure next"
) -> Figure:
    """The candidates with the chosen points in their order, the expected spread, and the gain.

    Parameters
    ----------
    design : NextPoints
        From `bayeslat.decisions.measuring.design`.
    label : str
        Of the deployment.
    title : str
        Of the picture.
    """
    told = bool(np.isfinite(design.value).any())
    names = ["points in order", "what is expected of them"] + ["expected gain"] * told
    figure, grid, _ = panels(names, width=3.8, height=3.3)
    _draw_points(grid[0], design)
    _draw_spread(grid[1], design)
    if told:
        _draw_value(grid[2], design)
    figure.suptitle(heading(f"{title}\n{label}".strip(), simulated=is_simulated([label])))
    return figure


def _draw_points(axes: Axes, design: NextPoints) -> None:
    every, points = design.candidates, design.points
    axes.scatter(every.batch_size, every.total_tokens, s=9, color=MUTED, lw=0)
    places: dict[tuple[float, float], list[str]] = {}
    for position, place in enumerate(zip(points.batch_size, points.total_tokens, strict=True)):
        places.setdefault(place, []).append(str(position + 1))
    for (batch, tokens), order in places.items():
        axes.scatter(batch, tokens, s=130, color=PRIMARY, lw=0)
        axes.annotate(
            ",".join(order), (batch, tokens), color="white", fontsize=6.5, ha="center", va="center"
        )
    axes.set(xscale="log", yscale="log", xlabel="batch size B (requests)", ylabel="total tokens S")
    for axis, limit, values in (
        (axes.xaxis, axes.set_xlim, every.batch_size),
        (axes.yaxis, axes.set_ylim, every.total_tokens),
    ):
        low, high = float(values.min()) / 1.5, float(values.max()) * 1.5
        limit(low, high)
        plain_log_ticks(axis, low, high)


def _draw_spread(axes: Axes, design: NextPoints) -> None:
    axes.plot(np.arange(design.sd.size), design.sd, "o-", color=PRIMARY, ms=4)
    axes.set(xlabel="points measured", ylabel="expected sd of the decision quantity")
    axes.set_ylim(0.0, 1.1 * max(float(design.sd.max()), np.finfo(float).tiny))


def _draw_value(axes: Axes, design: NextPoints) -> None:
    counts = np.arange(1, design.value.size + 1)
    axes.errorbar(counts, design.value, yerr=design.value_error, fmt="o-", color=PRIMARY, ms=4)
    axes.axhline(0.0, color=MUTED, lw=1.0)
    axes.set(xlabel="points measured", ylabel="throughput gained (tokens/ms)")
    axes.set_xlim(0.0, counts[-1] + 0.5)
