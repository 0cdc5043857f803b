"""JSON lines: one object a line, where a line that is none costs one row and no more."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bayeslat.errors import InputError
from bayeslat.observations.base import RejectedLine
from bayeslat.observations.files import numbered_lines

__all__ = ["MAX_TEXT_KEPT", "json_objects", "no_json_line"]

MAX_TEXT_KEPT = 200
"""Characters of a rejected line that the quarantine shows."""


def json_objects(path: Path, rejected: list[RejectedLine]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of a file with their line numbers.

    Parameters
    ----------
    path
        Plain or gzip.
    rejected
        Lines that hold no JSON object are appended here; blank lines are no rows.
    """
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except UnicodeDecodeError:
            reason = "not UTF-8 text"
        except (json.JSONDecodeError, RecursionError):
            reason = "malformed JSON"
        else:
            if isinstance(record, dict):
                yield number, record
                continue
            reason = "not a JSON object"
        text = line[:MAX_TEXT_KEPT].decode("utf-8", errors="replace")
        rejected.append(RejectedLine(reason, number, text))


def no_json_line(path: Path, rejected: list[RejectedLine], *, expected: str) -> InputError:
    """Build the error for a file without one usable line."""
    first = f", the first in line {rejected[0].row}: {rejected[0].reason}" if rejected else ""
    return InputError(
        f"got no usable line in {path} ({len(rejected)} rejected{first}), "
        f"expected {expected}; check the file or name its format"
    )
