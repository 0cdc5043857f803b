"""One look for all pictures: colours that colour-blind readers tell apart, panels, titles."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bayeslat.simulate.fleet import ENGINE as SIMULATED

__all__ = [
    "ACCENT",
    "MAX_PANELS",
    "MUTED",
    "PRIMARY",
    "SECONDARY",
    "SERIES",
    "heading",
    "is_simulated",
    "label_outer",
    "legend_below",
    "panels",
    "plain_log_ticks",
    "styled",
]

PRIMARY: Final = "#0072B2"
SECONDARY: Final = "#D55E00"
ACCENT: Final = "#CC3311"
MUTED: Final = "#9A9A9A"

SERIES: Final = (PRIMARY, SECONDARY, "#009E73", "#AA4499", "#B8860B", "#44AAEE")
"""Colours of several curves in one panel."""

MAX_PANELS: Final = 12
"""Panels of one picture; a title says how many deployments are not shown."""

_RC: Final[dict[Any, Any]] = {
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 9.0,
    "figure.titlesize": 11.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "figure.dpi": 100,
    "savefig.dpi": 130,
}


def styled[**P, R](draw: Callable[P, R]) -> Callable[P, R]:
    """Draw with the package's style and leave the caller's settings alone."""

    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl.rc_context(_RC):
            return draw(*args, **kwargs)

    return wrapper


def panels(
    names: Sequence[str],
    *,
    width: float = 3.4,
    height: float = 2.9,
    columns: int = 3,
    share: bool = False,
) -> tuple[Figure, list[Axes], Sequence[str]]:
    """A figure with one titled panel for each of the first `MAX_PANELS` names.

    Returns
    -------
    figure, axes, names
        The names are those that are shown.
    """
    shown = names[:MAX_PANELS]
    columns = min(columns, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(max(width * columns, 5.6), height * rows + 0.9), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share).ravel()
    for axes in grid[len(shown) :]:
        axes.remove()
    for axes, name in zip(grid, shown, strict=False):
        axes.set_title(name)
    return figure, list(grid[: len(shown)]), shown


def label_outer(grid: Sequence[Axes], x: str, y: str) -> None:
    """Label the axes that have no neighbour below or to the left."""
    for axes in grid:
        where = axes.get_subplotspec()
        assert where is not None
        columns = where.get_gridspec().ncols
        if where.colspan.start == 0:
            axes.set_ylabel(y)
        if where.rowspan.start * columns + where.colspan.start + columns >= len(grid):
            axes.set_xlabel(x)
            axes.tick_params(labelbottom=True)


def legend_below(figure: Figure, grid: Sequence[Axes], *, columns: int) -> None:
    """One legend for all panels, each text once, and room between labelled panels."""
    marks = {
        text: handle
        for axes in grid
        for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(marks.values()), list(marks), loc="outside lower center", ncols=columns)
    layout = figure.get_layout_engine()
    if isinstance(layout, ConstrainedLayoutEngine):
        layout.set(wspace=0.05)


def plain_log_ticks(axis: Axis, low: float, high: float) -> None:
    """Two to four ticks with plain numbers on a log axis that shows `low` to `high`."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    round_numbers = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
    ticks = [value for value in round_numbers if low <= value <= high]
    if len(ticks) < 2:
        ticks = [float(f"{low:.2g}"), float(f"{high:.2g}")]
    while len(ticks) > 4:
        ticks = ticks[:: math.ceil(len(ticks) / 4)]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def heading(title: str, *, names: Sequence[str] = (), simulated: bool = False) -> str:
    """Title of a picture, which says what is simulated and what is not shown."""
    marked = f"{title} (simulated data)" if simulated else title
    left_out = len(names) - MAX_PANELS
    return f"{marked}\n{left_out} more deployments are not shown" if left_out > 0 else marked


def is_simulated(labels: Iterable[str]) -> bool:
    """Whether any deployment label carries the engine of simulated steps."""
    return any(SIMULATED in label.split("/") for label in labels)
