"""Maps from a file's own columns to the canonical ones, with units.

A map is a dict from the canonical name to the file's, for example
``{"batch_size": "num_reqs", "latency_ms": "step_time [s]"}``. A column that has a unit must name
it in square brackets where its name is not the canonical one: a unit is never guessed. Units are
``s``, ``ms``, ``us`` and ``ns``; ``latency_ms`` becomes milliseconds, ``timestamp`` seconds.
Columns that the map does not mention are found by their canonical names.
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayeslat.errors import InputError
from bayeslat.observations.base import ReadOptions
from bayeslat.schema import OPTIONAL_COLUMNS, REQUIRED_COLUMNS

__all__ = [
    "CANONICAL_COLUMNS",
    "TEXT_COLUMNS",
    "FileColumn",
    "fill_deployment",
    "find_columns",
    "near_misses",
    "phases",
    "refuse_duplicates",
    "require_columns",
    "scaled",
    "to_number",
    "to_timestamp",
]

CANONICAL_COLUMNS = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)
TEXT_COLUMNS = ("gpu", "model", "engine", "precision", "phase")
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_CANONICAL_UNIT = {"latency_ms": "ms", "timestamp": "s"}
_WITH_UNIT = re.compile(r"^(?P<name>.*?)\s*\[\s*(?P<unit>[^\]\s]+)\s*\]$")
MAX_COLUMNS_NAMED = 20


@dataclass(frozen=True)
class FileColumn:
    """Where a canonical column comes from: its name in the file, and the factor to our unit."""

    name: str
    factor: float = 1.0


def find_columns(present: Iterable[str], columns: Mapping[str, str]) -> dict[str, FileColumn]:
    """Canonical columns that a file has.

    Parameters
    ----------
    present
        Column names of the file.
    columns
        Map from canonical names to the file's.

    Returns
    -------
    dict
        Canonical name to where it stands, in canonical order.

    Raises
    ------
    InputError
        The map names an unknown column or unit, a column that is not there, or leaves out a unit.
    """
    names = list(present)
    refuse_duplicates(names, source="the file")
    unknown = sorted(set(columns) - set(CANONICAL_COLUMNS))
    if unknown:
        raise InputError(
            f"got a column map for {unknown}, expected keys among {list(CANONICAL_COLUMNS)}; "
            "a map goes from our name to the file's"
        )
    found = {}
    for canonical in CANONICAL_COLUMNS:
        if canonical in columns:
            found[canonical] = _mapped(canonical, columns[canonical], names)
        elif canonical in names:
            found[canonical] = FileColumn(canonical)
    return found


def _mapped(canonical: str, target: str, names: list[str]) -> FileColumn:
    parts = _WITH_UNIT.match(target)
    bare, unit = (parts["name"], parts["unit"]) if parts else (target, None)
    # A file may carry the unit in its header just as the map writes it.
    name = target if target in names else bare
    if name not in names:
        raise InputError(
            f"got a column map {canonical} -> {name!r}, expected one of the file's columns "
            f"{_shortened(names)}; correct the map"
        )
    own_unit = _CANONICAL_UNIT.get(canonical)
    if own_unit is None:
        return FileColumn(name)
    if unit is None and name == canonical:
        return FileColumn(name)
    if unit not in _SECONDS:
        raise InputError(
            f"got a column map {canonical} -> {target!r} with unit {unit!r}, expected a unit among "
            f"s, ms, us, ns; write it as '{name} [s]'"
        )
    return FileColumn(name, _SECONDS[unit] / _SECONDS[own_unit])


def require_columns(present: Iterable[str], *, source: str, all_names: Iterable[str]) -> None:
    """Refuse a table that lacks a required column.

    Parameters
    ----------
    present
        Canonical columns found.
    source
        What to call the table.
    all_names
        Every column name of the table, for the message.

    Raises
    ------
    InputError
        A required column is missing.
    """
    missing = [name for name in REQUIRED_COLUMNS if name not in set(present)]
    if not missing:
        return
    # In an engine log the measured columns are there and the deployment is what lacks.
    if set(missing) <= {"gpu", "model"}:
        flags = ", ".join(f"{name}=... (--{name})" for name in missing)
        advice = f"the file does not say: pass {flags}"
    else:
        advice = f'map them: columns={{"{missing[0]}": "the file\'s name"}}'
        advice += ", a time with its unit as in 'step_time [s]'"
    raise InputError(
        f"got columns {_shortened(all_names)} in {source} without {missing}, "
        f"expected at least {list(REQUIRED_COLUMNS)}; {advice}"
    )


def refuse_duplicates(names: Iterable[str], *, source: str) -> None:
    """Refuse a table that has a column twice.

    Raises
    ------
    InputError
        A name stands more than once.
    """
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        raise InputError(
            f"got the columns {_shortened(twice)} more than once in {source}, "
            "expected each name once; rename or remove one"
        )


def near_misses(names: Iterable[str], *, used: Iterable[str]) -> tuple[str, ...]:
    """Sentences about columns that look like a misspelt known one."""
    absent = [name for name in CANONICAL_COLUMNS if name not in set(used)]
    sentences = []
    for name in names:
        if name in CANONICAL_COLUMNS:
            continue
        close = difflib.get_close_matches(name.lower().replace(" ", "_"), absent, 1, cutoff=0.8)
        if close:
            sentences.append(f"the column {name!r} is ignored; if it is {close[0]}, map it")
    return tuple(sentences)


def fill_deployment(frame: pd.DataFrame, options: ReadOptions, *, source: str) -> pd.DataFrame:
    """Add what the caller says about the deployment where the file does not say it.

    Raises
    ------
    InputError
        The file says something else than the caller.
    """
    given = {
        name: getattr(options, name)
        for name in ("gpu", "model", "tp", "engine", "precision")
        if getattr(options, name) is not None
    }
    for name, value in given.items():
        if name in frame:
            _refuse_contradiction(frame[name], name, value, source)
    return frame.assign(**given)


def _refuse_contradiction(column: pd.Series, name: str, value: object, source: str) -> None:
    # A degree of 4 in a table may have been read as 4.0.
    found = (str(each).removesuffix(".0") for each in column.dropna().unique())
    stated = sorted(set(found) - {"", str(value)})
    if stated:
        raise InputError(
            f"got {name}={value!r} for {source}, which itself says {name} = {_shortened(stated)}, "
            f"expected one of both; leave out {name}= (--{name})"
        )


def phases(n_prefill: np.ndarray, n_decode: np.ndarray) -> np.ndarray:
    """Name the phase of each step [row], by its requests in prefill and in decode."""
    return np.where(n_decode == 0, "prefill", np.where(n_prefill == 0, "decode", "mixed"))


def to_number(values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of a column that may hold text.

    Returns
    -------
    numbers
        float64 [row], NaN where missing or no number.
    not_number
        bool [row], where there is something that is no number.
    """
    if pd.api.types.is_numeric_dtype(values.dtype):
        return values.to_numpy(dtype=np.float64, na_value=np.nan), np.zeros(len(values), dtype=bool)
    if values.dtype.kind in "mM":
        # pandas would count nanoseconds: a unit that nobody named.
        return np.full(len(values), np.nan), values.notna().to_numpy()
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    unread = np.isnan(numbers)
    if not unread.any():
        return numbers, unread
    blank = values[unread].isna() | (values[unread].astype(str).str.strip() == "")
    not_number = unread.copy()
    not_number[unread] = ~blank.to_numpy(dtype=bool)
    return numbers, not_number


