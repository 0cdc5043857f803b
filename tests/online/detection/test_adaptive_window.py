"""Windows that are those of a detector that was kept."""

import numpy as np
import pytest
from river.drift import ADWIN

from bayeslat.online.detection.adaptive_window import EVERY, AdaptiveWindow
from bayeslat.online.detection.ranks import Ranks
from detection import RIGHT, scored, watched


@pytest.mark.parametrize("block", [1, 100])
def test_windows_are_those_of_a_detector_that_was_kept(block: int) -> None:
    error = RIGHT.rows(2000, 1).log_error
    error[1500:] -= 0.06
    rows = scored(error, np.zeros(2000, np.int64))
    _, ranks = Ranks.empty().ranked(rows, tolerance=0.0, spreads=0.0, seed=0)
    kept = ADWIN(delta=0.5 * EVERY * 1e-5, clock=EVERY)
    values = enumerate(ranks.pit.tolist())
    row = next(i for i, value in values if kept.update(value) or kept.drift_detected)
    (alarm,) = watched(AdaptiveWindow(1e-5, 0), rows, block=block, once=True).alarms
    assert (alarm.row, alarm.kind, alarm.since) == (row, "faster", kept.width)


def test_wider_noise_is_tails() -> None:
    error = RIGHT.rows(3000, 2).log_error
    error[2000:] *= 2.0
    rows = scored(error, np.zeros(3000, np.int64))
    (alarm,) = watched(AdaptiveWindow(1e-5, 0), rows, block=100, once=True).alarms
    assert alarm.kind == "tails"
    assert alarm.row >= 2000
