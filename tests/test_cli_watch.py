"""The command that keeps a posterior true while a log grows: watch."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cli_answers import refused

import bayeslat as bl
from bayeslat import online
from bayeslat.errors import PosteriorFileError
from bayeslat.online.events import Event
from bayeslat.online.monitor import Monitor
from bayeslat.online.settings import OnlineSettings
from bayeslat.posterior import FleetPosterior, load
from bayeslat.schema import Deployment
from bayeslat.storage import write_whole

HEADER = "gpu,model,batch_size,total_tokens,latency_ms\n"
SWAP_EVERY = 50
"""Rows after which the stand-in swaps its posterior."""


@dataclass(frozen=True)
class StandInFleet:
    """A posterior that says how many rows it has seen."""

    n_seen: int

    def save(self, path):
        write_whole(Path(path), f"h5netcdf {self.n_seen}".encode())


@dataclass(frozen=True)
class StandInDeployment:
    version: int
    n_seen: int
    level: str = "quiet"
    monitor: Monitor = Monitor.empty()  # noqa: RUF009
    rows: tuple[()] = ()


@dataclass(frozen=True)
class StandIn:
    """A state that remembers the latency of each row, so that each row is known."""

    settings: OnlineSettings
    seen: tuple[float, ...] = ()
    version: int = 0
    events: tuple[Event, ...] = ()
    quarantine: Any = None
    unknown: Any = None

    @property
    def fleet(self):
        return StandInFleet(len(self.seen) // SWAP_EVERY * SWAP_EVERY)

    @property
    def n_seen(self):
        return len(self.seen)

    @property
    def deployments(self):
        return (Deployment("g", "m"),)

    def of(self, _):
        return StandInDeployment(self.version, len(self.seen))


def stand_in_observe(state, steps):
    """Row by row, so that it is all the same where a chunk ends."""
    seen, events = state.seen, []
    for latency in steps.latency_ms.tolist():
        seen = (*seen, latency)
        if len(seen) % SWAP_EVERY == 0:
            events.append(Event("accepted", "g/m/tp1", len(seen), len(seen) // SWAP_EVERY))
    return replace(state, seen=seen, version=len(seen) // SWAP_EVERY, events=tuple(events))


def stand_in_save(state, path, extra=None):
    content = {"seen": state.seen, "settings": asdict(state.settings), "extra": extra}
    write_whole(Path(path), json.dumps(content).encode())


def stand_in_load(path):
    content = read_state(path)
    state = StandIn(OnlineSettings(**content["settings"]), tuple(content["seen"]))
    return replace(state, version=len(state.seen) // SWAP_EVERY, quarantine={}, unknown={})


def read_state(path):
    try:
        return json.loads(Path(path).read_text())
    except ValueError as error:
        raise PosteriorFileError(f"got {path}, expected a saved state; it is damaged") from error


def stand_ins() -> dict[str, Any]:
    """What takes the place of the functions of `bayeslat.online`."""
    return {
        "start": lambda fleet, settings: StandIn(settings, quarantine={}, unknown={}),
        "observe": stand_in_observe,
        "save": stand_in_save,
        "load": stand_in_load,
        "load_extra": lambda path: read_state(path)["extra"],
    }


@pytest.fixture(scope="module")
def fleet():
    """A posterior that comes with the package; read once, because that takes long."""
    return load("reference-fleet")


@pytest.fixture
def stand_in(monkeypatch, tmp_path, fleet):
    """Online adaptation whose every row can be counted, in an empty folder."""
    monkeypatch.setattr(
        "bayeslat.posterior.load",
        lambda path: fleet if str(path) == "reference-fleet" else load(path),
    )
    for name, function in stand_ins().items():
        monkeypatch.setattr(online, name, function, raising=False)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def row(number: int) -> str:
    return f"g,m,4,4,{number + 1}.5\n"


def rows(*numbers: int) -> str:
    return "".join(map(row, numbers))


@pytest.fixture
def log(tmp_path) -> Path:
    path = tmp_path / "steps.csv"
    path.write_text(HEADER + rows(*range(120)))
    return path


def taken_rows(path: Path) -> list[int]:
    """Rows that a saved state of the stand-in holds."""
    return [round(latency - 1.5) for latency in read_state(path)["seen"]]


def once(log: Path, *more: object) -> list[object]:
    return ["watch", "reference-fleet", "--follow", log, "--once", *more]


def reports(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_it_works_off_what_is_there_and_saves_all(run, stand_in, log):
    code, text, err = run(*once(log, "--json", "--events", "events.jsonl"))
    assert code == 0, err
    last = reports(text)[-1]
    assert (last["rows"], last["lines"], last["version"]) == (120, 121, 2)
    assert last["deployments"][0] == {
        "deployment": "g/m/tp1", "rows": 120, "level": "quiet", "error": None,
        "coverage_90": None, "exceedance_p99": None, "version": 2, "health": "too few rows",
        "last_event": "accepted at row 100",
    }  # fmt: skip
    assert [event["n_seen"] for report in reports(text) for event in report["events"]] == [50, 100]
    assert Path("current.nc").read_text() == "h5netcdf 100"
    assert taken_rows(Path("watch.state")) == list(range(120))
    events = reports(Path("events.jsonl").read_text())
    assert [(each["number"], each["n_seen"]) for each in events] == [(1, 50), (2, 100)]
    assert not list(Path().glob("*.part"))


def test_a_restart_goes_on_where_it_stopped(run, stand_in, log):
    for end in (130, 230):
        code, text, err = run(*once(log, "--json", "--events", "events.jsonl"))
        assert code == 0, err
        with log.open("a") as stream:
            stream.write(rows(*range(120 if end == 130 else 130, end)) + "half,a l")
        os.truncate(log, log.stat().st_size - len("half,a l"))
    code, text, _ = run(*once(log, "--json", "--events", "events.jsonl"))
    assert code == 0
    assert taken_rows(Path("watch.state")) == list(range(230))
    assert reports(text)[-1]["rows"] == 230
    events = reports(Path("events.jsonl").read_text())
    assert [each["number"] for each in events] == [1, 2, 3, 4]


def test_a_new_beginning_adds_to_the_log_of_events(run, stand_in, log):
    for _ in range(2):
        assert run(*once(log, "--events", "events.jsonl"))[0] == 0
        Path("watch.state").unlink()
    events = reports(Path("events.jsonl").read_text())
    assert [each["number"] for each in events] == [1, 2, 1, 2]
    assert len({each["history"] for each in events}) == 2


def test_people_get_plain_lines_where_there_is_no_terminal(run, stand_in, log):
    with log.open("a") as stream:
        stream.write("once upon a time\n")
    code, text, _ = run(*once(log))
    assert code == 0
    assert "accepted: g/m/tp1 at row 100, version 2" in text
    assert "120 rows, version 2, 1 refused" in text
    assert "line 122 refused, wrong number of fields in the line: once upon a time" in text
    assert "deployment g/m/tp1, rows 120, level quiet, error -" in text


def test_a_terminal_gets_a_table(run, stand_in, log):
    from rich.console import Console

    console = Console(force_terminal=True, width=150, color_system=None)
    stand_in.setattr("bayeslat.cli.watch.stdout", console)
    code, text, _ = run(*once(log))
    assert code == 0
    assert "last event" in text
    assert "accepted at row 100" in text
    assert "─" in text


def test_the_end_may_be_the_start(run, stand_in, log):
    code, _, _ = run(*once(log, "--from-end"))
    assert code == 0
    assert taken_rows(Path("watch.state")) == []
    with log.open("a") as stream:
        stream.write(rows(200))
    run(*once(log, "--from-end"))
    assert taken_rows(Path("watch.state")) == [200]


def test_settings_reach_the_state(run, stand_in, log):
    code, _, err = run(*once(log, "--decay", 0.99, "--window", 300, "--detector", "ks"))
    assert code == 0, err
    settings = OnlineSettings(**read_state("watch.state")["settings"])
    assert (settings.decay, settings.window, settings.detector) == (0.99, 300, "ks")
    assert run(*once(log))[0] == 0
    refused(run(*once(log, "--decay", 0.5)), about="--decay")


@pytest.mark.parametrize(
    ("options", "about"),
    [
        (["--format", "parquet"], "format"),
        (["--out", "nowhere/current.nc"], "--out"),
        (["--out", "current.txt"], "--out"),
        (["--state", "nowhere/watch.state"], "--state"),
        (["--events", "nowhere/events.jsonl"], "--events"),
        (["--state", "/proc/watch.state"], "cannot be written to"),
        (["--state", "current.nc"], "one file for two"),
        (["--decay", "2"], "decay"),
        (["--gpu", "other"], "--gpu"),
        (["--every", "nan"], "--every"),
        (["--every", "0"], "--every"),
        (["--metrics-port", "99999"], "--metrics-port"),
    ],
)
def test_bad_input_is_one_line(run, stand_in, log, options, about):
    refused(run(*once(log, *options)), about=about)


def test_a_missing_posterior_or_log_is_one_line(run, stand_in, log, tmp_path):
    refused(run("watch", "nothing.nc", "--follow", log, "--once"), about="nothing.nc")
    refused(run(*once(tmp_path / "none.csv")), about="none.csv")
    refused(run(*once(tmp_path)), about="no plain file")


def test_a_state_of_something_else_is_refused(run, stand_in, log, tmp_path):
    assert run(*once(log))[0] == 0
    other = tmp_path / "other.csv"
    other.write_text(HEADER + rows(1))
    refused(run(*once(other)), about="follows")
    refused(run("watch", "public-fleet", "--follow", log, "--once"), about="another posterior")
    values = read_state("watch.state")
    Path("watch.state").write_text(json.dumps(values | {"extra": None}))
    refused(run(*once(log)), about="did not save")
    values["extra"]["position"].pop("offset")
    Path("watch.state").write_text(json.dumps(values))
    refused(run(*once(log)), about="position")
    Path("watch.state").write_text("{")
    refused(run(*once(log)), about="damaged")


def test_a_port_that_is_taken_is_one_line(run, stand_in, log):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(run(*once(log, "--metrics-port", port)), about=str(port))


def test_metrics_are_served_while_it_watches(run, stand_in, log):
    import urllib.request

    asked: list[str] = []

    def ask(self, state):
        update(self, state)
        url = f"http://127.0.0.1:{servers[0].port}/metrics"
        asked.append(urllib.request.urlopen(url, timeout=10).read().decode())

    from bayeslat.online.metrics import Metrics

    servers: list[Any] = []
    update, serve = Metrics.update, Metrics.serve

    def note(self, *arguments, **options):
        servers.append(serve(self, *arguments, **options))
        return servers[0]

    stand_in.setattr(Metrics, "update", ask)
    stand_in.setattr(Metrics, "serve", note)
    code, text, _ = run(*once(log, "--metrics-port", 0))
    assert code == 0
    assert f"http://127.0.0.1:{servers[0].port}/metrics" in text
    assert 'bayeslat_rows_total{engine="",gpu="g",model="m",precision="",tp="1"} 120.0' in asked[-1]


def test_a_full_disk_is_told_and_outlived(run, stand_in, log):
    """The state stays in memory, and is saved once there is room."""
    failures, save = [3], stand_ins()["save"]

    def full(state, path, extra=None):
        if failures[0]:
            failures[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        save(state, path, extra)

    stand_in.setattr(online, "save", full)
    stand_in.setattr("bayeslat.observations.following.chunks.take", slowly())
    code, text, _ = run(*once(log, "--every", 0.05))
    assert code == 0
    assert failures == [0]
    assert text.count("not saved, trying again with the next report") == 1
    assert "No space left" in text
    assert text.count("all is well again") == 1
    assert taken_rows(Path("watch.state")) == list(range(120))


def slowly():
    """Few lines at a time, so that there are several reports."""
    from bayeslat.observations.following.growing import take

    def take_few(position, *, held=None, max_lines=0):
        time.sleep(0.06)
        return take(position, held=held, max_lines=20)

    return take_few


def test_a_disk_that_stays_full_is_no_success(run, stand_in, log):
    def full(*_, **__):
        raise PosteriorFileError("got watch.state, which cannot be written (No space left)")

    stand_in.setattr(online, "save", full)
    code, _, err = run(*once(log))
    assert code == 1
    assert err.startswith("error: not saved")
    assert err.count("\n") == 1


def test_events_that_found_no_room_are_written_by_the_next_run(run, stand_in, log):
    from bayeslat.online.eventlog import EventLog

    options = ("--events", "events.jsonl")
    with stand_in.context() as full:
        full.setattr(EventLog, "_flush", lambda self, when: None)
        code, _, err = run(*once(log, *options))
    assert code == 1
    assert "events wait for room" in err
    assert Path("events.jsonl").read_text() == ""
    assert taken_rows(Path("watch.state")) == list(range(120))
    for _ in range(2):
        assert run(*once(log, *options))[0] == 0
        events = reports(Path("events.jsonl").read_text())
        assert [(each["number"], each["n_seen"]) for each in events] == [(1, 50), (2, 100)]


def test_an_event_is_logged_after_the_state_that_holds_it(run, stand_in, log):
    """A state that could not be saved may be lost, and another history take its place."""

    def full(*_, **__):
        raise PosteriorFileError("got watch.state, which cannot be written (No space left)")

    with stand_in.context() as patched:
        patched.setattr(online, "save", full)
        assert run(*once(log, "--events", "events.jsonl"))[0] == 1
    assert Path("events.jsonl").read_text() == ""
    assert not Path("current.nc").exists()


def test_an_idle_watch_saves_nothing_and_shows_it_on(run, stand_in, log):
    saves, save, naps = [], stand_ins()["save"], [0]

    def note(*arguments, **options):
        saves.append(time.monotonic())
        save(*arguments, **options)

    def nap(_):
        naps[0] += 1
        if naps[0] == 1:
            Path("current.nc").unlink()
        if naps[0] == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    stand_in.setattr(online, "save", note)
    stand_in.setattr("bayeslat.cli.watch.NAP_SECONDS", 1.0)
    stand_in.setattr("bayeslat.cli.watch.time", Hurried(nap))
    code, text, _ = run("watch", "reference-fleet", "--follow", log, "--json")
    assert code == 0
    assert len(reports(text)) == 6
    assert len({report["rows"] for report in reports(text)}) == 1
    assert len(saves) == 1
    # Somebody had removed it.
    assert Path("current.nc").exists()


def test_it_waits_for_a_log_and_for_room_to_read_it(run, stand_in, log):
    """A reader needs room for its lines in the folder for temporary files."""
    away, naps = log.with_name("away"), [0]
    log.rename(away)

    def nap(_):
        naps[0] += 1
        if naps[0] == 2:
            away.rename(log)
            stand_in.setattr(tempfile, "tempdir", "/proc/nowhere")
        if naps[0] == 5:
            stand_in.setattr(tempfile, "tempdir", None)
        if naps[0] == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    stand_in.setattr("bayeslat.cli.watch.NAP_SECONDS", 1.0)
    stand_in.setattr("bayeslat.cli.watch.time", Hurried(nap))
    code, text, _ = run("watch", "reference-fleet", "--follow", log)
    assert code == 0
    assert "steps.csv (not there), 0 lines" in text
    assert text.count("the log cannot be read") == 1
    assert taken_rows(Path("watch.state")) == list(range(120))


def test_the_log_may_be_named_from_another_folder(run, stand_in, log, tmp_path):
    assert run(*once(log))[0] == 0
    assert run(*once(log.name))[0] == 0


def test_it_explains_itself_with_an_example(run):
    code, out, _ = run("watch", "--help")
    assert code == 0
    assert "Example: bayeslat watch" in " ".join(out.split())
    assert "--json" in out


@dataclass
class Hurried:
    """A clock that naps move on."""

    nap: Any
    now: float = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.nap(seconds)


def test_the_log_of_events_may_be_rotated_meanwhile(run, stand_in, log):
    moved = Path("events.jsonl.1")

    def nap(_):
        if moved.exists():
            os.kill(os.getpid(), signal.SIGTERM)
            return
        Path("events.jsonl").rename(moved)
        with log.open("a") as stream:
            stream.write(rows(*range(120, 160)))

    stand_in.setattr("bayeslat.cli.watch.NAP_SECONDS", 1.0)
    stand_in.setattr("bayeslat.cli.watch.time", Hurried(nap))
    code, _, err = run("watch", "reference-fleet", "--follow", log, "--events", "events.jsonl")
    assert code == 0, err
    assert [event["number"] for event in reports(moved.read_text())] == [1, 2]
    assert [event["number"] for event in reports(Path("events.jsonl").read_text())] == [3]


def test_two_watches_do_not_share_a_state(run, stand_in, log):
    from bayeslat.cli.watched import the_only_one

    with the_only_one(Path("watch.state")):
        refused(run(*once(log)), about="another watch")
    assert run(*once(log))[0] == 0


def test_scopes_are_not_mixed(run, stand_in, fleet, tmp_path):
    def cycles(path):
        tree = fleet.tree.copy()
        tree.attrs["timing_scope"] = "gpu_forward"
        return FleetPosterior(tree)

    stand_in.setattr("bayeslat.posterior.load", cycles)
    path = tmp_path / "vllm.log"
    path.write_text(
        "Iteration(1): 0 context requests, 0 context tokens, 4 generation requests, "
        "4 generation tokens, iteration elapsed time: 12.5 ms\n"
    )
    refused(run(*once(path, "--gpu", "g", "--model", "m")), about="gpu_forward")


def test_a_signal_that_comes_early_ends_it_with_everything_saved(run, stand_in, log):
    """Two: the second, during the work, would end the process at once."""
    observe = stand_ins()["observe"]

    def interrupted(state, steps):
        os.kill(os.getpid(), signal.SIGINT)
        return observe(state, steps)

    before = signal.getsignal(signal.SIGINT)
    stand_in.setattr(online, "observe", interrupted)
    code, _, err = run("watch", "reference-fleet", "--follow", log)
    assert code == 0, err
    assert taken_rows(Path("watch.state")) == list(range(120))
    assert signal.getsignal(signal.SIGINT) is before


def simulated(n_rows: int) -> pd.DataFrame:
    """Rows of a deployment that the released posterior holds, each with its own latency."""
    steps = bl.simulate_fleet(
        gpus=("H100-80GB",), models=("llama-7b",), rows_per_deployment=n_rows, seed=3
    ).steps
    assert steps["latency_ms"].is_unique
    return steps


def test_the_posterior_in_force_and_the_state_are_real(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    steps = simulated(40)
    log = tmp_path / "steps.csv"
    for upto in (30, 40):
        steps[:upto].to_csv(log, index=False)
        code, text, err = run(*once(log, "--json"))
        assert code == 0, err
    last = reports(text)[-1]
    assert (last["rows"], last["deployments"][0]["deployment"]) == (40, steps_label(steps))
    assert 0.0 < last["deployments"][0]["error"] < 1.0
    state = online.load("watch.state")
    seen = state.rows(of_regime=False).latency_ms
    np.testing.assert_array_equal(seen, steps["latency_ms"])
    current = load("current.nc")
    assert current.deployments == state.fleet.deployments
    for name in state.fleet.posterior.data_vars:
        np.testing.assert_array_equal(
            current.posterior[name].to_numpy(), state.fleet.posterior[name].to_numpy()
        )


def steps_label(steps: pd.DataFrame) -> str:
    return bl.validate_steps(steps).deployments[0].label


# Processes of their own, which can be killed.

PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
from test_cli_watch import stand_ins
from bayeslat import online
from bayeslat.cli import main
for name, function in stand_ins().items():
    setattr(online, name, function)
main(sys.argv[1:])
"""


