"""Where a follower of a growing log stands: which file, how far, what is known of its lines."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from bayeslat.errors import InputError

__all__ = ["Position"]

MARK_BYTES = 1024
"""Bytes at the start of a file, and before the offset, by which it is known again."""


@dataclass(frozen=True)
class Position:
    """A place in a growing file; `to_dict` and `from_dict` carry it through a file.

    A name says little of a file: after a rotation it is another one, and the number of a deleted
    file (its inode) is given to the next. So the first bytes and those before the offset are
    remembered by their hashes.

    Parameters
    ----------
    path : str
        The followed name.
    device, inode : int
        Of the file in which `offset` lies; -1 where no file was seen yet.
    offset : int
        Bytes of complete lines that were taken.
    line : int
        Lines of this file up to `offset`.
    head, tail : str
        SHA-256 of the first `head_bytes` bytes, and of up to 1,024 bytes before `offset`.
    head_bytes : int
        Bytes in `head`, 1,024 at most.
    skipping : bool
        Whether `offset` lies within a line that is too long, the rest of which is passed over.
    format : str
        Name of the reader, "" as long as no line told it.
    header : str
        Header of a CSV file, "" where none was seen.
    scope : str
        What the latencies of forward-pass metrics span, in their own words after a "="; "" as long
        as no record told it.
    n_good : int
        Rows that were good, over all files.
    n_files : int
        Files that were begun.
    older : tuple of str
        Marks of files that lay beside the log when this one was begun: none is a copy of it.
    """

    path: str
    device: int = -1
    inode: int = -1
    offset: int = 0
    line: int = 0
    head: str = ""
    head_bytes: int = 0
    tail: str = ""
    skipping: bool = False
    format: str = ""
    header: str = ""
    scope: str = ""
    n_good: int = 0
    n_files: int = 0
    older: tuple[str, ...] = ()

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode."""
        return self.device, self.inode

    def at_start_of(self, descriptor: int, *, older: tuple[str, ...]) -> Self:
        """Begin another open file; what is known of its lines stays."""
        found = os.fstat(descriptor)
        return replace(
            self,
            device=found.st_dev,
            inode=found.st_ino,
            offset=0,
            line=0,
            head="",
            head_bytes=0,
            tail="",
            skipping=False,
            n_files=self.n_files + 1,
            older=older,
        )

    def in_copy(self, descriptor: int) -> Self:
        """Stay at the same place in another file with the same content."""
        found = os.fstat(descriptor)
        return replace(self, device=found.st_dev, inode=found.st_ino)

    def advanced(self, descriptor: int, *, offset: int, line: int, skipping: bool) -> Self:
        """Go on within the same open file."""
        size = min(offset, MARK_BYTES)
        return replace(
            self,
            offset=offset,
            line=line,
            skipping=skipping,
            head=_mark(descriptor, 0, size),
            head_bytes=size,
            tail=_mark(descriptor, offset - size, size),
        )

    def lies_in(self, descriptor: int) -> bool:
        """Whether an open file holds what was taken, as far as the remembered bytes tell."""
        if os.fstat(descriptor).st_size < self.offset:
            return False
        size = min(self.offset, MARK_BYTES)
        return self.offset == 0 or (
            _mark(descriptor, 0, self.head_bytes) == self.head
            and _mark(descriptor, self.offset - size, size) == self.tail
        )

    def to_dict(self) -> dict[str, Any]:
        """The position as JSON-able values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`.

        Raises
        ------
        InputError
            Something is missing or of another type.
        """
        values = dict(values)
        if isinstance(values.get("older"), list) and all(
            isinstance(mark, str) for mark in values["older"]
        ):
            values["older"] = tuple(values["older"])
        types = {item.name: type(getattr(_ANY, item.name)) for item in fields(cls)}
        if set(values) != set(types) or any(
            type(values[name]) is not expected for name, expected in types.items()
        ):
            raise InputError(
                f"got a saved position with {sorted(values)}, expected {sorted(types)}; start anew"
            )
        return cls(**values)


_ANY = Position("")


def _mark(descriptor: int, start: int, size: int) -> str:
    return hashlib.sha256(os.pread(descriptor, size, start)).hexdigest()
