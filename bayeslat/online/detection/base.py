"""What every detector of drift takes and gives."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from bayeslat.online.scores import Scores

__all__ = ["Detector", "Level", "Verdict"]

type Level = Literal["quiet", "warning", "drift"]


@dataclass(frozen=True)
class Verdict:
    """What a detector says after a block of rows.

    Parameters
    ----------
    level : {"quiet", "warning", "drift"}
        The highest level within the block. After "drift" a detector is started anew by its caller.
    kind : str
        What moved: "slower", "faster", "tails" or "" where nothing did.
    row : int
        Position in the block of the row at which "drift" was declared, or of the last row.
    since : int
        Rows, up to and including `row`, that seem to have come after the change; 0 where unknown.
    evidence : float
        On the detector's own scale, relative to its threshold of drift: 1 is drift.
    """

    level: Level
    kind: str = ""
    row: int = 0
    since: int = 0
    evidence: float = 0.0


class Detector(Protocol):
    """One way of noticing that a predictive is no longer true.

    A detector holds its settings alone. What it remembers is a value of its own: a frozen
    dataclass of numbers, strings, bytes and arrays that `bayeslat.online.files` can save.
    """

    @property
    def name(self) -> str:
        """Its name in `bayeslat.online.detection.DETECTORS`."""

    def start(self, reference: Scores | None = None) -> Any:
        """What it remembers before the first row.

        `reference` are rows that the predictive in force was fitted to, if there are any: how it
        errs on them is no news, and is not reported as drift when it goes on.
        """

    def update(self, memory: Any, scores: Scores) -> tuple[Any, Verdict]:
        """Look at a block of rows; nothing is changed in place."""
