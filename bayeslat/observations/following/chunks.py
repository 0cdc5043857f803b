"""A growing log, followed piece by piece: a position in, the rows behind it and a position out."""

import os
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from bayeslat.catalog import Catalog
from bayeslat.errors import InputError
from bayeslat.observations.base import RawSteps, ReadOptions, RejectedLine
from bayeslat.observations.cleaning import clean
from bayeslat.observations.files import GZIP_MAGIC, HEAD_BYTES
from bayeslat.observations.following.growing import MAX_LINES, Held, anew, opened, take
from bayeslat.observations.following.position import Position
from bayeslat.observations.following.screening import (
    FORMATS,
    Context,
    Line,
    Screened,
    rejected_line,
    screen,
)
from bayeslat.observations.plausibility import ObservationWarning
from bayeslat.observations.read import READERS
from bayeslat.observations.table import Observations, concat
from bayeslat.schema import REQUIRED_COLUMNS

__all__ = ["Chunk", "read", "start"]

NO_OPTIONS = ReadOptions()
NAMELESS = Path("steps")
SPECIFIC_FIRST = ("fpm", "vllm-log", "csv", "jsonl")
"""Formats in the order in which lines are tried: any line of a log may begin with a brace."""

UNDECIDED = "line before the first step"
UNREADABLE = "refused by the reader"


@dataclass(frozen=True, eq=False)
class Chunk:
    """What one look at a growing log gave.

    Parameters
    ----------
    steps : Observations
        The good rows, none perhaps; ``.quarantine`` tells about the others, with their lines.
    n_lines : int
        Lines that were taken.
    notes : tuple of str
        What happened to the file: rotated, replaced, truncated.
    more : bool
        Whether there is more to be read at once.
    found : bool
        Whether there is a file.
    """

    steps: Observations
    n_lines: int = 0
    notes: tuple[str, ...] = ()
    more: bool = False
    found: bool = True


def start(
    path: str | os.PathLike[str],
    *,
    format: str = "auto",
    options: ReadOptions = NO_OPTIONS,
    from_end: bool = False,
) -> Position:
    """Where to begin to follow a log; it need not be there yet.

    Parameters
    ----------
    path : path
        A text file that grows, is rotated, or comes later.
    format : str
        "csv", "jsonl", "fpm", "vllm-log", or "auto": the first lines decide.
    options : ReadOptions
        What the log does not say itself.
    from_end : bool
        Whether to pass over what is there already. A file that comes later is read from its start.

    Raises
    ------
    InputError
        The path is a folder, no plain file, may not be read, or is compressed; the format is none
        that can be followed.
    """
    _reader_name(format)
    file = Path(path)
    position = Position(str(file))
    if not file.exists():
        return position
    with ExitStack() as stack:
        descriptor = opened(file, stack)
        if descriptor < 0:
            raise InputError(
                f"got {file}, which is no plain file that may be read, expected a step log; check"
                " the path and its permissions"
            )
        head = os.pread(descriptor, HEAD_BYTES, 0)
        if head.startswith((GZIP_MAGIC, b"PAR1")):
            raise InputError(
                f"got {file}, which is compressed and cannot be followed, expected growing text;"
                " read it as a whole with fit"
            )
        if not from_end:
            return position
        lines = tuple(enumerate((line.rstrip(b"\r") for line in head.split(b"\n")[:-1]), start=1))
        position = _with_format(anew(position, descriptor), format, lines)
        if position.format:
            known = screen(position.format, lines, options, Context()).context
            position = replace(position, header=known.header, scope=known.scope)
        offset, line = _end(descriptor)
        return position.advanced(descriptor, offset=offset, line=line, skipping=False)


def _end(descriptor: int) -> tuple[int, int]:
    """Bytes and number of the complete lines of an open file."""
    offset = line = position = 0
    while block := os.pread(descriptor, HEAD_BYTES, position):
        line += block.count(b"\n")
        offset = position + block.rfind(b"\n") + 1 if b"\n" in block else offset
        position += len(block)
    return offset, line


