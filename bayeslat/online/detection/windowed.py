"""Recent rows against those before them, by a test of two samples at every few rows.

What is compared are ranks among earlier errors (`bayeslat.online.detection.ranks`). Recent rows
are shifted towards the middle by half the tolerance or a quarter of the noise, whichever is more,
before they are compared; "tails" asks how far out ranks lie. The predictive's own p-values, which
tell of a predictive that is wrong from its first row, are held against a uniform grid, always by
Mann-Whitney: a wrong spread is no shift.

The level of a look is the admitted rate times the rows between two looks, shared among the tests of
the look. The expected number of false alarms is then at most the rate times the rows, as
expectations add up however much the windows of successive looks overlap; the p-values are
asymptotic ones of independent rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import log
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp, mannwhitneyu

from bayeslat.online.detection.base import Level, Verdict
from bayeslat.online.detection.ranks import Ranks, checked
from bayeslat.online.scores import Scores

__all__ = ["WindowedTest", "Windows", "kolmogorov_smirnov", "mann_whitney"]

type Array = NDArray[np.float64]

RECENT: Final = 200
"""Rows of the recent window."""

REFERENCE: Final = 1000
"""Rows, at most, of the window before it; with fewer than `RECENT` there is no comparison yet."""

FIRST: Final = 50
"""Rows from which on the predictive's own p-values are looked at."""

EVERY: Final = 100
"""Rows between two looks."""

SHIFT: Final = 0.5
"""Share of the tolerance by which errors may move."""

SPREADS: Final = 0.25
"""The same in standard deviations of the noise, where that is more."""

WARNING: Final = 100.0
"""A warning takes a p-value that many times as large."""

LOCATION: Final = 3.0
"""Standard errors of the mean rank from which on a shift is the better name for what lies out."""

_GRID: Final = (np.arange(1000) + 0.5) / 1000
_TESTS: Final = 5


class _Test(NamedTuple):
    """One test of a look: what it is for, its p-value, and values that are around nought."""

    kind: str
    p: float
    moved: Array


@dataclass(frozen=True, eq=False)
class Windows(Ranks):
    """Ranks, and the rows of both windows.

    Parameters
    ----------
    rows : array, shape (row, 5)
        Of each row the rank, its two p-values, and the predictive's own two p-values.
    settled : array of int
        Load levels of which enough rows were given as reference: the predictive's own p-values of
        their rows are not looked at, and are not a number.
    """

    rows: Array
    settled: NDArray[np.int64]


