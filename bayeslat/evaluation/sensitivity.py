"""Sensitivity of latency: what one more request, token or attended position costs at a step.

Derivatives of a step's latency without its noise, mu = T exp(delta): those of the formula T are
`bayeslat.saturation.sensitivity`, and the discrepancy delta adds T times its own slope, both
analytic and both of every posterior draw. T is not monotone, so signs are answers of their own:
where dT/dB is negative, adding a request makes the same tokens faster.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslat import saturation
from bayeslat.discrepancy import Discrepancy
from bayeslat.errors import InputError
from bayeslat.predictive import DeploymentDraws, Estimate
from bayeslat.predictive.draws import Points
from bayeslat.predictive.estimate import check_probability, estimate

__all__ = ["AXES", "SensitivityGrid", "latency_slopes", "sensitivity_grid"]

type Array = NDArray[np.float64]

AXES: Final = {
    "batch_size": "ms/request",
    "total_tokens": "ms/token",
    "context_tokens": "ms/position",
}
"""What latency is derived by, and the unit."""


@dataclass(frozen=True, eq=False)
class SensitivityGrid:
    """Derivatives of the latency of one deployment over batch size and tokens.

    Attributes
    ----------
    deployment : str
        Its label.
    batch_size, total_tokens : array, shapes (batch,) and (token,)
        The grid.
    context_tokens : array, shape (batch, token)
        Attended positions of each step.
    slopes : dict of str to Estimate of arrays, shape (batch, token)
        Posterior mean and credible interval by each of `AXES`, NaN where S < B.
    negative : dict of str to array, shape (batch, token)
        Posterior probability that the derivative is negative.
    credible : float
        Mass of the intervals.
    """

    deployment: str
    batch_size: Array
    total_tokens: Array
    context_tokens: Array
    slopes: dict[str, Estimate]
    negative: dict[str, Array]
    credible: float


def sensitivity_grid(
    draws: DeploymentDraws,
    batch_size: ArrayLike,
    total_tokens: ArrayLike,
    *,
    context_per_request: float = 0.0,
    credible: float = 0.9,
) -> SensitivityGrid:
    """Derivatives of latency by B, S and C over a grid, with credible intervals.

    Each is taken with the other two held: by B, too, C stays.

    Parameters
    ----------
    draws : DeploymentDraws
        From `FleetPosterior.draws`.
    batch_size, total_tokens : array, one dimension
        Values of B and S, from one on.
    context_per_request : float
        Attended positions of each request, `FleetPosterior.typical_context` for instance. With the
        term ``r_C`` latency jumps where C passes S.
    credible : float
        Mass of the intervals.

    Raises
    ------
    InputError
        No step of the grid is possible, a value is below one, or the mass is no probability.
    """
    check_probability("credible", credible)
    batch, tokens = (np.unique(np.asarray(a, dtype=float)) for a in (batch_size, total_tokens))
    if not (batch.size and tokens.size and batch[0] >= 1.0 and tokens[-1] >= batch[0]):
        raise InputError(
            f"got {batch.size} batch sizes and {tokens.size} token counts, expected values from 1"
            " on and some S >= B (every request computes a token); correct the grid"
        )
    rows, columns = np.meshgrid(batch, tokens, indexing="ij")
    possible = columns >= rows
    context = context_per_request * rows
    points = Points(rows[possible], columns[possible], context[possible])
    slopes, negative = {}, {}
    for name, values in latency_slopes(draws, points).items():
        summary = estimate(values.mean(axis=0), values, credible)
        slopes[name] = Estimate(*(_placed(column, possible) for column in summary))
        negative[name] = _placed(np.mean(values < 0.0, axis=0), possible)
    return SensitivityGrid(
        draws.deployment.label, batch, tokens, context, slopes, negative, credible
    )


def latency_slopes(draws: DeploymentDraws, points: Points) -> dict[str, Array]:
    """Derivatives of mu by each of `AXES` in every draw, shape (draw, point).

    Parameters
    ----------
    draws : DeploymentDraws
        Posterior draws.
    points : Points
        Design points. On the bounds S = B, C = S and those of the measured tokens the derivatives
        are those of one side.
    """
    parameters = {name: values[:, None] for name, values in draws.parameters.items()}
    design = points.batch_size, points.total_tokens, points.context_tokens
    formula = saturation.latency(parameters, *design)
    slopes = saturation.sensitivity(parameters, *design)
    shape = formula.shape
    if draws.discrepancy is None:
        return {name: np.broadcast_to(slopes[name], shape) for name in AXES}
    features = draws.discrepancy.features(*design[:2])
    factor = np.exp(draws.discrepancy.loadings @ features.T)
    moved = dict(zip(AXES, _feature_slopes(draws.discrepancy, points), strict=False))
    found = {}
    for name in AXES:
        own: Any = slopes[name]
        if name in moved:
            own = own + formula * (draws.discrepancy.loadings @ moved[name].T)
        found[name] = np.broadcast_to(factor * own, shape)
    return found


def _feature_slopes(discrepancy: Discrepancy, points: Points) -> tuple[Array, Array]:
    """Derivatives of the features by B and by S, each shape (point, feature).

    Through log S and h = 1 - B / S: a squared exponential k of u has the derivative -u k.
    """
    batch, tokens = points.batch_size[:, None], points.total_tokens[:, None]
    basis = discrepancy.basis
    at = np.log(tokens), saturation.prefill_share(batch, tokens)
    kernel = basis.correlations(points.batch_size, points.total_tokens)
    by_log_tokens, by_share = (
        -kernel * (value - centres) / scale**2 @ basis.whitening
        for value, centres, scale in zip(at, basis.centres.T, basis.length_scales, strict=True)
    )
    by_batch = -by_share / tokens
    by_tokens = by_log_tokens / tokens + by_share * batch / tokens**2
    if discrepancy.power is None:
        return by_batch, by_tokens
    low, high = discrepancy.reach
    beyond = np.where((tokens < low) | (tokens > high), 1.0 / tokens, 0.0)
    return np.hstack([by_batch, np.zeros_like(tokens)]), np.hstack([by_tokens, beyond])


def _placed(values: Array, possible: NDArray[np.bool_]) -> Array:
    placed = np.full(possible.shape, np.nan)
    placed[possible] = values
    return placed