def started(folder: Path, log: Path, *more: object) -> subprocess.Popen[str]:
    arguments = ["watch", "reference-fleet", "--follow", log, "--every", 0.05, "--json"]
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            PROGRAM.format(folder=str(Path(__file__).parent)),
            *map(str, [*arguments, "--events", "events.jsonl", *more]),
        ],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def started_for_real(folder: Path, log: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bayeslat", "watch", "reference-fleet", "--follow", log,
         "--every", "0.05", *more],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(bl.__file__).parents[1])},
    )  # fmt: skip


def n_really_saved(folder: Path) -> int:
    path = folder / "watch.state"
    return online.load_extra(path)["n_lines"] if path.exists() else 0


@pytest.mark.slow
def test_a_real_state_has_each_row_once_after_its_process_was_killed(tmp_path):
    log, steps = tmp_path / "steps.csv", simulated(240)
    steps[:0].to_csv(log, index=False)

    def write(first: int, end: int) -> None:
        steps[first:end].to_csv(log, index=False, header=False, mode="a")

    for first, kill in ((0, signal.SIGKILL), (80, signal.SIGKILL), (160, signal.SIGTERM)):
        write(first, first + 40)
        with started_for_real(tmp_path, log) as process:
            aim = first + 41
            wait_for(lambda aim=aim: n_really_saved(tmp_path) >= aim, process)
            for start in range(first + 40, first + 80, 10):
                write(start, start + 10)
                time.sleep(0.05)
            process.send_signal(kill)
            _, err = process.communicate(timeout=120)
        assert process.returncode == (0 if kill is signal.SIGTERM else -signal.SIGKILL), err
    with started_for_real(tmp_path, log, "--once") as process:
        assert process.wait(timeout=120) == 0
    state = online.load(tmp_path / "watch.state")
    assert state.n_seen == len(steps)
    seen = state.rows(of_regime=False).latency_ms
    np.testing.assert_array_equal(seen, steps["latency_ms"])