@dataclass(frozen=True)
class WindowedTest:
    """A one-sided test of two samples, repeated every few rows.

    Parameters
    ----------
    name : str
        Its name in `bayeslat.online.detection.DETECTORS`.
    larger : callable
        p-value of "the first sample tends to be larger than the second".
    false_alarms : float
        Admitted false alarms an observation, in expectation.
    tolerance : float
        Relative error of a predicted latency that counts as no drift.
    seed : int
        Of the numbers that break ties of ranks.
    """

    name: str
    larger: Callable[[Array, Array], float]
    false_alarms: float
    tolerance: float
    seed: int

    def start(self, reference: Scores | None = None) -> Windows:
        """Empty windows, or what there is of a reference."""
        memory = Windows.empty(rows=np.empty((0, 5)), settled=np.empty(0, np.int64))
        if reference is None:
            return memory
        checked(reference)
        memory = self._with(memory, reference)
        rows = memory.rows.copy()
        rows[:, 3:] = np.nan
        return replace(memory, rows=rows, settled=memory.known)

    def update(self, memory: Windows, scores: Scores) -> tuple[Windows, Verdict]:
        """Look at the windows as often as a look is due within a block.

        Raises
        ------
        InputError
            If a latency is not positive and finite or a p-value is not within [0, 1].
        """
        checked(scores)
        verdict = Verdict("quiet", row=max(len(scores) - 1, 0))
        start = 0
        while start < len(scores):
            stop = min(len(scores), start + EVERY - memory.n_seen % EVERY)
            memory = self._with(memory, scores[start:stop])
            start = stop
            if memory.n_seen % EVERY == 0:
                found = self._look(memory.rows, stop - 1)
                verdict = max(verdict, found, key=lambda verdict: verdict.evidence)
                if verdict.level == "drift":
                    return memory, verdict
        return memory, replace(verdict, row=max(len(scores) - 1, 0))

    def _with(self, memory: Windows, scores: Scores) -> Windows:
        shift = SHIFT * float(np.log1p(self.tolerance))
        after, ranked = memory.ranked(scores, tolerance=shift, spreads=SPREADS, seed=self.seed)
        new = np.column_stack([*ranked[:3], scores.p_slower, scores.p_faster])
        new[np.isin(scores.stratum, memory.settled), 3:] = np.nan
        rows = np.concatenate([memory.rows, new])[-(RECENT + REFERENCE) :]
        return replace(after, rows=rows)

    def _look(self, rows: Array, row: int) -> Verdict:
        recent, reference = rows[-RECENT:], rows[:-RECENT, 0]
        found = [*self._own(recent[:, 3:]), *self._relative(recent[:, :3], reference)]
        if not found:
            return Verdict("quiet", row=row)
        admitted = EVERY * self.false_alarms / _TESTS
        first = min(found, key=lambda test: test.p)
        p = max(first.p, float(np.finfo(float).tiny))
        evidence = max(log(p) / log(admitted), 0.0)
        if p > WARNING * admitted:
            return Verdict("quiet", row=row, evidence=evidence)
        kind, moved = first.kind, first.moved
        if kind == "tails":
            kind = _name(recent[:, 0])
        level: Level = "drift" if p <= admitted else "warning"
        return Verdict(level, kind, row, _rows_since(moved), evidence)

    def _own(self, recent: Array) -> list[_Test]:
        """Whether the predictive is wrong by more than the tolerance."""
        own = recent[np.isfinite(recent[:, 0])]
        if own.shape[0] < FIRST:
            return []
        slower, faster = 1.0 - own.T
        return [
            _Test("slower", mann_whitney(slower, _GRID), slower - 0.5),
            _Test("faster", mann_whitney(faster, _GRID), faster - 0.5),
        ]

    def _relative(self, recent: Array, reference: Array) -> list[_Test]:
        """Whether recent rows differ from those before by more than is admitted."""
        if reference.size < RECENT:
            return []
        pit, slower, faster = recent.T
        outer = np.abs(2.0 * pit - 1.0)
        return [
            _Test("slower", self.larger(1.0 - slower, reference), pit - 0.5),
            _Test("faster", self.larger(1.0 - faster, 1.0 - reference), pit - 0.5),
            _Test("tails", self.larger(outer, np.abs(2.0 * reference - 1.0)), outer - 0.5),
        ]


def kolmogorov_smirnov(sample: Array, other: Array) -> float:
    """One-sided two-sample Kolmogorov-Smirnov test: p-value of `sample` being the larger.

    Parameters
    ----------
    sample, other : array, shape (row,)
        Independent samples.
    """
    return float(ks_2samp(sample, other, alternative="less", method="asymp").pvalue)


def mann_whitney(sample: Array, other: Array) -> float:
    """One-sided Mann-Whitney test: p-value of `sample` being the larger.

    Parameters
    ----------
    sample, other : array, shape (row,)
        Independent samples.
    """
    return float(mannwhitneyu(sample, other, alternative="greater", method="asymptotic").pvalue)


def _name(pit: Array) -> str:
    """What to call it when ranks lie further out: a shift, if they lie to one side."""
    errors = float(np.mean(pit - 0.5)) * float(np.sqrt(12 * pit.size))
    if abs(errors) < LOCATION:
        return "tails"
    return "slower" if errors > 0.0 else "faster"


def _rows_since(moved: Array) -> int:
    """Rows after the place from which on the sum is furthest from nought, for its length."""
    sums = np.abs(np.cumsum(moved[::-1]))
    return int(np.argmax(sums / np.sqrt(np.arange(1, sums.size + 1)))) + 1
