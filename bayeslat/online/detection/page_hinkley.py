"""Page-Hinkley: a two-sided CUSUM of errors around their own mean.

What goes in are ranks among earlier errors (`bayeslat.online.detection.ranks`), as quantiles of a
standard normal, which they follow exactly as long as nothing changes. The threshold comes from
Siegmund's approximation to the average run length of a CUSUM of standard normals (Siegmund,
"Sequential Analysis", 1985, section 2.6, with 0.583 for the overshoot at either barrier).

A mean is all that is followed: outliers look like a shift, changed noise like nothing, and a
predictive that is wrong from its first row is never found out.
"""

from dataclasses import dataclass, replace
from math import expm1, log, log1p
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtri

from bayeslat.online.detection.base import Level, Verdict
from bayeslat.online.detection.ranks import Ranks, checked
from bayeslat.online.scores import Scores

if TYPE_CHECKING:
    from river.drift import PageHinkley

__all__ = ["PageHinkleyTest", "Sums", "run_length", "threshold"]

ALLOWANCE: Final = 0.25
"""Standard deviations by which the mean may move; it is most alert to a shift of twice that."""

WARNING: Final = 100.0
"""A warning comes at the threshold of a rate so many times as high."""

_OVERSHOOT: Final = 1.166
_SUMS: Final = "_sum_increase", "_sum_decrease", "_min_increase", "_max_decrease"


@dataclass(frozen=True, eq=False)
class Sums(Ranks):
    """Ranks, and what river's detector holds.

    Parameters
    ----------
    n : float
        Values seen since it was started.
    mean : float
        Theirs.
    sums : array, shape (4,)
        Both sums, and the extremes they have reached.
    reached : array of int, shape (2,)
        Rows that had been seen when they reached them.
    """

    n: float
    mean: float
    sums: NDArray[np.float64]
    reached: NDArray[np.int64]


@dataclass(frozen=True)
class PageHinkleyTest:
    """River's Page-Hinkley test on normal scores of ranks.

    Parameters
    ----------
    false_alarms : float
        Admitted false alarms an observation, by an approximation.
    seed : int
        Of the numbers that break ties of ranks.
    """

    false_alarms: float
    seed: int

    @property
    def name(self) -> str:
        """Its name in `bayeslat.online.detection.DETECTORS`."""
        return "page-hinkley"

    def start(self, reference: Scores | None = None) -> Sums:
        """Nothing summed yet; reference rows are ranked among only."""
        fresh = self._river()
        sums, reached = np.array([getattr(fresh, name) for name in _SUMS]), np.zeros(2, np.int64)
        memory = Sums.empty(n=0.0, mean=0.0, sums=sums.astype(float), reached=reached)
        return memory.shown(reference, seed=self.seed)

    def update(self, memory: Sums, scores: Scores) -> tuple[Sums, Verdict]:
        """Add rows to the sums, one after the other, up to the first at which drift is declared.

        Raises
        ------
        InputError
            If a latency is not positive and finite or a p-value is not within [0, 1].
        """
        checked(scores)
        after, ranked = memory.ranked(scores, tolerance=0.0, spreads=0.0, seed=self.seed)
        test, reached, highest = self._river(memory), memory.reached.copy(), 0.0
        row, drift = max(len(scores) - 1, 0), False
        for i, value in enumerate(ndtri(ranked.pit).tolist()):
            test.update(value)
            for side, (total, extreme) in enumerate((_SUMS[0::2], _SUMS[1::2])):
                if getattr(test, total) == getattr(test, extreme):
                    reached[side] = memory.n_seen + i + 1
            highest = max(highest, *_heights(test))
            drift = bool(test.drift_detected)
            if drift:
                row = i
                break
        if row < len(scores) - 1:
            ranks = memory.ranked(scores[: row + 1], tolerance=0.0, spreads=0.0, seed=self.seed)
            after = ranks[0]
        sums = np.array([getattr(test, name) for name in _SUMS], float)
        mean = test._x_mean
        after = replace(after, n=mean.n, mean=mean.get(), sums=sums, reached=reached)
        return after, self._verdict(after, test, row, highest, drift)

    def _river(self, memory: Sums | None = None) -> "PageHinkley":
        # Importing river takes seconds.
        from river.drift import PageHinkley

        limit = threshold(self.false_alarms)
        test = PageHinkley(min_instances=30, delta=ALLOWANCE, threshold=limit, alpha=1.0)
        if memory is not None:
            # Its own pickles would do, but to read one is to run what is in it.
            test._x_mean = type(test._x_mean)._from_state(memory.n, memory.mean)
            for name, value in zip(_SUMS, memory.sums.tolist(), strict=True):
                setattr(test, name, value)
        return test

    def _verdict(
        self, memory: Sums, test: "PageHinkley", row: int, highest: float, drift: bool
    ) -> Verdict:
        level: Level = "quiet"
        if drift or (highest >= threshold(WARNING * self.false_alarms) and memory.n >= 30):
            level = "drift" if drift else "warning"
        evidence = highest / test.threshold
        if level == "quiet":
            return Verdict(level, row=row, evidence=evidence)
        side = int(np.argmax(_heights(test)))
        since = memory.n_seen - int(memory.reached[side])
        return Verdict(level, ("slower", "faster")[side], row, since, evidence)


def _heights(test: "PageHinkley") -> tuple[float, float]:
    up, down, lowest, uppermost = (getattr(test, name) for name in _SUMS)
    return up - lowest, uppermost - down


def run_length(limit: float, allowance: float = ALLOWANCE) -> float:
    """Average rows to the first alarm of a one-sided CUSUM of standard normals.

    Parameters
    ----------
    limit : float
        Threshold of the sum.
    allowance : float
        What is taken off every value, positive.
    """
    grown = 2.0 * allowance * (limit + _OVERSHOOT)
    return (expm1(grown) - grown) / (2.0 * allowance**2)


def threshold(false_alarms: float) -> float:
    """Threshold at which a two-sided CUSUM of standard normals has this rate of alarms.

    Parameters
    ----------
    false_alarms : float
        Alarms an observation; nought is the least threshold.
    """
    wanted = 2.0 / false_alarms
    if run_length(0.0) >= wanted:
        return 0.0
    # The exponential alone, and some room for the linear part.
    most = (log1p(2.0 * ALLOWANCE**2 * wanted) + 3.0) / (2.0 * ALLOWANCE)
    return float(brentq(lambda limit: log(run_length(limit) / wanted), 0.0, most))
