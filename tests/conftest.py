"""Settings and fixtures that every test shares."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import matplotlib
import pytest

if TYPE_CHECKING:
    import bayeslat as bl

jax.config.update("jax_enable_x64", True)
matplotlib.use("Agg")

COMPILED = "BAYESLAT_TESTS_COMPILED"
"""Variable that names the folder of what is compiled once for all processes of a run."""


def pytest_configure(config: pytest.Config) -> None:
    """Share what JAX compiles: two thirds of the time of a first small fit."""
    folder = os.environ.get(COMPILED)
    if folder is None:
        folder = os.environ[COMPILED] = tempfile.mkdtemp(prefix="bayeslat-compiled-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        config.add_cleanup(lambda: os.environ.pop(COMPILED))
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    # With a bound JAX locks the folder: no process reads what another is still writing.
    jax.config.update("jax_compilation_cache_max_size", 2**31)


SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of recorded step logs, which is not part of the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"recorded step logs are not at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def tiny_steps() -> "bl.Observations":
    """Simulated steps of two deployments, 60 each."""
    import bayeslat as bl

    simulated = bl.simulate_fleet(
        gpus=("A100-80GB", "H100-80GB"), models=("llama-7b",), rows_per_deployment=60
    )
    return bl.validate_steps(simulated.steps, source="tiny fleet")


@pytest.fixture(scope="session")
def short_steps() -> "bl.Observations":
    """Simulated steps of two deployments, 25 each."""
    import bayeslat as bl

    simulated = bl.simulate_fleet(
        gpus=("A100-80GB", "H100-80GB"), models=("llama-7b",), rows_per_deployment=25, seed=1
    )
    return bl.validate_steps(simulated.steps)


@pytest.fixture(scope="session")
def tiny_fleet(tiny_steps: "bl.Observations") -> "bl.FleetPosterior":
    """A fitted fleet of two deployments, for whoever needs a posterior and not its numbers."""
    import bayeslat as bl

    return bl.fit(tiny_steps, draws=250, tune=200, retry=False)


@pytest.fixture(scope="session")
def tiny_file(tiny_fleet: "bl.FleetPosterior", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny fleet, saved."""
    path = tmp_path_factory.mktemp("fleet") / "fleet.nc"
    tiny_fleet.save(path)
    return path


@pytest.fixture(scope="session")
def thin_fleet(tiny_fleet: "bl.FleetPosterior") -> "bl.FleetPosterior":
    """The tiny fleet with every twelfth draw, for what takes its time over each of them."""
    import bayeslat as bl

    return bl.FleetPosterior(
        tiny_fleet.tree.isel(draw=slice(None, None, 12), missing_dims="ignore")
    )


@pytest.fixture(scope="session")
def thin_file(thin_fleet: "bl.FleetPosterior", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The thin fleet, saved."""
    path = tmp_path_factory.mktemp("fleet") / "thin.nc"
    thin_fleet.save(path)
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command; gives exit code, standard output and standard error."""

    from bayeslat.cli import main

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call
