"""The process that owns the state: it takes in batches, saves checkpoints, and may die.

It is started as a program of its own, so that a script need not guard its main module, and it is
told everything through its standard input. When that ends, because the other process is gone, it
ends at once: whatever it was doing will be done again from the last checkpoint.
"""

import os
import pickle
import queue
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, Final

from bayeslat.errors import BayeslatError
from bayeslat.online.events import Event
from bayeslat.online.figures import Figures, figures
from bayeslat.online.journal import read_entry

__all__ = [
    "Calls",
    "Reply",
    "Report",
    "Worker",
    "WorkerDiedError",
    "checkpoint_path",
    "default_calls",
]

NICENESS: Final = 5
"""The worker gives way to the process that answers queries."""

START_SECONDS: Final = 300.0
"""How long a worker may take to come up: it imports the samplers and compiles what they need."""

LOG_BYTES: Final = 1 << 20
"""The log of what workers print begins anew beyond this size."""


@dataclass(frozen=True)
class Calls:
    """What the worker does with a state; functions of a module, so that they can be named to it.

    Parameters
    ----------
    observe : callable
        (state, steps) -> state; a `BayeslatError` refuses the steps and leaves the state.
    rollback : callable
        (state, deployment) -> state.
    save : callable
        (state, path) -> None, whole or not at all.
    load : callable
        path -> state, the same to the last bit.
    pack, unpack : callable
        A state's fleet as it is sent, and what was sent as a fleet again.
    """

    observe: Callable[[Any, Any], Any]
    rollback: Callable[[Any, Any], Any]
    save: Callable[[Any, Path], None]
    load: Callable[[Path], Any]
    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]


@dataclass(frozen=True)
class Reply:
    """What the worker says after a batch.

    Parameters
    ----------
    events : tuple of Event
        What happened.
    seconds : float
        That the batch took.
    refused : str
        Why the batch was not taken in; empty where it was.
    """

    events: tuple[Event, ...]
    seconds: float
    refused: str


@dataclass(frozen=True)
class Report:
    """What the worker says of its state.

    Parameters
    ----------
    figures : Figures
        Of the state.
    fleet : object, optional
        The fleet, where its version is not the one that is known.
    """

    figures: Figures
    fleet: Any = None


class WorkerDiedError(Exception):
    """The worker is gone, or gave no answer in time and was ended."""


def default_calls() -> Calls:
    """The functions of this package."""
    # Imported late: whoever brings functions of his own need not wait for the samplers.
    from bayeslat.online.observe import observe, rollback
    from bayeslat.online.store import load, save

    return Calls(observe, rollback, save, load, packed, unpacked)


def checkpoint_path(folder: Path, number: int) -> Path:
    """File of the state that holds the batches up to a number."""
    return folder / f"{number:012d}.state"


class Worker:
    """A worker process, as the process sees it that has started it.

    Parameters
    ----------
    calls : Calls
        What it does.
    folder : Path
        Of the journal and the checkpoints.
    number : int
        Of the checkpoint that it starts from.
    limit_seconds : float
        How long an answer may take.

    Raises
    ------
    WorkerDiedError
        It did not come up.
    """

    def __init__(self, calls: Calls, folder: Path, number: int, *, limit_seconds: float) -> None:
        self._limit = START_SECONDS
        self._log = folder / "worker.log"
        if self._log.exists() and self._log.stat().st_size > LOG_BYTES:
            self._log.unlink()
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from bayeslat.online.worker import serve; serve()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                env=_environment(),
                start_new_session=True,  # an interrupt is for the program, which then tells it
            )
        try:
            self.ask((calls, folder, number))
        except WorkerDiedError:
            self.kill()
            raise
        self._limit = limit_seconds

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(self, message: Any) -> Any:
        """Tell it something and hear the answer.

        Raises
        ------
        WorkerDiedError
            It died, or took longer than it may and was ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            _send(self._process.stdin, message)
            ready, _, _ = select.select([self._process.stdout], [], [], self._limit)
            if not ready:
                self.kill()
                raise WorkerDiedError(f"it gave no answer within {self._limit:g} s")
            return _receive(self._process.stdout)
        except (BrokenPipeError, EOFError):
            status = self._process.wait()
            said = self._last_words()
            raise WorkerDiedError(f"it ended with status {status}{said and f': {said}'}") from None

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        """Let it end, which it does when nobody speaks to it any more."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait()

    def _last_words(self) -> str:
        """Last line of what it printed."""
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read()[-LOG_BYTES:].decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else ""


