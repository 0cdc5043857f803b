"""A picture of a latency over batch size and tokens."""

from collections.abc import Callable
from typing import Final

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from bayeslat.errors import InputError
from bayeslat.evaluation.base import Array

__all__ = ["latency_contours"]

POINTS: Final = 120
LEVELS: Final = 12
SLACK: Final = 1.06
"""Room between the extreme latencies and the extreme levels, more than rounding takes away."""


def latency_contours(
    predict: Callable[[Array, Array], Array],
    batch_range: tuple[float, float],
    token_range: tuple[float, float],
    *,
    title: str,
) -> Figure:
    """Filled contours of a latency; white where S < B, which no step can have.

    Parameters
    ----------
    predict
        Latency in ms at B and S of one shape.
    batch_range, token_range
        Least and largest B and S.
    title
        Of the picture.

    Raises
    ------
    InputError
        A range that is empty or does not start at 1 or above.
    """
    for name, (low, high) in (("batch_range", batch_range), ("token_range", token_range)):
        if not 1 <= low < high:
            raise InputError(f"got {name} ({low}, {high}), expected 1 <= low < high; correct it")
    if token_range[1] <= batch_range[0]:
        raise InputError(
            f"got token_range up to {token_range[1]} for batches from {batch_range[0]} on, expected"
            " steps with at least one token a request; raise token_range"
        )
    batch, tokens = np.meshgrid(
        np.geomspace(*batch_range, POINTS), np.geomspace(*token_range, POINTS)
    )
    possible = tokens >= batch
    shown = np.full(batch.shape, np.nan)
    shown[possible] = predict(batch[possible], tokens[possible])
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axes = figure.subplots()
    levels = _round_levels(shown[possible])
    norm = LogNorm(levels[0], levels[-1])
    filled = axes.contourf(batch, tokens, shown, levels=levels, norm=norm, cmap="Blues")
    lines = axes.contour(batch, tokens, shown, levels=levels, colors="#404040", linewidths=0.6)
    axes.clabel(lines, fmt="%g", fontsize=7)
    axes.set(xscale="log", yscale="log", title=title)
    axes.set(xlabel="batch size, requests", ylabel="total tokens of the step")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bar = figure.colorbar(filled, label="latency, ms", ticks=levels)
    bar.ax.set_yticklabels([f"{level:g}" for level in levels])
    bar.ax.minorticks_off()
    return figure


def _round_levels(values: Array) -> list[float]:
    """Levels around values: numbers of two digits, evenly spaced in their logarithm."""
    even = np.geomspace(values.min() / SLACK, values.max() * SLACK, LEVELS)
    rounded = sorted({float(f"{level:.2g}") for level in even})
    return rounded if len(rounded) > 1 else [float(even[0]), float(even[-1])]
