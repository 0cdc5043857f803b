"""A log of events: JSON lines with the time of day, kept through full disks and rotation."""

import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, Final, Self

import numpy as np

from bayeslat.errors import InputError

__all__ = ["EventLog"]

BACKLOG: Final = 10_000
"""Lines that are held while they cannot be written."""

TAIL: Final = 1 << 16
"""Bytes at the end of a file that are searched for its last line."""


class EventLog:
    """One JSON object a line, with the time in UTC.

    While a line cannot be written, because the disk is full, it waits in memory, and later lines
    wait behind it. Beyond the bound of the backlog lines are counted and let go; a line of kind
    "lost" says how many once there is room again. A file that was moved away or removed is opened
    anew under its name. Numbers that JSON does not know, NaN and infinities, become null.

    Parameters
    ----------
    path : path
        The file, made where it does not exist; lines are added to it.
    backlog : int
        Lines that are held.
    clock : callable
        Seconds since 1970.

    Raises
    ------
    InputError
        The file cannot be opened.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        backlog: int = BACKLOG,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = Path(path)
        self.lost = 0
        self._bound = backlog
        self._clock = clock
        self._waiting: deque[bytes] = deque()
        self._written = 0  # bytes of the first waiting line that are in the file
        self._lock = Lock()
        self._handle = -1
        try:
            self._open()
        except OSError as fault:
            raise InputError(
                f"got {self.path}, which cannot be opened ({fault.strerror}), expected a file for"
                " events; check the path"
            ) from fault

    @property
    def waiting(self) -> int:
        """Lines that are not in the file yet."""
        return len(self._waiting)

    def write(self, events: Iterable[Any], **more: Any) -> None:
        """Add events, each a dataclass or a mapping, and whatever else is to stand in each line.

        Parameters
        ----------
        events : iterable
            What happened.
        **more
            Further entries of every line, such as the number of the batch.
        """
        when = self._now()
        with self._lock:
            for event in events:
                content = asdict(event) if is_dataclass(event) else dict(event)  # type: ignore[arg-type]
                line = json.dumps(_jsonable({"time": when, **content, **more}), allow_nan=False)
                if len(self._waiting) < self._bound:
                    self._waiting.append(line.encode() + b"\n")
                else:
                    self.lost += 1
            self._flush(when)

    def last(self, name: str) -> Any:
        """An entry of the last whole line in the file that has it; None where there is none."""
        with self.path.open("rb") as stream:
            stream.seek(max(stream.seek(0, os.SEEK_END) - TAIL, 0))
            lines = stream.read().splitlines()
        for line in reversed(lines):
            try:
                content = json.loads(line)
            except ValueError:
                continue
            if isinstance(content, dict) and name in content:
                return content[name]
        return None

    def close(self) -> None:
        """Write what can be written and close the file."""
        with self._lock:
            if self._handle >= 0:
                self._flush(self._now())
                os.close(self._handle)
                self._handle = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")

    def _open(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._written = 0
        size = os.fstat(self._handle).st_size
        if size and os.pread(self._handle, 1, size - 1) != b"\n":
            # A process died within a line; the next one starts on its own.
            self._waiting.appendleft(b"\n")

    def _flush(self, when: str) -> None:
        """Write what waits, as far as it goes."""
        try:
            if self._handle < 0 or self._moved():
                self._open()
            while self._waiting:
                line = self._waiting[0]
                self._written += os.write(self._handle, line[self._written :])
                if self._written == len(line):
                    self._waiting.popleft()
                    self._written = 0
                if not self._waiting and self.lost:
                    note = {"time": when, "kind": "lost", "count": self.lost}
                    self._waiting.append(json.dumps(note).encode() + b"\n")
                    self.lost = 0
        except OSError:
            # No room, or no folder any more. The lines wait for the next call.
            return

    def _moved(self) -> bool:
        """Whether the path is no longer the file that is open."""
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return True
        held = os.fstat(self._handle)
        return (there.st_dev, there.st_ino) != (held.st_dev, held.st_ino)


def _jsonable(value: Any) -> Any:
    """The value in types that JSON knows."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(each) for key, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _jsonable(value.tolist())
    if isinstance(value, tuple | list | set | frozenset):
        return [_jsonable(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
