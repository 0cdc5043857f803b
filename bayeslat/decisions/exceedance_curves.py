"""Curves of exceedance: how P(latency > SLA) falls with the context, at nodes over (B, S).

In every draw latency is a + b C at fixed (B, S). With a and b the means over draws,
y = SLA / (a + b C) - 1 (its logarithm where the noise is on that scale) tells how far the SLA is
from the expected latency, and the context decides y alone. `Part` asks the mixture at Chebyshev
nodes, and finds the y at which the exceedance has each of some levels. Where an SLA would ask for
less than no context the curve goes on smoothly but means nothing. `reduced` makes profiles of all
curves, by singular values weighted such that what is left out counts as an error of probability.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from bayeslat.gate import Profiles
from bayeslat.gate.series import DECODE, OWN
from bayeslat.predictive import DeploymentDraws
from bayeslat.predictive.draws import Points
from bayeslat.predictive.kernels import sf_blends

__all__ = ["Part", "reduced"]

type Array = NDArray[np.float64]

ORDERS: Final = (10, 12)
"""Chebyshev nodes of a part, over log S and over the share of log B."""

N_LEVELS: Final = 80
LEAST_LEVEL: Final = 2e-5
"""Levels of exceedance, from this to one less this."""

LEFT_OUT: Final = 5e-5
"""Profiles are added until no more than this is left out of the exceedance, as a probability."""

FAR: Final = 1e6
"""Attended positions that tell the slope by C."""

NO_SLOPE: Final = -60.0
"""Logarithm of a slope that is none."""

SURE: Final = 1.0 - 1e-5
"""Exceedance from which a step counts as never keeping the SLA."""

UNREACHED: Final = 0.02
"""What the curves of a node count for whose steps never keep the SLA."""

N_FEW: Final = 500
"""Draws that lead near the levels, about."""

N_THREADS: Final = 2

BACKWARDS: Final = 0.5
"""How far curves go on where there is less than no context: a share of the expected latency."""


class Part:
    """The mixture at the nodes of one piece of the range of S.

    Parameters
    ----------
    draws : DeploymentDraws
        Posterior draws of the deployment.
    regime : int
        As in `bayeslat.gate.series`.
    low, high : float
        Bounds of log S.
    largest : float
        log of the largest B.
    sla_ms : float
        Limit of a step's latency.
    """

    def __init__(
        self,
        draws: DeploymentDraws,
        regime: int,
        low: float,
        high: float,
        *,
        largest: float,
        sla_ms: float,
    ) -> None:
        self.regime, self.low, self.high = regime, low, high
        self._tables, self._log_scale = draws.tables()
        n_tokens, n_share = ORDERS
        along, across = _roots(n_tokens), _roots(1 if regime == DECODE else n_share)
        self._shape = along.size, across.size
        log_tokens, share = (
            axis.ravel()
            for axis in np.meshgrid(
                low + 0.5 * (high - low) * (1.0 + along), 0.5 * (1.0 + across), indexing="ij"
            )
        )
        tokens = np.exp(log_tokens)
        batch = tokens if regime == DECODE else np.exp(share * np.minimum(log_tokens, largest))
        self._ask(draws, batch, tokens)
        self._without_context = sla_ms * np.exp(-self._log_a)

    def _ask(self, draws: DeploymentDraws, batch: Array, tokens: Array) -> None:
        """Means of a and b, and both and the noise of each draw in relation to them."""
        at_none, self._sigma = (
            values.T for values in draws.location_and_scale(Points(batch, tokens, 0.0 * tokens))
        )
        positions = tokens if self.regime == OWN else np.full_like(tokens, FAR)
        there = draws.location(Points(batch, tokens, positions)).T
        slope = np.maximum(there - at_none, 0.0) / positions[:, None]
        a, b = at_none.mean(axis=1), slope.mean(axis=1)
        with np.errstate(divide="ignore"):
            self._log_a, self._log_b = np.log(a), np.maximum(np.log(b), NO_SLOPE)
        self._first = at_none / a[:, None]
        # Where nothing grows with C, all contexts are alike.
        flat = b <= 0.0
        of_context = slope / np.where(flat, 1.0, b)[:, None]
        self._second = np.where(flat[:, None], self._first, of_context)

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return self._log_a.size

    def spread(self) -> Array:
        """Relative standard deviation of latency near the SLA, shape (node,)."""
        share = np.clip(1.0 - 1.0 / self._without_context, 0.0, 1.0)[:, None]
        blend = (1.0 - share) * self._first + share * self._second
        square = blend.var(axis=1) / blend.mean(axis=1) ** 2 + np.square(self._sigma).mean(axis=1)
        return np.asarray(np.sqrt(square))

    def keeps(self) -> NDArray[np.bool_]:
        """Whether steps that attend to nothing ever keep the SLA, shape (node,)."""
        ratio = self._without_context[:, None]
        found = self.exceedance(np.log(ratio) if self._log_scale else ratio - 1.0)
        return np.asarray(found[:, 0] < SURE)

    def exceedance(self, y: Array, *, every: int = 1) -> Array:
        """P(latency > SLA) at y, shape (node, level), of all draws or of every so-manieth."""
        x = y if self._log_scale else 1.0 + y
        share = self._share(np.exp(y) if self._log_scale else np.maximum(x, 0.0))
        draws = self._first[:, ::every], self._second[:, ::every], self._sigma[:, ::every]
        tables = np.ascontiguousarray(self._tables[::every])

        def answer(part: slice) -> Array:
            rows = (np.ascontiguousarray(values[part]) for values in draws)
            return sf_blends(*rows, tables, self._log_scale, x[part], share[part])

        bounds = np.linspace(0, y.shape[0], 4 * N_THREADS + 1).astype(int)
        with ThreadPoolExecutor(N_THREADS) as pool:
            parts = (slice(i, j) for i, j in pairwise(bounds))
            return np.concatenate(list(pool.map(answer, parts)))

    def _share(self, ratio: Array) -> Array:
        """Share of the context in an expected latency of SLA / ratio, shape (node, level).

        Below no context it goes on, smoothly, to no less than -BACKWARDS.
        """
        beyond = ratio / self._without_context[:, None] - 1.0
        return np.where(beyond < 0.0, -beyond, -BACKWARDS * np.tanh(beyond / BACKWARDS))

    def solved(self, draws: DeploymentDraws, levels: Profiles) -> Array:
        """The y of each level, shape (node, level).

        A few draws lead near them. All draws are asked once there, and a spline through what they
        answer leads to the levels.
        """
        noise, nu = draws.noise, np.asarray(np.median(draws.nu))

        def variate(y: Array, every: int) -> Array:
            probability = np.clip(self.exceedance(y, every=every), 1e-9, 1.0 - 1e-9)
            return noise.standard_ppf(1.0 - probability, nu)

        wanted, few = levels.variate, max(1, draws.n_draws // N_FEW)
        y = self.spread()[:, None] * wanted
        for inverted in (_by_lines, _by_lines, _by_splines):
            y = inverted(variate(y, few), y, wanted)
        return _by_splines(variate(y, 1), y, wanted)

    def series(self, weights: Array) -> Array:
        """Chebyshev coefficients of the maps, given the weights of the profiles at the nodes."""
        maps = np.column_stack([self._log_a, self._log_b, weights])
        values = maps.reshape(*self._shape, -1)
        for axis in (0, 1):
            n = values.shape[axis]
            basis = np.polynomial.chebyshev.chebvander(_roots(n), n - 1)
            basis *= np.where(np.arange(n) == 0, 1.0, 2.0) / n
            values = np.moveaxis(np.tensordot(basis.T, values, axes=(1, axis)), 0, axis)
        return values


def reduced(
    draws: DeploymentDraws, parts: Sequence[Part], *, most: int
) -> tuple[Profiles, list[Array]]:
    """At most so many profiles of the curves of all parts, and their weights in each.

    The weights have shape (node, profile).
    """
    levels = _levels(draws)
    curves = np.concatenate([part.solved(draws, levels) for part in parts])
    # An error of y counts by how much exceedance lies there: density over the node's spread.
    by_level = levels.density / levels.density.max() + 1e-4
    by_node = np.concatenate([np.where(part.keeps(), 0.4, 0.4 * UNREACHED) for part in parts])
    by_node /= np.concatenate([part.spread() for part in parts])
    left, singular, right = np.linalg.svd(curves * by_node[:, None] * by_level, full_matrices=False)
    n = 1
    while n < most and np.abs((left[:, n:] * singular[n:]) @ right[n:]).max() > LEFT_OUT:
        n += 1
    weights = left[:, :n] * singular[:n] / by_node[:, None]
    ends = np.cumsum([part.n_nodes for part in parts])[:-1]
    as_saved = (right[:n] / by_level).astype(np.float32).astype(float)
    return levels._replace(curves=as_saved), np.split(weights, ends)


def _levels(draws: DeploymentDraws) -> Profiles:
    """Levels evenly spaced in the arsinh of the noise's variate, without curves yet."""
    noise, nu = draws.noise, np.asarray(np.median(draws.nu))
    end = float(np.arcsinh(noise.standard_ppf(np.array(1.0 - LEAST_LEVEL), nu)))
    variate = np.sinh(np.linspace(-end, end, N_LEVELS))
    probability, density = noise.standard_sf(variate, nu), noise.standard_pdf(variate, nu)
    return Profiles(probability, density, variate, np.empty((0, N_LEVELS)), noise.log_scale)


def _roots(n: int) -> Array:
    """Roots of the Chebyshev polynomial of order n."""
    return np.cos(np.pi * (np.arange(n) + 0.5) / n)


def _by_lines(reached: Array, y: Array, wanted: Array) -> Array:
    """The y of wanted variates from those reached, by lines between them and beyond the ends."""
    found = np.empty_like(y)
    for i, own in enumerate(np.maximum.accumulate(reached, axis=1)):
        rising = own + 1e-9 * np.arange(own.size)
        slope = (y[i, -1] - y[i, 0]) / (rising[-1] - rising[0])
        beyond = wanted - np.clip(wanted, rising[0], rising[-1])
        found[i] = np.interp(wanted, rising, y[i]) + slope * beyond
    return found


def _by_splines(reached: Array, y: Array, wanted: Array) -> Array:
    """The same by cubic splines, where the variates reached rise."""
    found = _by_lines(reached, y, wanted)
    for i in np.flatnonzero((np.diff(reached, axis=1) > 0.0).all(axis=1)):
        found[i] = CubicSpline(reached[i], y[i])(wanted)
    return found
