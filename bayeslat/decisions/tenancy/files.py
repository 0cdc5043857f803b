"""Tenants from a file: a CSV table or a JSON list, one tenant a row."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Final

import pandas as pd

from bayeslat.decisions.tenancy.tenants import Tenant, check_tenants
from bayeslat.errors import InputError

__all__ = ["read_tenants"]

COLUMNS: Final = tuple(field.name for field in fields(Tenant))
REQUIRED: Final = tuple(field.name for field in fields(Tenant) if field.default is MISSING)
WHOLE: Final = tuple(field.name for field in fields(Tenant) if field.type in (int, "int"))


def read_tenants(path: str | Path) -> tuple[Tenant, ...]:
    """Tenants of a file.

    Parameters
    ----------
    path : str or Path
        A CSV table, or where the name ends in ``.json`` a list of objects, with the fields of
        `Tenant`: ``name``, ``tokens_per_request``, ``context_per_request`` and ``max_requests``,
        and if wanted the others. What is empty counts as not given.

    Raises
    ------
    InputError
        A file that is not there or cannot be read, without rows, with a field that no tenant has
        or without one that each needs, values that are no numbers, and what `Tenant` refuses.
    """
    path = Path(path)
    rows = _json_rows(path) if path.suffix.lower() == ".json" else _csv_rows(path)
    return check_tenants([_tenant(row, number) for number, row in enumerate(rows, start=1)])


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    try:
        table = pd.read_csv(path, dtype=str, skipinitialspace=True)
    except (OSError, ValueError) as fault:
        raise _unreadable(path, fault) from fault
    return [
        {str(key): value for key, value in row.items() if not pd.isna(value)}
        for row in table.to_dict("records")
    ]


def _json_rows(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as fault:
        raise _unreadable(path, fault) from fault
    if not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
        raise InputError(
            f"got {path} with other JSON than a list of objects, expected one object a tenant;"
            " see `bayeslat allocate --help`"
        )
    return [{key: value for key, value in row.items() if value is not None} for row in rows]


def _tenant(row: Mapping[str, Any], number: int) -> Tenant:
    """The tenant of a row."""
    strange = [name for name in row if name not in COLUMNS]
    lacking = [name for name in REQUIRED if name not in row]
    if strange or lacking:
        wrong = f"with {', '.join(strange)}" if strange else f"without {', '.join(lacking)}"
        raise InputError(
            f"got tenant {number} {wrong}, expected {', '.join(REQUIRED)} and at most"
            f" {', '.join(name for name in COLUMNS if name not in REQUIRED)}; correct the file"
        )
    values = {key: _number(row, key, number) for key in row if key != "name"}
    if isinstance(row["name"], list | dict):
        raise InputError(
            f"got {row['name']!r} as the name of tenant {number}, expected a text; correct the file"
        )
    return Tenant(str(row["name"]), **values)


def _number(row: Mapping[str, Any], key: str, number: int) -> Any:
    try:
        value = float(row[key])
        whole = value == int(value)
    except (TypeError, ValueError, OverflowError):
        whole, value = False, float("nan")
    if value != value or (key in WHOLE and not whole):
        kind = "a whole number" if key in WHOLE else "a number"
        raise InputError(
            f"got {key}={row[key]!r} of tenant {row.get('name', number)}, expected {kind}; correct"
            " the file"
        )
    return int(value) if key in WHOLE else value


def _unreadable(path: Path, fault: Exception) -> InputError:
    return InputError(
        f"got the tenants {path}, which cannot be read ({fault}), expected a CSV table or a JSON"
        " list; check the path"
    )
