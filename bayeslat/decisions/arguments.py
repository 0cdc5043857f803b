"""Checks of arguments that the modules of this package share."""

import math
from typing import Any

import numpy as np

from bayeslat.errors import InputError

__all__ = ["check_count", "check_not_negative"]


def check_count(name: str, value: Any, *, at_least: int) -> int:
    """A whole number of at least `at_least`; raises `InputError` otherwise."""
    if not (_is_whole(value) and value >= at_least):
        raise InputError(
            f"got {name}={value!r}, expected a whole number of at least {at_least};"
            " correct the question"
        )
    return int(value)


def _is_whole(value: Any) -> bool:
    """Whether a value is one whole number, however large."""
    try:
        return np.ndim(value) == 0 and math.isfinite(value) and value == int(value)
    except (TypeError, ValueError, OverflowError):
        return False


def check_not_negative(name: str, value: float) -> float:
    """A finite number of at least zero; raises `InputError` otherwise."""
    if not (np.ndim(value) == 0 and 0.0 <= value < np.inf):
        raise InputError(
            f"got {name}={value!r}, expected a finite number of at least 0; correct the question"
        )
    return float(value)
