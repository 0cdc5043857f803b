"""Bets against "nothing has changed", started anew at every row: the default detector.

Every row, a few gamblers stake part of their wealth on one kind of change each: "slower" on a small
p-value of slower, and so on. No stake can be expected to win as long as nothing changes, so that
each factor is an e-value. A gambler starts at every row; the sum of their wealths, R <- (1 + R) e,
is a Shiryaev-Roberts e-detector (Shin, Ramdas and Rinaldo, "E-detectors", 2022). R - n is a
supermartingale, so that by optional stopping P(R has reached A within n rows) <= n / A, for every n
at once: looking often costs nothing. A weighted mean of such sums has the same property.

Three such sums are kept. Two are of bets on ranks among earlier errors (`ranks`): on all rows, and
on the rows of each load level apart, for a change that leaves most levels as they were; as a row
starts a gambler on its own level only, the sum over levels needs no correction for their number.
The third is of bets on the predictive's own p-values, for a deployment that is wrong from its first
row. Each may spend a third of the admitted rate; so whatever the dependence between them, a false
alarm comes within n rows with a probability of at most n times the rate.

The bets on "slower" and "faster" are linear in the p-value: a single row at most doubles a wealth,
however far off it is, so that outliers do not look like a shift. "tails" bets on rows that lie
outermost on either side. What is bet against:

* ranks: rows are exchangeable within their level, up to a shift of half the tolerance or a quarter
  of the noise, whichever is more, and half that for "tails": within a level the model's error is
  not quite constant;
* the predictive: it is wrong by no more than the tolerance, and its outermost quantiles are
  exceeded at most three times as often as they should be.

Successive rows of real logs depend on each other, and bets that take them for independent win too
often. Where sums of `BATCH` rows vary d times as much as those of independent rows would, every
factor is raised to the power 1 / d: for small stakes just what keeps the expected wealth at one.
By Jensen's inequality that costs no validity where rows are independent after all, as d is known
before the row.
"""

from dataclasses import dataclass, replace
from math import log1p
from typing import Any, Final

import numba
import numpy as np
from numpy.typing import NDArray

from bayeslat.online.detection.base import Level, Verdict
from bayeslat.online.detection.ranks import Ranked, Ranks, checked
from bayeslat.online.scores import Scores

__all__ = ["Bets", "EProcess"]

type Array = NDArray[np.float64]

SHIFT: Final = 0.5
"""Share of the tolerance by which errors may move among each other."""

SPREADS: Final = 0.25
"""The same in standard deviations of the noise, where that is more."""

EXCESS: Final = 3.0
"""A predictive's outermost quantiles may be exceeded so many times as often as they should be."""

WARNING: Final = 100.0
"""A warning takes so many times less evidence than drift: its admitted rate is as much higher."""

LOCATION: Final = 20.0
"""Wealth from which on a shift is the better name for what moved the tails."""

BATCH: Final = 32
"""Rows whose sum tells how much successive rows depend on each other."""

CAP: Final = 6.0
"""One batch counts for no more than so many times what is known: a change is no dependence."""

PRIOR: Final = 4.0
"""Batches that independence is worth before the first row."""

_KINDS: Final = "slower", "faster", "tails"
_BY_LEVEL: Final = "level_wealth", "level_longest", "level_started"
_STATE: Final = ("wealth", "longest", "started", *_BY_LEVEL, "batch", "dependence")
_SUMS: Final = 3
_STAKES: Final = np.array([0.2, 0.5, 0.9])


@dataclass(frozen=True)
class _Tail:
    """Bet that the outermost `share` of a side, or of both, gets more than `admitted` rows."""

    above: bool
    below: bool
    share: float
    excess: float
    stake: float

    @property
    def admitted(self) -> float:
        """Share of rows that may lie there."""
        return self.share * self.excess * (self.above + self.below)


_RANK_TAILS: Final = (
    *(_Tail(True, False, 0.02, 1.0, stake) for stake in (0.03, 0.1)),
    *(_Tail(True, True, 0.02, 1.0, stake) for stake in (0.05, 0.15)),
    *(_Tail(True, True, 0.05, 1.0, stake) for stake in (0.1, 0.25)),
)
_OWN_TAILS: Final = (
    *(_Tail(True, False, 0.01, EXCESS, stake) for stake in (0.03, 0.1)),
    *(_Tail(True, True, 0.01, EXCESS, stake) for stake in (0.03, 0.1)),
)


