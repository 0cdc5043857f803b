"""Contours over batch size and tokens: mean, median, a high percentile, and P(T > SLA).

Grids of a step's latency over (B, S), and the lines on which a quantity has a level, as data. Cells
with S < B in a corner hold no line.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from contourpy import contour_generator
from numpy.typing import ArrayLike, NDArray

from bayeslat.decisions.step_space import StepSpace
from bayeslat.errors import InputError
from bayeslat.predictive import DeploymentDraws, LatencyDistribution
from bayeslat.predictive.estimate import check_probability

__all__ = ["StepContours", "contours", "contours_of", "level_lines"]

type Array = NDArray[np.float64]
type Quantity = Literal["mean_ms", "median_ms", "quantile_ms", "p_exceeds"]

QUANTITIES: Final = ("mean_ms", "median_ms", "quantile_ms", "p_exceeds")


@dataclass(frozen=True, eq=False)
class StepContours:
    """What a step's latency is over a grid of B and S; NaN where S < B, which no step can have.

    Parameters
    ----------
    batch_size : array, shape (batch,)
        B of the rows, ascending.
    total_tokens : array, shape (tokens,)
        S of the columns, ascending.
    mean_ms, median_ms, quantile_ms : array, shape (batch, tokens)
        Mean, median and the quantile at `quantile` of the posterior predictive, in milliseconds.
    p_exceeds : array, shape (batch, tokens)
        P(T > SLA).
    sla_ms, quantile : float
        The limit, and which quantile was taken.
    """

    batch_size: Array
    total_tokens: Array
    mean_ms: Array
    median_ms: Array
    quantile_ms: Array
    p_exceeds: Array
    sla_ms: float
    quantile: float

    def lines(self, quantity: Quantity, level: float) -> list[Array]:
        """Lines on which a quantity has a level, each of shape (point, 2): B and S.

        Parameters
        ----------
        quantity : {"mean_ms", "median_ms", "quantile_ms", "p_exceeds"}
            Whose lines.
        level : float
            In the unit of the quantity.

        Raises
        ------
        InputError
            For a quantity that is none of these.
        """
        if quantity not in QUANTITIES:
            raise InputError(
                f"got quantity={quantity!r}, expected one of {', '.join(QUANTITIES)}; choose one"
            )
        return level_lines(self.batch_size, self.total_tokens, getattr(self, quantity), level)


def contours(
    draws: DeploymentDraws,
    *,
    batch_sizes: ArrayLike,
    total_tokens: ArrayLike,
    sla_ms: float,
    quantile: float = 0.99,
    context_tokens: float = 0.0,
    context_per_request: float = 0.0,
) -> StepContours:
    """Latency and P(T > SLA) over the grid of `batch_sizes` times `total_tokens`.

    Parameters
    ----------
    draws : DeploymentDraws
        Posterior draws of the deployment.
    batch_sizes, total_tokens : array
        B and S of the grid; sorted and made unique.
    sla_ms : float
        Limit in milliseconds.
    quantile : float
        Which quantile is taken beside the median.
    context_tokens, context_per_request : float
        C = ``context_tokens + context_per_request * B``.

    Raises
    ------
    InputError
        Where a step cannot be, no step of the grid has S >= B, the limit is not positive, or the
        quantile is not in (0, 1).
    """
    check_probability("quantile", quantile)
    if not 0.0 < sla_ms < np.inf:
        raise InputError(
            f"got sla_ms={sla_ms!r}, expected positive finite milliseconds; correct the limit"
        )
    batch, tokens = (np.unique(np.asarray(v, dtype=float)) for v in (batch_sizes, total_tokens))
    rows, columns = np.meshgrid(batch, tokens, indexing="ij")
    real = columns >= rows
    if not real.any():
        raise InputError(
            f"got B from {batch.min():g} and S up to {tokens.max():g}, expected steps with S >= B;"
            " ask for more tokens"
        )
    context = StepSpace(context_tokens=context_tokens, context_per_request=context_per_request)
    latency = LatencyDistribution(draws, rows[real], columns[real], context.context(rows[real]))

    def over_grid(values: Array) -> Array:
        grid = np.full(rows.shape, np.nan)
        grid[real] = values
        return grid

    return StepContours(
        batch,
        tokens,
        over_grid(latency.mean()),
        over_grid(latency.median()),
        over_grid(latency.ppf(quantile)),
        over_grid(latency.sf(sla_ms)),
        float(sla_ms),
        quantile,
    )


def contours_of(
    draws: DeploymentDraws, space: StepSpace, *, sla_ms: float, n: int = 28
) -> StepContours:
    """`contours` over `n` batch sizes and token counts of a space, evenly spaced on the log scale.

    Each batch size of a grid has a context of its own, as the space says.
    """
    low, high = space.batch_range
    batch = np.unique(np.rint(np.geomspace(low, high, n)))
    tokens = np.unique(np.rint(np.geomspace(space.token_range(low)[0], space.max_total_tokens, n)))
    return contours(
        draws,
        batch_sizes=batch,
        total_tokens=tokens,
        sla_ms=sla_ms,
        context_tokens=space.context_tokens,
        context_per_request=space.context_per_request,
    )


def level_lines(x: Array, y: Array, values: Array, level: float) -> list[Array]:
    """Lines of a level over a grid, interpolated along the edges of its cells.

    Parameters
    ----------
    x : array, shape (row,)
        Places of the rows, ascending.
    y : array, shape (column,)
        Places of the columns, ascending.
    values : array, shape (row, column)
        What is over the grid; NaN where there is nothing.
    level : float
        Whose lines.

    Returns
    -------
    list of array, each shape (point, 2)
        Places along each line; a closed one ends where it begins.
    """
    known = np.ma.masked_invalid(values)
    rows, columns = np.meshgrid(x, y, indexing="ij")
    # Cells that touch what is not known are left out whole.
    found = contour_generator(rows, columns, known, corner_mask=False)
    return [np.asarray(line) for line in found.lines(level)]
