"""Forward-pass metrics (FPM) of vLLM, SGLang and Dynamo: one JSON object a step.

Both shapes are read: the envelope of a Dynamo trace (``DYN_FPM_TRACE``, schema
``dynamo.fpm.trace.v1``) and bare FPM records, one a line, plain or gzip. A Dynamo trace is sampled
by default: its rows are some of the steps, not all.

``timing_scope`` says what ``wall_time`` spans. Records without it come from older versions, whose
clock ran from scheduling to the update from the output: a cycle.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bayeslat.errors import InputError
from bayeslat.observations.base import RawSteps, ReadOptions, RejectedLine
from bayeslat.observations.columns import fill_deployment, phases, require_columns, scaled
from bayeslat.observations.json_lines import MAX_TEXT_KEPT, json_objects, no_json_line

__all__ = ["FpmReader", "described"]

SCOPES = {"execute_model_cuda": "gpu_forward", "": "cycle"}
"""Scope as a record names it to ours; a name that is not here becomes "unknown"."""

_COUNTS = ("num_prefill_requests", "num_decode_requests", "sum_prefill_tokens")
_CONTEXT = ("sum_prefill_kv_tokens", "sum_decode_kv_tokens")
_COLUMNS = (*_COUNTS, "context_tokens", "wall_time", "timestamp", "gpu", "model")


@dataclass(frozen=True)
class FpmReader:
    """Forward-pass metrics, in a Dynamo trace or bare."""

    name: str = "fpm"
    suffixes: tuple[str, ...] = (".jsonl",)

    def sniff(self, path: Path, head: bytes) -> bool:
        """By the two names that every record has."""
        return b'"scheduled_requests"' in head and b'"wall_time"' in head

    def read(self, path: Path, options: ReadOptions) -> RawSteps:
        """Read every record; idle heartbeats are dropped and counted.

        Raises
        ------
        InputError
            The records span different things, or none is a forward-pass record.
        """
        rows: list[tuple[Any, ...]] = []
        lines: list[int] = []
        rejected: list[RejectedLine] = []
        dropped: Counter[str] = Counter()
        scopes: set[str] = set()
        for number, record in json_objects(path, rejected):
            source, fpm, timestamp = _unwrapped(record)
            values = _values(fpm)
            if values is None:
                text = str(record)[:MAX_TEXT_KEPT]
                rejected.append(RejectedLine("not a forward-pass record", number, text))
            elif idle := _idle(values):
                dropped[idle] += 1
            else:
                scopes.add(str(fpm.get("timing_scope") or ""))
                rows.append((*values, timestamp, source.get("gpu"), source.get("model")))
                lines.append(number)
        if not (rows or dropped):
            raise no_json_line(path, rejected, expected="one forward-pass record a line")
        return RawSteps(
            frame=_frame(rows, options, path),
            row_numbers=np.array(lines, dtype=np.int64),
            rejected=tuple(rejected),
            dropped=dropped,
            timing_scope=_one_scope(scopes, path),
        )


def described(record: dict[str, Any]) -> tuple[Mapping[str, Any], str | None, str]:
    """What a single record says of itself, for who sees records one by one.

    Returns
    -------
    source
        Where it comes from; may hold "gpu" and "model".
    scope
        What its wall time spans, in its own words; None where it is no forward-pass record.
    idle
        Why it is no step, or nothing.
    """
    source, fpm, _ = _unwrapped(record)
    values = _values(fpm)
    if values is None:
        return source, None, ""
    return source, str(fpm.get("timing_scope") or ""), _idle(values)


def _unwrapped(record: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], float]:
    """Source, forward-pass record and time in seconds, of an envelope or a bare record."""
    event = record.get("event")
    if not isinstance(event, dict):
        return {}, record, math.nan
    fpm, source = event.get("fpm"), event.get("source")
    observed = event.get("observed_at_unix_ms", record.get("timestamp"))
    seconds = observed / 1e3 if isinstance(observed, int | float) else math.nan
    return (
        source if isinstance(source, dict) else {},
        fpm if isinstance(fpm, dict) else {},
        seconds,
    )


def _values(fpm: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Take counts, context tokens and wall time; None where one is not there."""
    scheduled = fpm.get("scheduled_requests")
    if not isinstance(scheduled, dict) or "wall_time" not in fpm:
        return None
    counts = tuple(scheduled.get(name) for name in _COUNTS)
    context = [scheduled.get(name, math.nan) for name in _CONTEXT]
    if not all(isinstance(value, int | float) for value in (*counts, *context)):
        return None
    return *counts, sum(context), fpm["wall_time"]


def _idle(values: tuple[Any, ...]) -> str:
    """Why a record is no step, or nothing."""
    if values[-1] == 0:
        return "idle heartbeat"
    return "step without requests" if values[0] + values[1] == 0 else ""


def _frame(rows: list[tuple[Any, ...]], options: ReadOptions, path: Path) -> pd.DataFrame:
    raw = pd.DataFrame(rows, columns=pd.Index(_COLUMNS))
    n_prefill = raw["num_prefill_requests"].to_numpy(dtype=np.float64)
    n_decode = raw["num_decode_requests"].to_numpy(dtype=np.float64)
    # A wall time that is no number stays as it is, for the quarantine to name it.
    wall_time = scaled(raw["wall_time"], 1e3)
    frame = pd.DataFrame(
        {
            "batch_size": n_prefill + n_decode,
            "total_tokens": raw["sum_prefill_tokens"].to_numpy(dtype=np.float64) + n_decode,
            "context_tokens": raw["context_tokens"],
            "latency_ms": wall_time,
            "phase": phases(n_prefill, n_decode),
            "timestamp": raw["timestamp"],
        }
    )
    stated = {name: raw[name] for name in ("gpu", "model") if raw[name].notna().any()}
    frame = fill_deployment(frame.assign(**stated), options, source=path.name)
    require_columns(frame.columns, source=str(path), all_names=frame.columns)
    return frame


def _one_scope(scopes: set[str], path: Path) -> str:
    if len(scopes) > 1:
        named = sorted(scope or "not stated" for scope in scopes)
        raise InputError(
            f"got timing scopes {named} in {path}, expected one: their latencies are different "
            "quantities; split the file by timing_scope"
        )
    return SCOPES.get(next(iter(scopes), "unknown"), "unknown")
