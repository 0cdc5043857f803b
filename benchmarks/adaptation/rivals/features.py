"""Smooth features of a step, in which a law may depart from the posterior that was fitted."""

from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["Features", "log_steps"]

type Array = NDArray[np.float64]


def log_steps(steps: pd.DataFrame) -> Array:
    """Logarithms of B, S and 1 + C, and the share of tokens that prompts have; shape (row, 4)."""
    batch, tokens = (steps[name].to_numpy(dtype=float) for name in ("batch_size", "total_tokens"))
    context = np.nan_to_num(steps["context_tokens"].to_numpy(dtype=float))
    return np.column_stack([np.log(batch), np.log(tokens), np.log1p(context), 1 - batch / tokens])


@dataclass(frozen=True, eq=False)
class Features:
    """A constant and polynomials in standardised logarithms of a step.

    Attributes
    ----------
    centre, scale : array
        Of the logarithms, shape (4,).
    degree : int
        Highest degree.
    """

    centre: Array
    scale: Array
    degree: int = 1

    @classmethod
    def of(cls, steps: pd.DataFrame, degree: int = 1) -> Self:
        """Features standardised on some steps."""
        values = log_steps(steps)
        return cls(values.mean(axis=0), np.maximum(values.std(axis=0), 1e-3), degree)

    def __call__(self, steps: pd.DataFrame) -> Array:
        """Features of steps, shape (row, feature); the first is one."""
        # Steps far from all others would otherwise rule a polynomial.
        z = np.clip((log_steps(steps) - self.centre) / self.scale, -3.0, 3.0)
        columns = [np.ones(len(z))]
        for degree in range(1, self.degree + 1):
            for chosen in combinations_with_replacement(range(z.shape[1]), degree):
                columns.append(np.prod(z[:, chosen], axis=1))
        return np.column_stack(columns)
