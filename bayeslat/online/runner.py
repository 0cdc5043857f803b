"""A posterior kept true in the background: rows in at any time, queries never wait.

The process of the user answers queries from `OnlineRunner.fleet` and writes rows into a journal. A
worker process owns the state, takes in one batch after the other, and sends back the fleet when it
has changed. The state is a function of the batches in their order, so whatever becomes of either
process, the last checkpoint and the journal after it give the same state again.
"""

import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition, Lock, Thread
from typing import Any, Final, Literal, Self

import pandas as pd

from bayeslat.errors import BayeslatError, InputError, UnknownDeploymentError
from bayeslat.observations import Observations
from bayeslat.online.eventlog import EventLog
from bayeslat.online.events import Event
from bayeslat.online.figures import Figures, figures
from bayeslat.online.health import Health
from bayeslat.online.journal import BacklogError, Entry, Journal
from bayeslat.online.metrics import Metrics
from bayeslat.online.worker import (
    Calls,
    Reply,
    Report,
    Worker,
    WorkerDiedError,
    checkpoint_path,
    default_calls,
)
from bayeslat.schema import REQUIRED_COLUMNS, Deployment

__all__ = ["Incident", "OnlineRunner", "RunnerError", "RunnerHealth"]

ATTEMPTS: Final = 2
"""Workers that a batch may kill before it is put aside."""

FRUITLESS: Final = 4
"""Workers that may die one after the other without anything having been done."""

REPORT_SECONDS: Final = 1.0
"""Figures and the fleet are sent this often while batches wait, and whenever none does."""

EVENTS_KEPT: Final = 1000


class RunnerError(BayeslatError, RuntimeError):
    """The runner is closed, or its worker cannot be kept alive."""


@dataclass(frozen=True)
class Incident:
    """Something that happened to the runner rather than to the state.

    Parameters
    ----------
    kind : str
        "worker died": it is started again. "put aside": a batch that killed it too often, or that
        was refused, lies in a file of its own. "checkpoint failed": batches stay in the journal.
        "stopped": workers die whatever is done.
    number : int
        Of the batch that it happened with.
    reason : str
        In words.
    """

    kind: Literal["worker died", "put aside", "checkpoint failed", "stopped"]
    number: int
    reason: str


@dataclass(frozen=True)
class RunnerHealth:
    """How the runner is.

    Parameters
    ----------
    deployments : mapping of str to Health
        By label, as of the last report.
    version, n_seen : int
        Of the state, as of the last report.
    waiting_rows : int
        Acknowledged and not taken in.
    worker_deaths, put_aside : int
        Since this runner was made.
    fault : str
        Why nothing is taken in any more; empty while all is well.
    """

    deployments: dict[str, Health] = field(default_factory=dict)
    version: int = 0
    n_seen: int = 0
    waiting_rows: int = 0
    worker_deaths: int = 0
    put_aside: int = 0
    fault: str = ""


