"""Simulation-based calibration: where truths lay among draws, against what chance allows."""

from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayeslat.evaluation.calibration import LEVEL, CalibrationResult
from bayeslat.evaluation.calibration_ranks import rank_band
from bayeslat.evaluation.uniformity import UniformBand
from bayeslat.plots.style import ACCENT, MUTED, PRIMARY, label_outer, styled

__all__ = ["plot_calibration"]

COLUMNS: Final = 6
POOLED: Final = "quantities["


@styled
def plot_calibration(
    result: CalibrationResult, *, title: str = "Truths among posterior draws"
) -> Figure:
    """Empirical distribution of the places of truths less the uniform one, a panel a variable.

    Each line is one member of a variable (a deployment, a GPU, ...). The inner band is left by one
    right line in twenty, the outer one by any line of a right model in one picture of twenty. Lines
    that leave the outer band are red. An arch says that truths lie too low among the draws (draws
    are too high), its mirror image that they lie too high; an S that starts upwards says that
    intervals are too narrow, one that starts downwards that they are too wide.

    Parameters
    ----------
    result : CalibrationResult
        From `bayeslat.evaluation.calibration.calibrate`.
    title : str
        Of the picture.
    """
    panels: dict[str, list[int]] = {}
    for position, name in enumerate(result.names):
        panels.setdefault(_panel(name), []).append(position)
    inner = rank_band(len(result), mass=1.0 - LEVEL)
    outer = rank_band(len(result), mass=1.0 - LEVEL / len(result.names))
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(max(1.85 * columns, 4.0), 1.55 * rows + 1.0), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes in grid[len(panels) :]:
        axes.remove()
    refused = set(result.refused())
    shown = list(grid[: len(panels)])
    for axes, (panel, members) in zip(shown, panels.items(), strict=True):
        _bands(axes, inner, outer)
        _lines(axes, result, members, inner, refused)
        axes.set_title(f"{panel} ({len(members)})" if len(members) > 1 else panel, fontsize=8.0)
    label_outer(shown, "place", "share below\nless place")
    told = f"{len(result)} simulations, {int(result.converged.sum())} fits converged"
    figure.suptitle(f"{title}\n{told}, {len(refused)} of {len(result.names)} lines refused")
    return figure


def _panel(name: str) -> str:
    """The variable of a quantity; pooled quantities have a panel each."""
    if name.startswith(POOLED):
        return name.removeprefix(POOLED).split(",")[0]
    return name.split("[")[0]


def _bands(axes: Axes, inner: UniformBand, outer: UniformBand) -> None:
    for band, alpha in ((outer, 0.25), (inner, 0.35)):
        lower, upper = band.lower - band.at, band.upper - band.at
        axes.fill_between(band.at, lower, upper, color=MUTED, alpha=alpha, lw=0)
    axes.axhline(0.0, color="black", lw=0.5)


def _lines(
    axes: Axes,
    result: CalibrationResult,
    members: list[int],
    band: UniformBand,
    refused: set[str],
) -> None:
    for position in members:
        difference = band.shares(result.place[:, position]) - band.at
        wrong = result.names[position] in refused
        colour, width = (ACCENT, 1.3) if wrong else (PRIMARY, 0.8)
        axes.plot(band.at, difference, color=colour, lw=width, zorder=3 if wrong else 2)
