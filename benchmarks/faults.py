"""Online adaptation while everything around it fails: ``python benchmarks/faults.py``.

A runner keeps the released posterior of the simulated reference fleet true over a stream in which
the GPUs of one type become 15 % slower halfway. While it does, something is done to it. Each line
says what, how many rows were acknowledged, how many of these are in the state at the end, whether
that state is the same to the last bit as that of a runner that nothing was done to, and how queries
were answered meanwhile. Writes ``benchmarks/results/faults.md``.
"""

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import hashlib
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

import bayeslat as bl
from bayeslat import online
from bayeslat.errors import BayeslatError
from bayeslat.online.eventlog import EventLog
from bayeslat.online.runner import OnlineRunner

RESULTS: Final = Path(__file__).parent / "results" / "faults.md"
SLOW_GPU: Final = "A100-80GB"
SLOWER: Final = 1.15
N_BATCHES: Final = 10
BATCH: Final = 150
WAIT: Final = 580.0
QUERY: Final = {"batch_size": 16, "total_tokens": 16}
PAUSE: Final = 0.002
"""Seconds between two queries."""

FLOOD: Final = 20_000
"""Rows that are sent as fast as they are acknowledged."""

FLOOD_BATCH: Final = 1_000

SECOND: Final = 16_667
"""Rows that come in a second at a million a minute."""

SECONDS: Final = 180

type Batches = list[pd.DataFrame]


@dataclass
class Queries:
    """Asks the fleet in force again and again, from a thread of its own."""

    runner: OnlineRunner
    seconds: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        """Ask until it is over."""
        deployments = self.runner.fleet.deployments
        place = 0
        while not self.over.is_set():
            gpu, model, tp, engine, precision = deployments[place % len(deployments)]
            where = {"tp": tp, "engine": engine, "precision": precision}
            start = time.perf_counter()
            try:
                found = self.runner.fleet.latency(gpu, model, **QUERY, **where).sf(20.0)
                if not 0.0 <= found <= 1.0:
                    self.faults.append(f"P = {found}")
            except BayeslatError as fault:
                self.faults.append(str(fault))
            self.seconds.append(time.perf_counter() - start)
            place += 1
            time.sleep(PAUSE)

    def text(self) -> str:
        """How many were answered, and how long they took."""
        ms = 1e3 * np.array(self.seconds or [np.nan])
        answered = len(self.seconds) - len(self.faults)
        return (
            f"{answered:,} of {len(self.seconds):,}; p50 {np.median(ms):.2f},"
            f" p99 {np.quantile(ms, 0.99):.1f}, longest {ms.max():.0f} ms"
        )


@contextmanager
def asked(runner: OnlineRunner) -> Iterator[Queries]:
    """Queries that go on within the block, after each deployment was asked once."""
    fleet = runner.fleet
    for gpu, model, tp, engine, precision in fleet.deployments:
        where = {"tp": tp, "engine": engine, "precision": precision}
        fleet.latency(gpu, model, **QUERY, **where).sf(20.0)
    queries = Queries(runner)
    thread = threading.Thread(target=queries.ask)
    thread.start()
    try:
        yield queries
    finally:
        queries.over.set()
        thread.join()


@dataclass(frozen=True)
class Result:
    """What became of one run.

    Parameters
    ----------
    sent, acknowledged, seen : int
        Rows sent, rows that `observe` came back for, rows in the state at the end.
    refused : int
        Rows that the state refused or put into its quarantine.
    state : str
        Digest of the state at the end.
    queries : str
        How they were answered.
    note : str
        Whatever else is to be said.
    """

    sent: int
    acknowledged: int
    seen: int
    refused: int
    state: str
    queries: str
    note: str = ""


def state_of_fleet() -> Any:
    """The state that every run begins with."""
    return online.start(bl.load_released("reference-fleet"), online.OnlineSettings(seed=1))


