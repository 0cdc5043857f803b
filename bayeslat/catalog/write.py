"""Datasheets back into a TOML file that `load_catalog` reads."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bayeslat.catalog.entries import GPU, LLM

__all__ = ["write_datasheets"]


def write_datasheets(entries: Iterable[GPU | LLM], path: str | Path) -> None:
    """Write entries as tables ``[[gpu]]`` and ``[[llm]]``.

    Parameters
    ----------
    entries : iterable of GPU or LLM
        What to write; unknown values are left out.
    path : str or Path
        File to make or replace.
    """
    tables = [_table(entry) for entry in entries]
    Path(path).write_text("\n".join(tables), encoding="utf-8")


def _table(entry: GPU | LLM) -> str:
    heading = "gpu" if isinstance(entry, GPU) else "llm"
    lines = [f"{key} = {_value(value)}" for key, value in entry.to_dict().items()]
    return "\n".join([f"[[{heading}]]", *lines, ""])


def _value(value: Any) -> str:
    # Texts, numbers and lists of texts are written in TOML just as in JSON.
    return json.dumps(value, ensure_ascii=False)
