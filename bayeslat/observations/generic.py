"""Tables: CSV, Parquet and JSON lines, with the canonical columns or a column map.

CSV is comma-separated UTF-8 with one header line; a quoted value may not hold a line break.
"""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from bayeslat.errors import InputError
from bayeslat.observations.base import RawSteps, ReadOptions, RejectedLine
from bayeslat.observations.columns import (
    TEXT_COLUMNS,
    FileColumn,
    fill_deployment,
    find_columns,
    near_misses,
    require_columns,
    scaled,
)
from bayeslat.observations.files import inner_suffix, open_bytes, read_head
from bayeslat.observations.json_lines import MAX_TEXT_KEPT, json_objects, no_json_line

__all__ = ["CsvReader", "JsonlReader", "ParquetReader"]

PARQUET_MAGIC = b"PAR1"


@dataclass(frozen=True)
class CsvReader:
    """Comma-separated text, plain or gzip."""

    name: str = "csv"
    suffixes: tuple[str, ...] = (".csv",)

    def sniff(self, path: Path, head: bytes) -> bool:
        """By suffix, or by a first line that names two required columns or more."""
        if inner_suffix(path) in self.suffixes:
            return True
        first = head.split(b"\n", 1)[0]
        return sum(name in first.split(b",") for name in (b"gpu", b"model", b"latency_ms")) > 1

    def read(self, path: Path, options: ReadOptions) -> RawSteps:
        """Read the whole file; numbers stay text where a column holds any text."""
        names = _header(path)
        found = find_columns(names, options.columns)
        table, rejected = self._table(path, found)
        frame = table.to_pandas(self_destruct=True, split_blocks=True)
        # Every physical line is a row, a rejected line or the header, in this order.
        lines = np.arange(2, len(frame) + len(rejected) + 2)
        lines = np.delete(lines, [line.row - 2 for line in rejected])
        blank = frame.isna().all(axis="columns").to_numpy() if len(found) else np.zeros(0, bool)
        if blank.any():
            frame, lines = frame[~blank], lines[~blank]
        return RawSteps(
            frame=_canonical(frame, found, options, path=path, names=names),
            row_numbers=lines,
            rejected=tuple(rejected),
            dropped={"blank line": int(blank.sum())},
            hints=_hints(names, found),
        )

    def _table(
        self, path: Path, found: Mapping[str, FileColumn]
    ) -> tuple[pa.Table, list[RejectedLine]]:
        label = pa.dictionary(pa.int32(), pa.string())
        number = {c.name: pa.float64() for n, c in found.items() if n not in TEXT_COLUMNS}
        text = {c.name: label for n, c in found.items() if n in TEXT_COLUMNS}
        try:
            return _read_csv(path, number | text)
        except pa.ArrowInvalid as error:
            if "conversion error" not in str(error):
                raise _not_csv(path, error) from error
        # Text in a number column: keep all as text, so that the very rows can be named.
        try:
            return _read_csv(path, dict.fromkeys(number, pa.string()) | text)
        except pa.ArrowInvalid as error:
            raise _not_csv(path, error) from error


def _read_csv(path: Path, types: Mapping[str, Any]) -> tuple[pa.Table, list[RejectedLine]]:
    rejected: list[RejectedLine] = []

    def reject(row: Any) -> str:
        reason = "wrong number of fields in the line"
        rejected.append(RejectedLine(reason, row.number, row.text[:MAX_TEXT_KEPT]))
        return "skip"

    with open_bytes(path) as stream:
        table = pa.csv.read_csv(
            stream,
            # Only a single thread knows the numbers of the lines that it rejects.
            read_options=pa.csv.ReadOptions(use_threads=False),
            parse_options=pa.csv.ParseOptions(invalid_row_handler=reject, ignore_empty_lines=False),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict(types), include_columns=list(types), strings_can_be_null=True
            ),
        )
    return table, rejected


