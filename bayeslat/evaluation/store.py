"""Predictions on disk, one file a fold and contender, so that a backtest goes on where it stopped.

A file is used only for the very fold and version of the contender that it was made for.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bayeslat.evaluation.base import Array
from bayeslat.evaluation.splits import Fold
from bayeslat.observations.files import replacing

__all__ = ["Prediction", "Store"]


class Prediction(NamedTuple):
    """What a contender said of a fold.

    Attributes
    ----------
    quantiles
        Milliseconds, shape (row, level); empty where the contender failed.
    seconds
        How long fit and prediction took.
    max_rhat
        Largest R-hat of the draws behind them; NaN where there are none.
    failure
        Why there are none; empty where there are.
    """

    quantiles: Array
    seconds: float
    max_rhat: float = float("nan")
    failure: str = ""


@dataclass(frozen=True)
class Store:
    """Folder of predictions; made when the first one is written."""

    folder: Path

    def path(self, fold: Fold, contender: str) -> Path:
        """Where the prediction of a contender is or will be."""
        return self.folder / _plain(fold.split) / _plain(fold.label) / f"{_plain(contender)}.npz"

    def write(self, fold: Fold, contender: str, version: str, prediction: Prediction) -> None:
        """Keep a prediction, whole or not at all."""
        path = self.path(fold, contender)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = prediction._asdict() | {"fold": fold.fingerprint, "version": version}

        def save(target: Path) -> None:
            with target.open("wb") as stream:
                np.savez_compressed(stream, **content)

        replacing(path, save)

    def read(self, fold: Fold, contender: str, version: str) -> Prediction | None:
        """What was kept; None where there is nothing of this very fold and version."""
        path = self.path(fold, contender)
        if not path.is_file():
            return None
        with np.load(path) as kept:
            if (str(kept["fold"]), str(kept["version"])) != (fold.fingerprint, version):
                return None
            return Prediction(
                kept["quantiles"],
                float(kept["seconds"]),
                float(kept["max_rhat"]),
                str(kept["failure"]),
            )


def _plain(name: str) -> str:
    """A name as part of a path."""
    return re.sub(r"[^\w.@=%+-]+", "_", name)
