"""Small simulated fleets for the contest."""

import numpy as np
import pandas as pd
import pytest

import bayeslat as bl
from bayeslat.schema import Deployment

GPUS = ("A100-80GB", "A100-80GB@60%", "A100-80GB@80%", "H100-80GB", "T4-16GB")
LLMS = ("llama-7b", "llama-13b")


@pytest.fixture(scope="session")
def frame() -> pd.DataFrame:
    """Simulated steps of ten deployments, with labels and the engine names of recorded logs."""
    steps = bl.simulate_fleet(gpus=GPUS, models=LLMS, rows_per_deployment=40, seed=3).steps
    engine = np.where(steps["gpu"] == "T4-16GB", "tgis", "muxserve")
    frame = bl.validate_steps(steps.assign(engine=engine)).to_frame()
    rows = frame[["gpu", "model", "tp", "engine"]].itertuples(index=False)
    return frame.assign(deployment=[Deployment(*row).label for row in rows])
