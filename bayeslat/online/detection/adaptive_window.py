"""ADWIN: the longest window whose parts agree in their mean (Bifet and Gavalda, 2007).

What goes in are ranks among earlier errors (`bayeslat.online.detection.ranks`), and how far out
they lie, one window each. ADWIN bounds the probability of a false alarm at one look by its `delta`,
which here is the admitted rate times the rows between two looks, shared by the two windows. It has
no warnings, and a predictive that is wrong from its first row is never found out.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from bayeslat.online.detection.base import Verdict
from bayeslat.online.detection.ranks import Ranks, checked
from bayeslat.online.scores import Scores

if TYPE_CHECKING:
    from river.drift import ADWIN

__all__ = ["AdaptiveWindow", "Contents"]

EVERY: Final = 32
"""Rows between two looks; river's own default."""


@dataclass(frozen=True, eq=False)
class Contents(Ranks):
    """Ranks, and what river's two windows hold, as they put it into bytes.

    Parameters
    ----------
    location, outer : bytes
        Window of ranks, and of how far out they lie; empty before the first row.
    """

    location: bytes
    outer: bytes


@dataclass(frozen=True)
class AdaptiveWindow:
    """River's ADWIN on ranks.

    Parameters
    ----------
    false_alarms : float
        Admitted false alarms an observation.
    seed : int
        Of the numbers that break ties of ranks.
    """

    false_alarms: float
    seed: int

    @property
    def name(self) -> str:
        """Its name in `bayeslat.online.detection.DETECTORS`."""
        return "adwin"

    def start(self, reference: Scores | None = None) -> Contents:
        """Empty windows; reference rows are ranked among only."""
        return Contents.empty(location=b"", outer=b"").shown(reference, seed=self.seed)

    def update(self, memory: Contents, scores: Scores) -> tuple[Contents, Verdict]:
        """Add rows to the windows, one after the other, up to the first that is drift.

        Raises
        ------
        InputError
            If a latency is not positive and finite or a p-value is not within [0, 1].
        """
        checked(scores)
        after, ranked = memory.ranked(scores, tolerance=0.0, spreads=0.0, seed=self.seed)
        location, outer = self._river(memory.location), self._river(memory.outer)
        verdict = Verdict("quiet", row=max(len(scores) - 1, 0))
        for i, pit in enumerate(ranked.pit.tolist()):
            # What a window holds before it drops its older part tells which way the mean went.
            before = location.estimation
            location.update(pit)
            outer.update(abs(2.0 * pit - 1.0))
            if location.drift_detected or outer.drift_detected:
                kind = "tails"
                if location.drift_detected:
                    kind = "slower" if location.estimation > before else "faster"
                since = int((location if location.drift_detected else outer).width)
                verdict = Verdict("drift", kind, i, since, 1.0)
                ranks = memory.ranked(scores[: i + 1], tolerance=0.0, spreads=0.0, seed=self.seed)
                after = ranks[0]
                break
        return replace(after, location=_bytes(location), outer=_bytes(outer)), verdict

    def _river(self, held: bytes) -> "ADWIN":
        # Importing river takes seconds.
        from river.drift import ADWIN

        window = ADWIN(delta=min(0.5 * EVERY * self.false_alarms, 1.0), clock=EVERY)
        if held:
            window._helper.__setstate__(held)
        return window


def _bytes(window: "ADWIN") -> bytes:
    return bytes(window._helper.__getstate__())
