"""What `watch` holds: a state, how far the log was read, and what is to be told of both."""

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeslat.errors import InputError

if TYPE_CHECKING:
    from bayeslat.observations.following import Chunk, Position
    from bayeslat.online.events import Event
    from bayeslat.online.figures import Figures
    from bayeslat.posterior import FleetPosterior

__all__ = [
    "Watched",
    "check_writable",
    "examples",
    "identity_of",
    "report_of",
    "restored",
    "saved",
    "taken",
    "the_only_one",
    "write_posterior",
]

EXAMPLES = 3
"""Refused lines that are shown for each reason."""

NOTE = {
    "position",
    "n_lines",
    "refused",
    "dropped",
    "n_events",
    "last",
    "posterior",
    "pending",
    "history",
}
"""What is saved beside a state."""


@dataclass(frozen=True)
class Watched:
    """A state with the place in the log behind the last row that it holds.

    Parameters
    ----------
    state : OnlineState
        What was learned.
    position : Position
        Where the log is read on.
    posterior : str
        Fingerprint of the posterior that all began with.
    history : str
        A name for all that began with one start, restarts included.
    n_lines : int
        Lines of the log that were taken.
    refused, dropped : mapping of str to int
        Lines that gave no row, by reason; dropped ones are no error.
    n_events : int
        Events that happened so far, over all restarts: each has its number.
    last : mapping of str to str
        The last event of each deployment, by label.
    pending : tuple of mapping
        Events that are not in their log yet, each with its number and history.
    """

    state: Any
    position: "Position"
    posterior: str
    history: str
    n_lines: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    n_events: int = 0
    last: Mapping[str, str] = field(default_factory=dict)
    pending: tuple[Mapping[str, Any], ...] = ()


def identity_of(fleet: "FleetPosterior") -> str:
    """SHA-256 of a posterior's draws and of what is noted with them."""
    digest = hashlib.sha256(json.dumps({str(k): str(v) for k, v in fleet.tree.attrs.items()},
                                       sort_keys=True).encode())  # fmt: skip
    for name in sorted(map(str, fleet.posterior.data_vars)):
        values = fleet.posterior[name].to_numpy()
        digest.update(f"{name} {values.shape} {values.dtype}".encode())
        digest.update(values.tobytes() if values.dtype != object else repr(values).encode())
    return digest.hexdigest()


def taken(watched: Watched, position: "Position", chunk: "Chunk") -> tuple[Watched, list["Event"]]:
    """Take in a chunk of the log; gives what happened, too."""
    if position == watched.position:
        return watched, []
    from bayeslat import online

    state, events = watched.state, []
    if len(chunk.steps):
        state = online.observe(state, chunk.steps)
        events = list(state.events)
    quarantine = chunk.steps.quarantine
    return (
        replace(
            watched,
            state=state,
            position=position,
            n_lines=watched.n_lines + chunk.n_lines,
            refused=_sum(watched.refused, quarantine.counts),
            dropped=_sum(watched.dropped, quarantine.dropped),
            n_events=watched.n_events + len(events),
            pending=watched.pending
            + tuple(
                {**_plain(asdict(event)), "number": number, "history": watched.history}
                for number, event in enumerate(events, start=watched.n_events + 1)
            ),
            last={**watched.last, **{each.deployment: _in_short(each) for each in events}},
        ),
        events,
    )


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in (*one, *other)}


