"""Forecasts on disk, one file a task and contender, so that runs add up and tables can be redone.

A file is used only for the very task that it was made for: it carries a fingerprint of all rows.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from contest.splits import Task

__all__ = ["Kept", "Store", "fingerprint"]


def fingerprint(task: Task) -> str:
    """SHA-256 of everything that a task holds, in hexadecimal."""
    digest = hashlib.sha256(repr((task.split, task.name, task.k)).encode())
    for frame in (task.train, task.few, task.test):
        digest.update(frame_digest(frame))
    return digest.hexdigest()


def frame_digest(frame: pd.DataFrame) -> bytes:
    """Digest of a steps table, its order of rows included."""
    rows = pd.util.hash_pandas_object(frame, index=False).to_numpy()
    return hashlib.sha256(rows.tobytes()).digest()


class Kept(NamedTuple):
    """A forecast that was kept.

    Attributes
    ----------
    forecast
        Quantiles, shape (row, level).
    seconds
        How long it took.
    max_rhat
        Largest R-hat of the draws behind it; NaN where there are none.
    """

    forecast: NDArray[np.float64]
    seconds: float
    max_rhat: float


@dataclass(frozen=True)
class Store:
    """Folder of forecasts.

    Attributes
    ----------
    folder
        Made when the first forecast is written.
    """

    folder: Path

    def path(self, task: Task, contender: str) -> Path:
        """Where the forecast of a contender is or will be."""
        return self.folder / "forecasts" / task.split / plain(task.name) / f"{plain(contender)}.npz"

    def write(
        self,
        task: Task,
        contender: str,
        forecast: NDArray[np.float64],
        seconds: float,
        version: str = "",
        max_rhat: float = np.nan,
    ) -> None:
        """Keep a forecast, how long it took, and by which version of the contender it is.

        The largest R-hat is that of the draws behind it, NaN where there are none.
        """
        path = self.path(task, contender)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".draft.npz")
        values = forecast.astype(np.float32)
        np.savez_compressed(
            draft,
            forecast=values,
            seconds=seconds,
            task=fingerprint(task),
            version=version,
            max_rhat=max_rhat,
        )
        draft.replace(path)

    def read(self, task: Task, contender: str, version: str | None = None) -> Kept | None:
        """What was kept; None where there is nothing of this very task and version.

        Without a version that of any counts.
        """
        path = self.path(task, contender)
        if not path.is_file():
            return None
        with np.load(path) as kept:
            known = str(kept["version"])
            if str(kept["task"]) != fingerprint(task) or version not in (None, known):
                return None
            max_rhat = float(kept["max_rhat"]) if "max_rhat" in kept else np.nan
            return Kept(kept["forecast"].astype(float), float(kept["seconds"]), max_rhat)


def plain(name: str) -> str:
    """A name as part of a path."""
    return re.sub(r"[^\w.@=%+-]+", "_", name)
