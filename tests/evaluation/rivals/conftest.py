"""A small simulated fleet for the rivals."""

from collections.abc import Iterator

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import bayeslat as bl
from bayeslat.observations import Observations

GPUS = ("A100-80GB", "A100-80GB@60%", "A100-80GB@80%", "H100-80GB", "T4-16GB")
LLMS = ("llama-7b", "llama-13b")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As backtests run: threads cost more than they bring in small fits, most on busy machines."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def rival_fleet() -> Observations:
    """Simulated steps of ten deployments on two engines, 30 each."""
    steps = bl.simulate_fleet(gpus=GPUS, models=LLMS, rows_per_deployment=30, seed=3).steps
    engine = np.where(steps["gpu"] == "T4-16GB", "tgis", "muxserve")
    return bl.validate_steps(steps.assign(engine=engine))
