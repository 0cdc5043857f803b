"""LatencyDistribution: the posterior predictive of a step's latency, with scipy.stats names."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslat.errors import InputError
from bayeslat.noise import standardise
from bayeslat.predictive.draws import DeploymentDraws, Points
from bayeslat.predictive.estimate import Estimate, check_probability, estimate

__all__ = ["LatencyDistribution"]

type Array = NDArray[np.float64]

MAX_CELLS = 4_000_000
"""Draws times points held in memory at once."""

RANK_SLACK = 1e-9
"""Keeps the rank of 0.9 among 1,000 draws at 900 whatever the rounding of the product."""


@dataclass(frozen=True, eq=False)
class LatencyDistribution:
    """Distribution of a step's latency at one or many design points.

    A mixture over posterior draws of the noise distribution: its spread holds both the noise of a
    step and what the data leave open about the parameters. Methods carry the names of
    `scipy.stats`; their first argument broadcasts against the design points. With ``credible=``
    the answer is an `Estimate`: the mixture's value and the credible interval that parameter
    uncertainty alone gives it.

    Parameters
    ----------
    draws : DeploymentDraws
        Posterior draws of the deployment.
    batch_size, total_tokens, context_tokens : array
        B requests, S tokens and C attended positions, broadcast against each other.
    n_averaged : array
        Steps whose mean the latency is; one by default, a single step. The noise is that of a step
        over sqrt(n), of the same family: exact for normal noise, while the mean of Student-t or
        lognormal steps is nearer to a normal than that. What the formula misses does not average
        out.

    Raises
    ------
    InputError
        If a design point has B < 1, S < B or C < 0, or is not finite; if `n_averaged` is not
        positive and finite.
    """

    draws: DeploymentDraws
    batch_size: Array
    total_tokens: Array
    context_tokens: Array
    n_averaged: Any = 1.0

    def __post_init__(self) -> None:
        names = ("batch_size", "total_tokens", "context_tokens", "n_averaged")
        arrays = _together(*(getattr(self, name) for name in names))
        batch, tokens, context, averaged = arrays
        finite = tokens + context < np.inf
        if not (finite & (batch >= 1) & (tokens >= batch) & (context >= 0)).all():
            raise InputError(
                f"got batch_size from {batch.min():g}, total_tokens from {tokens.min():g} and"
                f" context_tokens from {context.min():g}, expected batch_size >= 1,"
                " total_tokens >= batch_size (every request computes a token) and"
                " context_tokens >= 0, all finite; correct the query"
            )
        if not ((averaged > 0.0) & (averaged < np.inf)).all():
            raise InputError(
                f"got n_averaged from {averaged.min():g} to {averaged.max():g}, expected positive"
                " finite numbers of steps; leave it out for single steps"
            )
        for name, values in zip(names, arrays, strict=True):
            object.__setattr__(self, name, values)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the design points."""
        return self.batch_size.shape

    @overload
    def sf(self, t_ms: ArrayLike) -> Any: ...
    @overload
    def sf(self, t_ms: ArrayLike, *, credible: float) -> Estimate: ...
    def sf(self, t_ms: ArrayLike, *, credible: float | None = None) -> Any:
        """P(latency > t), for example the probability that a step breaks its SLA.

        Parameters
        ----------
        t_ms : array
            Milliseconds.
        credible : float, optional
            Mass of the credible interval; the answer is then an `Estimate`.
        """
        t, points, shape = self._broadcast(t_ms)
        if credible is None:
            return _shaped(self.draws.sf_mean(t, points), shape)
        check_probability("credible", credible)
        return self._summary(
            points, shape, credible, lambda part, where: self.draws.sf_draws(t[where], part)
        )

    def sf_upper(self, t_ms: ArrayLike, *, confident: float) -> Any:
        """One-sided upper credible bound of P(latency > t).

        The least value that at least the share `confident` of the draws' own P(latency > t) do not
        exceed: it is at most p exactly where P(latency > t) <= p has posterior probability
        `confident` or more.

        Parameters
        ----------
        t_ms : array
            Milliseconds.
        confident : float
            Posterior probability of the bound, in (0, 1).
        """
        check_probability("confident", confident)
        t, points, shape = self._broadcast(t_ms)
        rank = max(math.ceil(confident * self.draws.n_draws - RANK_SLACK), 1) - 1
        bound = np.empty(points.size)
        for where, part in points.chunks(self._points_at_once):
            per_draw = self.draws.sf_draws(t[where], part)
            bound[where] = np.partition(per_draw, rank, axis=0)[rank]
        return _shaped(bound, shape)

    def cdf(self, t_ms: ArrayLike, *, credible: float | None = None) -> Any:
        """P(latency <= t); arguments as in `sf`."""
        if credible is None:
            return 1.0 - self.sf(t_ms)
        value, lower, upper = self.sf(t_ms, credible=credible)
        return Estimate(1.0 - value, 1.0 - upper, 1.0 - lower)

    def ppf(self, q: ArrayLike, *, credible: float | None = None) -> Any:
        """Latency in milliseconds that is not exceeded with probability q.

        Parameters
        ----------
        q : array
            Probabilities in (0, 1).
        credible : float, optional
            Mass of the credible interval of the quantile: the spread over draws of each draw's own
            quantile.

        Raises
        ------
        InputError
            If a probability is outside (0, 1).
        """
        probability, points, shape = self._broadcast(q)
        if not np.all((probability > 0.0) & (probability < 1.0)):
            raise InputError(
                f"got q={q!r}, expected probabilities strictly between 0 and 1; the 99th percentile"
                " is q=0.99"
            )
        values = self.draws.ppf_mean(probability, points)
        if credible is None:
            return _shaped(values, shape)
        check_probability("credible", credible)
        bounds = np.empty((2, points.size))
        for where, part in points.chunks(self._points_at_once):
            per_draw = self.draws.ppf_draws(probability[where], part)
            bounds[:, where] = estimate(values[where], per_draw, credible)[1:]
        return Estimate(*(_shaped(array, shape) for array in (values, *bounds)))

    def isf(self, q: ArrayLike, *, credible: float | None = None) -> Any:
        """Latency that is exceeded with probability q."""
        return self.ppf(1.0 - np.asarray(q, dtype=float), credible=credible)

    def median(self, *, credible: float | None = None) -> Any:
        """The 50th percentile."""
        return self.ppf(0.5, credible=credible)

    def mean(self, *, credible: float | None = None) -> Any:
        """Mean latency in milliseconds."""
        _, points, shape = self._broadcast(0.0)

        def means(part: Points, _: slice) -> Array:
            return self._moments(part)[0]

        if credible is not None:
            return self._summary(points, shape, credible, means)
        return _shaped(self._mean_over_draws(points, means), shape)

    def std(self) -> Any:
        """Standard deviation in milliseconds, infinite where a draw has n nu <= 2."""
        _, points, shape = self._broadcast(0.0)
        mean, square = np.empty(points.size), np.empty(points.size)
        for where, part in points.chunks(self._points_at_once):
            mean[where], square[where] = (values.mean(axis=0) for values in self._moments(part))
        finite = np.isfinite(square)
        variance = np.where(finite, square, 0.0) - np.where(finite, np.square(mean), 0.0)
        return _shaped(np.where(finite, np.sqrt(np.maximum(variance, 0.0)), np.inf), shape)

    def interval(self, confidence: float) -> tuple[Any, Any]:
        """Equal-tailed predictive interval that holds a step with the given probability."""
        check_probability("confidence", confidence)
        tail = 0.5 * (1.0 - confidence)
        return self.ppf(tail), self.ppf(1.0 - tail)

    def rvs(self, size: int = 1, *, seed: int | np.random.Generator = 0) -> Array:
        """Random latencies, shape (size, *design shape): a draw and a noise for each."""
        rng = np.random.default_rng(seed)
        _, points, shape = self._broadcast(0.0)
        picked = self.draws.take(rng.integers(self.draws.n_draws, size=size))
        mu, sigma = picked.location_and_scale(points)
        scaled = sigma * picked.noise.standard_rvs(picked.shape(points), mu.shape, rng)
        values = mu * np.exp(scaled) if picked.noise.log_scale else mu * (1.0 + scaled)
        return np.maximum(values, 0.0).reshape(size, *shape)

    def pdf(self, t_ms: ArrayLike) -> Any:
        """Density in 1/ms (the clipped mass at zero has none)."""
        t, points, shape = self._broadcast(t_ms)
        noise = self.draws.noise
        positive = np.where(t > 0.0, t, 1.0)

        def density(part: Points, where: slice) -> Array:
            (mu, sigma), at = self.draws.location_and_scale(part), positive[where]
            z = standardise(noise, at, mu, sigma)
            width = sigma * (at if noise.log_scale else mu)
            return noise.standard_pdf(z, self.draws.shape(part)) / width

        return _shaped(np.where(t > 0, self._mean_over_draws(points, density), 0.0), shape)

    def logpdf(self, t_ms: ArrayLike) -> Any:
        """Logarithm of `pdf`; minus infinity for latencies that are not positive."""
        with np.errstate(divide="ignore"):
            return np.log(self.pdf(t_ms))

    @property
    def _points_at_once(self) -> int:
        return max(1, MAX_CELLS // self.draws.n_draws)

    def _moments(self, points: Points) -> tuple[Array, Array]:
        """Mean and second moment of the latency in each draw, each of shape (draw, point)."""
        mu, sigma = self.draws.location_and_scale(points)
        nu = self.draws.shape(points)
        if (sigma == sigma[:, :1]).all() and (points.n_averaged == points.n_averaged[:1]).all():
            # The moments cost more than all else and are often the same.
            sigma, nu = sigma[:, :1], nu[:, :1]
        first, second = self.draws.noise.moments(sigma, nu)
        return mu * first, np.square(mu) * second

    def _broadcast(self, first: ArrayLike) -> tuple[Array, Points, tuple[int, ...]]:
        """The argument and the design points, flat, with their common shape."""
        arrays = _together(
            first, self.batch_size, self.total_tokens, self.context_tokens, self.n_averaged
        )
        flat = [array.flatten() for array in arrays]  # a broadcast array may not be written to
        return flat[0], Points(*flat[1:]), arrays[0].shape

    def _summary(
        self,
        points: Points,
        shape: tuple[int, ...],
        credible: float,
        per_draw: Callable[[Points, slice], Array],
    ) -> Estimate:
        """Mean and interval over draws of a quantity whose mixture value is the mean."""
        n = points.size
        columns = np.empty((3, n))
        for where, part in points.chunks(self._points_at_once):
            values = per_draw(part, where)
            columns[:, where] = estimate(values.mean(axis=0), values, credible)
        return Estimate(*(_shaped(column, shape) for column in columns))

    def _mean_over_draws(self, points: Points, per_draw: Callable[[Points, slice], Array]) -> Array:
        result = np.empty(points.size)
        for where, part in points.chunks(self._points_at_once):
            result[where] = per_draw(part, where).mean(axis=0)
        return result


def _together(*values: ArrayLike) -> "list[Array]":
    """The values as float arrays of one shape."""
    arrays = [np.asarray(value, dtype=float) for value in values]
    if all(array.shape == arrays[0].shape for array in arrays):
        return arrays  # the common case, and much cheaper than asking numpy
    return list(np.broadcast_arrays(*arrays))


def _shaped(values: Array, shape: tuple[int, ...]) -> Any:
    """Values in the query's shape; a float for a scalar query."""
    return float(values[0]) if shape == () else values.reshape(shape)
