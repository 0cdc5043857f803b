"""Rows and design points of a likelihood, laid out so that its gradient is cheap.

Rows of one deployment at the same B and S share everything but their context: the formula's
transcendental functions and the discrepancy are computed once a design point, and rows look their
point up. The gradient of plain indexing ``x[deployment_index]`` is a scatter of one addition a
point, which on a CPU takes longer than the formula itself. Points of one deployment in chunks of
equal length turn all but a few of these additions into plain sums along an axis.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor.tensor as pt
from numpy.typing import NDArray

from bayeslat.observations import Observations

__all__ = ["RowLayout", "row_layout"]

CHUNK = 16
"""Points a chunk: long enough to save scatters, short enough that few points are left over."""


@dataclass(frozen=True)
class RowLayout:
    """Distinct design points in whole chunks of one deployment, then the left-over points.

    Parameters
    ----------
    batch_size, total_tokens : array, shape (point,)
        B and S of each point.
    chunk_owner : array of int, shape (chunk,)
        Deployment of each chunk.
    rest_owner : array of int, shape (rest,)
        Deployment of each left-over point.
    order : array of int, shape (row,)
        Original position of each row: rows of one point follow each other.
    point : array of int, shape (row,)
        Point of each row, in that order.
    """

    batch_size: NDArray[np.float64]
    total_tokens: NDArray[np.float64]
    chunk_owner: NDArray[np.int64]
    rest_owner: NDArray[np.int64]
    order: NDArray[np.int64]
    point: NDArray[np.int64]

    def spread(self, values: Any) -> Any:
        """Values of the deployments, shape (deployment,), over the points (pytensor)."""
        chunks = pt.broadcast_to(
            values[self.chunk_owner][:, None], (self.chunk_owner.size, CHUNK)
        ).ravel()
        return pt.concatenate([chunks, values[self.rest_owner]])

    def product(self, features: NDArray[np.float64], weights: Any) -> Any:
        """Product of each point's features with its deployment's weights (pytensor).

        Parameters
        ----------
        features : array, shape (point, feature)
            Of the points.
        weights : tensor, shape (feature, deployment)
            Of the deployments.
        """
        n_chunked = self.chunk_owner.size * CHUNK
        of_deployment = weights.T
        blocks = features[:n_chunked].reshape(-1, CHUNK, features.shape[1])
        chunks = (blocks * of_deployment[self.chunk_owner][:, None, :]).sum(axis=-1).ravel()
        rest = (features[n_chunked:] * of_deployment[self.rest_owner]).sum(axis=1)
        return pt.concatenate([chunks, rest])

    def of_rows(self, values: Any) -> Any:
        """Values of the points, shape (point,), over the rows (pytensor)."""
        return values[self.point]


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
    owner = points[:, 0].astype(np.int64)
    position = np.arange(owner.size) - np.searchsorted(owner, owner)
    in_chunk = position < (np.bincount(owner) // CHUNK * CHUNK)[owner]
    layout = np.concatenate([np.flatnonzero(in_chunk), np.flatnonzero(~in_chunk)])
    place = np.empty_like(layout)
    place[layout] = np.arange(layout.size)
    point = place[point_of_row.ravel()]
    order = np.argsort(point, kind="stable")
    return RowLayout(
        batch_size=points[layout, 1],
        total_tokens=points[layout, 2],
        chunk_owner=owner[in_chunk][::CHUNK],
        rest_owner=owner[~in_chunk],
        order=order,
        point=point[order],
    )
