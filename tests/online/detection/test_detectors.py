"""What every detector keeps to."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from bayeslat.errors import InputError
from bayeslat.online.detection import DETECTORS, Detector
from bayeslat.online.files import decode, encode
from bayeslat.online.scores import Scores
from bayeslat.online.settings import OnlineSettings
from detection import RIGHT, WRONG, scored, watched

CHANGE = 900
MOST = 400
"""Rows after a 15 % shift in 4 % noise within which the slowest detector has to speak."""


@pytest.fixture(params=list(DETECTORS))
def detector(request: pytest.FixtureRequest) -> Detector:
    return DETECTORS[request.param](OnlineSettings())


def shifted(factor: float, n: int = 1500, seed: int = 1) -> Scores:
    rows = RIGHT.rows(n, seed)
    error = rows.log_error
    error[CHANGE:] += np.log(factor)
    return scored(error, rows.stratum)


def test_its_name_is_its_name(detector: Detector) -> None:
    assert DETECTORS[detector.name](OnlineSettings()) == detector


@pytest.mark.parametrize("world", [RIGHT, replace(WRONG, moving=True)])
def test_quiet_as_long_as_nothing_changes(detector: Detector, world) -> None:
    assert not watched(detector, world.rows(3000, 2), block=100).alarms


@pytest.mark.parametrize(("factor", "kind"), [(1.15, "slower"), (1.0 / 1.15, "faster")])
def test_a_shift_is_found_and_named(detector: Detector, factor: float, kind: str) -> None:
    (alarm,) = watched(detector, shifted(factor), block=100, once=True).alarms
    assert alarm.kind == kind
    assert CHANGE <= alarm.row < CHANGE + MOST
    assert alarm.since > 0


@pytest.mark.parametrize("learned", [0.0, np.log(1.15)])
def test_one_alarm_a_change(detector: Detector, learned: float) -> None:
    rows, end = shifted(1.15, CHANGE + 2500), CHANGE + 1000
    (alarm,) = watched(detector, rows, block=100, once=True).alarms
    assert alarm.row < end
    # As its caller does: the next predictive is fitted to rows since the change. Whether it has
    # learned from them or could not, how it errs on them is no further change.
    later = scored(rows.log_error[CHANGE:] - learned, rows.stratum[CHANGE:])
    memory = detector.start(later[:1000])
    for start in range(1000, len(later), 100):
        memory, verdict = detector.update(memory, later[start : start + 100])
        assert verdict.level != "drift"


def test_same_rows_same_verdicts(detector: Detector) -> None:
    rows = shifted(1.15)
    assert watched(detector, rows, block=100) == watched(detector, rows, block=100)


@pytest.mark.parametrize("block", [1, 640])
def test_blocks_do_not_matter(detector: Detector, block: int) -> None:
    rows = shifted(1.15)
    found = [watched(detector, rows, block=size, once=True).alarms for size in (100, block)]
    assert found[0] == found[1]


def test_memory_is_not_changed_and_can_be_saved(detector: Detector) -> None:
    rows = shifted(1.15)
    memory, _ = detector.update(detector.start(), rows[: CHANGE - 80])
    before = encode(memory)
    there, verdict = detector.update(memory, rows[CHANGE - 80 : CHANGE])
    assert encode(memory) == before
    again, same = detector.update(decode(before, "test"), rows[CHANGE - 80 : CHANGE])
    assert (encode(again), same) == (encode(there), verdict)


def test_seen_rows_are_counted_up_to_the_alarm(detector: Detector) -> None:
    rows = shifted(1.15)
    memory, verdict = detector.update(detector.start(), rows)
    assert verdict.level == "drift"
    assert memory.n_seen == verdict.row + 1


def test_an_empty_block_changes_nothing(detector: Detector) -> None:
    rows = RIGHT.rows(150, 3)
    memory, _ = detector.update(detector.start(), rows)
    after, verdict = detector.update(memory, rows[:0])
    assert (verdict.level, verdict.row, verdict.kind) == ("quiet", 0, "")
    assert encode(after) == encode(memory)


def test_what_is_no_number_is_refused(detector: Detector) -> None:
    rows = RIGHT.rows(50, 4)
    rows.pit[7] = np.nan
    with pytest.raises(InputError, match="got pit=nan at row 7"):
        detector.update(detector.start(), rows)
    with pytest.raises(InputError, match="got pit=nan at row 7"):
        detector.start(rows)


def test_evidence_is_one_at_drift(detector: Detector) -> None:
    rows = shifted(1.15)
    memory, found = detector.start(), []
    for start, stop in pairwise(range(0, 1500, 10)):
        memory, verdict = detector.update(memory, rows[start:stop])
        found.append(verdict)
        if verdict.level == "drift":
            break
    assert all(verdict.evidence < 1.0 for verdict in found[:-1])
    assert found[-1].evidence >= 1.0
