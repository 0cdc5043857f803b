"""Rows of one deployment beside what was predicted of each before it was seen."""

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Scores"]

type Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scores:
    """Rows of one deployment in the order of their arrival; every field has shape (row,).

    Parameters
    ----------
    latency_ms : array
        What was measured.
    predicted_ms : array
        The predictive's centre: the geometric mean of the draws' locations.
    pit : array
        P(T <= measured), uniform on (0, 1) where the predictive is right.
    p_slower, p_faster : array
        P(T >= measured / (1 + tolerance)) and P(T <= measured (1 + tolerance)): p-values of
        "slower" and "faster" that stay valid for a predictive that is wrong by the tolerance.
    log_score : array
        Log predictive density of the measured latency, 1/ms.
    stratum : array of int
        Load level of the row: rows of one stratum are steps of similar size.
    """

    latency_ms: Array
    predicted_ms: Array
    pit: Array
    p_slower: Array
    p_faster: Array
    log_score: Array
    stratum: NDArray[np.int64]

    def __len__(self) -> int:
        return self.pit.size

    @property
    def log_error(self) -> Array:
        """log(measured / predicted): 0.1 is about ten per cent slower than predicted."""
        return np.log(self.latency_ms / self.predicted_ms)

    def __getitem__(self, where: Any) -> Self:
        return type(self)(**{item.name: getattr(self, item.name)[where] for item in fields(self)})
