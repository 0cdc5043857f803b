"""The value of measuring before choosing: expected gain in throughput, by reweighted draws.

An operator with a `LargestTokens` question runs, of all steps that keep the risk, the one with the
most tokens per millisecond. A measurement changes what is known, and with it what may run. Its
expected value is the mean, over outcomes that the posterior expects, of what the operator gains by
choosing after the outcome instead of before: the expected value of sample information of Raiffa and
Schlaifer (1961), "Applied statistical decision theory". The gain of an outcome is the expected
throughput of the new choice less that of the old one, both given the outcome, so that it is zero
where the choice stays the same.

The risk bounds the choice both times and is no part of the gain. An outcome that shows that the old
choice breaks the risk therefore costs throughput, and a value may be negative: then a measurement
is worth its safety and no tokens.

Outcomes are simulated, each from a draw of its own, and given each outcome all other draws are
weighted by its likelihood. That needs no approximation of the posterior, but many draws: the more
is measured, the fewer draws carry the weight. `Outcomes.effective_draws` says how many do.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Self
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from bayeslat.decisions.measuring.targets import LargestTokens
from bayeslat.noise import standardise
from bayeslat.predictive import DeploymentDraws
from bayeslat.predictive.draws import Points
from bayeslat.predictive.sampled import noise_and_missing

__all__ = ["Operator", "Outcomes"]

type Array = NDArray[np.float64]

MAX_DRAWS: Final = 2_000
"""Draws that are weighted."""

LEAST: Final = 1e-12
"""Exceedance below which all are alike."""

MAX_OUTCOMES: Final = 256
"""Outcomes that are simulated."""


@dataclass(frozen=True, eq=False)
class Operator:
    """Who chooses among steps: the most tokens per millisecond with P(latency > SLA) <= risk.

    Parameters
    ----------
    exceedance : array, shape (draw, step)
        P(latency > SLA) of each step.
    throughput : array, shape (draw, step)
        Tokens per millisecond.
    risk : float
        Admitted probability.
    """

    exceedance: Array
    throughput: Array
    risk: float

    @classmethod
    def of(cls, question: LargestTokens, draws: DeploymentDraws) -> Self:
        """The operator who chooses among the steps of a question."""
        steps = question.steps
        limit = np.full(steps.size, question.sla_ms)
        throughput = steps.total_tokens / draws.location(steps)
        return cls(draws.sf_draws(limit, steps), throughput, question.risk)

    def choice(self, weights: Array) -> Array:
        """The step that is chosen under weights of the draws, shape (outcome,).

        Among the steps that keep the risk, and between two of them of which one does, where the
        risk is just kept: log exceedance and throughput are interpolated there. Otherwise the grid
        would hold back small gains while it lets small losses pass.

        Parameters
        ----------
        weights : array, shape (outcome, draw)
            Each row sums to one.

        Returns
        -------
        array
            Place among the steps, with a fraction between two of them; NaN where none fits.
        """
        excess = np.log(np.maximum(weights @ self.exceedance, LEAST)) - math.log(self.risk)
        rate = weights @ self.throughput
        fits = excess <= 0.0
        crossed = fits[:, 1:] != fits[:, :-1]
        rise = np.where(crossed, excess[:, 1:] - excess[:, :-1], 1.0)
        share = np.where(crossed, -excess[:, :-1] / rise, 0.0)
        between = rate[:, :-1] + share * (rate[:, 1:] - rate[:, :-1])
        places = np.column_stack(
            [
                np.broadcast_to(np.arange(rate.shape[1]), rate.shape),
                np.arange(share.shape[1]) + share,
            ]
        )
        rates = np.column_stack(
            [np.where(fits, rate, -np.inf), np.where(crossed, between, -np.inf)]
        )
        best = np.argmax(rates, axis=1)[:, None]
        return np.where(fits.any(axis=1), np.take_along_axis(places, best, axis=1)[:, 0], np.nan)

    def expected(self, weights: Array, choice: Array) -> Array:
        """Expected throughput of a choice, zero for none, shape (outcome,)."""
        rate, place = weights @ self.throughput, np.nan_to_num(choice)
        low = np.minimum(place.astype(int), rate.shape[1] - 2)
        ends = np.take_along_axis(rate, np.stack([low, low + 1], axis=1), axis=1)
        chosen = ends[:, 0] + (place - low) * (ends[:, 1] - ends[:, 0])
        return np.where(np.isnan(choice), 0.0, chosen)

    def gains(self, outcomes: "Outcomes") -> Array:
        """What choosing after each outcome gains over choosing before, shape (outcome,)."""
        n_draws = len(self.exceedance)
        before = self.choice(np.full((1, n_draws), 1.0 / n_draws))
        weights = outcomes.weights
        after = self.choice(weights)
        held = np.broadcast_to(before, after.shape)
        return self.expected(weights, after) - self.expected(weights, held)


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Simulated outcomes of measurements, and how likely they are in every draw.

    Parameters
    ----------
    draws : DeploymentDraws
        What the outcomes are simulated from, and what is weighted.
    source : array of int, shape (outcome,)
        The draw behind each outcome.
    log_likelihood : array, shape (outcome, draw)
        Of all measurements so far.
    n_measured : int
        How many that were.
    seed : int
        Of the noise. Outcomes with the same seed and number of measurements share their noise, so
        that candidates are compared under the same luck.
    """

    draws: DeploymentDraws
    source: NDArray[np.int64]
    log_likelihood: Array
    n_measured: int = 0
    seed: int = 0

    @classmethod
    def of(cls, draws: DeploymentDraws, *, max_outcomes: int = MAX_OUTCOMES, seed: int = 0) -> Self:
        """Before any measurement, with draws evenly spaced as the sources."""
        n_outcomes = min(max_outcomes, draws.n_draws)
        source = np.linspace(0, draws.n_draws - 1, n_outcomes).astype(int)
        return cls(draws, source, np.zeros((n_outcomes, draws.n_draws)), seed=seed)

    def after(self, point: Points) -> Self:
        """Outcomes with one more measurement, of a single point.

        What the features miss is drawn once for each draw and (B, S): it is the same in repeated
        measurements there. Given it, the noise is that of `LatencyDistribution`.
        """
        scales = noise_and_missing(self.draws, point)
        missed = scales.missing[:, 0] * self._missing_normals(point)
        level = scales.location[:, 0] * np.exp(missed)
        sigma = scales.noise[:, 0] / np.sqrt(point.n_averaged[0])
        nu = self.draws.nu * point.n_averaged[0]
        outcome = self._simulated(level, sigma, nu)
        family = self.draws.noise
        standard = standardise(family, outcome[:, None], level, sigma)
        log_density = family.standard_logpdf(standard, nu) - np.log(sigma)
        if not family.log_scale:
            log_density = log_density - np.log(level)
        return replace(
            self,
            log_likelihood=self.log_likelihood + log_density,
            n_measured=self.n_measured + 1,
        )

    @cached_property
    def weights(self) -> Array:
        """Weights of the draws given each outcome, its own source left out; (outcome, draw)."""
        log_weights = self.log_likelihood.copy()
        log_weights[np.arange(self.source.size), self.source] = -np.inf
        weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    @property
    def effective_draws(self) -> float:
        """Draws that carry the weight, the median over outcomes of 1 / sum of squared weights."""
        return float(np.median(1.0 / np.square(self.weights).sum(axis=1)))

    def expected_variance(self, values: Array) -> Array:
        """Posterior variance of a quantity, expected over the outcomes: nested Monte Carlo.

        Parameters
        ----------
        values : array, shape (draw, part)
            The quantity in every draw.

        Returns
        -------
        array, shape (part,)
        """
        weights = self.weights
        centred = values - values.mean(axis=0)
        second = weights @ np.square(centred) - np.square(weights @ centred)
        unseen = 1.0 - np.square(weights).sum(axis=1, keepdims=True)
        return (second / np.maximum(unseen, np.finfo(float).eps)).mean(axis=0)

    def _simulated(self, level: Array, sigma: Array, nu: Array) -> Array:
        """An outcome from each source, in milliseconds; shape (outcome,)."""
        rng = np.random.default_rng([self.seed, self.n_measured])
        own = self.source
        family = self.draws.noise
        scaled = sigma[own] * family.standard_rvs(nu[own], own.shape, rng)
        least = np.finfo(float).tiny
        factor = np.exp(scaled) if family.log_scale else np.maximum(1.0 + scaled, least)
        return level[own] * factor

    def _missing_normals(self, point: Points) -> Array:
        """Standard normals of what is missed at this (B, S), shape (draw,)."""
        design = np.array([point.batch_size[0], point.total_tokens[0]])
        rng = np.random.default_rng([self.seed, crc32(design.tobytes())])
        return rng.standard_normal(self.draws.n_draws)
