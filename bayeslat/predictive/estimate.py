"""A value with its credible interval."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslat.errors import InputError

__all__ = ["Estimate", "check_probability", "estimate"]


class Estimate(NamedTuple):
    """A posterior answer: the value and the bounds of its equal-tailed credible interval.

    Each field is a float or an array of the query's shape.
    """

    value: Any
    lower: Any
    upper: Any

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} [{self.lower:{spec}}, {self.upper:{spec}}]"


def estimate(value: ArrayLike, per_draw: NDArray[np.float64], credible: float) -> Estimate:
    """Summarise draws by their equal-tailed interval.

    Parameters
    ----------
    value : array, shape (...)
        The posterior answer itself.
    per_draw : array, shape (draw, ...)
        The same quantity in every draw.
    credible : float
        Mass of the interval, in (0, 1).

    Raises
    ------
    InputError
        If `credible` is not in (0, 1).
    """
    check_probability("credible", credible)
    tail = 0.5 * (1.0 - credible)
    lower, upper = np.quantile(per_draw, [tail, 1.0 - tail], axis=0)
    return Estimate(_scalar(value), _scalar(lower), _scalar(upper))


def check_probability(name: str, value: float) -> None:
    """Raise `InputError` unless the value lies strictly between zero and one."""
    if not 0.0 < value < 1.0:
        raise InputError(
            f"got {name}={value}, expected a probability strictly between 0 and 1;"
            " 0.01 means one in a hundred"
        )


def _scalar(value: ArrayLike) -> Any:
    """A float for a zero-dimensional array, the array itself otherwise."""
    array = np.asarray(value)
    return float(array) if array.ndim == 0 else array
