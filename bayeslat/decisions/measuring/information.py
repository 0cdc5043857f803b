"""What measuring a step tells of a decision quantity: a linear-Gaussian approximation over draws.

Let z be a decision quantity and g(x) the log latency that steps at x have without noise, both known
through joint posterior draws. A measurement at x is g(x) plus noise of variance v(x). Treating
(z, g) as Gaussian with the covariance of the draws, a measurement at x leaves of the variance of
z ::

    Var(z | y) = Var(z) - Cov(z, g(x))^2 / (Var(g(x)) + v(x))

whatever the outcome, and the reduction of the entropy of z is half the log of the ratio of the
variances: the information of Lindley (1956), "On a measure of the information provided by an
experiment", with the decision quantity in place of all parameters, as in MacKay (1992),
"Information-based objective functions for active data selection". Every measurement conditions the
covariances before the next is looked at, so that ten measurements are not ten times the same one.
The formula is exact where z and g are jointly normal and the noise is normal of known scale.

Two things limit what a measurement tells of the level. Noise: a mean of n steps of Student-t noise
with nu degrees of freedom and relative scale sigma is given ``n nu`` and ``sigma / sqrt(n)``, as in
`bayeslat.predictive.DeploymentDraws`; its v is the inverse of the Fisher information of its
location, ``sigma^2 / n (n nu + 3) / (n nu + 1)`` (Lange, Little and Taylor, 1989), less than its
variance, because the likelihood that will read it discounts outliers. And what the features of the
discrepancy miss: g(x) is what a draw says times exp(missing scale x normal), one normal for each
(B, S), the same in all steps that are measured there and independent between different (B, S), as
the model takes it. It adds to Var(g(x)) and says nothing of z, and no repetition averages it out.

A tail hangs on the scale of the noise too, and a measurement tells of that by how far it lies from
its expected level. Location and scale are orthogonal in the Fisher information of a symmetric
noise, so a measurement counts as a second one, of log sigma(x), with the information
``2 n nu / (n nu + 3) (v / (Var(g) + v))^2``: that of Lange, Little and Taylor times what is left of
it, for normal g, while the level itself is not known.

Where the scale of the noise is itself open, v is its mean over draws, and what of z does not follow
levels and log scales in a straight line counts as if it could not be learnt. Expected variances are
then on the wide side, the more so for risks far out in the tail; the order of the candidates is
that of nested Monte Carlo all the same (`bayeslat.decisions.measuring.sample_value.Outcomes`).
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bayeslat.predictive import DeploymentDraws
from bayeslat.predictive.draws import Points
from bayeslat.predictive.sampled import noise_and_missing

__all__ = ["Belief"]

type Array = NDArray[np.float64]

LEAST_INFORMATION = 1e-12
"""Information about log sigma that counts as none."""


@dataclass(frozen=True, eq=False)
class Belief:
    """Covariances of decision quantities and of what measuring each candidate would show.

    Parameters
    ----------
    parts : array, shape (draw, part)
        Decision quantities, less their means over draws.
    level : array, shape (draw, candidate)
        Log latencies without noise, less their means.
    scale : array, shape (draw, candidate)
        Logs of the noise scale, less their means.
    missing : array, shape (candidate,)
        Variance of what the features miss of the log latency.
    kind : array of int, shape (candidate,)
        Equal where what is missed is the same.
    noise : array, shape (candidate,)
        Variance of the noise of one measurement.
    told : array, shape (candidate,)
        Information of one measurement about log sigma, were its level known.
    factors : array, shape (factor, part + 2 candidate)
        What measurements so far have taken of the covariance of parts, levels and scales: it is
        that of the draws, with `missing` in the levels, less ``factors' factors``.
    """

    parts: Array
    level: Array
    scale: Array
    missing: Array
    kind: NDArray[np.int64]
    noise: Array
    told: Array
    factors: Array

    @classmethod
    def of_draws(cls, draws: DeploymentDraws, values: Array, candidates: Points) -> Self:
        """What joint draws say of decision quantities and candidate measurements.

        Parameters
        ----------
        draws : DeploymentDraws
            Posterior draws of the deployment.
        values : array, shape (draw, part)
            Decision quantities of these draws.
        candidates : Points
            Steps that could be measured; `n_averaged` says as means of how many.
        """
        scales = noise_and_missing(draws, candidates)
        # Of Student-t noise with n nu degrees of freedom; both ratios are one for a normal.
        inverse = 1.0 / (draws.nu[:, None] * candidates.n_averaged)
        spread = (1.0 + 3.0 * inverse) / (1.0 + inverse)
        design = np.column_stack([candidates.batch_size, candidates.total_tokens])
        return cls(
            parts=_centred(values),
            level=_centred(np.log(scales.location)),
            scale=_centred(np.log(np.maximum(scales.noise, np.finfo(float).tiny))),
            missing=np.square(scales.missing).mean(axis=0),
            kind=np.unique(design, axis=0, return_inverse=True)[1].ravel(),
            noise=np.mean(np.square(scales.noise) * spread, axis=0) / candidates.n_averaged,
            told=2.0 * np.mean(1.0 / (1.0 + 3.0 * inverse), axis=0),
            factors=np.empty((0, values.shape[1] + 2 * candidates.size)),
        )

    @cached_property
    def variance(self) -> float:
        """Mean over the decision quantities of their variances."""
        own = np.square(self._factors_of_parts).sum(axis=0)
        return float(np.maximum(_squares(self.parts) - own, 0.0).mean())

    @cached_property
    def reductions(self) -> Array:
        """By how much one more measurement of each candidate lowers `variance`, (candidate,)."""
        of_parts, (of_level, of_scale) = self._factors_of_parts, self._factors_of_candidates
        level = _products(self.parts, self.level) - of_parts.T @ of_level
        scale = _products(self.parts, self.scale) - of_parts.T @ of_scale
        between = (self.level * self.scale).sum(axis=0) / (len(self.level) - 1)
        between -= (of_level * of_scale).sum(axis=0)
        measured = self._level_variance + self.noise
        scale -= level * between / measured
        spread = _squares(self.scale) - np.square(of_scale).sum(axis=0)
        spread = np.maximum(spread - np.square(between) / measured, 0.0)
        by_level, by_scale = np.square(level) / measured, np.square(scale) * self._told_now
        return (by_level + by_scale / (1.0 + spread * self._told_now)).mean(axis=0)

    @cached_property
    def information(self) -> Array:
        """Expected information of one more measurement of each candidate, in nats, (candidate,).

        Half the log of how much it lowers `variance`: with one decision quantity the reduction of
        its entropy. Zero for decisions that are certain.
        """
        if self.variance <= 0.0:
            return np.zeros(self.noise.size)
        left = np.clip(1.0 - self.reductions / self.variance, np.finfo(float).tiny, 1.0)
        return -0.5 * np.log(left)

    def after(self, candidate: int) -> Self:
        """The covariances once a candidate was measured."""
        n_parts, n = self.parts.shape[1], self.noise.size
        told = self._told_now[candidate]
        column = self._column(self.level[:, candidate], n_parts + candidate)
        same = np.flatnonzero(self.kind == self.kind[candidate])
        column[n_parts + same] += np.sqrt(self.missing[same] * self.missing[candidate])
        variance = column[n_parts + candidate] + self.noise[candidate]
        found = self._with_factor(column / np.sqrt(variance))
        if told < LEAST_INFORMATION:
            return found
        column = found._column(self.scale[:, candidate], n_parts + n + candidate)
        variance = column[n_parts + n + candidate] + 1.0 / told
        return found._with_factor(column / np.sqrt(variance))

    @cached_property
    def _told_now(self) -> Array:
        """Information of one measurement about log sigma, its level being as unknown as it is."""
        return self.told * np.square(self.noise / (self._level_variance + self.noise))

    @cached_property
    def _level_variance(self) -> Array:
        own = np.square(self._factors_of_candidates[0]).sum(axis=0)
        return np.maximum(_squares(self.level) + self.missing - own, 0.0)

    @property
    def _factors_of_parts(self) -> Array:
        return self.factors[:, : self.parts.shape[1]]

    @property
    def _factors_of_candidates(self) -> tuple[Array, Array]:
        """Factors of the levels and of the scales."""
        rest = self.factors[:, self.parts.shape[1] :]
        return rest[:, : self.noise.size], rest[:, self.noise.size :]

    def _column(self, centred: Array, place: int) -> Array:
        """Covariances of everything with one quantity, what is missed left out."""
        blocks = (self.parts, self.level, self.scale)
        of_draws = np.concatenate([_products(block, centred) for block in blocks])
        return of_draws - self.factors.T @ self.factors[:, place]

    def _with_factor(self, factor: Array) -> Self:
        return replace(self, factors=np.vstack([self.factors, factor]))


def _centred(values: Array) -> Array:
    return values - values.mean(axis=0)


def _products(left: Array, right: Array) -> Array:
    """Covariances of centred columns."""
    return left.T @ right / (len(left) - 1)


def _squares(centred: Array) -> Array:
    """Variances of centred columns."""
    return np.square(centred).sum(axis=0) / (len(centred) - 1)
