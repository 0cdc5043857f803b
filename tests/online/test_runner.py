"""Whatever dies, what was acknowledged is taken in once, in order, and queries are answered."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import stand_ins
from stand_ins import CALLS, CHIP, StandIn, batch, undisturbed

from bayeslat.errors import BayeslatError, InputError, PosteriorFileError, UnknownDeploymentError
from bayeslat.online import files
from bayeslat.online.eventlog import EventLog
from bayeslat.online.files import encode
from bayeslat.online.journal import BacklogError, JournalError, read_entry
from bayeslat.online.metrics import Metrics
from bayeslat.online.runner import Incident, OnlineRunner, RunnerError
from bayeslat.schema import Deployment

LONG = 120.0
"""Seconds after which a test has failed; everything here takes a few."""


@contextmanager
def runner(folder: Path | None, **options: Any) -> Iterator[OnlineRunner]:
    made = OnlineRunner(StandIn(), folder=folder, calls=CALLS, **options)
    try:
        yield made
    finally:
        made.close(finish=False)


def saved(folder: Path) -> StandIn:
    """The state of the only checkpoint."""
    (path,) = folder.glob("*.state")
    return stand_ins.load(path)


def without_events(state: StandIn) -> bytes:
    return encode((state.digest, state.held, state.settings))


def kinds(made: OnlineRunner) -> list[str]:
    return [event.kind for event in made.events if isinstance(event, Incident)]


def test_rows_are_taken_in_and_the_fleet_is_swapped(tmp_path: Path) -> None:
    batches = [batch(number, order="print") for number in range(5)]
    metrics, log = Metrics(), EventLog(tmp_path / "events")
    with runner(tmp_path, metrics=metrics, event_log=log) as made:
        first = made.fleet
        assert first == (0, "")
        assert [made.observe(steps) for steps in batches] == [1, 2, 3, 4, 5]
        made.wait(LONG)
        expected = undisturbed(batches)
        assert made.fleet == expected.fleet
        assert made.fleet[1]
        assert first == (0, "")
        assert made.version == 1
        assert made.waiting_rows == 0
        assert made.figures.n_seen == 150
        health = made.health()
        assert (health.n_seen, health.version, health.fault) == (150, 1, "")
        assert health.deployments["chip/llm/tp1"].verdict == "too few rows"
        assert "bayeslat_waiting_rows 0.0" in metrics.text()
        assert "bayeslat_update_seconds_count 5.0" in metrics.text()
        assert "bayeslat_worker_up 1.0" in metrics.text()
    assert without_events(saved(tmp_path)) == without_events(expected)
    assert not list(tmp_path.glob("*.batch"))
    assert '"kind": "accepted"' in (tmp_path / "events").read_text()
    assert "bayeslat_worker_up 0.0" in metrics.text()
    log.close()


@pytest.mark.slow
def test_without_a_folder_nothing_is_left_behind() -> None:
    with OnlineRunner(StandIn(), calls=CALLS) as made:
        folder = made._folder
        made.observe(batch(1))
    assert made.fleet == (0, "") and made.figures.n_seen in (0, 30)
    assert not folder.exists()


@pytest.mark.slow
def test_a_worker_that_dies_is_started_again(tmp_path: Path) -> None:
    """It dies within a batch, and once more while it has nothing to do; each row counts once."""
    batches = [batch(n, order=f"die {tmp_path / 'mark'}" * (n == 2)) for n in range(4)]
    metrics, log = Metrics(), EventLog(tmp_path / "events")
    with runner(tmp_path, metrics=metrics, event_log=log, checkpoint_seconds=1e6) as made:
        for steps in batches:
            made.observe(steps)
        made.wait(LONG)
        assert kinds(made) == ["worker died"]
        assert made.worker_pid is not None
        os.kill(made.worker_pid, signal.SIGKILL)
        last = batch(9)
        made.observe(last)
        made.wait(LONG)
        expected = undisturbed([*batches, last])
        assert made.fleet == expected.fleet
        assert made.figures.n_seen == 150
        assert kinds(made) == ["worker died", "worker died"]
        assert made.health().worker_deaths == 2
        assert "bayeslat_worker_deaths_total 2.0" in metrics.text()
    assert without_events(saved(tmp_path)) == without_events(expected)
    assert (tmp_path / "events").read_text().count('"accepted"') == 1
    log.close()


@pytest.mark.slow
def test_poison_is_put_aside_and_not_lost(tmp_path: Path) -> None:
    """One batch kills, one raises, one is refused; those around them are taken in."""
    good = [batch(number) for number in range(3)]
    orders = {1: "die", 3: "raise", 4: "refuse"}
    with runner(tmp_path) as made:
        for number, steps in enumerate(
            [good[0], batch(101, order="die"), good[1], batch(103, order="raise"),
             batch(104, order="refuse"), good[2]]
        ):  # fmt: skip
            assert made.observe(steps) == number + 1
        made.wait(2 * LONG)
        aside = sorted((tmp_path / "put-aside").iterdir())
        assert [int(path.stem) - 1 for path in aside] == list(orders)
        for path, number in zip(aside, (101, 103, 104), strict=True):
            steps = read_entry(path).steps
            assert isinstance(steps, pd.DataFrame)
            assert steps["latency_ms"].tolist() == batch(number)["latency_ms"].tolist()
        assert made.waiting_rows == 0
        assert made.health().put_aside == 3
        reasons = [
            event.reason for event in made.events if getattr(event, "kind", "") == "put aside"
        ]
        assert "status -9" in reasons[0]
        assert "ValueError: this batch is poison" in reasons[1]
        assert "got nothing good, expected something better" in reasons[2]
        made.observe(batch(5))
        made.wait(LONG)
    assert without_events(saved(tmp_path)) == without_events(undisturbed([*good, batch(5)]))


@pytest.mark.slow
def test_a_worker_that_hangs_is_ended(tmp_path: Path) -> None:
    steps = batch(1, order=f"hang {tmp_path / 'mark'}")
    with runner(tmp_path, limit_seconds=3.0) as made:
        made.observe(steps)
        made.wait(LONG)
        assert made.figures.n_seen == 30
        (incident,) = [event for event in made.events if isinstance(event, Incident)]
        assert incident.reason == "it gave no answer within 3 s"


@pytest.mark.slow
def test_the_program_is_started_again_in_the_same_folder(tmp_path: Path) -> None:
    batches = [batch(number, order="slow" * (number == 0)) for number in range(6)]
    log = EventLog(tmp_path / "events")
    with runner(tmp_path, event_log=log) as made:
        for steps in batches[:4]:
            made.observe(steps)
    assert list(tmp_path.glob("*.batch"))  # it was closed without waiting
    with runner(tmp_path, event_log=log) as made:
        for steps in batches[4:]:
            made.observe(steps)
        made.wait(LONG)
        expected = undisturbed(batches)
        assert made.fleet == expected.fleet
    assert without_events(saved(tmp_path)) == without_events(expected)
    assert (tmp_path / "events").read_text().count('"accepted"') == 1
    with OnlineRunner(folder=tmp_path, calls=CALLS) as made:
        assert made.fleet == expected.fleet
        assert made.observe(batch(6)) == 7
    log.close()


PROGRAM = """
import itertools, sys
from stand_ins import CALLS, StandIn, batch
from bayeslat.online.runner import OnlineRunner

