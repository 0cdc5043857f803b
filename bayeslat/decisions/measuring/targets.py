"""Decision quantities: what measurements shall make certain, as numbers of every posterior draw.

A decision quantity is any function from draws to an array of shape (draw,), or (draw, part) where
several numbers matter alike. `bayeslat.decisions.measuring.design` asks which measurements reduce
its variance. Three are ready-made, all on the log scale, so that a standard deviation is a relative
one: `LogLatency` and `LogQuantile` at stated steps, and `LargestTokens` under an SLA.

What a draw gives is the latency of its own formula and discrepancy. What the features of the
discrepancy miss (`bayeslat.predictive.noise_and_missing`) is no part of a draw, so no measurement
reduces it; it is part of the tail in `LogQuantile` and `LargestTokens`.
"""

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from bayeslat.decisions.arguments import check_count, check_not_negative
from bayeslat.errors import InputError
from bayeslat.predictive import DeploymentDraws, Estimate
from bayeslat.predictive.draws import Points
from bayeslat.predictive.estimate import check_probability, estimate

__all__ = [
    "Decision",
    "LargestTokens",
    "LogLatency",
    "LogQuantile",
    "decision_values",
]

type Array = NDArray[np.float64]

MAX_TOTAL_TOKENS: Final = 8_192
"""Default end of the search for the largest token count."""

N_NODES: Final = 256
"""Token counts at which a largest one is looked for; between them log latency is interpolated."""


class Decision(Protocol):
    """What maps draws to the numbers that shall become certain."""

    def __call__(self, draws: DeploymentDraws) -> Array:
        """The quantity in every draw, shape (draw,) or (draw, part)."""


@dataclass(frozen=True, eq=False)
class LogLatency:
    """Log latency, without the noise of a step, at one or several steps.

    Parameters
    ----------
    points : Points
        The steps; their `n_averaged` is not looked at.
    """

    points: Points

    def __call__(self, draws: DeploymentDraws) -> Array:
        """Shape (draw, point)."""
        return np.log(draws.location(self.points))


@dataclass(frozen=True, eq=False)
class LogQuantile:
    """Log of a latency quantile, noise included, at one or several steps.

    Parameters
    ----------
    points : Points
        The steps.
    q : float
        Probability in (0, 1); 0.99 is the p99.

    Raises
    ------
    InputError
        If `q` is no probability.
    """

    points: Points
    q: float = 0.99

    def __post_init__(self) -> None:
        check_probability("q", self.q)

    def __call__(self, draws: DeploymentDraws) -> Array:
        """Shape (draw, point)."""
        levels = np.full(self.points.size, self.q)
        return np.log(np.maximum(draws.ppf_draws(levels, self.points), np.finfo(float).tiny))


@dataclass(frozen=True)
class LargestTokens:
    """Log of the largest S for a given B with P(latency > SLA) <= risk, in every draw.

    A draw's own largest S lies where its own latency quantile at 1 - risk crosses the SLA for the
    last time: on a grid of token counts, log-linearly between two of them. A draw in which not even
    S = B fits counts as S = B, one in which the end of the search fits as that end.

    Parameters
    ----------
    batch_size : int
        B requests of the step.
    sla_ms : float
        Limit of the step's latency in milliseconds.
    risk : float
        Admitted probability of breaking the limit, in (0, 1).
    context_tokens, context_per_request : float
        Attended context, for the step and for each request, as in
        `bayeslat.decisions.feasible_tokens`.
    max_total_tokens : int
        End of the search.

    Raises
    ------
    InputError
        If an argument is out of its range; when called, if no draw keeps the risk at S = B.
    """

    batch_size: int
    sla_ms: float
    risk: float = 0.01
    context_tokens: float = 0.0
    context_per_request: float = 0.0
    max_total_tokens: int = MAX_TOTAL_TOKENS

    def __post_init__(self) -> None:
        low = check_count("batch_size", self.batch_size, at_least=1)
        check_count("max_total_tokens", self.max_total_tokens, at_least=low + 1)
        check_probability("risk", self.risk)
        check_not_negative("context_tokens", self.context_tokens)
        check_not_negative("context_per_request", self.context_per_request)
        if not (np.isfinite(self.sla_ms) and self.sla_ms > 0.0):
            raise InputError(
                f"got sla_ms={self.sla_ms!r}, expected positive finite milliseconds;"
                " correct the limit"
            )

    @property
    def steps(self) -> Points:
        """Steps among which the largest is looked for, in ascending order of S."""
        ends = self.batch_size, self.max_total_tokens
        tokens = np.unique(np.round(np.geomspace(*ends, N_NODES)))
        batch = np.full(tokens.size, float(self.batch_size))
        context = np.full(tokens.size, self.context_tokens + self.context_per_request * batch[0])
        return Points(batch, tokens, context)

    def __call__(self, draws: DeploymentDraws) -> Array:
        """Log of the largest S, shape (draw,)."""
        steps = self.steps
        tail = draws.ppf_draws(np.full(steps.size, 1.0 - self.risk), steps)
        within = np.log(self.sla_ms) - np.log(np.maximum(tail, np.finfo(float).tiny))
        fits = within >= 0.0
        if not fits.any():
            raise InputError(
                f"got sla_ms={self.sla_ms:g}, below the floor: no posterior draw keeps a risk of"
                f" {self.risk:g} at B = {self.batch_size}, expected"
                f" {float(np.median(tail[:, 0])):.3g} ms or more; raise the limit or the risk"
            )
        return _last_crossing(np.log(steps.total_tokens), within, fits)

    def estimate(self, draws: DeploymentDraws, *, credible: float = 0.9) -> Estimate:
        """The largest S itself, in tokens: median over draws and credible interval."""
        tokens = np.exp(self(draws))
        return estimate(np.median(tokens), tokens, credible)


def decision_values(decision: Decision, draws: DeploymentDraws) -> Array:
    """A decision quantity as a matrix, shape (draw, part).

    Raises
    ------
    InputError
        If it has not one finite number, or one row of them, for every draw.
    """
    values = np.asarray(decision(draws), dtype=float)
    rows = values[:, None] if values.ndim == 1 else values
    if rows.ndim != 2 or len(rows) != draws.n_draws or not rows.size:
        raise InputError(
            f"got a decision quantity of shape {values.shape}, expected ({draws.n_draws},) or"
            f" ({draws.n_draws}, part); return one number or row for every draw"
        )
    if not np.isfinite(rows).all():
        raise InputError(
            f"got a decision quantity with {np.count_nonzero(~np.isfinite(rows))} values that are"
            " not finite, expected numbers; give draws without an answer a number of their own"
        )
    return rows


def _last_crossing(log_tokens: Array, within: Array, fits: NDArray[np.bool_]) -> Array:
    """Where `within` (draw, step) falls through zero for the last time; its first step if never."""
    last = fits.shape[1] - 1 - np.argmax(fits[:, ::-1], axis=1)
    last = np.where(fits.any(axis=1), last, 0)
    after = np.minimum(last + 1, fits.shape[1] - 1)
    rows = np.arange(len(fits))
    inside, outside = within[rows, last], within[rows, after]
    falls = (inside > 0.0) & (outside < 0.0)
    share = np.where(falls, inside / np.where(falls, inside - outside, 1.0), 0.0)
    return log_tokens[last] + share * (log_tokens[after] - log_tokens[last])
