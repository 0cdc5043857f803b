"""SampledDistribution: a predictive distribution held as samples, and how steps are sampled.

A sum over many steps, or whatever comes out of a simulation, has no closed form. It is held as a
matrix of samples with a row for each posterior draw: what differs between rows is what the data
leave open about the parameters, and what differs within a row is noise.

Two kinds of spread of a step must be told apart before steps are summed. Its noise is new in every
step and averages out. What the features of the discrepancy miss is one unknown function of the
design point: it is the same in every step of a draw and never averages out. `noise_and_missing`
splits the two, `missing_normals` draws the second once a posterior draw, and `sample_means` puts
them together: like all of the discrepancy, what is missed is on the scale of log latency, and
multiplies every step of its draw by exp(missing scale x normal). (`LatencyDistribution`, for
single steps, has both in one scale.)
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, NamedTuple, Self
from zlib import crc32

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from bayeslat.errors import InputError
from bayeslat.predictive.draws import DeploymentDraws, Points
from bayeslat.predictive.estimate import Estimate, check_probability, estimate

__all__ = [
    "SampledDistribution",
    "StepScales",
    "divided",
    "expected_latency",
    "missing_normals",
    "noise_and_missing",
    "repeated_shares",
    "sample_means",
]

type Array = NDArray[np.float64]

LEAST_NU: Final = 3.0
"""Degrees of freedom that fits do not go below."""

RANK_SLACK: Final = 1e-9
"""Keeps the rank of 0.9 among 1,000 samples at 900 whatever the rounding of the product."""


@dataclass(frozen=True, eq=False)
class SampledDistribution:
    """A predictive distribution as samples, with the methods of `LatencyDistribution`.

    Quantiles are order statistics, the inverse of the samples' own distribution function, so that
    infinite samples (the wait in an unstable queue) need no arithmetic: quantiles beyond their
    share and the mean are then infinite. With ``credible=`` the answer is an `Estimate`, whose
    interval is the spread over draws of each draw's own value; with R replicates a draw's own
    value has a Monte Carlo error of its own, which widens the interval by little where
    R q (1 - q) is large.

    Parameters
    ----------
    samples : array, shape (draw, replicate)
        Rows are posterior draws, columns the noise given that draw. Positive infinities are
        allowed.

    Raises
    ------
    InputError
        If the samples are no matrix, are empty, or hold NaN or minus infinity.
    """

    samples: Array

    def __post_init__(self) -> None:
        samples = np.array(self.samples, dtype=float)
        if samples.ndim != 2 or samples.size == 0:
            raise InputError(
                f"got samples of shape {samples.shape}, expected (draw, replicate) with at least"
                " one of each; one row holds the noise given one posterior draw"
            )
        if not (samples > -np.inf).all():
            raise InputError(
                f"got {np.count_nonzero(~(samples > -np.inf))} of {samples.size} samples that are"
                " NaN or minus infinity, expected numbers or plus infinity; a time that never ends"
                " is plus infinity"
            )
        samples.flags.writeable = False
        object.__setattr__(self, "samples", samples)

    @property
    def n_draws(self) -> int:
        """Number of posterior draws."""
        return self.samples.shape[0]

    @property
    def n_replicates(self) -> int:
        """Number of samples of each draw."""
        return self.samples.shape[1]

    def __add__(self, other: object) -> Self:
        """Sum of two times, paired by draw: parameters stay joint, noise must be independent."""
        if not isinstance(other, SampledDistribution):
            return NotImplemented
        if self.samples.shape != other.samples.shape:
            raise InputError(
                f"got samples of shapes {self.samples.shape} and {other.samples.shape} to add,"
                " expected equal ones; take both from the same draws with as many replicates"
            )
        return replace(self, samples=self.samples + other.samples)

    def sf(self, t: ArrayLike, *, credible: float | None = None) -> Any:
        """P(X > t).

        Parameters
        ----------
        t : array
            In the unit of the samples.
        credible : float, optional
            Mass of the credible interval; the answer is then an `Estimate`.
        """
        t = _numbers("t", t)
        value = 1.0 - np.searchsorted(self._pooled, t, side="right") / self._pooled.size
        return _answer(value, credible, lambda: self._sf_draws(t))

    def sf_upper(self, t: ArrayLike, *, confident: float) -> Any:
        """One-sided upper credible bound of P(X > t), as in `LatencyDistribution.sf_upper`."""
        check_probability("confident", confident)
        rank = max(math.ceil(confident * self.n_draws - RANK_SLACK), 1) - 1
        return _scalar(np.partition(self._sf_draws(_numbers("t", t)), rank, axis=0)[rank])

    def cdf(self, t: ArrayLike, *, credible: float | None = None) -> Any:
        """P(X <= t); arguments as in `sf`."""
        if credible is None:
            return 1.0 - self.sf(t)
        value, lower, upper = self.sf(t, credible=credible)
        return Estimate(1.0 - value, 1.0 - upper, 1.0 - lower)

    def ppf(self, q: ArrayLike, *, credible: float | None = None) -> Any:
        """The least sample that is not exceeded with probability q.

        Parameters
        ----------
        q : array
            Probabilities in (0, 1).
        credible : float, optional
            Mass of the credible interval of the quantile.

        Raises
        ------
        InputError
            If a probability is outside (0, 1).
        """
        q = np.asarray(q, dtype=float)
        if not np.all((q > 0.0) & (q < 1.0)):
            raise InputError(
                f"got q={q!r}, expected probabilities strictly between 0 and 1; the 99th percentile"
                " is q=0.99"
            )
        value = self._pooled[_rank(q, self._pooled.size)]
        return _answer(value, credible, lambda: self._by_draw[:, _rank(q, self.n_replicates)])

    def isf(self, q: ArrayLike, *, credible: float | None = None) -> Any:
        """The value that is exceeded with probability q."""
        return self.ppf(1.0 - np.asarray(q, dtype=float), credible=credible)

    def median(self, *, credible: float | None = None) -> Any:
        """The 50th percentile."""
        return self.ppf(0.5, credible=credible)

    def mean(self, *, credible: float | None = None) -> Any:
        """The mean, infinite where a sample is."""
        return _answer(self.samples.mean(), credible, lambda: self.samples.mean(axis=1))

    def std(self) -> float:
        """Standard deviation, infinite where a sample is."""
        return float(self.samples.std()) if np.isfinite(self.samples).all() else math.inf

    def interval(self, confidence: float) -> tuple[Any, Any]:
        """Equal-tailed predictive interval of the given probability."""
        check_probability("confidence", confidence)
        tail = 0.5 * (1.0 - confidence)
        return self.ppf(tail), self.ppf(1.0 - tail)

    def rvs(self, size: int = 1, *, seed: int | np.random.Generator = 0) -> Array:
        """Samples picked at random with replacement, shape (size,)."""
        return np.random.default_rng(seed).choice(self._pooled, size=size)

    @cached_property
    def _pooled(self) -> Array:
        return np.sort(self.samples, axis=None)

    @cached_property
    def _by_draw(self) -> Array:
        return np.sort(self.samples, axis=1)

    def _sf_draws(self, t: Array) -> Array:
        """P(X > t) in each draw, shape (draw, *shape of t)."""
        below = [np.searchsorted(row, t, side="right") for row in self._by_draw]
        return 1.0 - np.array(below) / self.n_replicates


class StepScales(NamedTuple):
    """Latency of a single step and its two kinds of spread, each of shape (draw, point).

    Parameters
    ----------
    location : array
        Latency in milliseconds without any spread.
    noise : array
        Relative scale of what is new in every step.
    missing : array
        Relative scale of what the discrepancy's features miss, the same in all steps of a draw.
    """

    location: Array
    noise: Array
    missing: Array


def noise_and_missing(draws: DeploymentDraws, points: Points) -> StepScales:
    """Split the spread of single steps into noise and what never averages out.

    Parameters
    ----------
    draws : DeploymentDraws
        Posterior draws of the deployment.
    points : Points
        Design points; their `n_averaged` is not looked at.
    """
    design = points.batch_size, points.total_tokens, points.context_tokens
    location, single = draws.location_and_scale(Points(*design))
    _, missing = draws.location_and_scale(Points(*design, np.inf))
    variance = np.square(single) - np.square(missing)
    return StepScales(location, np.sqrt(np.maximum(variance, 0.0)), missing)


def missing_normals(draws: DeploymentDraws) -> Array:
    """Standard normal of each draw that scales what the features miss, shape (draw,).

    One number a draw: what is missed at two design points of a draw moves together, as if it were
    perfectly correlated. That is so for steps of like B and S, and overstates the spread of a sum
    over steps of different kinds. The numbers depend on the deployment and nothing else, so that
    answers to different questions about the same draws stay joint. They are stratified: their
    distribution is normal to within one part in the number of draws.
    """
    rng = np.random.default_rng(crc32(b"missing " + draws.deployment.label.encode()))
    levels = (rng.permutation(draws.n_draws) + rng.random(draws.n_draws)) / draws.n_draws
    return special.ndtri(np.clip(levels, 1e-12, 1.0 - 1e-12))


def repeated_shares(draws: DeploymentDraws, share: float | None = None) -> Array:
    """Share of the noise's variance that comes back in every step of a run, for each draw.

    What a fit calls noise is in part new in every step, and in part what B, S and C do not tell of
    the steps of one workload: how its lengths mix, where its context lies, a neighbour on the host.
    That part is the same in all steps of a run and does not average out over them. A log does not
    tell the two apart, so the share is unknown: uniform between zero and one.

    Parameters
    ----------
    draws : DeploymentDraws
        Posterior draws of the deployment.
    share : float, optional
        The share where it is known, from 0 (all noise is new in every step) to 1.

    Returns
    -------
    array, shape (draw,)
        Stratified uniforms in an order that depends on the deployment and nothing else.

    Raises
    ------
    InputError
        If `share` is not in [0, 1].
    """
    if share is not None:
        if not 0.0 <= share <= 1.0:
            raise InputError(
                f"got repeated_share={share}, expected a share from 0 to 1; leave it out where it"
                " is not known"
            )
        return np.full(draws.n_draws, float(share))
    rng = np.random.default_rng(crc32(b"repeated " + draws.deployment.label.encode()))
    return (rng.permutation(draws.n_draws) + rng.random(draws.n_draws)) / draws.n_draws


def divided(draws: DeploymentDraws, points: Points, share: Any) -> StepScales:
    """`noise_and_missing` with the repeated share of the noise moved to what steps have in common.

    Parameters
    ----------
    draws, points : DeploymentDraws, Points
        Posterior draws, and the design points.
    share : array, shape (draw,), or float
        Share of the noise's variance that comes back, from `repeated_shares`. The variance of
        Student-t noise is nu / (nu - 2) times its squared scale, with nu taken as no less than
        `LEAST_NU`, below which it grows without bound.

    Returns
    -------
    StepScales
        ``noise`` is the scale of what is new in every step, ``missing`` the standard deviation of
        all that is the same.
    """
    location, noise, missing = noise_and_missing(draws, points)
    part, nu = np.reshape(share, (-1, 1)), np.maximum(draws.nu, LEAST_NU)[:, None]
    heavy = np.where(np.isfinite(nu), nu / np.where(np.isfinite(nu), nu - 2.0, 1.0), 1.0)
    common = np.sqrt(np.square(missing) + part * heavy * np.square(noise))
    return StepScales(location, noise * np.sqrt(1.0 - part), common)


def expected_latency(draws: DeploymentDraws, points: Points, *, missing: Array) -> Array:
    """Mean latency of a step in each draw, shape (draw, point), in milliseconds.

    Parameters
    ----------
    draws, points : DeploymentDraws, Points
        Posterior draws, and the design points.
    missing : array, shape (draw,)
        Standard normals that scale what the features miss; from `missing_normals`.

    Notes
    -----
    Exact but for the clipping of single steps at zero, which is left out.
    """
    location, noise, missed = noise_and_missing(draws, points)
    level = location * np.exp(missed * missing[:, None])
    return level * np.exp(0.5 * np.square(noise)) if draws.noise.log_scale else level


def sample_means(
    draws: DeploymentDraws,
    points: Points,
    *,
    missing: Array,
    n_replicates: int,
    rng: np.random.Generator,
    repeated: Array | float = 0.0,
) -> Iterator[Array]:
    """Random means over the `n_averaged` steps of each point, one matrix a point.

    Parameters
    ----------
    draws : DeploymentDraws
        Posterior draws of the deployment.
    points : Points
        Design points; `n_averaged` says over how many steps of independent noise the mean goes.
    missing : array, shape (draw,)
        Standard normals that scale what the features miss; from `missing_normals`.
    n_replicates : int
        Columns of a matrix.
    rng : Generator
        Of the noise.
    repeated : array, shape (draw,), or float
        Share of the noise that all steps have in common, from `repeated_shares`.

    Yields
    ------
    array, shape (draw, n_replicates)
        Milliseconds, clipped at zero.

    Notes
    -----
    Exact for single steps and for normal noise (but that a mean is clipped at zero, and not its
    steps). The mean of m Student-t steps is a Student-t of the mean's own variance and, where nu
    exceeds 4, of its own kurtosis: nu' = nu + (m - 1) max(nu - 4, 0). Probabilities of its tails
    are right to a seventh for nu of 5 or more, and to two fifths for nu = 3. (The rule of
    ``n_averaged`` in `LatencyDistribution`, sigma / sqrt(m), loses the variance of the steps'
    tails: for nu = 5 the standard deviation is a quarter too small.) The mean of m lognormal steps
    is a lognormal of the mean's own expectation and variance (Fenton, 1960).
    """
    location, noise, common = divided(draws, points, repeated)
    level = location * np.exp(common * missing[:, None])
    for column, n in enumerate(points.n_averaged):
        nu, centre, spread = _noise_of_mean(draws, noise[:, column, None], n)
        standard = draws.noise.standard_rvs(nu, (draws.n_draws, n_replicates), rng)
        scaled = centre + spread * standard
        factor = np.exp(scaled) if draws.noise.log_scale else np.maximum(1.0 + scaled, 0.0)
        yield level[:, column, None] * factor


def _noise_of_mean(draws: DeploymentDraws, noise: Array, n: float) -> tuple[Array, Array, Array]:
    """Shape, centre and scale of the mean of n steps, each of shape (draw, 1)."""
    nu, centre = draws.nu[:, None], np.zeros_like(noise)
    if draws.noise.log_scale:
        variance = np.log1p(np.expm1(np.square(noise)) / n)
        return nu, 0.5 * (np.square(noise) - variance), np.sqrt(variance)
    light = (nu > 4.0) & np.isfinite(nu)
    excess = np.where(light, nu - 4.0, 0.0)
    grown = nu + (n - 1.0) * excess
    ratio = np.ones(nu.shape)
    ratio[light] = (1.0 - 2.0 / grown[light]) / (1.0 - 2.0 / nu[light])
    return grown, centre, noise * np.sqrt(ratio / n)


def _rank(q: Array, n: int) -> NDArray[np.int64]:
    """Place of the q-th quantile among n sorted samples."""
    return np.clip(np.ceil(q * n - RANK_SLACK * n).astype(np.int64), 1, n) - 1


def _numbers(name: str, value: ArrayLike) -> Array:
    array = np.asarray(value, dtype=float)
    if np.isnan(array).any():
        raise InputError(f"got {name}={value!r}, expected numbers; leave out what is NaN")
    return array


def _answer(value: Any, credible: float | None, per_draw: Any) -> Any:
    """A value, with the interval over draws where one is asked for."""
    if credible is None:
        return _scalar(value)
    check_probability("credible", credible)
    values = per_draw()
    if np.isfinite(values).all():
        return estimate(value, values, credible)
    ordered, tail = np.sort(values, axis=0), 0.5 * (1.0 - credible)
    place = tail * (len(ordered) - 1)
    lower, upper = ordered[math.floor(place)], ordered[len(ordered) - 1 - math.floor(place)]
    return Estimate(_scalar(value), _scalar(lower), _scalar(upper))


def _scalar(value: ArrayLike) -> Any:
    """A float for a zero-dimensional array, the array itself otherwise."""
    array = np.asarray(value)
    return float(array) if array.ndim == 0 else array
