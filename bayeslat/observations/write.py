"""Observations back into files, whole or not at all."""

import gzip
import json
import os
from pathlib import Path
from typing import Literal

import pandas as pd

from bayeslat.errors import InputError
from bayeslat.observations.files import inner_suffix, replacing
from bayeslat.observations.table import Observations

__all__ = ["write_steps"]


def write_steps(steps: Observations | pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write a steps table; a reader sees the old file or the new one, never half of it.

    Parameters
    ----------
    steps
        Observations, or a table with the columns of `bayeslat.schema`.
    path
        Ends in ``.csv``, ``.jsonl`` (each also with ``.gz``) or ``.parquet``.

    Raises
    ------
    InputError
        The suffix is none of these, or the folder does not exist.
    """
    file = Path(path)
    frame = steps.to_frame() if isinstance(steps, Observations) else steps
    compression: Literal["gzip"] | None = "gzip" if file.suffix.lower() == ".gz" else None

    def write(target: Path) -> None:
        match inner_suffix(file):
            case ".csv":
                frame.to_csv(target, index=False, compression=compression)
            case ".jsonl":
                _write_json_lines(frame, target, gzipped=compression is not None)
            case ".parquet" if compression is None:
                frame.to_parquet(target, index=False)
            case _:
                raise InputError(
                    f"got {file.name}, expected a name that ends in .csv, .jsonl or .parquet; "
                    "rename the output"
                )

    replacing(file, write)


def _write_json_lines(frame: pd.DataFrame, target: Path, *, gzipped: bool) -> None:
    columns = [frame[name].astype(object).where(frame[name].notna(), None) for name in frame]
    with gzip.open(target, "wt") if gzipped else target.open("w", encoding="utf-8") as stream:
        # json writes a float so that it reads back as the same number; pandas cuts its digits.
        for values in zip(*columns, strict=True):
            record = dict(zip(frame.columns, values, strict=True))
            stream.write(json.dumps(record) + "\n")
