"""What the model expects before it has seen any step."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bayeslat.plots.style import PRIMARY, heading, panels, styled

__all__ = ["plot_prior_predictive"]


@styled
def plot_prior_predictive(
    tables: Mapping[str, pd.DataFrame],
    *,
    title: str = "Prior predictive: latencies expected before any step was seen",
) -> Figure:
    """Bands of the prior predictive latency over the tokens of a step.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        Title of a panel to the table of `bayeslat.checks.prior_predictive`.
    title : str
        Of the picture.
    """
    names = list(tables)
    figure, grid, shown = panels(names, width=4.0, height=3.2, columns=2)
    for axes, name in zip(grid, shown, strict=True):
        table = tables[name].sort_values("total_tokens")
        tokens = table["total_tokens"]
        for mass, alpha in ((90, 0.2), (50, 0.4)):
            axes.fill_between(
                tokens,
                table[f"lower_{mass}"].clip(lower=1e-3 * table["median"]),
                table[f"upper_{mass}"],
                color=PRIMARY,
                alpha=alpha,
                lw=0,
                label=f"{mass} % of steps",
            )
        axes.plot(tokens, table["median"], color=PRIMARY, lw=1.6, label="median")
        axes.set(xscale="log", yscale="log", xlabel="total tokens S")
        axes.set_ylabel("latency (ms)")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.suptitle(heading(title, names=names))
    return figure
