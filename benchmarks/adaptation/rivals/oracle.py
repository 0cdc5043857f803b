"""The refit that knows when a law changed, and has all rows that were ever measured since."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd

from adaptation.rivals.base import Forecast
from adaptation.rivals.features import Features
from adaptation.rivals.fixed import Fixed
from adaptation.rivals.refit import Shift, shift_of
from adaptation.streams import Stream, of_deployment
from bayeslat.schema import Deployment

__all__ = ["Oracle"]


@dataclass(frozen=True, eq=False)
class Oracle:
    """Refit of one deployment in hindsight: the yardstick of what a belief could have been.

    Where a law goes on moving, rows are brought to its state at the end of the stream by the true
    factor, and a forecast is brought back.

    Attributes
    ----------
    stream : Stream
        All of it.
    deployment : Deployment
        Which it is.
    base : Fixed
        What was believed before.
    shift : Shift
        Of the law at the end of the stream.
    """

    stream: Stream
    deployment: Deployment
    base: Fixed
    shift: Shift

    @classmethod
    def of(cls, stream: Stream, deployment: Deployment, base: Fixed, known: pd.DataFrame) -> Self:
        """Fit it to every row since the change, or to every row where the law stays."""
        rows = of_deployment(stream.steps, deployment)
        number = np.arange(len(rows))
        first = (stream.onset or 0) if deployment in stream.moved else 0
        rows, number = rows.iloc[first:], number[first:]
        factor = stream.world.factor(deployment, rows, number)
        believed = base.median(deployment, rows)
        log_ratio = np.log(rows["latency_ms"].to_numpy() / believed / factor)
        return cls(
            stream,
            deployment,
            base,
            shift_of(log_ratio, rows, Features.of(pd.concat([known, rows]), degree=2), np.zeros(0)),
        )

    def predict(self, steps: pd.DataFrame, seen: int) -> Forecast:
        """What it says of steps under the law after `seen` rows."""
        found = self.shift(self.base.median(self.deployment, steps), steps)
        return found.scaled(self.stream.world.factor(self.deployment, steps, seen))