runner = OnlineRunner(StandIn(), folder=sys.argv[1], calls=CALLS, checkpoint_seconds=0.2)
for number in itertools.count():
    print(runner.observe(batch(number)), flush=True)
"""


@pytest.mark.slow
def test_a_program_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    """Without a guard of its main module, killed in the middle, twice in the same folder."""
    for _ in range(2):
        where = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": where},
        )
        assert program.stdout is not None
        acknowledged = 0
        # Only when a checkpoint was made is anything at stake but the journal.
        while acknowledged < 20 or not any(int(p.stem) for p in tmp_path.glob("*.state")):
            acknowledged = int(program.stdout.readline())
        program.kill()
        rest = program.stdout.read().split()
        program.wait()
        program.stdout.close()
        acknowledged = int(rest[-1]) if rest else acknowledged
    with runner(tmp_path) as made:
        made.wait(LONG)
        n_batches = made.figures.n_seen // 30
    # A batch may have been kept without an answer having come back.
    assert acknowledged <= n_batches <= acknowledged + 1
    state = saved(tmp_path)
    assert state.n_seen == 30 * n_batches


def test_a_full_disk_acknowledges_nothing_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with runner(tmp_path) as made:
        made.observe(batch(0))
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "fsync", full)
            with pytest.raises(JournalError, match="No space left on device") as found:
                made.observe(batch(1))
            assert isinstance(found.value, BayeslatError) and "\n" not in str(found.value)
            assert made.fleet == (0, "")
        assert made.observe(batch(1)) == 2
        made.wait(LONG)
        assert made.figures.n_seen == 60
    assert without_events(saved(tmp_path)) == without_events(undisturbed([batch(0), batch(1)]))


@pytest.mark.slow
def test_a_checkpoint_that_fails_leaves_the_journal(tmp_path: Path) -> None:
    mark = tmp_path / "no room"
    with runner(tmp_path, checkpoint_seconds=0.05) as made:
        mark.touch()
        for number in range(3):
            made.observe(batch(number))
        made.wait(LONG)
        deadline = time.monotonic() + LONG
        while not kinds(made) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert kinds(made) == ["checkpoint failed"]
        assert len(list(tmp_path.glob("*.batch"))) == 3
        mark.unlink()
        while list(tmp_path.glob("*.batch")) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert kinds(made) == ["checkpoint failed"]
    assert saved(tmp_path).n_seen == 90


@pytest.mark.slow
def test_rows_wait_for_room_and_no_longer_than_they_are_told(tmp_path: Path) -> None:
    with runner(tmp_path, waiting_rows=70) as made:
        made.observe(batch(0, order="slow"))
        made.observe(batch(1))
        with pytest.raises(BacklogError, match="got 30 rows while 60 wait, expected at most 70"):
            made.observe(batch(2), timeout=0.01)
        with pytest.raises(BacklogError, match="60 rows still waiting"):
            made.wait(0.01)
        made.observe(batch(2), timeout=LONG)
        made.wait(LONG)
        made.observe(batch(3, n=500))  # more than the bound, alone
        made.wait(LONG)
        assert made.figures.n_seen == 590


@pytest.mark.slow
def test_rollbacks_are_taken_in_their_turn(tmp_path: Path) -> None:
    with runner(tmp_path) as made:
        made.observe(batch(0))
        made.rollback(CHIP)
        made.observe(batch(1))
        with pytest.raises(UnknownDeploymentError, match="got x/y/tp1, expected one of the 1"):
            made.rollback(Deployment("x", "y"))
        made.wait(LONG)
        expected = stand_ins.observe(
            stand_ins.rollback(stand_ins.observe(StandIn(), batch(0)), CHIP), batch(1)
        )
        assert made.fleet == expected.fleet


@pytest.mark.slow
def test_queries_go_on_while_rows_are_taken_in(tmp_path: Path) -> None:
    """Several threads send rows while one looks at the fleet: it only ever sees whole ones."""
    seen: list[tuple[int, str]] = []
    over = threading.Event()
    with runner(tmp_path) as made:

        def look() -> None:
            while not over.is_set():
                seen.append(made.fleet)
                time.sleep(0.001)

        def send(start: int) -> None:
            for number in range(start, start + 10):
                made.observe(batch(number))

        threads = [threading.Thread(target=send, args=(start,)) for start in (0, 100)]
        looking = threading.Thread(target=look)
        for thread in (*threads, looking):
            thread.start()
        for thread in threads:
            thread.join()
        made.wait(LONG)
        over.set()
        looking.join()
        assert made.figures.n_seen == 600
    versions = [version for version, _ in seen]
    assert versions == sorted(versions)
    assert all((digest == "") == (version == 0) for version, digest in seen)


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ([1, 2], "got a list, expected observations"),
        (pd.DataFrame({"gpu": ["a"]}), "got steps without model, batch_size"),
        (batch(0).assign(extra=object()), "at column 'extra'|column 'extra'"),
    ],
)
def test_what_are_no_steps_is_refused_at_once(tmp_path: Path, steps: Any, text: str) -> None:
    with runner(tmp_path) as made, pytest.raises(InputError, match=text):
        made.observe(steps)


def test_a_folder_belongs_to_one_runner(tmp_path: Path) -> None:
    with runner(tmp_path), pytest.raises(InputError, match="another runner is using"):
        OnlineRunner(StandIn(), folder=tmp_path, calls=CALLS)
    with runner(tmp_path):
        pass


def test_a_folder_is_not_gone_on_with_under_other_settings(tmp_path: Path) -> None:
    with runner(tmp_path):
        pass
    with pytest.raises(InputError, match="got a state whose settings are not those"):
        OnlineRunner(StandIn(settings="other"), folder=tmp_path, calls=CALLS)
    with runner(tmp_path):
        pass


def test_the_last_of_two_checkpoints_counts_and_the_other_goes(tmp_path: Path) -> None:
    """As a program leaves them that is killed between saving one and removing the other."""
    with runner(tmp_path) as made:
        made.observe(batch(0))
        made.wait(LONG)
    stand_ins.save(StandIn(), tmp_path / f"{0:012d}.state")
    with runner(tmp_path) as made:
        assert made.figures.n_seen == 30
    assert saved(tmp_path).n_seen == 30


def test_an_empty_folder_needs_a_state(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got no state, and none in"):
        OnlineRunner(folder=tmp_path, calls=CALLS)


def test_a_damaged_checkpoint_says_so(tmp_path: Path) -> None:
    with runner(tmp_path):
        pass
    (path,) = tmp_path.glob("*.state")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(PosteriorFileError, match="which is damaged"):
        OnlineRunner(StandIn(), folder=tmp_path, calls=CALLS)


@pytest.mark.slow
def test_a_damaged_batch_is_put_aside(tmp_path: Path) -> None:
    with runner(tmp_path) as made:
        made.observe(batch(0, order="slow"))
        number = made.observe(batch(1))
        path = made._journal.path(number)
        path.write_bytes(path.read_bytes()[:-50])
        made.observe(batch(2))
        made.wait(LONG)
        assert made.figures.n_seen == 60
        assert kinds(made) == ["put aside"]
        assert list((tmp_path / "put-aside").iterdir())


@pytest.mark.slow
def test_a_closed_runner_takes_nothing(tmp_path: Path) -> None:
    with runner(tmp_path) as made:
        made.observe(batch(0))
        made.close()
        with pytest.raises(RunnerError, match="it is closed"):
            made.observe(batch(1))
        assert made.fleet is not None
    assert saved(tmp_path).n_seen == 30


@pytest.mark.slow
def test_workers_that_cannot_start_stop_the_runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are kept and queries are answered; whoever sends more is told why."""
    monkeypatch.setattr("bayeslat.online.runner.FRUITLESS", 1)
    with runner(tmp_path) as made:
        monkeypatch.setattr(sys, "path", ["/nowhere"])
        made.observe(batch(0))
        with pytest.raises(RunnerError, match=r"takes nothing in any more .*ModuleNotFoundError"):
            made.wait(LONG)
        with pytest.raises(RunnerError):
            made.observe(batch(1))
        assert made.fleet == (0, "")
        assert kinds(made)[-1] == "stopped"
        assert made.health().fault
    monkeypatch.undo()
    with runner(tmp_path) as made:
        made.wait(LONG)
        assert made.figures.n_seen == 30


def test_arrays_of_a_fleet_are_whole_when_they_arrive(tmp_path: Path) -> None:
    """Large arrays travel beside the message; what arrives is what was sent."""
    from bayeslat.online.worker import _receive, _send

    read, write = os.pipe()
    arrays = {"a": np.random.default_rng(1).normal(size=300_000), "b": np.arange(3)}
    with os.fdopen(read, "rb", buffering=0) as source, os.fdopen(write, "wb", 0) as target:
        thread = threading.Thread(target=_send, args=(target, arrays))
        thread.start()
        found = _receive(source)
        thread.join()
    assert encode(found) == encode(arrays)
    found["a"][0] = 0.0  # an array of one's own
