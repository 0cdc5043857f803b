"""One picture a split: error and coverage of every contender, a point a deployment."""

from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayeslat.plots.style import ACCENT, MUTED, PRIMARY, SECONDARY, plain_log_ticks, styled
from contest.tables import OURS, TITLES

__all__ = ["split_picture"]

SOURCES: Final = {
    "muxserve": ("MuxServe", PRIMARY),
    "vllm": ("Splitwise", "#009E73"),
    "tgis": ("IBM", SECONDARY),
    "vllm-0.19-kernels": ("composed kernels", "#CC79A7"),
}
NOMINAL: Final = 0.9
SPREAD: Final = 0.28
"""Half the height over which the points of one contender are spread."""


@styled
def split_picture(split: str, records: pd.DataFrame) -> Figure:
    """MAPE and coverage of the 90 % interval by contender; the bar is the median.

    With several conditions (known steps, device settings) one column each.
    """
    conditions = list(dict.fromkeys(records["condition"]))
    contenders = list(dict.fromkeys(records["contender"]))
    several = len(conditions) > 1
    shape = (2, len(conditions)) if several else (1, 2)
    height = 0.28 * len(contenders) * shape[0] + 1.6
    figure = Figure(figsize=(3.0 * shape[1] + 2.0 if several else 10.0, height),
                    layout="constrained")  # fmt: skip
    grid = figure.subplots(*shape, squeeze=False, sharey=True)
    top, bottom = (grid[0], grid[1]) if several else (grid[0, :1], grid[0, 1:])
    bounds = _log_bounds(records["mape"])
    for condition, errors, coverages in zip(conditions, top, bottom, strict=True):
        part = records[records["condition"] == condition]
        errors.set_title(condition)
        _dots(errors, part, "mape", contenders)
        errors.set(xscale="log", xlim=bounds, xlabel="MAPE of the median, %")
        plain_log_ticks(errors.xaxis, *bounds)
        _dots(coverages, part, "coverage90", contenders)
        coverages.axvline(NOMINAL, color=ACCENT, lw=1.0, ls="--", label="nominal")
        coverages.set(xlim=(-0.03, 1.03), xlabel="share within the 90 % interval")
    handles = _legend(records, coverages)
    figure.legend(*handles, loc="outside lower center", ncols=6)
    figure.suptitle(TITLES[split])
    return figure


def _log_bounds(values: pd.Series) -> tuple[float, float]:
    low, high = np.nanquantile(values, [0.0, 0.995])
    return float(low) / 1.15, float(high) * 1.15


def _dots(axes: Axes, part: pd.DataFrame, score: str, contenders: list[str]) -> None:
    """A row a contender: points of the deployments in a fixed order, and their median."""
    order = {label: i for i, label in enumerate(sorted(part["deployment"].unique()))}
    for position, contender in enumerate(contenders):
        own = part[part["contender"] == contender]
        offset = own["deployment"].map(order) / max(len(order) - 1, 1) - 0.5
        colours = [SOURCES.get(engine, ("", MUTED))[1] for engine in own["engine"]]
        axes.scatter(own[score], position + 2 * SPREAD * offset, s=7, c=colours, lw=0, alpha=0.75)
        middle = own[score].median()
        axes.plot([middle, middle], [position - 0.36, position + 0.36], color="black", lw=1.8)
    axes.set_yticks(range(len(contenders)), contenders)
    axes.set_ylim(len(contenders) - 0.5, -0.5)
    for text in axes.get_yticklabels():
        text.set_fontweight("bold" if text.get_text() == OURS else "normal")


def _legend(records: pd.DataFrame, coverages: Axes) -> tuple[list, list[str]]:
    """Handles and labels: the sources that are there, the median, the nominal coverage."""
    present = [SOURCES[name] for name in SOURCES if (records["engine"] == name).any()]
    # Drawn outside the axes: handles need an artist, and the dots have many colours each.
    dots = [coverages.scatter([], [], s=14, color=colour, lw=0) for _, colour in present]
    [bar] = coverages.plot([], [], color="black", lw=1.8)
    [nominal], _ = coverages.get_legend_handles_labels()
    return [*dots, bar, nominal], [*(name for name, _ in present), "median", "nominal coverage"]