@dataclass(frozen=True, eq=False)
class Bets(Ranks):
    """Ranks, and the gamblers' wealth.

    Parameters
    ----------
    settled : array of int
        Load levels of which enough rows were given as reference: only ranks are bet on.
    wealth : array, shape (bet,)
        Sum of the wealths of all who make this bet, however long they have been.
    longest : array, shape (bet,)
        Wealth of the one who started at the best time (the CUSUM of the bet).
    started : array of int, shape (bet,)
        Rows that had been seen when that one started.
    level_wealth, level_longest, level_started : array, shape (level, bet)
        The same of those who bet on one load level.
    batch : array, shape (2,)
        Sums over the rows of the last, unfinished batch: of pit - 1/2, and of |2 pit - 1| - 1/2.
    dependence : array, shape (2,)
        Variance of such sums relative to independent rows, as far as it is known.
    """

    settled: NDArray[np.int64]
    wealth: Array
    longest: Array
    started: NDArray[np.int64]
    level_wealth: Array
    level_longest: Array
    level_started: NDArray[np.int64]
    batch: Array
    dependence: Array

    def of_levels(self, strata: NDArray[np.int64]) -> dict[str, Any]:
        """Copies of what is kept by load level, with empty rows for levels that are new."""
        where = np.searchsorted(strata, self.strata)
        found: dict[str, Any] = {}
        for name in _BY_LEVEL:
            held = getattr(self, name)
            found[name] = np.zeros((strata.size, _LEVEL_NAMES.size), held.dtype)
            found[name][where] = held
        return found


@dataclass(frozen=True)
class EProcess:
    """E-detector over ranks and over the predictive's own p-values.

    Parameters
    ----------
    false_alarms : float
        Admitted rate: a false alarm comes within n rows of a start with a probability of at most
        n times this.
    tolerance : float
        Relative error of a predicted latency that counts as no drift.
    seed : int
        Of the numbers that break ties of ranks.
    """

    false_alarms: float
    tolerance: float
    seed: int

    @property
    def name(self) -> str:
        """Its name in `bayeslat.online.detection.DETECTORS`."""
        return "e-process"

    def start(self, reference: Scores | None = None) -> Bets:
        """No wealth; on levels with enough reference rows only ranks will be bet on."""
        n, none = _WEIGHTS.size, np.empty((0, _LEVEL_NAMES.size))
        memory = Bets.empty(
            settled=np.empty(0, np.int64), wealth=np.zeros(n), longest=np.zeros(n),
            started=np.zeros(n, np.int64), level_wealth=none, level_longest=none,
            level_started=none.astype(np.int64), batch=np.zeros(2), dependence=np.ones(2),
        )  # fmt: skip
        if reference is None:
            return memory
        checked(reference)
        ranks, ranked = self._ranked(memory, reference)
        batch, dependence = memory.batch.copy(), memory.dependence.copy()
        for row, pit in enumerate(ranked.pit):
            _learn_dependence(pit, row, batch, dependence)
        rest: dict[str, Any] = {"settled": ranks.known, "batch": batch, "dependence": dependence}
        return replace(ranks, **memory.of_levels(ranks.strata), **rest)

    def update(self, memory: Bets, scores: Scores) -> tuple[Bets, Verdict]:
        """Bet on every row of a block, up to the first at which drift is declared.

        Raises
        ------
        InputError
            If a latency is not positive and finite or a p-value is not within [0, 1].
        """
        checked(scores)
        if not len(scores):
            return memory, Verdict("quiet")
        ranks, ranked = self._ranked(memory, scores)
        by_level = memory.of_levels(ranks.strata)
        state = {name: by_level.get(name, getattr(memory, name)).copy() for name in _STATE}
        row, highest = _gamble(
            self._factors(memory, scores, ranked),
            1.0 + (1.0 - 2.0 * np.column_stack([ranked.slower, ranked.faster])[:, _SIDES])
            * _LEVEL_STAKES,
            np.searchsorted(ranks.strata, scores.stratum),
            ranked.pit, _WEIGHTS, _MEANS, _OF_TAILS, self._drift, memory.n_seen, *state.values(),
        )  # fmt: skip
        if row < len(scores) - 1:
            return self.update(memory, scores[: row + 1])
        after = replace(ranks, **state)
        return after, self._verdict(after, row, highest)

    @property
    def _drift(self) -> float:
        """Wealth that is drift, in any of the sums."""
        return _SUMS / self.false_alarms

    def _ranked(self, memory: Bets, scores: Scores) -> tuple[Bets, Ranked]:
        shift = SHIFT * float(np.log1p(self.tolerance))
        return memory.ranked(scores, tolerance=shift, spreads=SPREADS, seed=self.seed)

    def _factors(self, memory: Bets, scores: Scores, ranked: Ranked) -> Array:
        """By how much each row multiplies each stake, shape (row, bet); NaN is no bet."""
        own = _factors(*2 * (scores.p_slower, scores.p_faster), _OWN_TAILS)
        own[np.isin(scores.stratum, memory.settled)] = np.nan
        return np.hstack([_factors(*ranked[1:], _RANK_TAILS), own])

    def _verdict(self, memory: Bets, row: int, highest: float) -> Verdict:
        level: Level = "quiet"
        if highest >= self._drift / WARNING:
            level = "drift" if highest >= self._drift else "warning"
        evidence = log1p(highest) / log1p(self._drift)
        if level == "quiet":
            return Verdict(level, row=row, evidence=evidence)
        kind, started = _winner(memory)
        return Verdict(level, kind, row, memory.n_seen - started, evidence)


