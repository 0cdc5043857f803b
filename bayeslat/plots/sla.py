"""Where a step would break its SLA: P(T > SLA) over batch size and total tokens."""

from collections.abc import Mapping

import numpy as np
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure

from bayeslat.decisions import FeasibleRegion
from bayeslat.plots.style import ACCENT, heading, is_simulated, label_outer, panels, styled

__all__ = ["plot_exceedance"]

_LEVELS = (1e-4, 1e-3, 1e-2, 0.1, 0.5, 0.9, 1.0)


@styled
def plot_exceedance(
    regions: Mapping[str, FeasibleRegion],
    *,
    sla_ms: float,
    risk: float = 0.01,
    title: str | None = None,
) -> Figure:
    """Contours of P(T > SLA) over B and S, with the line of the admitted risk.

    Parameters
    ----------
    regions : mapping of str to FeasibleRegion
        Label of the deployment to its region.
    sla_ms : float
        The limit that the regions were computed for.
    risk : float
        Where to draw the line.
    title : str, optional
        Of the picture.
    """
    names = list(regions)
    figure, grid, shown = panels(names, width=3.4, height=2.8, share=True)
    filled = None
    for axes, name in zip(grid, shown, strict=True):
        region = regions[name]
        probability = np.clip(region.probability, _LEVELS[0], _LEVELS[-1]).T
        filled = axes.contourf(
            region.batch_size,
            region.total_tokens,
            probability,
            levels=_LEVELS,
            norm=BoundaryNorm(_LEVELS, 256),
            cmap="Blues",
        )
        known = probability[np.isfinite(probability)]
        if known.size and known.min() < risk < known.max():
            axes.contour(
                region.batch_size,
                region.total_tokens,
                probability,
                levels=[risk],
                colors=ACCENT,
                linewidths=2.0,
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
    label_outer(grid, "batch size B (requests)", "total tokens S")
    if filled is not None:
        bar = figure.colorbar(
            filled, ax=grid, format="%g", shrink=0.8, aspect=30, spacing="uniform"
        )
        bar.set_label(f"P(T > {sla_ms:g} ms); red line: {100 * risk:g} %")
        bar.ax.axhline(risk, color=ACCENT, lw=2.0)
    title = title or f"Probability that a step takes longer than {sla_ms:g} ms"
    figure.suptitle(heading(title, names=names, simulated=is_simulated(names)))
    return figure
