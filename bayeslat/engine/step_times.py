"""How long steps take, as the simulator reads it: tables over batch size and further tokens.

A step of B requests and S tokens takes ``location(B, S - B) + per_position(B, S - B) C`` times its
noise, with another cost of a position where the step attends to its own tokens only (C = S). All
are tabulated at nodes of B and of the tokens S - B beyond one a request, every whole number at
first and 5 % apart later, and interpolated linearly between them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from bayeslat.errors import InputError
from bayeslat.noise import FAMILIES

__all__ = ["StepTimes", "nodes"]

type Array = NDArray[np.float64]

RATIO: Final = 1.05
"""Ratio of neighbouring nodes: where they are as far apart as that, latency is nearly linear."""

DENSE: Final = 20
"""Every whole number up to here is a node."""


def nodes(low: int, high: int) -> NDArray[np.int64]:
    """Whole numbers from `low` to `high` at which latency is tabulated, at least two.

    Parameters
    ----------
    low, high : int
        The range to cover; the last node may lie beyond it.
    """
    dense = np.arange(low, low + DENSE + 1)
    far = np.geomspace(DENSE, max(high, 2 * DENSE), 2 + int(np.log(max(high, 40)) / np.log(RATIO)))
    both = np.unique(np.concatenate([dense, np.ceil(far).astype(np.int64) + low]))
    return both[: int(np.searchsorted(both, max(high, low + 1))) + 1]


@dataclass(frozen=True, eq=False)
class StepTimes:
    """Step latencies of one or many runs, each run with parameters of its own.

    Parameters
    ----------
    batch_nodes, extra_nodes : integer array, shapes (row,) and (column,)
        B and S - B of the nodes; see `nodes`.
    location : array, shape (run, row, column)
        Milliseconds of a step that attends to nothing.
    per_position : array, shape (run, row, column)
        Milliseconds for each attended position, where a step attends to more than its own tokens.
    sigma : array, shape (run, row, column)
        Relative scale of the noise of one step.
    nu : array, shape (run,)
        Degrees of freedom of the noise, infinite where the family has none.
    family : str
        Name of the noise family.
    per_own_position : array, shape (run, row, column), optional
        Milliseconds for each position where a step attends to its own tokens only; as elsewhere
        where not given.
    """

    batch_nodes: NDArray[np.int64]
    extra_nodes: NDArray[np.int64]
    location: Array
    per_position: Array
    sigma: Array
    nu: Array
    family: str = "normal"
    per_own_position: Array | None = None

    def __post_init__(self) -> None:
        if self.per_own_position is None:
            object.__setattr__(self, "per_own_position", self.per_position)
        if self.family not in FAMILIES:
            raise InputError(
                f"got noise family {self.family!r}, expected one of {', '.join(FAMILIES)};"
                " correct the name"
            )
        shape = (self.nu.size, self.batch_nodes.size, self.extra_nodes.size)
        for name in ("location", "per_position", "sigma", "per_own_position"):
            values = getattr(self, name)
            if values.shape != shape or not (np.isfinite(values) & (values >= 0.0)).all():
                raise InputError(
                    f"got {name} of shape {values.shape} from {np.min(values):g}, expected"
                    f" non-negative finite values of shape {shape}; correct the table"
                )

    @property
    def n_runs(self) -> int:
        """Number of runs."""
        return self.nu.size

    @property
    def max_batch_size(self) -> int:
        """Largest B of the table."""
        return int(self.batch_nodes[-1])

    @property
    def max_extra_tokens(self) -> int:
        """Largest S - B of the table."""
        return int(self.extra_nodes[-1])

    @classmethod
    def from_function(
        cls,
        latency_ms: Callable[[Array, Array], Any],
        *,
        max_batch_size: int,
        max_total_tokens: int,
        per_position_ms: float = 0.0,
        sigma: float = 0.0,
        nu: float = np.inf,
        family: str = "normal",
    ) -> Self:
        """One run whose location is a function of B and S.

        Parameters
        ----------
        latency_ms : callable
            Takes arrays B and S, gives milliseconds.
        max_batch_size, max_total_tokens : int
            What the table has to cover.
        per_position_ms : float
            Milliseconds for each attended position.
        sigma, nu, family
            Noise of a step.
        """
        batch, extra = nodes(1, max_batch_size), nodes(0, max_total_tokens)
        rows, columns = np.meshgrid(batch, extra, indexing="ij")
        location = np.asarray(latency_ms(rows.astype(float), (rows + columns).astype(float)))
        shape = (1, batch.size, extra.size)
        return cls(
            batch,
            extra,
            np.broadcast_to(location, shape[1:]).reshape(shape).astype(float),
            np.full(shape, float(per_position_ms)),
            np.full(shape, float(sigma)),
            np.array([float(nu)]),
            family,
        )

    def tables(self, run: int) -> Array:
        """What the compiled loop reads of one run, shape (4, row, column)."""
        assert self.per_own_position is not None
        tables = self.location, self.per_position, self.sigma, self.per_own_position
        return np.stack([table[run] for table in tables])

    def places(self) -> tuple[Array, Array]:
        """For every B and every S - B the node below and the weight of the next.

        Returns
        -------
        rows, columns : array, shapes (2, max_batch_size + 1) and (2, max_extra_tokens + 1)
            B = 0 does not occur and has the place of B = 1.
        """
        return _places(self.batch_nodes), _places(self.extra_nodes)


def _places(at: NDArray[np.int64]) -> Array:
    values = np.arange(at[-1] + 1)
    below = np.clip(np.searchsorted(at, values, side="right") - 1, 0, at.size - 2)
    weight = (values - at[below]) / (at[below + 1] - at[below])
    return np.stack([below.astype(float), np.maximum(weight, 0.0)])
