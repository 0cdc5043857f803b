"""The vLLM log with ``--enable-logging-iteration-details``: one line a step.

Prefix, process name and trailing fields vary by version; only the counts and the elapsed time are
relied upon. Iterations are numbered by data-parallel engine, and every engine's lines are steps of
the same deployment. The line prefix has no year, so that no timestamp is taken from it.

Source of the line: ``vllm/v1/engine/core.py`` of vLLM.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bayeslat.errors import InputError
from bayeslat.observations.base import RawSteps, ReadOptions, RejectedLine
from bayeslat.observations.columns import fill_deployment, phases, require_columns
from bayeslat.observations.files import inner_suffix, numbered_lines
from bayeslat.observations.json_lines import MAX_TEXT_KEPT

__all__ = ["VllmLogReader", "is_iteration"]

_LINE = re.compile(
    rb"Iteration\(\d+\):\s*"
    rb"(?P<n_prefill>\d+) context requests?,\s*(?P<prefill_tokens>\d+) context tokens?,\s*"
    rb"(?P<n_decode>\d+) generation requests?,\s*(?P<decode_tokens>\d+) generation tokens?\b"
    rb".*?\biteration elapsed time:\s*(?P<elapsed>\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)\s*ms\b"
)
_START = re.compile(rb"\bIteration\(\d+\):")
_CACHE_USAGE = re.compile(rb"KV cache usage:\s*(?P<percent>\d+(?:\.\d*)?)\s*%")


@dataclass(frozen=True)
class VllmLogReader:
    """Iteration lines within a vLLM log; every other line is passed over."""

    name: str = "vllm-log"
    suffixes: tuple[str, ...] = (".log",)

    def sniff(self, path: Path, head: bytes) -> bool:
        """By an iteration line, or by suffix: iterations may start late in a log."""
        return is_iteration(head) or inner_suffix(path) in self.suffixes

    def read(self, path: Path, options: ReadOptions) -> RawSteps:
        """Read the iteration lines; the caller names the GPU and the model."""
        rows: list[tuple[float, ...]] = []
        lines: list[int] = []
        rejected: list[RejectedLine] = []
        dropped: Counter[str] = Counter()
        for number, line in numbered_lines(path):
            if not is_iteration(line):
                continue
            match = _LINE.search(line)
            if match is None:
                text = line[:MAX_TEXT_KEPT].decode("utf-8", errors="replace")
                rejected.append(RejectedLine("unreadable iteration line", number, text))
            elif b"(dummy)" in line:
                dropped["dummy step"] += 1
            elif int(match["n_prefill"]) + int(match["n_decode"]) == 0:
                dropped["idle step"] += 1
            else:
                rows.append(_row(match, line, options.kv_capacity_tokens))
                lines.append(number)
        if not (rows or rejected or dropped):
            raise InputError(
                f"got no iteration line in {path}, expected lines like 'Iteration(515): ...'; "
                "start vLLM with --enable-logging-iteration-details, or name the format"
            )
        return RawSteps(
            frame=_frame(rows, options, path),
            row_numbers=np.array(lines, dtype=np.int64),
            rejected=tuple(rejected),
            dropped=dropped,
            timing_scope="cycle",
        )


def is_iteration(line: bytes) -> bool:
    """Whether a line is about a step, readable or not; all others are passed over."""
    return _START.search(line) is not None


def _row(match: re.Match[bytes], line: bytes, capacity: float | None) -> tuple[float, ...]:
    n_prefill, n_decode = int(match["n_prefill"]), int(match["n_decode"])
    tokens = int(match["prefill_tokens"]) + int(match["decode_tokens"])
    usage = _CACHE_USAGE.search(line, match.start())
    context = float("nan")
    if usage is not None and capacity is not None:
        context = capacity * float(usage["percent"]) / 100.0
    return n_prefill, n_decode, tokens, context, float(match["elapsed"])


def _frame(rows: list[tuple[float, ...]], options: ReadOptions, path: Path) -> pd.DataFrame:
    values = np.array(rows, dtype=np.float64).reshape(-1, 5)
    n_prefill, n_decode, tokens, context, elapsed = values.T
    frame = pd.DataFrame(
        {
            "batch_size": n_prefill + n_decode,
            "total_tokens": tokens,
            "context_tokens": context,
            "latency_ms": elapsed,
            "phase": phases(n_prefill, n_decode),
        }
    )
    frame = fill_deployment(frame, options, source=path.name)
    require_columns(frame.columns, source=str(path), all_names=frame.columns)
    return frame.assign(engine=frame["engine"] if "engine" in frame else "vllm")
