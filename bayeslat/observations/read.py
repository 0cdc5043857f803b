"""Files in, observations out: choose the reader, read, clean."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from bayeslat.catalog import Catalog
from bayeslat.errors import InputError
from bayeslat.observations.base import Reader, ReadOptions
from bayeslat.observations.cleaning import clean
from bayeslat.observations.files import check_readable, read_head
from bayeslat.observations.fpm import FpmReader
from bayeslat.observations.generic import CsvReader, JsonlReader, ParquetReader
from bayeslat.observations.table import Observations
from bayeslat.observations.vllm_log import VllmLogReader

__all__ = ["READERS", "read_steps"]

# The order is that of sniffing: what looks into the content goes before what trusts the suffix.
_READERS: tuple[Reader, ...] = (
    ParquetReader(),
    FpmReader(),
    JsonlReader(),
    CsvReader(),
    VllmLogReader(),
)

READERS: Mapping[str, Reader] = MappingProxyType({reader.name: reader for reader in _READERS})
"""Readers by the name that ``format=`` takes."""


def read_steps(
    path: str | os.PathLike[str],
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    gpu: str | None = None,
    model: str | None = None,
    tp: int | None = None,
    engine: str | None = None,
    precision: str | None = None,
    kv_capacity_tokens: float | None = None,
    timing_scope: str | None = None,
    catalog: Catalog | None = None,
    check_floor: bool = True,
) -> Observations:
    """Read a step log of any known format.

    Parameters
    ----------
    path
        The file; tables and JSON lines may be gzip.
    format
        Name of a reader in `READERS`, or "auto" to look at the file.
    columns
        For tables, map from our names to the file's. A time whose column is not named as ours
        states its unit: ``{"latency_ms": "step_time [s]"}``; units are s, ms, us, ns.
    gpu, model, tp, engine, precision
        The deployment, where the log does not carry it.
    kv_capacity_tokens
        Key-value positions that one engine's cache holds: turns the cache usage of a vLLM log
        into context tokens.
    timing_scope
        What a latency spans, where the format does not tell; see `bayeslat.schema.TIMING_SCOPES`.
    catalog
        Datasheets for the roofline floor; the packaged ones by default.
    check_floor
        Whether to put aside rows that are faster than half the roofline floor.

    Returns
    -------
    Observations
        The good rows; ``.quarantine`` tells about the others.

    Raises
    ------
    InputError
        The file is missing, empty, damaged or of another format, or no row is good.

    Warns
    -----
    UnitWarning
        Two units of time seem to be mixed.
    ObservationWarning
        Context tokens are recorded for some rows of a deployment only.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(
            f"got a {type(path).__name__}, expected the path of a step log; for a table in memory"
            " call validate_steps"
        )
    file = Path(path)
    check_readable(file)
    options = ReadOptions(
        columns=dict(columns or {}),
        gpu=gpu,
        model=model,
        tp=tp,
        engine=engine,
        precision=precision,
        kv_capacity_tokens=kv_capacity_tokens,
    )
    raw = _reader(file, format).read(file, options)
    if timing_scope is not None:
        if raw.timing_scope not in ("unknown", timing_scope):
            raise InputError(
                f"got timing_scope={timing_scope!r} for {file}, which records "
                f"{raw.timing_scope!r}, expected the same; leave out timing_scope="
            )
        raw = replace(raw, timing_scope=timing_scope)
    return clean(raw, source=str(file), catalog=catalog, check_floor=check_floor)


def _reader(path: Path, format: str) -> Reader:
    if format in READERS:
        return READERS[format]
    known = ", ".join(READERS)
    if format != "auto":
        raise InputError(f"got format={format!r}, expected auto or one of {known}; choose one")
    head = read_head(path)
    for reader in READERS.values():
        if reader.sniff(path, head):
            return reader
    raise InputError(
        f"got {path}, whose format is none that we know, expected one of {known}; "
        "name it with format= (--format)"
    )
