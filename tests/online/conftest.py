"""A fleet whose truth is known, rows of it, and one deployment's vectors."""

import numpy as np
import pandas as pd
import pytest
from one_deployment import One, one_of

import bayeslat as bl


@pytest.fixture(scope="session")
def fleet() -> bl.FleetPosterior:
    """The released posterior of simulated steps: its truth is `simulate_fleet(seed=0)`."""
    return bl.load_released("reference-fleet")


@pytest.fixture(scope="session")
def steps() -> pd.DataFrame:
    """Simulated steps that the fleet was not fitted to, 1,200 of each deployment, in no order."""
    table = bl.simulate_fleet(rows_per_deployment=1200, seed=0).steps
    mixed = table.sample(frac=1.0, random_state=5)
    return mixed.assign(timestamp=1.7e9 + 0.05 * np.arange(len(mixed))).reset_index(drop=True)


@pytest.fixture(scope="session")
def one(fleet: bl.FleetPosterior, steps: pd.DataFrame) -> One:
    """The first deployment of the fleet."""
    return one_of(fleet, steps, 0)
