"""How a posterior is kept true: the settings of online adaptation."""

from dataclasses import dataclass

from bayeslat.errors import InputError

__all__ = ["OnlineSettings"]


@dataclass(frozen=True)
class OnlineSettings:
    """Settings of online adaptation.

    Parameters
    ----------
    draws : int
        Draws of each deployment that are carried along.
    block : int
        Rows of a deployment that are taken in at once: detectors, buffer and weights see blocks.
    decay : float
        Weight of a row is decay to the power of its age in rows; 1 forgets nothing.
    window : int, optional
        Rows that are kept of each deployment, spread over its load levels; None keeps all.
    pull : float
        Power of the base posterior where it is the prior; 1 is Bayes' rule, 0.5 half as sure of it.
    tolerance : float
        Relative error of a predicted latency that counts as no drift (page-hinkley and adwin, which
        look at ranks alone, know none).
    false_alarms : float
        Admitted false alarms an observation, as long as nothing changes.
    detector : str
        Name in `bayeslat.online.detection.DETECTORS`.
    held_back : int
        One row in so many is held back from refits, to judge them by.
    rows_per_call : int
        Rows of a deployment that one call looks at; of more, evenly spaced ones are looked at and
        the others are counted.
    seed : int
        Of everything random.
    """

    draws: int = 1000
    block: int = 100
    decay: float = 1.0
    window: int | None = 2000
    pull: float = 1.0
    tolerance: float = 0.05
    false_alarms: float = 1e-5
    detector: str = "e-process"
    held_back: int = 5
    rows_per_call: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        checks = (
            (self.draws >= 100, "draws", "at least 100"),
            (self.block >= 1, "block", "at least 1"),
            (0.0 < self.decay <= 1.0, "decay", "a number in (0, 1]"),
            (self.window is None or self.window >= 100, "window", "None or at least 100"),
            (0.0 < self.pull <= 1.0, "pull", "a number in (0, 1]"),
            (0.0 <= self.tolerance < 1.0, "tolerance", "a number in [0, 1)"),
            (0.0 < self.false_alarms < 1.0, "false_alarms", "a number in (0, 1)"),
            (self.held_back >= 2, "held_back", "at least 2"),
            (self.rows_per_call >= 1, "rows_per_call", "at least 1"),
            (self.seed >= 0, "seed", "a number >= 0"),
        )
        for fine, name, expected in checks:
            if not fine:
                raise InputError(f"got {name}={getattr(self, name)!r}, expected {expected}")
