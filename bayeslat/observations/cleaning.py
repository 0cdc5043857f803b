"""From raw rows to observations: every value is checked, and nothing goes silently.

A row that cannot be true is put aside with a reason and counted. What is only suspicious, such as
two units of time in one column, costs no row and becomes a warning.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayeslat.catalog import Catalog, load_catalog
from bayeslat.errors import InputError
from bayeslat.observations.base import RawSteps
from bayeslat.observations.columns import (
    CANONICAL_COLUMNS,
    TEXT_COLUMNS,
    near_misses,
    refuse_duplicates,
    require_columns,
    to_number,
    to_timestamp,
)
from bayeslat.observations.plausibility import (
    below_half_floor,
    mixed_unit_warnings,
    partial_context_warnings,
)
from bayeslat.observations.table import EXAMPLES_PER_REASON, Observations, Quarantine
from bayeslat.schema import OPTIONAL_COLUMNS, PHASES, REQUIRED_COLUMNS, TIMING_SCOPES, Deployment

__all__ = ["clean", "validate_steps"]

FLOOR_REASON = "latency_ms below half the roofline floor"
_NUMBER_COLUMNS = tuple(name for name in CANONICAL_COLUMNS if name not in TEXT_COLUMNS)
_REQUIRED_NUMBERS = tuple(name for name in REQUIRED_COLUMNS if name not in TEXT_COLUMNS)

type Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Columns:
    """Columns in their final types, still with every row."""

    labels: dict[str, list[str]]
    """Text column to its distinct values."""
    codes: dict[str, npt.NDArray[np.int64]]
    """Text column to the position of each row's value in `labels`; -1 where blank. [row]"""
    numbers: dict[str, npt.NDArray[np.float64]]
    """Number column to its values, NaN where missing or text. [row]"""
    not_number: dict[str, Mask]
    """Number column to where it holds text. [row]"""


def validate_steps(
    frame: pd.DataFrame,
    *,
    source: str = "DataFrame",
    catalog: Catalog | None = None,
    check_floor: bool = True,
    timing_scope: str = "unknown",
    may_be_empty: bool = False,
) -> Observations:
    """Check a steps table and turn it into observations.

    Parameters
    ----------
    frame
        One row, one engine step; columns as in `bayeslat.schema`, others are ignored.
    source
        What to call the table in messages.
    catalog
        Datasheets for the roofline floor; the packaged ones by default.
    check_floor
        Whether to put aside rows that are faster than half the roofline floor.
    timing_scope
        What a latency spans, one of `bayeslat.schema.TIMING_SCOPES`.
    may_be_empty
        Whether no good row is an answer rather than an error.

    Raises
    ------
    InputError
        A required column is missing, or no row is good.

    Warns
    -----
    UnitWarning
        Two units of time seem to be mixed.
    ObservationWarning
        Context tokens are recorded for some rows of a deployment only.
    """
    refuse_duplicates(frame.columns, source=source)
    require_columns(frame.columns, source=source, all_names=frame.columns)
    canonical = frame[[name for name in CANONICAL_COLUMNS if name in frame]]
    raw = RawSteps(
        frame=canonical,
        row_numbers=np.arange(len(frame)),
        timing_scope=timing_scope,
        hints=near_misses(map(str, frame.columns), used=canonical.columns),
    )
    return clean(
        raw, source=source, catalog=catalog, check_floor=check_floor, may_be_empty=may_be_empty
    )


