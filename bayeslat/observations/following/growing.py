"""New lines of a growing file, whatever happens to it between two looks.

The file may be rotated (renamed, and begun anew under its name), truncated after a copy was made,
replaced, deleted, or not be there yet. An old file is finished before the new one is begun, as
long as it can be found: by a descriptor that was kept open, by its inode, or by its content.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bayeslat.observations.base import RejectedLine
from bayeslat.observations.following.position import Position
from bayeslat.observations.json_lines import MAX_TEXT_KEPT

__all__ = ["MAX_LINES", "MAX_LINE_BYTES", "Held", "Taken", "anew", "opened", "take"]

MAX_LINES = 5000
"""Lines that are taken at once."""

MAX_LINE_BYTES = 1 << 20
"""A longer line is refused; it is passed over without being held in memory as a whole."""

MAX_BYTES = 1 << 24
BLOCK_BYTES = 1 << 18

TOO_LONG = "line longer than 1 MiB"
UNFINISHED = "half a line at the end of a rotated file"


class Held:
    """A descriptor of the followed file, kept so that a deletion cannot take its last lines away.

    A resource and no value: close it, or use it in a ``with`` statement.
    """

    def __init__(self) -> None:
        self.descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def keep(self, descriptor: int) -> None:
        """Hold the file behind an open descriptor, instead of the one held before."""
        if self.descriptor >= 0 and _identity(self.descriptor) == _identity(descriptor):
            return
        copy = os.dup(descriptor)
        self.close()
        self.descriptor = copy

    def close(self) -> None:
        """Let go of the file."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1


@dataclass(frozen=True)
class Taken:
    """Lines that were taken at one look.

    Parameters
    ----------
    position : Position
        Behind them.
    lines : tuple of (int, bytes)
        Numbers within their file, from 1, and lines without line ends.
    rejected : tuple of RejectedLine
        Lines that were refused whatever they say.
    notes : tuple of str
        What happened to the file.
    more : bool
        Whether there is more to be taken at once.
    found : bool
        Whether there is a file.
    """

    position: Position
    lines: tuple[tuple[int, bytes], ...] = ()
    rejected: tuple[RejectedLine, ...] = ()
    notes: tuple[str, ...] = ()
    more: bool = False
    found: bool = True


def take(
    position: Position,
    *,
    held: Held | None = None,
    max_lines: int = MAX_LINES,
) -> Taken:
    """Take the complete lines behind a position.

    Parameters
    ----------
    position : Position
        Where the last look ended.
    held : Held, optional
        Keeps the file open between looks.
    max_lines : int
        Lines that are taken at most. All lines come from one file.

    Returns
    -------
    Taken
        The same position where nothing new is complete.
    """
    with ExitStack() as stack:
        current = opened(Path(position.path), stack)
        if position.inode < 0:
            if current < 0:
                return Taken(position, found=False)
            position = anew(position, current)
        own = _own(position, current, held, stack)
        notes: tuple[str, ...] = ()
        if own < 0:
            if current < 0:
                return Taken(position, found=False)
            position, notes = _begun(position, current), ("the file was replaced or truncated",)
            own = current
        # Asked before the old file is read: once the new one has content, the writer is there.
        moved_on = own != current and current >= 0 and os.fstat(current).st_size > 0
        taken, rest = _lines(own, position, max_lines, notes)
        if moved_on and not taken.more:
            taken = _finished(taken, rest, own, current)
        if held is not None:
            for descriptor in (own, current):
                if descriptor >= 0 and _identity(descriptor) == taken.position.identity:
                    held.keep(descriptor)
        return taken


def opened(path: Path, stack: ExitStack) -> int:
    """A descriptor of a plain file, which the stack closes; -1 where none can be opened."""
    try:
        # A pipe would block here until somebody writes.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1
    stack.callback(os.close, descriptor)
    return descriptor if stat.S_ISREG(os.fstat(descriptor).st_mode) else -1


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _own(position: Position, current: int, held: Held | None, stack: ExitStack) -> int:
    """Descriptor of the file in which a position lies: under its name, held open, or elsewhere."""
    if current >= 0 and _identity(current) == position.identity and position.lies_in(current):
        return current
    if (
        held is not None
        and held.descriptor >= 0
        and _identity(held.descriptor) == position.identity
        and position.lies_in(held.descriptor)
    ):
        return held.descriptor
    return _elsewhere(position, stack)


def _elsewhere(position: Position, stack: ExitStack) -> int:
    """Descriptor of a renamed or copied file in the same folder; -1 where there is none."""
    copy = -1
    for path in _neighbours(Path(position.path)):
        descriptor = opened(path, stack)
        if descriptor < 0 or not position.lies_in(descriptor):
            continue
        if _identity(descriptor) == position.identity:
            return descriptor
        # Every file holds the nothing that was taken at offset 0, and older files may begin with
        # the same lines.
        if position.offset > 0 and _mark(os.fstat(descriptor)) not in position.older:
            copy = descriptor
    return copy