class OnlineRunner:
    """Keeps a fleet's posterior true while queries go on.

    Parameters
    ----------
    state : OnlineState, optional
        Where to begin. A folder that holds a checkpoint goes on from there instead, and then the
        state need not be given.
    folder : path, optional
        For journal and checkpoints. Without one, a temporary folder that goes with the runner.
    waiting_rows : int
        Rows that may wait; beyond them `observe` waits itself.
    checkpoint_seconds : float
        How often the state is saved.
    limit_seconds : float
        How long a batch may take; the worker is ended and started again beyond it.
    event_log : EventLog, optional
        Where events are written. Those of a batch are written once, unless the process is killed
        while its last lines were waiting for room.
    metrics : Metrics, optional
        Where figures are shown.
    calls : Calls, optional
        What the worker does; the functions of this package by default.

    Raises
    ------
    InputError
        The folder is in use, or belongs to other deployments or settings; or nothing was given.
    JournalError
        The folder cannot be written to.

    Notes
    -----
    Rows are acknowledged when `observe` comes back: they are on the disk, and are taken in once. A
    process that is killed between may find rows taken in that it had no answer about; sent again
    they are told apart by the state alone, as duplicates. Nothing reads the time of day but the
    event log.
    """

    def __init__(
        self,
        state: Any = None,
        *,
        folder: str | Path | None = None,
        waiting_rows: int = 1_000_000,
        checkpoint_seconds: float = 10.0,
        limit_seconds: float = 900.0,
        event_log: EventLog | None = None,
        metrics: Metrics | None = None,
        calls: Calls | None = None,
    ) -> None:
        if waiting_rows < 1:
            raise InputError(f"got waiting_rows={waiting_rows}, expected at least 1")
        self._calls = default_calls() if calls is None else calls
        self._own = tempfile.TemporaryDirectory(prefix="bayeslat-") if folder is None else None
        self._folder = Path(self._own.name if self._own is not None else folder or "")
        self._bound = waiting_rows
        self._checkpoint_seconds = checkpoint_seconds
        self._limit = limit_seconds
        self._event_log = event_log
        self._metrics = metrics
        self._journal = Journal(self._folder)
        try:
            held, self._checkpointed = self._first_state(state)
        except BayeslatError:
            self._journal.close()
            raise
        self._fleet = held.fleet
        self._version = int(held.version)
        self._figures = figures(held)
        self._journal.drop(self._checkpointed)
        self._journal.continue_after(self._checkpointed)
        logged = None if event_log is None else event_log.last("batch")
        # A log may hold lines of another folder, whose numbers say nothing here.
        logged = min(logged, self._journal.last) if isinstance(logged, int) else 0
        self._delivered = max(self._checkpointed, logged)
        self._taken = self._done = self._shown = self._checkpointed
        self._waiting_rows = sum(map(self._journal.rows, self._journal.numbers))
        self._attempts: Counter[int] = Counter()
        self._current = 0
        self._hurry = False
        self._fruitless = self._deaths = self._n_aside = 0
        self._events: deque[Event | Incident] = deque(maxlen=EVENTS_KEPT)
        self._failed_checkpoint = ""
        self._fault = ""
        self._refusing = False
        self._closing: Literal["", "finish", "now"] = ""
        self._worker: Worker | None = None
        self._save_due = time.monotonic() + checkpoint_seconds
        self._report_due = time.monotonic()
        self._order = Lock()
        self._changed = Condition()
        self._show()
        self._thread = Thread(target=self._supervise, name="bayeslat-online", daemon=True)
        self._thread.start()

    @property
    def fleet(self) -> Any:
        """The fleet in force: immutable, and replaced by one assignment."""
        return self._fleet

    @property
    def version(self) -> int:
        """Version of the fleet in force."""
        return self._version

    @property
    def figures(self) -> Figures:
        """Figures of the state, as of the last report."""
        return self._figures

    @property
    def events(self) -> tuple[Event | Incident, ...]:
        """The last events and incidents."""
        return tuple(self._events)

    @property
    def waiting_rows(self) -> int:
        """Rows that were acknowledged and are not taken in yet."""
        return self._waiting_rows

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker; None while there is none."""
        worker = self._worker
        return None if worker is None else worker.pid

    def observe(self, steps: Observations | pd.DataFrame, *, timeout: float | None = 60.0) -> int:
        """Acknowledge rows: they are kept, and will be taken in once.

        Parameters
        ----------
        steps : Observations or DataFrame
            Measured steps.
        timeout : float, optional
            Seconds to wait for room where too many rows wait; None waits for as long as it takes.

        Returns
        -------
        int
            Number of the batch.

        Raises
        ------
        InputError
            It is no table of steps.
        BacklogError
            There was no room in time. Nothing was acknowledged.
        JournalError
            The rows cannot be kept, as on a full disk. Nothing was acknowledged.
        RunnerError
            The runner is closed, or its worker cannot be kept alive.
        """
        return self._append(Entry(steps=_checked(steps)), timeout)

    def rollback(self, deployment: Deployment) -> int:
        """Take back the last version of a deployment, after the batches that wait already.

        Raises
        ------
        UnknownDeploymentError
            The fleet does not hold it.
        JournalError, RunnerError
            As `observe`.
        """
        known = [each.deployment for each in self._figures.deployments]
        if Deployment(*deployment) not in known:
            raise UnknownDeploymentError(
                f"got {Deployment(*deployment).label}, expected one of the {len(known)} deployments"
                " of this fleet; `runner.fleet.deployments` lists them"
            )
        return self._append(Entry(rollback=Deployment(*deployment)), None)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until every acknowledged batch is taken in or put aside, and the fleet in force.

        Raises
        ------
        BacklogError
            It took longer than the timeout, in seconds.
        RunnerError
            Nothing is taken in any more.
        """
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            ended = self._changed.wait_for(lambda: self._is_idle or self._is_over, timeout)
            idle = self._is_idle
        if not ended:
            raise BacklogError(
                f"got {self._waiting_rows:,} rows still waiting after {timeout:g} s, expected none;"
                " wait longer"
            )
        if not idle:
            raise self._over()

    def health(self) -> RunnerHealth:
        """How the runner and its deployments are."""
        shown = self._figures
        return RunnerHealth(
            deployments={each.deployment.label: each.health for each in shown.deployments},
            version=shown.version,
            n_seen=shown.n_seen,
            waiting_rows=self._waiting_rows,
            worker_deaths=self._deaths,
            put_aside=self._n_aside,
            fault=self._fault,
        )

    def close(self, *, finish: bool = True) -> None:
        """End the worker and let go of the folder.

        Parameters
        ----------
        finish : bool
            Whether to take in what waits first. If not, it stays in the folder for the next runner;
            in a temporary folder it is gone.
        """
        with self._changed:
            self._refusing = True
            self._changed.notify_all()
        # Who is writing rows now gets them acknowledged, and taken in before the end.
        with self._order, self._changed:
            self._closing = self._closing or ("finish" if finish else "now")
            self._changed.notify_all()
        self._thread.join()
        self._journal.close()
        if self._own is not None:
            self._own.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *rest: Any) -> None:
        self.close(finish=kind is None)

    @property
    def _is_idle(self) -> bool:
        return self._journal.after(self._taken) is None and self._shown >= self._taken

    @property
    def _is_over(self) -> bool:
        return bool(self._fault) or not self._thread.is_alive()

    def _over(self) -> RunnerError:
        reason = self._fault or "it is closed"
        return RunnerError(
            f"got a runner that takes nothing in any more ({reason}), expected one at work; what"
            f" was acknowledged is kept in {self._folder}, start a new runner there"
        )

    def _first_state(self, state: Any) -> tuple[Any, int]:
        """The state to begin with, and the number of the last batch that it holds."""
        numbers = [int(path.stem) for path in self._folder.glob("*.state")]
        if not numbers:
            if state is None:
                raise InputError(
                    f"got no state, and none in {self._folder} to go on from, expected one of them;"
                    " pass bayeslat.online.start(fleet, settings)"
                )
            self._calls.save(state, checkpoint_path(self._folder, 0))
            return state, 0
        number = max(numbers)
        held = self._calls.load(checkpoint_path(self._folder, number))
        for earlier in set(numbers) - {number}:  # left by a program that was killed as it saved
            checkpoint_path(self._folder, earlier).unlink(missing_ok=True)
        if state is None:
            return held, number
        for name, of_state in _identity(state).items():
            if of_state != _identity(held)[name]:
                raise InputError(
                    f"got a state whose {name} are not those of the one in {self._folder}, expected"
                    " the same; choose another folder, or pass no state to go on with that one"
                )
        return held, number

    def _append(self, entry: Entry, timeout: float | None) -> int:
        with self._order:
            with self._changed:
                self._make_room(entry.n_rows, timeout)
            number = self._journal.append(entry)
            with self._changed:
                self._waiting_rows += entry.n_rows
                self._changed.notify_all()
            return number

    def _make_room(self, n_rows: int, timeout: float | None) -> None:
        def is_room() -> bool:
            return self._waiting_rows == 0 or self._waiting_rows + n_rows <= self._bound

        def is_over() -> bool:
            return self._is_over or self._refusing

        self._changed.wait_for(lambda: is_room() or is_over(), timeout)
        if is_over():
            raise self._over()
        if not is_room():
            raise BacklogError(
                f"got {n_rows:,} rows while {self._waiting_rows:,} wait, expected at most"
                f" {self._bound:,} in all; nothing of them was acknowledged, send them again later"
            )

    def _supervise(self) -> None:
        """What the thread does: hand one thing after the other to the worker."""
        try:
            while not self._fault and (task := self._next_task()) is not None:
                self._current = 0
                try:
                    task(self._running_worker())
                except WorkerDiedError as death:
                    self._bury(str(death))
        except OSError as fault:  # of the folder itself: what is in it is what there is
            self._fault = f"{self._folder} cannot be used ({fault})"
        finally:
            if self._worker is not None:
                self._worker.close()
                self._worker = None
            if self._metrics is not None:
                self._metrics.worker(up=False)
            with self._changed:
                self._changed.notify_all()

    def _next_task(self) -> Callable[[Worker], None] | None:
        """What is to be done next, once there is something; None at the end."""
        with self._changed:
            while True:
                now = time.monotonic()
                unsaved, unshown = self._taken > self._checkpointed, self._taken > self._shown
                waits = self._journal.after(self._taken) is not None
                if self._closing == "now" or (self._closing and not waits):
                    # In a temporary folder there is nothing to save for.
                    if not unsaved or self._own is not None or self._failed_checkpoint:
                        return None
                    return self._save
                if unsaved and now >= self._save_due:
                    return self._save
                if unshown and (now >= self._report_due or (self._hurry and not waits)):
                    return self._report
                if waits:
                    return self._take
                dues = [self._save_due] * unsaved + [self._report_due] * unshown
                self._changed.wait(min(dues) - now if dues else None)

    def _running_worker(self) -> Worker:
        if self._worker is not None and not self._worker.is_alive:
            raise WorkerDiedError("it was killed while it had nothing to do")
        if self._worker is None:
            if self._fruitless:
                time.sleep(0.25 * 2.0**self._fruitless)
            self._taken = self._checkpointed
            self._worker = Worker(
                self._calls, self._folder, self._checkpointed, limit_seconds=self._limit
            )
            if self._metrics is not None:
                self._metrics.worker(up=True)
        return self._worker

    def _take(self, worker: Worker) -> None:
        """Have the next batch taken in."""
        number = self._journal.after(self._taken)
        if number is None:
            return
        self._current = number
        self._attempts[number] += 1
        reply: Reply = worker.ask(("take", self._journal.path(number)))
        del self._attempts[number]
        if reply.refused:
            self._set_aside(number, reply.refused)
        if number > self._delivered:
            self._deliver(reply.events, number)
            self._delivered = number
        with self._changed:
            self._taken = number
            if number > self._done:
                with suppress(KeyError):  # put aside: counted when that was done
                    self._waiting_rows -= self._journal.rows(number)
                self._done = number
                self._fruitless = 0
            self._changed.notify_all()
        if self._metrics is not None:
            self._metrics.took(reply.seconds)

    def _report(self, worker: Worker) -> None:
        """Put the fleet into force that the worker now has, and show the figures."""
        number = self._taken
        report: Report = worker.ask(("report", self._version))
        if report.fleet is not None:
            self._fleet = self._calls.unpack(report.fleet)
        with self._changed:
            self._figures, self._version = report.figures, report.figures.version
            self._shown = number
            self._report_due = time.monotonic() + REPORT_SECONDS
            self._hurry = False
            self._changed.notify_all()
        self._show()

    def _save(self, worker: Worker) -> None:
        """Have the state saved, and let go of what it holds."""
        number = self._taken
        if number == self._checkpointed:
            return
        reason = worker.ask(("checkpoint", checkpoint_path(self._folder, number)))
        self._save_due = time.monotonic() + self._checkpoint_seconds
        if reason:
            if not self._failed_checkpoint:
                self._deliver((Incident("checkpoint failed", number, reason),), number)
            self._failed_checkpoint = reason
            return
        self._failed_checkpoint = ""
        before, self._checkpointed = self._checkpointed, number
        self._journal.drop(number)
        checkpoint_path(self._folder, before).unlink(missing_ok=True)
        self._fruitless = 0

    def _bury(self, reason: str) -> None:
        """Go on after the worker has died."""
        if self._worker is not None:
            self._worker.kill()
            self._worker = None
        with self._changed:
            self._taken = self._checkpointed
        self._deaths += 1
        self._fruitless += 1
        number = self._current
        self._deliver((Incident("worker died", number, reason),), number)
        if self._metrics is not None:
            self._metrics.died()
            self._metrics.worker(up=False)
        if self._attempts[number] >= ATTEMPTS:
            del self._attempts[number]
            self._set_aside(number, f"it killed {ATTEMPTS} workers, of which the last: {reason}")
            self._fruitless = 0
        elif self._fruitless >= FRUITLESS:
            self._deliver((Incident("stopped", number, reason),), number)
            with self._changed:
                self._fault = f"{FRUITLESS} workers died one after the other, the last: {reason}"
                self._changed.notify_all()

    def _set_aside(self, number: int, reason: str) -> None:
        """Put a batch into a file of its own."""
        n_rows = self._journal.rows(number)
        path = self._journal.put_aside(number)
        self._n_aside += 1
        if self._metrics is not None:
            self._metrics.put_aside()
        text = f"{n_rows} rows were put aside in {path}: {reason}"
        self._deliver((Incident("put aside", number, text),), number)
        with self._changed:
            if number > self._done:
                self._waiting_rows -= n_rows
            self._changed.notify_all()

    def _deliver(self, events: tuple[Event | Incident, ...], number: int) -> None:
        self._events.extend(events)
        if self._event_log is not None and events:
            # Incidents carry no such number: the batch itself may yet be taken in.
            kind = "incident" if isinstance(events[0], Incident) else "batch"
            self._event_log.write(events, **{kind: number})

    def _show(self) -> None:
        if self._metrics is not None:
            self._metrics.update(self._figures)
            waiting = [each for each in self._journal.numbers if each > self._done]
            self._metrics.waiting(rows=self._waiting_rows, batches=len(waiting))


def _identity(state: Any) -> dict[str, Any]:
    """What two states have in common of which one came from the other."""
    base = getattr(state, "base", None)
    attributes = {} if base is None else base.tree.attrs
    origin = [str(attributes.get(name)) for name in ("data_fingerprint", "created")]
    return {
        "deployments": state.deployments,
        "settings": getattr(state, "settings", None),
        "fleet and its date": origin,
    }


def _checked(steps: Any) -> Observations | pd.DataFrame:
    """Steps that are a table of steps, as far as can be seen at a glance."""
    if isinstance(steps, Observations):
        return steps
    if not isinstance(steps, pd.DataFrame):
        raise InputError(
            f"got a {type(steps).__name__}, expected observations or a data frame of steps; read a"
            " log with bayeslat.read_steps"
        )
    missing = [name for name in REQUIRED_COLUMNS if name not in steps.columns]
    if missing:
        raise InputError(
            f"got steps without {', '.join(missing)}, expected the columns"
            f" {', '.join(REQUIRED_COLUMNS)}; rename or add them"
        )
    return steps
