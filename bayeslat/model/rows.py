"""Rows and design points of a likelihood, laid out so that its gradient is cheap.

Rows of one deployment at the same B and S share everything but their context: the formula's
transcendental functions and the discrepancy are computed once a design point, and rows look their
point up. The gradient of plain indexing ``x[deployment_index]`` is a scatter of one addition a
point, which on a CPU takes longer than the formula itself. Points of one deployment in chunks of
equal length turn these additions into plain sums along an axis; the last chunk of a deployment is
filled up with points that no row looks up.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor.tensor as pt
from numpy.typing import NDArray

from bayeslat.observations import Observations

__all__ = ["CHUNK", "RowLayout", "row_layout"]

CHUNK = 16
"""Points a chunk: long enough to save scatters, short enough that few are filled up."""


@dataclass(frozen=True)
class RowLayout:
    """Distinct design points in chunks of one deployment, and the point of each row.

    Parameters
    ----------
    batch_size, total_tokens : array, shape (chunk, CHUNK)
        B and S of each point.
    owner : array of int, shape (chunk,)
        Deployment of each chunk.
    order : array of int, shape (row,)
        Original position of each row: rows of one point follow each other.
    point : array of int, shape (row,)
        Point of each row, in that order, counted through the chunks.
    """

    batch_size: NDArray[np.float64]
    total_tokens: NDArray[np.float64]
    owner: NDArray[np.int64]
    order: NDArray[np.int64]
    point: NDArray[np.int64]

    def spread(self, values: Any) -> Any:
        """Values of the deployments, shape (deployment,), by chunk, (chunk, 1) (pytensor)."""
        return values[self.owner][:, None]

    def product(self, features: NDArray[np.float64], weights: Any) -> Any:
        """Features times the deployment's own weights, shape (chunk, CHUNK) (pytensor).

        Parameters
        ----------
        features : array, shape (chunk, CHUNK, feature)
            Of the points.
        weights : tensor, shape (feature, deployment)
            Of the deployments.
        """
        return pt.matmul(features, weights.T[self.owner][:, :, None])[:, :, 0]

    def of_rows(self, values: Any) -> Any:
        """Values of the points, (chunk, CHUNK) or (chunk, 1), over the rows (pytensor)."""
        return pt.broadcast_to(values, self.batch_size.shape).ravel()[self.point]


def row_layout(observations: Observations) -> RowLayout:
    """Lay the rows of observations out by deployment and design point.

    Parameters
    ----------
    observations : Observations
        Validated steps.
    """
    design = np.stack(
        [observations.deployment_index, observations.batch_size, observations.total_tokens], axis=1
    )
    points, point_of_row = np.unique(design, axis=0, return_inverse=True)
    counts = np.bincount(points[:, 0].astype(np.int64))
    chunks = -(-counts // CHUNK)
    owner = np.repeat(np.arange(counts.size), chunks)
    # Points follow each other by deployment; a chunk is filled up with the last of its deployment.
    first_point, first_place = np.cumsum(counts) - counts, CHUNK * (np.cumsum(chunks) - chunks)
    within = np.arange(owner.size * CHUNK) - np.repeat(first_place, chunks * CHUNK)
    filled = np.repeat(owner, CHUNK)
    pick = first_point[filled] + np.minimum(within, counts[filled] - 1)
    place = np.flatnonzero(within < counts[filled])
    point = place[point_of_row.ravel()]
    order = np.argsort(point, kind="stable")
    return RowLayout(
        batch_size=points[pick, 1].reshape(-1, CHUNK),
        total_tokens=points[pick, 2].reshape(-1, CHUNK),
        owner=owner,
        order=order,
        point=point[order],
    )