def wait_for(reached, process: subprocess.Popen[str]) -> None:
    """Wait until something has been reached, while the process lives."""
    end = time.monotonic() + 120.0
    while not reached():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.02)


def n_saved(folder: Path) -> int:
    path = folder / "watch.state"
    return len(taken_rows(path)) if path.exists() else 0


@pytest.mark.slow
def test_killed_while_the_log_grows_no_row_is_lost_or_taken_twice(tmp_path):
    """Killed twice with no warning, between rotations, and ended by SIGTERM at last."""
    log, written = tmp_path / "steps.csv", 0
    log.write_text(HEADER)

    def write(n_rows: int) -> None:
        nonlocal written
        with log.open("a") as stream:
            stream.write(rows(*range(written, written + n_rows)))
        written += n_rows

    write(80)
    for kill in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
        with started(tmp_path, log) as process:
            aim = written
            wait_for(lambda aim=aim: n_saved(tmp_path) >= aim, process)
            for _ in range(4):
                write(40)
                time.sleep(0.03)
            log.rename(log.with_name(f"steps.csv.{written}"))
            log.write_text(HEADER)
            write(30)
            if kill is signal.SIGTERM:
                wait_for(lambda: n_saved(tmp_path) >= written, process)
            process.send_signal(kill)
            _, err = process.communicate(timeout=60)
        assert process.returncode == (0 if kill is signal.SIGTERM else -signal.SIGKILL), err
    assert taken_rows(tmp_path / "watch.state") == list(range(written))
    events = reports((tmp_path / "events.jsonl").read_text())
    assert [event["n_seen"] for event in events] == list(range(50, written + 1, 50))
    assert [event["number"] for event in events] == list(range(1, written // 50 + 1))
    assert (tmp_path / "current.nc").read_text() == f"h5netcdf {written // 50 * 50}"
    assert not list(tmp_path.glob(".*.part"))
