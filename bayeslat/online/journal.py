"""What was acknowledged and not yet taken in: one file a batch, on the disk before it counts."""

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import pandas as pd

from bayeslat.errors import BayeslatError, InputError, PosteriorFileError
from bayeslat.observations import Observations
from bayeslat.online.files import load_extra, load_value, save_value
from bayeslat.schema import Deployment

__all__ = ["BacklogError", "Entry", "Journal", "JournalError", "read_entry"]

SUFFIX: Final = ".batch"


class JournalError(BayeslatError, OSError):
    """Rows could not be kept, and so were not acknowledged."""


class BacklogError(BayeslatError, TimeoutError):
    """Too many rows are waiting already; these were not acknowledged."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One thing that is to be done to the state.

    Parameters
    ----------
    steps : Observations or DataFrame, optional
        Rows to take in.
    rollback : Deployment, optional
        Whose earlier version is to be taken back.
    """

    steps: Observations | pd.DataFrame | None = None
    rollback: Deployment | None = None

    @property
    def n_rows(self) -> int:
        """Rows in it."""
        return 0 if self.steps is None else len(self.steps)


class Journal:
    """Entries in a folder, numbered in the order in which they were acknowledged.

    One process at a time may hold a folder. An entry that was being written when its process was
    killed was not acknowledged; what is left of it is removed when the folder is opened again.

    Parameters
    ----------
    folder : Path
        Where the files are; made where it does not exist.

    Raises
    ------
    JournalError
        The folder cannot be made or written to.
    InputError
        Another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            (folder / "put-aside").mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as fault:
            raise JournalError(
                f"got {folder}, where nothing can be written ({fault.strerror}), expected a folder"
                " for rows that wait; choose another"
            ) from fault
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as fault:
            os.close(self._lock)
            raise InputError(
                f"got {folder}, which another runner is using, expected a folder of one's own;"
                " close that runner or choose another folder"
            ) from fault
        for path in folder.glob(".*.part"):
            path.unlink()
        self._rows = {number: self._rows_of(number) for number in self._found()}
        aside = (int(path.stem) for path in (folder / "put-aside").glob(f"*{SUFFIX}"))
        # A number is used once, or else a file that was put aside would be written over.
        self._last = max(*self._rows, *aside, 0, 0)

    def _found(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob(f"*{SUFFIX}"))

    def _rows_of(self, number: int) -> int:
        """Rows of an entry that was there before; none of a damaged one, which comes up later."""
        try:
            return int(load_extra(self.path(number)))
        except PosteriorFileError:
            return 0

    @property
    def numbers(self) -> list[int]:
        """Numbers of the entries that are kept, in order."""
        return sorted(list(self._rows))

    @property
    def last(self) -> int:
        """Number of the last entry that was acknowledged."""
        return self._last

    def after(self, number: int) -> int | None:
        """Number of the first entry after another; None where there is none."""
        return next(
            (each for each in range(number + 1, self._last + 1) if each in self._rows), None
        )

    def rows(self, number: int) -> int:
        """Rows of an entry that is kept."""
        return self._rows[number]

    def path(self, number: int) -> Path:
        """File of an entry."""
        return self.folder / f"{number:012d}{SUFFIX}"

    def continue_after(self, number: int) -> None:
        """Give no entry a number up to this one: a checkpoint holds them."""
        self._last = max(self._last, number)

    def append(self, entry: Entry) -> int:
        """Keep an entry; its number, once it is on the disk.

        Raises
        ------
        JournalError
            It cannot be written, and nothing of it is kept.
        InputError
            It holds something that cannot be saved.
        """
        number = self._last + 1
        path = self.path(number)
        try:
            save_value(entry, path, extra=entry.n_rows)
        except PosteriorFileError as fault:
            path.unlink(missing_ok=True)  # where only the folder's list of names was not written
            raise JournalError(
                f"got {entry.n_rows} rows that cannot be kept ({_cause(fault)}), expected room in"
                f" {self.folder}; nothing of them was acknowledged, make room and send them again"
            ) from fault
        self._last = number
        self._rows[number] = entry.n_rows
        return number

    def drop(self, up_to: int) -> None:
        """Remove entries that a checkpoint holds."""
        for number in [each for each in list(self._rows) if each <= up_to]:
            self.path(number).unlink(missing_ok=True)
            del self._rows[number]

    def put_aside(self, number: int) -> Path:
        """Take an entry out of the way, into a file of its own that is kept; its new place."""
        aside = self.folder / "put-aside" / self.path(number).name
        self.path(number).replace(aside)
        del self._rows[number]
        return aside

    def close(self) -> None:
        """Let others use the folder."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


def read_entry(path: Path) -> Entry:
    """The entry in a file.

    Raises
    ------
    PosteriorFileError
        The file is damaged or holds something else.
    """
    entry = load_value(path)
    if not isinstance(entry, Entry):
        raise PosteriorFileError(f"got {path} with a {type(entry).__name__}, expected an entry")
    return entry


def _cause(fault: BaseException) -> str:
    cause = fault.__cause__
    return str(getattr(cause, "strerror", None) or cause or fault)
