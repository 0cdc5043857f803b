"""One deployment of a fleet with its draws, vectors and rows."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

import bayeslat as bl
from bayeslat.online.rows import Rows
from bayeslat.online.vectors import Gaussian, Layout, layout_of, moments, to_vectors
from bayeslat.predictive import DeploymentDraws
from bayeslat.schema import Deployment


@dataclass(frozen=True)
class One:
    """One deployment of the fleet."""

    deployment: Deployment
    draws: DeploymentDraws
    layout: Layout
    vectors: np.ndarray
    base: Gaussian
    rows: Rows


def one_of(fleet: bl.FleetPosterior, steps: pd.DataFrame, position: int) -> One:
    """A deployment of the fleet with its rows."""
    deployment = fleet.deployments[position]
    draws = fleet.draws(deployment)
    layout = layout_of(draws, fleet.spec)
    vectors = to_vectors(draws, layout)
    own = bl.validate_steps(steps).for_deployment(deployment)
    rows = Rows.of(own, arrival=0, order=np.arange(len(own)))
    return One(deployment, draws, layout, vectors, moments(vectors), rows)