def _neighbours(path: Path) -> Iterator[Path]:
    """Files beside a log whose names begin as its own does, as those of its rotated files do."""
    try:
        with os.scandir(path.parent) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError:
        return
    for name in names:
        if name != path.name and name.startswith(path.stem):
            yield path.with_name(name)


def anew(position: Position, descriptor: int) -> Position:
    """The start of an open file."""
    older = []
    for path in _neighbours(Path(position.path)):
        with suppress(OSError):
            older.append(_mark(path.stat()))
    return position.at_start_of(descriptor, older=tuple(older))


def _mark(found: os.stat_result) -> str:
    """A file that is no longer written to, whatever it is renamed to."""
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"


def _begun(position: Position, current: int) -> Position:
    """The start of the file that now has the name, or the same place if it is a mere copy."""
    if position.offset > 0 and position.lies_in(current):
        return position.in_copy(current)
    return anew(position, current)


def _lines(
    descriptor: int, position: Position, max_lines: int, notes: tuple[str, ...]
) -> tuple[Taken, bytes]:
    """Complete lines behind a position of an open file, and the incomplete line after them."""
    start = _first_data(descriptor) if position.offset == 0 else position.offset
    data, at_end = _data(descriptor, start, max_lines)
    *complete, rest = data.split(b"\n")
    if len(complete) > max_lines:
        complete, rest, at_end = complete[:max_lines], b"", False
    lines: list[tuple[int, bytes]] = []
    rejected: list[RejectedLine] = []
    skipping, number, offset = position.skipping, position.line, start
    for line in complete:
        number += 1
        offset += len(line) + 1
        if skipping:
            skipping = False
        elif len(line) > MAX_LINE_BYTES:
            rejected.append(_rejected(TOO_LONG, number, line))
        else:
            # Who writes without appending leaves zero bytes before the first line that follows a
            # truncation.
            lines.append((number, line.lstrip(b"\0").rstrip(b"\r")))
    if skipping or len(rest) > MAX_LINE_BYTES:
        if not skipping:
            rejected.append(_rejected(TOO_LONG, number + 1, rest))
        offset, rest, skipping = offset + len(rest), b"", True
    behind = position
    if offset > position.offset:
        behind = position.advanced(descriptor, offset=offset, line=number, skipping=skipping)
        if not _still_there(descriptor, position, data, start, offset):
            # Truncated while it was read: the next look finds out what has become of it.
            return Taken(position, notes=notes), b""
    return Taken(behind, tuple(lines), tuple(rejected), notes, more=not at_end), rest


def _first_data(descriptor: int) -> int:
    """Offset of the first byte that was ever written."""
    try:
        return os.lseek(descriptor, 0, os.SEEK_DATA)
    except OSError:
        # Nothing but a hole, or a file system that knows no holes.
        return 0


def _data(descriptor: int, start: int, max_lines: int) -> tuple[bytes, bool]:
    """Bytes that hold so many lines if there are, and whether the end of the file was met."""
    data, n_lines = bytearray(), 0
    while n_lines < max_lines and len(data) < MAX_BYTES:
        block = os.pread(descriptor, BLOCK_BYTES, start + len(data))
        if not block:
            return bytes(data), True
        data += block
        n_lines += block.count(b"\n")
    return bytes(data), False


def _still_there(descriptor: int, position: Position, data: bytes, start: int, offset: int) -> bool:
    last = data[max(0, offset - start - BLOCK_BYTES) : offset - start]
    return position.lies_in(descriptor) and (
        os.pread(descriptor, len(last), offset - len(last)) == last
    )


def _rejected(reason: str, number: int, line: bytes) -> RejectedLine:
    return RejectedLine(reason, number, line[:MAX_TEXT_KEPT].decode("utf-8", errors="replace"))


def _finished(taken: Taken, rest: bytes, own: int, current: int) -> Taken:
    """Leave a file that is finished for the one that now has its name."""
    # Half a number is a number, so that an unfinished line is never a row.
    half = (_rejected(UNFINISHED, taken.position.line + 1, rest),) if rest.strip() else ()
    # A file that still has a name was renamed, so that the new one is no copy of it.
    renamed = os.fstat(own).st_nlink > 0
    position = taken.position
    return Taken(
        anew(position, current) if renamed else _begun(position, current),
        taken.lines,
        taken.rejected + half,
        (*taken.notes, "the file was rotated; following the new one"),
        more=True,
    )
