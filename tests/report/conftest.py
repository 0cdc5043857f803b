"""One report with every section, of the tiny fleet."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from stand_in_contenders import Lognormal

from bayeslat.evaluation.backtesting import Backtest, backtest
from bayeslat.posterior import FleetPosterior
from bayeslat.report import ColdStart, Reliance, write_report

TITLE = "A & B <fleet>"


@pytest.fixture(scope="session")
def beside(tiny_steps) -> Backtest:
    """A backtest of two contenders that are quick to fit, on twice as many steps."""
    twice = tiny_steps.select(np.repeat(np.arange(len(tiny_steps)), 2))
    return backtest(twice, ["points"], [Lognormal("bayeslat"), Lognormal("another <model>")])


@pytest.fixture(scope="session")
def written(
    tiny_fleet, tiny_steps, beside, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Reliance]:
    """A page with every section, and the verdict that it came with."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    cold = ColdStart(tiny_fleet, tiny_fleet, tiny_steps, 10)
    reliance = write_report(
        tiny_fleet,
        path,
        observations=tiny_steps,
        cold_start=cold,
        backtest=beside,
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