def to_timestamp(values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Seconds since 1970 of a column of numbers or of ISO 8601 dates, UTC where no zone is given.

    Returns
    -------
    As `to_number`.
    """
    if values.dtype.kind == "M":
        return _seconds(pd.to_datetime(values, utc=True)), np.zeros(len(values), dtype=bool)
    numbers, not_number = to_number(values)
    if not not_number.any():
        return numbers, not_number
    texts = values.astype(object).where(not_number)
    dates = pd.to_datetime(texts, errors="coerce", utc=True, format="ISO8601")
    seconds = np.where(not_number, _seconds(dates), numbers)
    return seconds, not_number & np.isnan(seconds)


def _seconds(dates: pd.Series) -> np.ndarray:
    since = (dates - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
    return since.to_numpy(dtype=np.float64, na_value=np.nan)


def scaled(values: pd.Series, factor: float) -> pd.Series:
    """Convert a column to our unit; what is no number stays, for the quarantine to name."""
    if factor == 1.0:
        return values
    numbers, not_number = to_number(values)
    converted = pd.Series(numbers * factor, index=values.index)
    if not not_number.any():
        return converted
    return converted.astype(object).where(~not_number, values)


def _shortened(names: Iterable[str]) -> str:
    listed = [str(name).replace("\n", " ")[:60] for name in names]
    rest = len(listed) - MAX_COLUMNS_NAMED
    return str(listed[:MAX_COLUMNS_NAMED]) + (f" and {rest} more" if rest > 0 else "")