def _environment() -> dict[str, str]:
    """Variables of the worker: one thread, whose sums do not depend on the number of cores."""
    flags = os.environ.get("XLA_FLAGS", "")
    return {
        **os.environ,
        "NPROC": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "XLA_FLAGS": f"{flags} --xla_cpu_multi_thread_eigen=false".strip(),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }


def serve() -> None:
    """Be the worker."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print is no answer
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    Thread(target=_listen, args=(sys.stdin.fileno(), inbox), daemon=True).start()
    calls, folder, number = _opened(*inbox.get())
    state = calls.load(checkpoint_path(folder, number))
    os.nice(NICENESS)  # once it is up: until then nothing is being kept true
    _send(answers, None)
    shown: tuple[Any, Figures] | None = None
    while True:
        kind, content = _opened(*inbox.get())
        if kind == "checkpoint":
            _send(answers, _checkpoint(calls, state, content))
        elif kind == "report":
            shown = state, figures(state, shown)
            fleet = None if state.version == content else calls.pack(state)
            _send(answers, Report(shown[1], fleet))
        else:
            state, reply = _take(calls, state, content)
            _send(answers, reply)


def _listen(handle: int, inbox: "queue.SimpleQueue[Any]") -> None:
    """Read what is said, and end the process when nobody speaks any more."""
    stream = os.fdopen(handle, "rb", buffering=0, closefd=False)
    while True:
        try:
            inbox.put(_parts(stream))
        except EOFError:
            os._exit(0)


def _checkpoint(calls: Calls, state: Any, path: Path) -> str:
    """Save the state; why it could not be saved."""
    try:
        calls.save(state, path)
    except (BayeslatError, OSError) as fault:
        return str(fault)
    return ""


def _take(calls: Calls, state: Any, path: Path) -> tuple[Any, Reply]:
    """Take in the batch in a file."""
    start = time.perf_counter()
    try:
        entry = read_entry(path)
        if entry.steps is not None:
            state = calls.observe(state, entry.steps)
        else:
            state = calls.rollback(state, entry.rollback)
        events, refused = tuple(state.events), ""
    except BayeslatError as fault:
        events, refused = (), str(fault)
    return state, Reply(events, time.perf_counter() - start, refused)


@dataclass(frozen=True, eq=False)
class _Fleet:
    """A fleet on its way, with its draws laid out, so that the first query waits for nothing."""

    tree: Any
    draws: dict[Any, Any]


def packed(state: Any) -> Any:
    """The fleet of a state as it is sent."""
    from bayeslat.predictive import LatencyDistribution

    draws = {}
    for deployment in state.fleet.deployments:
        laid, held = state.fleet.draws(deployment), state.of(deployment).belief.even
        # The same draws twice, of which those of the belief have their tables already.
        draws[deployment] = held if held.fingerprint == laid.fingerprint else laid
        LatencyDistribution(draws[deployment], 1.0, 1.0, 1.0).sf(1.0)  # type: ignore[arg-type]
    return _Fleet(state.fleet.tree, draws)


def unpacked(fleet: Any) -> Any:
    """A fleet again, of what was sent."""
    from bayeslat.posterior import FleetPosterior

    found = FleetPosterior(fleet.tree)
    found._draws.update(fleet.draws)
    found.typical_context(found.deployments[0])  # what the first query would have to wait for
    return found


def _send(stream: Any, message: Any) -> None:
    """Write a message; arrays go as they lie in memory, without being copied into a pickle."""
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(body), *(buffer.raw() for buffer in buffers)]
    sizes = [len(parts), *(part.nbytes for part in parts)]
    for part in (memoryview(struct.pack(f"<{len(sizes)}Q", *sizes)), *parts):
        while part.nbytes:
            part = part[stream.write(part) :]


def _receive(stream: Any) -> Any:
    """Read a message.

    Raises
    ------
    EOFError
        The stream has ended.
    """
    return _opened(*_parts(stream))


def _parts(stream: Any) -> list[bytearray]:
    """A message as it arrives: a pickle and the arrays beside it."""
    (n_parts,) = struct.unpack("<Q", _exactly(stream, 8))
    sizes = struct.unpack(f"<{n_parts}Q", _exactly(stream, 8 * n_parts))
    return [_exactly(stream, size) for size in sizes]


def _opened(body: bytearray, *buffers: bytearray) -> Any:
    return pickle.loads(body, buffers=buffers)


def _exactly(stream: Any, size: int) -> bytearray:
    content = bytearray(size)
    rest = memoryview(content)
    while rest.nbytes:
        n_read = stream.readinto(rest)
        if not n_read:
            raise EOFError
        rest = rest[n_read:]
    return content