def _bets(tails: tuple[_Tail, ...]) -> tuple[tuple[str, float], ...]:
    """Kind and weight of each bet of one mean; every kind has the same weight."""
    shift = [(kind, 1.0 / (3 * _STAKES.size)) for kind in _KINDS[:2] for _ in range(_STAKES.size)]
    return (*shift, *(("tails", 1.0 / (3 * len(tails))) for _ in tails))


_BETS: Final = (*_bets(_RANK_TAILS), *_bets(_OWN_TAILS))
_NAMES: Final = tuple(kind for kind, _ in _BETS)
_WEIGHTS: Final = np.array([weight for _, weight in _BETS])
_MEANS: Final = np.array([0] * len(_bets(_RANK_TAILS)) + [1] * len(_bets(_OWN_TAILS)))
_OF_TAILS: Final = np.array([int(name == "tails") for name in _NAMES])

_SIDES: Final = np.array([0, 0, 1, 1])
_LEVEL_NAMES: Final = np.array(_KINDS[:2])[_SIDES]
_LEVEL_STAKES: Final = np.array([0.5, 0.9, 0.5, 0.9])


def _factors(
    slower: Array, faster: Array, above: Array, below: Array, tails: tuple[_Tail, ...]
) -> Array:
    """Factors of the bets of one mean, shape (row, bet); each is expected to be at most one."""
    shift = [1.0 + (1.0 - 2.0 * p[:, None]) * _STAKES for p in (slower, faster)]
    outer = []
    for tail in tails:
        out = (tail.above & (above < tail.share)) | (tail.below & (below < tail.share))
        outer.append(1.0 + tail.stake * (out / tail.admitted - 1.0))
    return np.hstack([*shift, np.column_stack(outer)])


def _winner(memory: Bets) -> tuple[str, int]:
    """What the bet is on that has done best, and how many rows had been seen when it began.

    A shift pushes rows over the edge of one side faster than it earns on "slower"; so where
    somebody has earned well on a shift since, that is its name.
    """
    worth = memory.wealth * _WEIGHTS
    place = np.unravel_index(np.argmax(memory.level_wealth), memory.level_wealth.shape)
    if memory.level_wealth[place] / _LEVEL_NAMES.size > worth.max():
        return str(_LEVEL_NAMES[place[1]]), int(memory.level_started[place])
    best = int(np.argmax(worth))
    if _OF_TAILS[best]:
        earned = np.where(_OF_TAILS, 0.0, memory.longest)
        if earned.max() >= LOCATION:
            best = int(np.argmax(earned))
    return _NAMES[best], int(memory.started[best])


@numba.njit(cache=True, nogil=True)
def _gamble(
    factors: Any,
    level_factors: Any,
    level: Any,
    pit: Any,
    weights: Any,
    means: Any,
    of_tails: Any,
    drift: float,
    seen: int,
    wealth: Any,
    longest: Any,
    started: Any,
    level_wealth: Any,
    level_longest: Any,
    level_started: Any,
    batch: Any,
    dependence: Any,
) -> tuple[int, float]:
    """The row at which drift is declared, or the last, and the most that a sum has reached.

    The last eight arguments are filled in place.
    """
    reached, highest = np.empty(2), 0.0
    for i in range(factors.shape[0]):
        now = seen + i
        power, power_of_tails = 1.0 / max(dependence[0], 1.0), 1.0 / max(dependence[1], 1.0)
        reached[:] = 0.0
        for k in range(factors.shape[1]):
            # A gambler who starts without betting would only add to the sum.
            if not np.isnan(factors[i, k]):
                factor = factors[i, k] ** (power_of_tails if of_tails[k] else power)
                _bet(factor, now, k, wealth, longest, started)
            reached[means[k]] += weights[k] * wealth[k]
        own = level[i]
        for k in range(level_factors.shape[1]):
            factor = level_factors[i, k] ** power
            _bet(factor, now, k, level_wealth[own], level_longest[own], level_started[own])
        of_levels = level_wealth.sum() / level_wealth.shape[1]
        _learn_dependence(pit[i], now, batch, dependence)
        highest = max(highest, reached.max(), of_levels)
        if highest >= drift:
            return i, highest
    return factors.shape[0] - 1, highest


@numba.njit(cache=True, nogil=True)
def _bet(factor: float, now: int, k: int, wealth: Any, longest: Any, started: Any) -> None:
    wealth[k] = (1.0 + wealth[k]) * factor
    if longest[k] <= 1.0:
        longest[k], started[k] = 1.0, now
    longest[k] *= factor


@numba.njit(cache=True, nogil=True)
def _learn_dependence(pit: float, seen: int, batch: Any, dependence: Any) -> None:
    """Add a row to its batch, and the batch to what is known, once it is full."""
    batch[0] += pit - 0.5
    batch[1] += abs(2.0 * pit - 1.0) - 0.5
    if (seen + 1) % BATCH:
        return
    for j in range(2):
        # The variance of a uniform is a twelfth.
        found = min(12.0 / BATCH * batch[j] ** 2, CAP * max(dependence[j], 1.0))
        dependence[j] += (found - dependence[j]) / ((seen + 1) // BATCH + PRIOR)
        batch[j] = 0.0