def read(
    position: Position,
    *,
    format: str = "auto",
    options: ReadOptions = NO_OPTIONS,
    catalog: Catalog | None = None,
    check_floor: bool = True,
    held: Held | None = None,
    max_lines: int = MAX_LINES,
) -> tuple[Position, Chunk]:
    """Read the complete lines behind a position; a line that is garbage costs one row.

    A position stays valid for as long as the log is there: whoever saves it beside what was made
    of the rows before it takes no row twice, and loses none.

    Parameters
    ----------
    position : Position
        From `start`, or from the last read.
    format, options
        As in `start`.
    catalog, check_floor
        As in `bayeslat.observations.read_steps`.
    held : Held, optional
        Keeps the file open between reads, so that it is read to its end even if it is deleted.
    max_lines : int
        Lines that are taken at most.

    Returns
    -------
    position : Position
        Behind the lines that were taken.
    chunk : Chunk
        Their rows.

    Raises
    ------
    InputError
        No row was good so far, and the rows do not go with the format or with what the caller
        says: the GPU is not stated, for example. Once a row was good, nothing of the kind is
        raised; such lines are counted.
    OSError
        The folder for temporary files cannot be written to.
    """
    before = _with_format(position, format, ())
    taken = take(before, held=held, max_lines=max_lines)
    after = _with_format(taken.position, format, taken.lines)
    context = Context(header=after.header, scope=after.scope)
    screened = (
        screen(after.format, taken.lines, options, context)
        if after.format
        else Screened((), (), (), {UNDECIDED: len(taken.lines)}, context)
    )
    if not (position.n_good or screened.rows) and screened.unsuited:
        # The reader says best what is wrong; should it find nothing wrong, the lines are counted.
        header, lines = screened.unsuited[-1]
        _raw(after, header, lines, options)
    parts = [
        part
        for header, lines in screened.rows
        for part in _parts(after, header, lines, options, strict=not position.n_good)
    ]
    nothing = RawSteps(
        frame=pd.DataFrame(columns=list(REQUIRED_COLUMNS)),
        row_numbers=np.zeros(0, dtype=np.int64),
        rejected=(*taken.rejected, *screened.rejected),
        dropped=screened.dropped,
        timing_scope=parts[0].timing_scope if parts else "unknown",
    )
    with warnings.catch_warnings():
        # The chunk carries them; a warning at every look would say nothing new.
        warnings.simplefilter("ignore", ObservationWarning)
        steps = concat(
            *(
                clean(
                    part,
                    source=position.path,
                    catalog=catalog,
                    check_floor=check_floor,
                    may_be_empty=True,
                )
                for part in (nothing, *parts)
            )
        )
    after = replace(
        after,
        header=screened.context.header,
        scope=screened.context.scope,
        n_good=after.n_good + len(steps),
    )
    return after, Chunk(
        steps=steps,
        n_lines=len(taken.lines) + len(taken.rejected),
        notes=taken.notes,
        more=taken.more,
        found=taken.found,
    )


def _reader_name(format: str) -> str:
    """Name of a reader, "" for "auto"."""
    if format == "auto":
        return ""
    if format not in FORMATS:
        raise InputError(
            f"got format={format!r} to follow, expected auto or one of {', '.join(FORMATS)};"
            " choose one"
        )
    return format


def _with_format(position: Position, format: str, lines: Sequence[Line]) -> Position:
    """A position with its format, as far as the caller or the lines tell it.

    What the lines tell may be corrected by later ones until a row was good.
    """
    name = _reader_name(format) or (position.format if position.n_good else "")
    name = name or _recognised(Path(position.path), lines) or position.format
    return position if name == position.format else replace(position, format=name)


def _recognised(path: Path, lines: Sequence[Line]) -> str:
    """Format of the lines by their content, else by the file's name; "" where neither tells."""
    # A name that ends in .log would make a vLLM log of whatever comes before the first step.
    named = path if path.suffix != ".log" else NAMELESS
    for file in (NAMELESS, named):
        for format in SPECIFIC_FIRST:
            if any(line.strip() and READERS[format].sniff(file, line) for _, line in lines):
                return format
    return ""


def _parts(
    position: Position, header: str, lines: tuple[Line, ...], options: ReadOptions, *, strict: bool
) -> list[RawSteps]:
    """Rows of lines, in halves where the reader refuses them together."""
    try:
        return [_raw(position, header, lines, options)]
    except InputError:
        if strict:
            raise
    if len(lines) == 1:
        empty = pd.DataFrame(columns=list(REQUIRED_COLUMNS))
        rejected = (rejected_line(UNREADABLE, lines[0]),)
        return [RawSteps(empty, np.zeros(0, dtype=np.int64), rejected)]
    middle = len(lines) // 2
    return [
        part
        for half in (lines[:middle], lines[middle:])
        for part in _parts(position, header, half, options, strict=False)
    ]


def _raw(
    position: Position, header: str, lines: tuple[Line, ...], options: ReadOptions
) -> RawSteps:
    """What the reader makes of lines, with their numbers in the followed file."""
    path = Path(position.path)
    first = [header.encode()] if header else []
    numbers = np.array([number for number, _ in lines], dtype=np.int64)
    with tempfile.TemporaryDirectory(prefix="bayeslat-") as folder:
        file = Path(folder) / path.name
        file.write_bytes(b"\n".join([*first, *(line for _, line in lines), b""]))
        try:
            raw = READERS[position.format].read(file, options)
        except InputError as error:
            raise InputError(str(error).replace(str(file), position.path)) from error
    behind = len(first) + 1
    return replace(
        raw,
        row_numbers=numbers[raw.row_numbers - behind],
        rejected=tuple(
            RejectedLine(line.reason, int(numbers[line.row - behind]), line.text)
            for line in raw.rejected
        ),
    )