def clean(
    raw: RawSteps,
    *,
    source: str,
    catalog: Catalog | None = None,
    check_floor: bool = True,
    may_be_empty: bool = False,
) -> Observations:
    """Check the rows of a reader; see `validate_steps`.

    Parameters
    ----------
    raw
        Rows with canonical column names.
    source
        What to call them in messages.
    catalog, check_floor
        As in `validate_steps`.
    may_be_empty
        Whether no good row is an answer rather than an error.
    """
    if raw.timing_scope not in TIMING_SCOPES:
        raise InputError(
            f"got timing_scope={raw.timing_scope!r}, expected one of {list(TIMING_SCOPES)}; "
            "choose 'unknown' when the log does not tell"
        )
    columns = _typed(raw.frame)
    reasons, verdict = _judge(columns, len(raw.frame))
    table, positions = _assemble(columns, np.flatnonzero(verdict < 0))
    table = replace(table, timing_scope=raw.timing_scope, source=source)
    suspicions = (*mixed_unit_warnings(table), *partial_context_warnings(table))
    if check_floor and len(table):
        too_fast = below_half_floor(table, load_catalog() if catalog is None else catalog)
        verdict[positions[too_fast]] = len(reasons)
        reasons = [*reasons, FLOOR_REASON]
        table = table.select(~too_fast) if too_fast.any() else table
    texts = (*raw.hints, *(str(suspicion) for suspicion in suspicions), *_phase_hints(columns))
    quarantine = _quarantine(raw, reasons, verdict, texts)
    if not len(table) and not may_be_empty:
        raise InputError(
            f"got no good row in {source} ({quarantine.summary().rstrip('.')}), "
            "expected at least one; correct the values or the column map"
        )
    for suspicion in suspicions:
        warnings.warn(suspicion, stacklevel=3)
    return replace(table, quarantine=quarantine)


def _typed(frame: pd.DataFrame) -> _Columns:
    labels, codes, numbers, not_number = {}, {}, {}, {}
    n_rows = len(frame)
    for name in TEXT_COLUMNS:
        if name in frame:
            labels[name], codes[name] = _coded(frame[name])
        else:
            labels[name], codes[name] = [], np.full(n_rows, -1)
    for name in _NUMBER_COLUMNS:
        if name in frame:
            read = to_timestamp if name == "timestamp" else to_number
            numbers[name], not_number[name] = read(frame[name])
        else:
            numbers[name], not_number[name] = np.full(n_rows, np.nan), np.zeros(n_rows, dtype=bool)
        if name in OPTIONAL_COLUMNS:
            default = float(str(OPTIONAL_COLUMNS[name]))
            missing = np.isnan(numbers[name]) & ~not_number[name]
            numbers[name] = np.where(missing, default, numbers[name])
    return _Columns(labels, codes, numbers, not_number)


def _coded(values: pd.Series) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Distinct stripped labels, sorted, and each row's position in them; -1 where blank."""
    if values.dtype == object:
        # JSON may hold an object or a list where a name should be: that is no name.
        values = values.where(~values.map(lambda value: isinstance(value, dict | list)))
    codes, distinct = pd.factorize(values)
    stripped = [str(label).strip() for label in distinct]
    labels = sorted(set(stripped) - {""})
    position = {label: i for i, label in enumerate(labels)}
    # The last entry serves code -1: factorize marks what is missing so.
    lookup = np.array([*(position.get(label, -1) for label in stripped), -1], dtype=np.int64)
    return labels, lookup[codes]


def _reasons(columns: _Columns) -> Iterator[tuple[str, Mask]]:
    """Yield what can be wrong with a row, the first reason first."""
    numbers = columns.numbers
    for name in ("gpu", "model"):
        yield f"blank {name}", columns.codes[name] < 0
    for name in _NUMBER_COLUMNS:
        yield f"not a number in {name}", columns.not_number[name]
    for name in _REQUIRED_NUMBERS:
        yield f"missing {name}", np.isnan(numbers[name])
    for name in _NUMBER_COLUMNS:
        yield f"non-finite {name}", np.isinf(numbers[name])
    yield "latency_ms not positive", numbers["latency_ms"] <= 0.0
    for name in ("batch_size", "total_tokens"):
        yield f"{name} not positive", numbers[name] <= 0.0
        yield f"{name} not a whole number", _not_whole(numbers[name])
    yield "total_tokens below batch_size", numbers["total_tokens"] < numbers["batch_size"]
    yield "negative context_tokens", numbers["context_tokens"] < 0.0
    yield "n_averaged below 1", numbers["n_averaged"] < 1.0
    yield "tp below 1", numbers["tp"] < 1.0
    for name in ("tp", "replicate"):
        yield f"{name} not a whole number", _not_whole(numbers[name])


def _not_whole(values: npt.NDArray[np.float64]) -> Mask:
    # Beyond 2**53 a float64 no longer tells one whole number from the next.
    return (values != np.floor(values)) | (np.abs(values) > 2.0**53)


