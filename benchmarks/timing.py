"""Seconds of calls in this process."""

from collections.abc import Callable
from time import perf_counter

__all__ = ["once", "repeated"]


def once(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = perf_counter()
    call()
    return perf_counter() - start


def repeated(call: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of every one of some calls."""
    return [once(call) for _ in range(repeats)]
