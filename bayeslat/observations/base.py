"""The protocol behind which every log format hides, and what passes through it.

A reader turns one foreign file into `RawSteps`: a frame with the canonical column names and
units, values as read. It judges no value; `bayeslat.observations.cleaning` does, the same way for
every format. To add a format, copy `vllm_log.py`, and add the reader to `READERS` in `read.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["RawSteps", "ReadOptions", "Reader", "RejectedLine"]


@dataclass(frozen=True)
class RejectedLine:
    """A line that could not be turned into a row at all."""

    reason: str
    row: int
    text: str


@dataclass(frozen=True)
class ReadOptions:
    """What the caller tells about a file.

    Attributes
    ----------
    columns
        Canonical name to the file's own, see `bayeslat.observations.columns`.
    gpu, model, tp, engine, precision
        The deployment, for logs that do not carry it.
    kv_capacity_tokens
        Key-value positions that the cache of one engine holds; turns a cache usage in per cent
        into context tokens.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    gpu: str | None = None
    model: str | None = None
    tp: int | None = None
    engine: str | None = None
    precision: str | None = None
    kv_capacity_tokens: float | None = None


@dataclass(frozen=True, eq=False)
class RawSteps:
    """Rows as a reader found them.

    Attributes
    ----------
    frame
        Columns named as in `bayeslat.schema`, in its units; values may still be text or missing.
    row_numbers
        int64 [row], where each row stands: the line of a text file, the position otherwise.
    rejected
        Lines that are no row, in the order of the file.
    dropped
        Rows left out that are no error, by kind.
    timing_scope
        One of `bayeslat.schema.TIMING_SCOPES`.
    hints
        Suspicions about the file that cost no row.
    """

    frame: pd.DataFrame
    row_numbers: npt.NDArray[np.int64]
    rejected: tuple[RejectedLine, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    timing_scope: str = "unknown"
    hints: tuple[str, ...] = ()

    @property
    def n_read(self) -> int:
        """Rows seen, whatever became of them."""
        return len(self.frame) + len(self.rejected) + sum(self.dropped.values())


class Reader(Protocol):
    """One log format."""

    @property
    def name(self) -> str:
        """What ``read_steps(..., format=...)`` calls the format."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Endings of file names that are usual for the format, without ``.gz``."""

    def sniff(self, path: Path, head: bytes) -> bool:
        """Whether the file looks like this format, by its name and its first (unzipped) bytes."""

    def read(self, path: Path, options: ReadOptions) -> RawSteps:
        """Read the whole file.

        Raises
        ------
        InputError
            The file as a whole is not of this format; a single bad line is a `RejectedLine`.
        """
