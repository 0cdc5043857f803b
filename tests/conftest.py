"""Settings and fixtures that every test shares."""

from pathlib import Path

import jax
import matplotlib
import pytest

jax.config.update("jax_enable_x64", True)
matplotlib.use("Agg")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of recorded step logs, which is not part of the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"recorded step logs are not at {SHARED_DATA}")
    return SHARED_DATA
