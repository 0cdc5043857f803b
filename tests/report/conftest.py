"""One report with every section, of the tiny fleet."""

import io
from pathlib import Path

import pytest
import xarray as xr
from matplotlib.figure import Figure

from bayeslat.posterior import FleetPosterior
from bayeslat.report import (
    ColdStart,
    Comparison,
    ComparisonPicture,
    ComparisonTable,
    Reliance,
    write_report,
)

TITLE = "A & B <fleet>"


def small_png() -> bytes:
    figure, buffer = Figure(figsize=(6, 2)), io.BytesIO()
    figure.subplots().plot([1, 2], [2, 1])
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def comparison() -> Comparison:
    table = ComparisonTable(
        "New GPU",
        "Mean error in percent.",
        ("model", "0 steps", "10 steps"),
        (("hierarchical", 15.0, 7.25), ("table <interpolated>", None, "11.0 ± 0.4")),
    )
    picture = ComparisonPicture("Errors", "Mean error of two models over steps seen.", small_png())
    return Comparison((table,), (picture,))


@pytest.fixture(scope="session")
def written(
    tiny_fleet, tiny_steps, comparison, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Reliance]:
    """A page with every section, and the verdict that it came with."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    cold = ColdStart(tiny_fleet, tiny_fleet, tiny_steps, 10)
    reliance = write_report(
        tiny_fleet,
        path,
        observations=tiny_steps,
        cold_start=cold,
        comparison=comparison,
        title=TITLE,
    )
    return path, reliance


@pytest.fixture(scope="session")
def real_fleet(tiny_fleet: FleetPosterior) -> FleetPosterior:
    """The tiny fleet as though its steps had been measured."""
    data = tiny_fleet.constant_data
    engines = data["deployment_engine"].copy(data=["vllm"] * data.sizes["deployment"])
    tree = tiny_fleet.tree.copy()
    tree["constant_data"] = xr.DataTree(data.assign_coords(deployment_engine=engines))
    return FleetPosterior(tree)
