"""Lines of a growing log one by one: which go to the reader, which are refused, and why.

A reader of whole files refuses the file where a line does not go with the rest: a second header,
another GPU than the one named, another timing scope. A file that grows cannot be refused any more,
so that such lines are found here and cost one row each.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from types import MappingProxyType
from typing import Any, Literal

from bayeslat.errors import InputError
from bayeslat.observations.base import ReadOptions, RejectedLine
from bayeslat.observations.columns import FileColumn, find_columns
from bayeslat.observations.fpm import described
from bayeslat.observations.json_lines import MAX_TEXT_KEPT
from bayeslat.observations.vllm_log import is_iteration
from bayeslat.schema import DEPLOYMENT_COLUMNS

__all__ = ["FORMATS", "Context", "Line", "Screened", "screen"]

MEASURED = ("batch_size", "total_tokens", "latency_ms")
HEADER_AGAIN = "header repeated"
NO_HEADER = "no usable header before the line"
LAYOUTS_KEPT = 256

type Line = tuple[int, bytes]
"""Number and content, without the line end."""

type Kind = Literal["row", "unsuited", "rejected", "dropped", "passed over"]
type Under = tuple[tuple[str, tuple[Line, ...]], ...]
"""Lines in their order, under the headers that hold for them."""


@dataclass(frozen=True)
class Context:
    """What is known before a line is looked at.

    Parameters
    ----------
    header : str
        Header of a CSV file, "" where none was seen.
    scope : str
        What forward-pass metrics span as the first record tells it, with a leading "="; "" where
        there was none.
    """

    header: str = ""
    scope: str = ""


@dataclass(frozen=True)
class Screened:
    """Lines sorted by what becomes of them.

    Parameters
    ----------
    rows, unsuited : tuple
        Lines for the reader. The unsuited ones are measured steps that do not go with what the
        caller says, such as those of another GPU, or have no usable header.
    rejected : tuple of RejectedLine
        Lines that are no rows, the unsuited ones among them.
    dropped : mapping
        Lines left out that are no error, by kind.
    context : Context
        What is known after the last.
    """

    rows: Under
    unsuited: Under
    rejected: tuple[RejectedLine, ...]
    dropped: Mapping[str, int]
    context: Context


@dataclass(frozen=True)
class _Judged:
    """What becomes of a line, and what is known after it."""

    line: Line
    kind: Kind
    context: Context
    reason: str = ""


def screen(format: str, lines: Iterable[Line], options: ReadOptions, context: Context) -> Screened:
    """Sort the lines of a log of a known format.

    Parameters
    ----------
    format : str
        One of `FORMATS`.
    lines : iterable of (int, bytes)
        Numbers and lines without line ends.
    options : ReadOptions
        What the caller says.
    context : Context
        What is known before the first line.
    """
    judged: list[_Judged] = []
    for line in lines:
        judged.append(FORMATS[format](line, options, context))
        context = judged[-1].context
    return Screened(
        rows=_under_headers(each for each in judged if each.kind == "row"),
        unsuited=_under_headers(each for each in judged if each.kind == "unsuited"),
        rejected=tuple(
            rejected_line(each.reason, each.line)
            for each in judged
            if each.kind in ("rejected", "unsuited")
        ),
        dropped=Counter(each.reason for each in judged if each.kind == "dropped"),
        context=context,
    )


def rejected_line(reason: str, line: Line) -> RejectedLine:
    """A line that is no row, shortened for people."""
    text = line[1][:MAX_TEXT_KEPT].decode("utf-8", errors="replace")
    return RejectedLine(reason, line[0], text)


def _under_headers(judged: Iterable[_Judged]) -> Under:
    grouped = groupby(judged, key=lambda each: each.context.header)
    return tuple((header, tuple(each.line for each in group)) for header, group in grouped)


def _csv(line: Line, options: ReadOptions, context: Context) -> _Judged:
    content = line[1]
    if not content.strip():
        return _Judged(line, "dropped", context, "blank line")
    cells = _cells(content)
    if isinstance(cells, str):
        return _Judged(line, "rejected", context, cells)
    if not _time_names(options.columns.get("latency_ms", "")).isdisjoint(cells):
        begun = Context(header=content.decode("utf-8-sig"))
        if line[0] == 1 or not context.header:
            return _Judged(line, "passed over", begun)
        return _Judged(line, "rejected", begun, HEADER_AGAIN)
    found, n_cells = _layout(context.header, tuple(options.columns.items()))
    if not set(MEASURED) <= found.keys() or not _says_where(found, options):
        return _Judged(line, "unsuited", context, NO_HEADER)
    if len(cells) != n_cells:
        return _Judged(line, "rejected", context, "wrong number of fields in the line")
    for name, position in found.items():
        if name in DEPLOYMENT_COLUMNS and _contradicts(cells[position], name, options):
            return _Judged(line, "unsuited", context, f"{name} is not the one given")
    return _Judged(line, "row", context)


def _cells(content: bytes) -> list[str] | str:
    """Fields of a CSV line, or why it has none."""
    if b"\0" in content:
        return "binary content"
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "not UTF-8 text"
    if "\r" in text:
        return "line break within the line"
    if '"' not in text:
        return text.split(",")
    try:
        # The reader would look for the end of an open quotation in the lines that follow.
        return next(csv.reader([text], strict=True))
    except csv.Error:
        return "quotation without an end"


@lru_cache(maxsize=LAYOUTS_KEPT)
def _time_names(mapped: str) -> frozenset[str]:
    """Names that the column of the latency may have in a header."""
    bare = mapped.rpartition("[")[0].strip()
    return frozenset({"latency_ms", mapped, bare} - {""})


@lru_cache(maxsize=LAYOUTS_KEPT)
def _layout(header: str, columns: tuple[tuple[str, str], ...]) -> tuple[Mapping[str, int], int]:
    """Our columns to their positions, and the number of fields; no columns without a header."""
    names = _cells(header.encode())
    if isinstance(names, str):
        return {}, 0
    found = _found(tuple(names), columns)
    return {ours: names.index(column.name) for ours, column in found.items()}, len(names)


@lru_cache(maxsize=LAYOUTS_KEPT)
def _found(
    names: tuple[str, ...], columns: tuple[tuple[str, str], ...]
) -> Mapping[str, FileColumn]:
    try:
        return MappingProxyType(find_columns(names, dict(columns)))
    except InputError:
        return MappingProxyType({})


def _says_where(found: Iterable[str], options: ReadOptions) -> bool:
    """Whether GPU and LLM are stated, by the log or by the caller."""
    present = set(found)
    return all(name in present or getattr(options, name) is not None for name in ("gpu", "model"))


def _contradicts(stated: Any, name: str, options: ReadOptions) -> bool:
    """Whether a line says something else of its deployment than the caller."""
    given = getattr(options, name)
    text = "" if stated is None else str(stated).strip()
    if given is None or not text:
        return False
    if name == "tp":
        return text.removesuffix(".0") != str(given)
    return text != given


def _object(content: bytes) -> dict[str, Any] | str:
    """The JSON object of a line, or why it is none."""
    try:
        record = json.loads(content)
    except UnicodeDecodeError:
        return "not UTF-8 text"
    except (ValueError, RecursionError):
        return "malformed JSON"
    return record if isinstance(record, dict) else "not a JSON object"


def _jsonl(line: Line, options: ReadOptions, context: Context) -> _Judged:
    if not line[1].strip():
        return _Judged(line, "passed over", context)
    record = _object(line[1])
    if isinstance(record, str):
        return _Judged(line, "rejected", context, record)
    found = _found(tuple(record), tuple(options.columns.items()))
    for name in MEASURED:
        if name not in found:
            return _Judged(line, "rejected", context, f"missing {name}")
    where = {name: record[found[name].name] for name in DEPLOYMENT_COLUMNS if name in found}
    return _placed(line, where, options, context)


def _placed(
    line: Line, where: Mapping[str, Any], options: ReadOptions, context: Context
) -> _Judged:
    """A measured step, with what its line says of the deployment."""
    for name in ("gpu", "model"):
        if where.get(name) is None and getattr(options, name) is None:
            return _Judged(line, "unsuited", context, f"blank {name}")
    for name, stated in where.items():
        if _contradicts(stated, name, options):
            return _Judged(line, "unsuited", context, f"{name} is not the one given")
    return _Judged(line, "row", context)


def _fpm(line: Line, options: ReadOptions, context: Context) -> _Judged:
    if not line[1].strip():
        return _Judged(line, "passed over", context)
    record = _object(line[1])
    if isinstance(record, str):
        return _Judged(line, "rejected", context, record)
    source, scope, idle = described(record)
    if scope is None:
        return _Judged(line, "rejected", context, "not a forward-pass record")
    if idle:
        return _Judged(line, "dropped", context, idle)
    if context.scope not in ("", f"={scope}"):
        return _Judged(line, "rejected", context, "another timing scope")
    where = {name: source.get(name) for name in ("gpu", "model")}
    return _placed(line, where, options, Context(scope=f"={scope}"))


def _vllm(line: Line, options: ReadOptions, context: Context) -> _Judged:
    if not is_iteration(line[1]):
        return _Judged(line, "passed over", context)
    kind: Kind = "row" if _says_where((), options) else "unsuited"
    return _Judged(line, kind, context, "GPU or LLM not given" if kind == "unsuited" else "")


FORMATS: Mapping[str, Callable[[Line, ReadOptions, Context], _Judged]] = MappingProxyType(
    {"csv": _csv, "jsonl": _jsonl, "fpm": _fpm, "vllm-log": _vllm}
)
"""What judges a line of a format, by the name of its reader."""
