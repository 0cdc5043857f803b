"""Parameters of every deployment, those that the data did not inform drawn as such."""

from typing import Final

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayeslat.plots.style import (
    MAX_PANELS,
    MUTED,
    PRIMARY,
    heading,
    is_simulated,
    panels,
    plain_log_ticks,
    styled,
)
from bayeslat.schema import PARAMETER_UNITS

__all__ = ["plot_parameters"]

_COMBINATION_UNITS: Final = {"slope": "ms/token", "floor": "ms", "overhead": "ms"}
_INFORMED, _UNINFORMED = "informed by the data", "UNINFORMED: little more than the prior"


@styled
def plot_parameters(
    table: pd.DataFrame, *, title: str = "Parameters, median and 90 % interval"
) -> Figure:
    """Forest of medians and 90 % intervals on a log axis, one panel for each quantity.

    What the data did not inform is grey and hollow.

    Parameters
    ----------
    table : DataFrame
        From `bayeslat.FleetPosterior.identifiability`.
    title : str
        Of the picture.
    """
    labels = list(dict.fromkeys(table["deployment"]))
    quantities = list(dict.fromkeys(table["quantity"]))[:MAX_PANELS]
    height = 0.9 + 0.19 * min(len(labels), MAX_PANELS)
    figure, grid, _ = panels(quantities, width=2.9, height=height, columns=4)
    for position, (axes, quantity) in enumerate(zip(grid, quantities, strict=True)):
        _forest(axes, table[table["quantity"] == quantity], labels[:MAX_PANELS])
        unit = PARAMETER_UNITS.get(quantity, _COMBINATION_UNITS.get(quantity, ""))
        axes.set_title(f"{quantity} ({unit})")
        if position % 4:
            axes.tick_params(labelleft=False)
    marks = {
        text: handle
        for axes in grid
        for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(marks.values()), list(marks), loc="outside lower center", ncols=2)
    figure.suptitle(heading(title, names=labels, simulated=is_simulated(labels)))
    return figure


def _forest(axes: Axes, rows: pd.DataFrame, labels: list[str]) -> None:
    for informed, colour, text in ((True, PRIMARY, _INFORMED), (False, MUTED, _UNINFORMED)):
        chosen = rows[(rows["informed"] == informed) & rows["deployment"].isin(labels)]
        if chosen.empty:
            continue
        at = [labels.index(label) for label in chosen["deployment"]]
        axes.hlines(at, chosen["lower"], chosen["upper"], color=colour, lw=1.4)
        axes.plot(
            chosen["median"],
            at,
            "o",
            ms=4.5,
            color=colour,
            markerfacecolor=colour if informed else "white",
            label=text,
        )
    axes.set(xscale="log", yticks=range(len(labels)), yticklabels=labels)
    plain_log_ticks(axes.xaxis, rows["lower"].min(), rows["upper"].max())
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