def stream(n_batches: int, size: int, *, slower: float = SLOWER, seed: int = 11) -> Batches:
    """Batches of simulated steps of all deployments, one type of GPU slower from halfway on."""
    per_deployment = -(-n_batches * size // 9)
    steps = bl.simulate_fleet(rows_per_deployment=per_deployment).steps
    order = np.random.default_rng(seed).permutation(len(steps))
    steps = steps.iloc[order].reset_index(drop=True)
    steps["timestamp"] = 1.7e9 + 0.02 * np.arange(len(steps))
    late = (np.arange(len(steps)) >= len(steps) // 2) & (steps["gpu"] == SLOW_GPU)
    steps["latency_ms"] = steps["latency_ms"] * np.where(late, slower, 1.0)
    return [steps.iloc[i * size : (i + 1) * size] for i in range(n_batches)]


def digest(folder: Path) -> str:
    """Of the only checkpoint in a folder."""
    (path,) = folder.glob("*.state")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def run(
    batches: Batches,
    disturb: Callable[[OnlineRunner, int], None] = lambda runner, number: None,
    send: Callable[[OnlineRunner, pd.DataFrame], int] | None = None,
    **options: Any,
) -> Result:
    """Send batches, and do something to the runner before each."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        folder = Path(name)
        runner = OnlineRunner(state_of_fleet(), folder=folder, checkpoint_seconds=5.0, **options)
        acknowledged = 0
        with asked(runner) as queries:
            for number, steps in enumerate(batches):
                disturb(runner, number)
                acknowledged += (send or sent_once)(runner, steps)
            runner.wait(WAIT)
            health = runner.health()
        figures = runner.figures
        runner.close()
        incidents = pd.Series([event.kind for event in runner.events]).value_counts()
        result = Result(
            sent=sum(map(len, batches)),
            acknowledged=acknowledged,
            seen=figures.n_seen,
            refused=sum(figures.quarantine.values()),
            state=digest(folder),
            queries=queries.text() + "".join(f"; {text}" for text in queries.faults[:1]),
            note=", ".join(f"{n} {kind}" for kind, n in incidents.items())
            + (f"; {health.fault}" if health.fault else ""),
        )
        print(result, file=sys.stderr, flush=True)
        return result


def sent_once(runner: OnlineRunner, steps: pd.DataFrame) -> int:
    runner.observe(steps)
    return len(steps)


def sent_until_kept(runner: OnlineRunner, steps: pd.DataFrame) -> int:
    """Send rows again until they are acknowledged."""
    while True:
        try:
            return sent_once(runner, steps)
        except BayeslatError:
            time.sleep(0.05)
            resource.setrlimit(resource.RLIMIT_FSIZE, UNLIMITED)


def kill_worker(runner: OnlineRunner, number: int) -> None:
    """Kill the worker soon after it was given the next batch, three times in the stream.

    Batches before it are waited for: one that two workers die of in a row would be put aside.
    """
    if number in (3, 6, 8):
        runner.wait(WAIT)
        pid = runner.worker_pid or 0
        threading.Timer(0.2, os.kill, (pid, signal.SIGKILL)).start()


UNLIMITED: Final = resource.getrlimit(resource.RLIMIT_FSIZE)


def fill_disk(runner: OnlineRunner, number: int) -> None:
    """Let no file of this process grow beyond a kilobyte, for two batches."""
    if number in (4, 7):
        while runner.worker_pid is None:  # a worker is born with the limits of this process
            time.sleep(0.05)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, UNLIMITED[1]))


def fill_disk_of_worker(runner: OnlineRunner, number: int) -> None:
    """Let the worker write no checkpoint, for a third of the stream."""
    if number == 3:
        while runner.worker_pid is None:
            time.sleep(0.05)
    if number in (3, 8) and runner.worker_pid is not None:
        limit = (1024, UNLIMITED[1]) if number == 3 else UNLIMITED
        resource.prlimit(runner.worker_pid, resource.RLIMIT_FSIZE, limit)
    if number in (5, 7):
        time.sleep(6.0)


def jumping() -> Callable[[], float]:
    """A clock that goes back by a day now and then."""
    calls = iter(range(1_000_000))
    return lambda: 1.7e9 + next(calls) - 86_400.0 * (next(calls) % 7 == 0)


def back_in_time(batches: Batches) -> Batches:
    """The same steps with time stamps that go back by a day halfway."""
    half = len(batches) // 2
    return [
        steps.assign(timestamp=steps["timestamp"] - 86_400.0 * (number >= half))
        for number, steps in enumerate(batches)
    ]


def spoiled(batches: Batches) -> Batches:
    """A batch of nothing but bad rows after every good one."""
    bad = []
    for number, steps in enumerate(batches):
        kinds = np.array([np.nan, np.inf, -1.0, 0.0])
        latency = kinds[np.arange(len(steps)) % 4]
        bad += [steps, steps.assign(latency_ms=latency), steps.assign(gpu=None)][: 2 + number % 2]
    return bad


def killed_program(batches: Batches) -> Result:
    """The whole program killed twice, and started again in the same folder."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        acknowledged, tries = 0, []
        for n_more in (4, 3, None):
            program = subprocess.Popen(
                [sys.executable, __file__, name, str(acknowledged)],
                stdout=subprocess.PIPE,
                text=True,
            )
            assert program.stdout is not None
            begun = acknowledged
            for line in program.stdout:
                acknowledged = int(line)
                if n_more is not None and acknowledged >= begun + n_more:
                    time.sleep(0.5)
                    program.kill()
                    break
            rest = program.stdout.read().split()
            acknowledged = int(rest[-1]) if rest else acknowledged
            program.wait()
            tries.append(program.returncode)
        state = online.load(next(Path(name).glob("*.state")))
        return Result(
            sent=sum(map(len, batches)),
            acknowledged=BATCH * acknowledged,
            seen=state.n_seen,
            refused=sum(state.quarantine.values()),
            state=digest(Path(name)),
            queries="those of the program that was killed ended with it",
            note=f"exit codes {', '.join(map(str, tries))}",
        )


def feed(folder: str, first: int) -> None:
    """Be the program that is killed: send the batches from one on, and say what was kept."""
    with OnlineRunner(state_of_fleet(), folder=folder, checkpoint_seconds=2.0) as runner:
        for number, steps in enumerate(stream(N_BATCHES, BATCH)):
            if number >= first:
                runner.observe(steps)
                print(number + 1, flush=True)
                if number == first:
                    runner.wait(WAIT)  # so that it is killed at its work, not on its way to it
                time.sleep(1.0)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def flood() -> list[str]:
    """Rows as fast as they are acknowledged, while nothing drifts."""
    batches = stream(FLOOD // FLOOD_BATCH, FLOOD_BATCH, slower=1.0)
    with OnlineRunner(state_of_fleet()) as runner:
        for steps in stream(2, FLOOD_BATCH, slower=1.0, seed=12):
            runner.observe(steps)
        runner.wait(WAIT)
        pid = runner.worker_pid or 0
        begun, own, theirs = time.perf_counter(), time.process_time(), cpu_seconds(pid)
        for steps in batches:
            runner.observe(steps)
        kept, own_kept = time.perf_counter() - begun, time.process_time() - own
        backlog = runner.waiting_rows
        runner.wait(WAIT)
        taken, worked = time.perf_counter() - begun, cpu_seconds(pid) - theirs
    needed = FLOOD / 1e6 * 60.0
    return [
        f"{FLOOD:,} rows in batches of {FLOOD_BATCH:,} were acknowledged in {kept:.1f} s"
        f" ({FLOOD / kept:,.0f} rows/s; {own_kept:.1f} s of processor time of the answering"
        f" process) and taken in after {taken:.1f} s ({FLOOD / taken:,.0f} rows/s); most rows that"
        f" waited: {backlog:,}. The worker used {worked:.1f} s of processor time. At 1e6 rows a"
        f" minute such rows come in {needed:.1f} s: that takes {100 * worked / needed:.0f} % of a"
        f" core for the worker and {100 * own_kept / needed:.0f} % for the journal.",
    ]


def minutes() -> list[str]:
    """A million rows a minute, as a collector sends them: those of each second at once."""
    batches = stream(SECONDS, SECOND, slower=1.0)
    waits: list[float] = []
    waiting: list[int] = []
    late = 0.0
    with OnlineRunner(state_of_fleet()) as runner:
        runner.observe(stream(1, BATCH, slower=1.0, seed=12)[0])
        runner.wait(WAIT)
        pid = runner.worker_pid or 0
        own, theirs = time.process_time(), cpu_seconds(pid)
        begun = time.perf_counter()
        with asked(runner) as queries:
            for number, steps in enumerate(batches):
                late = max(late, time.perf_counter() - begun - number)
                time.sleep(max(0.0, begun + number - time.perf_counter()))
                start = time.perf_counter()
                runner.observe(steps)
                waits.append(time.perf_counter() - start)
                waiting.append(runner.waiting_rows)
            own = time.process_time() - own
            runner.wait(WAIT)
            taken = time.perf_counter() - begun
        worked = cpu_seconds(pid) - theirs
        seen = runner.figures.n_seen - BATCH
    sent = sum(map(len, batches))
    by_minute = [f"{waiting[i]:,}" for i in range(59, SECONDS, 60)]
    return [
        f"{sent:,} rows in batches of {SECOND:,}, one a second, at most {late:.1f} s late. Each was"
        f" acknowledged within {np.median(waits):.2f} s (median; longest {max(waits):.2f});"
        f" {seen:,} were taken in, {taken:.0f} s after the first was sent. Most rows that waited:"
        f" {max(waiting):,}; after each minute: {', '.join(by_minute)}. The worker used"
        f" {worked:.0f} s of processor time, the answering process {own:.0f} s, queries included:"
        f" {queries.text()}.",
    ]


def prediction_cost() -> list[str]:
    """Queries while nothing happens, and while the worker refits."""
    calm, drifting = stream(10, BATCH, slower=1.0), stream(N_BATCHES, BATCH)
    rows = []
    with OnlineRunner(state_of_fleet()) as runner:
        runner.observe(calm[0])
        runner.wait(WAIT)
        with asked(runner) as queries:
            time.sleep(10.0)
        rows.append(f"| worker idle | {queries.text()} |")
        with asked(runner) as queries:
            for steps in drifting:
                runner.observe(steps)
            runner.wait(WAIT)
        rows.append(f"| worker takes in and refits | {queries.text()} |")
        n_accepted = sum(event.kind == "accepted" for event in runner.events)
    return [
        "| | queries |",
        "|---|---|",
        *rows,
        "",
        f"Refits taken into force meanwhile: {n_accepted}.",
    ]


def main() -> None:
    """Run everything and write the table."""
    batches = stream(N_BATCHES, BATCH)
    plain = run(batches)
    doubled = [each for steps in batches for each in (steps, steps)]
    swapped = [batches[i ^ 1] for i in range(N_BATCHES)]
    events = Path(tempfile.gettempdir()) / "faults-events.jsonl"
    with EventLog(events, clock=jumping()) as log:
        jumped = run(batches, event_log=log)
    events.unlink()
    # The name, what came of it, and whether its batches are those of the undisturbed run.
    found = [
        ("nothing", plain, True),
        ("worker killed, three times", run(batches, kill_worker), True),
        ("program killed, twice, and started again", killed_program(batches), True),
        ("no room for rows, twice; sent again", run(batches, fill_disk, sent_until_kept), True),
        ("no room for checkpoints for a while", run(batches, fill_disk_of_worker), True),
        ("clock of the machine jumps back", jumped, True),
        ("time stamps go back by a day halfway", run(back_in_time(batches)), False),
        ("every batch twice", run(doubled), False),
        ("batches in the wrong order", run(swapped), False),
        ("as many bad rows as good ones, or more", run(spoiled(batches)), False),
    ]  # fmt: skip
    lines = report(found, plain, [*flood(), "", *minutes()], prediction_cost())
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(RESULTS.read_text(encoding="utf-8"))


def report(
    found: list[tuple[str, Result, bool]], plain: Result, flooded: list[str], costs: list[str]
) -> list[str]:
    """The results as Markdown."""
    lines = [
        "# Online adaptation while everything around it fails",
        "",
        "Made by `python benchmarks/faults.py`: the released reference fleet of nine deployments,"
        f" {N_BATCHES} batches of {BATCH} simulated steps, one type of GPU {SLOWER - 1:.0%} slower"
        ' from halfway on. "Same state" is the checkpoint at the end, byte by byte, beside that'
        " of the run that nothing was done to.",
        "",
        "| done to it | rows sent | acknowledged | in the state | refused | lost | same state |"
        " queries answered | events |",
        "|---|---:|---:|---:|---:|---:|---|---|---|",
    ]
    for name, result, comparable in found:
        same = "yes" if result.state == plain.state else "**no**"
        lost = result.acknowledged - result.seen - result.refused
        lines.append(
            f"| {name} | {result.sent:,} | {result.acknowledged:,} | {result.seen:,} |"
            f" {result.refused:,} | {lost:,} | {same if comparable else 'other rows'} |"
            f" {result.queries} | {result.note} |"
        )
    return [
        *lines,
        "",
        "## 1e6 rows a minute",
        "",
        *flooded,
        "",
        "## Queries while the worker refits",
        "",
        *costs,
    ]


if __name__ == "__main__":
    if len(sys.argv) == 3:
        feed(sys.argv[1], int(sys.argv[2]))
    else:
        main()
