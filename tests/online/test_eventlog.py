"""Every event is one whole line, through full disks, rotation and clocks that jump."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bayeslat.errors import InputError
from bayeslat.online import eventlog
from bayeslat.online.eventlog import EventLog
from bayeslat.online.events import Event


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def event(number: int, **details: Any) -> Event:
    return Event("drift", "chip/llm", number, 1, details)


class Disk:
    """Stands in for os.write, with so many bytes of room."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.write: Callable[[int, bytes], int] = os.write

    def __call__(self, handle: int, content: bytes) -> int:
        if not self.room:
            raise OSError(28, "No space left on device")
        written = self.write(handle, content[: self.room])
        self.room -= written
        return written


def test_an_event_is_a_line_with_its_time(tmp_path: Path) -> None:
    with EventLog(tmp_path / "log", clock=lambda: 1_000_000_000.25) as log:
        log.write([event(7, kind="slower", share=np.float32(0.5), rows=np.arange(2))], batch=3)
        log.write([{"kind": "note", "odd": [np.nan, np.inf, 1.0]}])
        assert lines(tmp_path / "log") == [
            {
                "time": "2001-09-09T01:46:40.250+00:00",
                "kind": "drift",
                "deployment": "chip/llm",
                "n_seen": 7,
                "version": 1,
                "details": {"kind": "slower", "share": 0.5, "rows": [0, 1]},
                "batch": 3,
            },
            {"time": "2001-09-09T01:46:40.250+00:00", "kind": "note", "odd": [None, None, 1.0]},
        ]


def test_lines_are_added_to_what_is_there(tmp_path: Path) -> None:
    for number in range(3):
        with EventLog(tmp_path / "log") as log:
            log.write([event(number)])
    assert [line["n_seen"] for line in lines(tmp_path / "log")] == [0, 1, 2]


def test_a_clock_that_jumps_back_costs_nothing(tmp_path: Path) -> None:
    times = iter([2e9, 1e9, 2e9])
    with EventLog(tmp_path / "log", clock=lambda: next(times, 0.0)) as log:
        for number in range(3):
            log.write([event(number)])
    assert [line["n_seen"] for line in lines(tmp_path / "log")] == [0, 1, 2]


def test_a_full_disk_loses_nothing_within_the_backlog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(room=250)
    monkeypatch.setattr(eventlog.os, "write", disk)
    with EventLog(tmp_path / "log", backlog=50) as log:
        for number in range(20):
            log.write([event(number)])
        assert 0 < log.waiting < 20
        assert log.lost == 0
        disk.room = 10**9
        log.write([event(20)])
        assert log.waiting == 0
    assert [line["n_seen"] for line in lines(tmp_path / "log")] == list(range(21))


def test_beyond_the_backlog_lines_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(room=0)
    monkeypatch.setattr(eventlog.os, "write", disk)
    with EventLog(tmp_path / "log", backlog=5) as log:
        log.write([event(number) for number in range(12)])
        assert (log.waiting, log.lost) == (5, 7)
        disk.room = 10**9
        log.write([])
        log.write([event(12)])
    found = lines(tmp_path / "log")
    assert [line["n_seen"] for line in found if line["kind"] == "drift"] == [0, 1, 2, 3, 4, 12]
    assert [line["count"] for line in found if line["kind"] == "lost"] == [7]


@pytest.mark.parametrize("how", ["renamed", "removed", "copied and truncated"])
def test_rotation_loses_nothing(tmp_path: Path, how: str) -> None:
    path, old = tmp_path / "log", tmp_path / "log.1"
    with EventLog(path) as log:
        log.write([event(0)])
        if how == "renamed":
            path.rename(old)
        elif how == "removed":
            path.unlink()
        else:
            old.write_bytes(path.read_bytes())
            os.truncate(path, 0)
        log.write([event(1)])
    assert [line["n_seen"] for line in lines(path)] == [1]
    assert not old.exists() or [line["n_seen"] for line in lines(old)] == [0]


def test_a_line_cut_by_rotation_is_written_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(room=20)
    monkeypatch.setattr(eventlog.os, "write", disk)
    path = tmp_path / "log"
    with EventLog(path) as log:
        log.write([event(0)])
        path.rename(tmp_path / "log.1")
        disk.room = 10**9
        log.write([event(1)])
    assert [line["n_seen"] for line in lines(path)] == [0, 1]


def test_a_folder_that_is_gone_for_a_while_costs_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    with EventLog(folder / "log") as log:
        (folder / "log").unlink()
        folder.rmdir()
        log.write([event(0)])
        assert log.waiting == 1
        folder.mkdir()
        log.write([event(1)])
    assert [line["n_seen"] for line in lines(folder / "log")] == [0, 1]


def test_half_a_line_of_a_killed_process_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text('{"batch": 4}\n{"batch": 5, "ki')
    with EventLog(path) as log:
        assert log.last("batch") == 4
        log.write([event(1)], batch=6)
        assert log.last("batch") == 6
        assert log.last("nowhere") is None
    assert json.loads(path.read_text().splitlines()[-1])["batch"] == 6


def test_the_last_number_is_found_in_a_long_file(tmp_path: Path) -> None:
    with EventLog(tmp_path / "log") as log:
        log.write([{"batch": 1}])
        log.write([{"text": "x" * 500}] * 100)
        log.write([{"batch": 2}])
        log.write([{"text": "x" * 500}] * 20)
        assert log.last("batch") == 2


def test_a_file_that_cannot_be_opened_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^got .* cannot be opened .*expected a file"):
        EventLog(tmp_path / "nowhere" / "log")