def _judge(columns: _Columns, n_rows: int) -> tuple[list[str], npt.NDArray[np.int64]]:
    """All reasons, and for each row the first that applies, -1 where none does."""
    reasons: list[str] = []
    verdict = np.full(n_rows, -1, dtype=np.int64)
    for reason, wrong in _reasons(columns):
        verdict[wrong & (verdict < 0)] = len(reasons)
        reasons.append(reason)
    return reasons, verdict


def _assemble(
    columns: _Columns, good: npt.NDArray[np.int64]
) -> tuple[Observations, npt.NDArray[np.int64]]:
    """Observations of the good rows, and the position of each of their rows in the raw frame."""
    keys = {name: columns.codes[name][good] for name in Deployment._fields if name != "tp"}
    keys["tp"] = columns.numbers["tp"][good].astype(np.int64)
    deployments, index = _deployments(columns.labels, keys)
    order = np.argsort(index, kind="stable")
    rows = good[order]
    phases = [label.lower() if label.lower() in PHASES else "" for label in columns.labels["phase"]]
    phase = np.array([*phases, ""], dtype=object)[columns.codes["phase"][rows]]
    table = Observations(
        deployments=deployments,
        deployment_index=index[order],
        phase=phase,
        replicate=columns.numbers["replicate"][rows].astype(np.int64),
        batch_size=columns.numbers["batch_size"][rows],
        total_tokens=columns.numbers["total_tokens"][rows],
        context_tokens=columns.numbers["context_tokens"][rows],
        latency_ms=columns.numbers["latency_ms"][rows],
        n_averaged=columns.numbers["n_averaged"][rows],
        timestamp=columns.numbers["timestamp"][rows],
    )
    return table, rows


def _deployments(
    labels: dict[str, list[str]], keys: dict[str, npt.NDArray[np.int64]]
) -> tuple[tuple[Deployment, ...], npt.NDArray[np.int64]]:
    """Sorted deployments, and each row's position in them."""
    # One integer a row sorts far faster than rows of five: number the values column by column.
    combined = np.zeros(keys["tp"].size, dtype=np.int64)
    for name in Deployment._fields:
        _, dense = np.unique(keys[name], return_inverse=True)
        _, combined = np.unique(combined * (dense.max(initial=0) + 1) + dense, return_inverse=True)
    _, first, index = np.unique(combined, return_index=True, return_inverse=True)
    deployments = tuple(
        Deployment(
            **{name: [*labels[name], ""][keys[name][row]] for name in keys if name != "tp"},
            tp=int(keys["tp"][row]),
        )
        for row in first
    )
    return deployments, index.astype(np.int64)


def _phase_hints(columns: _Columns) -> tuple[str, ...]:
    unknown = [label for label in columns.labels["phase"] if label.lower() not in PHASES]
    if not unknown:
        return ()
    known = ", ".join(phase for phase in PHASES if phase)
    return (f"phases {unknown[:5]} are taken as not stated; known are {known}",)


def _quarantine(
    raw: RawSteps,
    reasons: list[str],
    verdict: npt.NDArray[np.int64],
    texts: tuple[str, ...],
) -> Quarantine:
    counts: dict[str, int] = {}
    examples: list[pd.DataFrame] = []
    for line in raw.rejected:
        counts[line.reason] = counts.get(line.reason, 0) + 1
        if counts[line.reason] <= EXAMPLES_PER_REASON:
            examples.append(
                pd.DataFrame({"reason": [line.reason], "row": [line.row], "text": [line.text]})
            )
    totals = np.bincount(verdict[verdict >= 0], minlength=len(reasons))
    for code in np.flatnonzero(totals):
        counts[reasons[code]] = int(totals[code])
        rows = np.flatnonzero(verdict == code)[:EXAMPLES_PER_REASON]
        found = raw.frame.iloc[rows].astype(object).reset_index(drop=True)
        found.insert(0, "reason", reasons[code])
        found.insert(1, "row", raw.row_numbers[rows])
        examples.append(found)
    return Quarantine(
        counts=counts,
        rows=pd.concat(examples, ignore_index=True) if examples else Quarantine().rows,
        n_read=raw.n_read,
        dropped={kind: number for kind, number in raw.dropped.items() if number},
        warnings=texts,
    )