def _plain(value: Any) -> Any:
    """The value in types that JSON knows."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.tolist() if callable(getattr(value, "tolist", None)) else value


def _in_short(event: "Event") -> str:
    return f"{event.kind} at row {event.n_seen:,}"


def saved(watched: Watched, path: Path) -> None:
    """Write state and position as one file, whole or not at all.

    Raises
    ------
    OSError
        There is no room, or the folder is gone.
    """
    from bayeslat import online

    note = {
        "position": watched.position.to_dict(),
        **{name: getattr(watched, name) for name in NOTE - {"position"}},
    }
    online.save(watched.state, path, extra=note)


def write_posterior(fleet: "FleetPosterior", path: Path) -> None:
    """Write a posterior, whole or not at all.

    Raises
    ------
    OSError
        There is no room, or the folder is gone.
    """
    fleet.save(path)


def restored(path: Path, *, posterior: str, log: str, asked: Mapping[str, Any]) -> Watched:
    """What `saved` wrote.

    Parameters
    ----------
    path : Path
        The file.
    posterior : str
        Fingerprint of the posterior that it must have begun with.
    log : str
        The followed path that it must belong to.
    asked : mapping
        Settings that it must have, by name.

    Raises
    ------
    InputError
        It belongs to another posterior, another log or other settings, or was not saved here.
    PosteriorFileError
        It is damaged.
    """
    from bayeslat import online
    from bayeslat.observations.following import Position

    note = online.load_extra(path)
    if not isinstance(note, dict) or set(note) != NOTE:
        raise InputError(
            f"got --state {path}, which watch did not save, expected a file of its own; name"
            " another one"
        )
    position = Position.from_dict(note["position"])
    advice = "name another file, or remove this one to begin anew"
    if note["posterior"] != posterior:
        raise InputError(
            f"got --state {path}, which began with another posterior, expected the one given;"
            f" {advice}"
        )
    if position.path != log:
        raise InputError(
            f"got --state {path}, which follows {position.path}, expected {log}; {advice}"
        )
    state = online.load(path)
    for name, value in asked.items():
        if getattr(state.settings, name) != value:
            raise InputError(
                f"got --{name} {value}, but --state {path} was begun with"
                f" {getattr(state.settings, name)}, expected the same; {advice}"
            )
    return Watched(state=state, **{**note, "position": position, "pending": tuple(note["pending"])})


def report_of(watched: Watched, shown: "Figures") -> dict[str, Any]:
    """Everything that is told of a state, JSON-able but for NaN where a figure is not known."""
    return {
        "log": watched.position.path,
        "rows": shown.n_seen,
        "version": shown.version,
        "lines": watched.n_lines,
        "files": watched.position.n_files,
        "format": watched.position.format or None,
        "refused": dict(watched.refused),
        "dropped": dict(watched.dropped),
        "unknown": dict(shown.unknown),
        "quarantine": dict(shown.quarantine),
        "deployments": [
            {
                "deployment": each.deployment.label,
                "rows": each.n_seen,
                "level": each.level,
                "error": each.mean_error.value,
                "coverage_90": each.coverage_90.value,
                "exceedance_p99": each.exceedance_p99.value,
                "version": each.version,
                "health": each.health.verdict,
                "last_event": watched.last.get(each.deployment.label),
            }
            for each in shown.deployments
            if each.n_seen
        ],
    }


def examples(chunk: "Chunk", known: Mapping[str, int]) -> Iterator[str]:
    """Refused lines in words, the first ones of each reason.

    Parameters
    ----------
    chunk : Chunk
        With its quarantine.
    known : mapping of str to int
        Lines that were refused before, by reason.
    """
    rows = chunk.steps.quarantine.rows
    for reason, group in rows.groupby("reason", sort=False):
        room = EXAMPLES - known.get(str(reason), 0)
        for _, row in group.head(max(room, 0)).iterrows():
            values = row.drop(["reason", "row"]).dropna()
            text = values["text"] if "text" in values else ", ".join(map(str, values))
            yield f"line {row['row']} refused, {reason}: {text}"


def check_writable(paths: Iterable[tuple[str, Path]]) -> None:
    """Refuse outputs in folders that cannot be written to.

    Parameters
    ----------
    paths : iterable of (str, Path)
        Options and the files they name.
    """
    for option, path in paths:
        try:
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise InputError(
                f"got {option} {path}, whose folder cannot be written to ({error.strerror}),"
                " expected one that can; choose another or make room"
            ) from error


@contextmanager
def the_only_one(path: Path) -> Iterator[None]:
    """Keep other processes from watching with the same state.

    The mark beside the state stays; what counts is the lock on it, which ends with the process.
    """
    handle = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"got --state {path}, which another watch is using, expected one of its own; stop"
                " that one or name another file"
            ) from error
        yield
    finally:
        os.close(handle)
