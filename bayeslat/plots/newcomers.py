"""A cold start before and after a few measured steps."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bayeslat.plots.fit import draw_agreement
from bayeslat.plots.style import heading, is_simulated, panels, styled

__all__ = ["plot_cold_start"]


@styled
def plot_cold_start(
    tables: Mapping[str, pd.DataFrame], *, title: str = "Cold start against held-back steps"
) -> Figure:
    """Held-back steps against two or more predictions of them, a column of panels for each.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        What the prediction knew, with the table of `bayeslat.checks.predict_rows`.
    title : str
        Of the picture.
    """
    names = list(tables)
    labels = {label for table in tables.values() for label in table["deployment"]}
    figure, grid, shown = panels(names, width=4.4, height=3.6)
    for axes, name in zip(grid, shown, strict=True):
        draw_agreement(axes, tables[name])
        axes.set_xlabel("predicted latency (ms)")
    grid[0].set_ylabel("measured latency (ms)")
    handles, texts = grid[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=3)
    figure.suptitle(heading(title, names=names, simulated=is_simulated(labels)))
    return figure