def _header(path: Path) -> list[str]:
    head = read_head(path)
    if b"\0" in head:
        raise InputError(
            f"got binary content in {path}, expected comma-separated text; "
            "name the format with format= (--format)"
        )
    try:
        first = re.split(rb"[\r\n]", head, maxsplit=1)[0].decode("utf-8-sig")
        return next(csv.reader([first]), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise _not_csv(path, error) from error


def _not_csv(path: Path, error: Exception) -> InputError:
    if "UTF8" in str(error) or isinstance(error, UnicodeDecodeError):
        return InputError(
            f"got text in {path} that is not UTF-8, expected UTF-8; "
            "convert it, for example with iconv -f latin1 -t utf-8"
        )
    reason = str(error).splitlines()[0][:MAX_TEXT_KEPT]
    return InputError(
        f"got {path}, which is no comma-separated table ({reason}), "
        "expected a header line and rows; check the file or name its format"
    )


@dataclass(frozen=True)
class ParquetReader:
    """Parquet."""

    name: str = "parquet"
    suffixes: tuple[str, ...] = (".parquet", ".pq")

    def sniff(self, path: Path, head: bytes) -> bool:
        """By suffix or by the magic bytes."""
        return inner_suffix(path) in self.suffixes or head.startswith(PARQUET_MAGIC)

    def read(self, path: Path, options: ReadOptions) -> RawSteps:
        """Read the columns that are of use."""
        try:
            names = pa.parquet.read_schema(path).names
            found = find_columns(names, options.columns)
            table = pa.parquet.read_table(path, columns=[c.name for c in found.values()])
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"got {path}, which is no sound Parquet file, expected one; "
                "write it again or name its format"
            ) from error
        frame = table.to_pandas(ignore_metadata=True)
        canonical = _canonical(frame, found, options, path=path, names=names)
        return RawSteps(
            frame=canonical, row_numbers=np.arange(len(frame)), hints=_hints(names, found)
        )


@dataclass(frozen=True)
class JsonlReader:
    """JSON lines, one object a step, plain or gzip."""

    name: str = "jsonl"
    suffixes: tuple[str, ...] = (".jsonl", ".ndjson")

    def sniff(self, path: Path, head: bytes) -> bool:
        """By suffix, or by a first line that opens an object."""
        return inner_suffix(path) in self.suffixes or head.lstrip().startswith(b"{")

    def read(self, path: Path, options: ReadOptions) -> RawSteps:
        """Read line by line, so that a malformed line costs one row."""
        columns: dict[str, list[Any]] = {}
        rejected: list[RejectedLine] = []
        lines: list[int] = []
        for number, record in json_objects(path, rejected):
            for name in record.keys() - columns.keys():
                # A column that starts late was missing before.
                columns[name] = [None] * len(lines)
            for name, values in columns.items():
                values.append(record.get(name))
            lines.append(number)
        if not lines:
            raise no_json_line(path, rejected, expected="one JSON object a line")
        found = find_columns(columns, options.columns)
        frame = pd.DataFrame({c.name: columns[c.name] for c in found.values()})
        return RawSteps(
            frame=_canonical(frame, found, options, path=path, names=list(columns)),
            row_numbers=np.array(lines, dtype=np.int64),
            rejected=tuple(rejected),
            hints=_hints(list(columns), found),
        )


def _hints(names: list[str], found: Mapping[str, FileColumn]) -> tuple[str, ...]:
    mapped = {column.name for column in found.values()}
    return near_misses([name for name in names if name not in mapped], used=found)


def _canonical(
    frame: pd.DataFrame,
    found: Mapping[str, FileColumn],
    options: ReadOptions,
    *,
    path: Path,
    names: list[str],
) -> pd.DataFrame:
    """Our names and units, with what the caller says about the deployment."""
    columns = {name: scaled(frame[column.name], column.factor) for name, column in found.items()}
    canonical = fill_deployment(pd.DataFrame(columns), options, source=path.name)
    require_columns(canonical.columns, source=str(path), all_names=names)
    return canonical
