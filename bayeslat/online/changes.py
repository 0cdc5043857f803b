"""What may change about a deployment, and the prior of how far.

A change moves some of the terms that a step's latency is made of by a factor, common to the term at
every load. Kinds of change are named after what they move; "everything" moves all terms apart from
each other, their shapes, the noise and the discrepancy: another LLM behind the same name.
"""

from collections.abc import Collection
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bayeslat.online.vectors import Layout

__all__ = [
    "EVERYTHING",
    "FACTOR_SPREADS",
    "KINDS",
    "KIND_MEANINGS",
    "TERMS",
    "along",
    "moved_terms",
    "prior_of_change",
]

type Array = NDArray[np.float64]

TERMS: Final = {
    "compute": ("slope",),
    "floor": ("floor",),
    "requests": ("tau_B", "tau_B_prefill"),
    "context": ("tau_C",),
}
"""Terms of a step's latency, with the quantities whose logarithm a factor moves: the time per
token, of a step however small (weights, launches, host), per request, per attended position."""

EVERYTHING: Final = "everything"

KINDS: Final = {
    "speed": ("compute", "floor", "requests", "context"),
    "compute": ("compute",),
    "floor": ("floor",),
    "memory": ("floor", "context"),
    "requests": ("requests",),
    "context": ("context",),
}
"""Kinds of change by one factor, with the terms that it multiplies; "speed" is a clock."""

KIND_MEANINGS: Final = {
    "speed": "all of a step by one factor",
    "compute": "the time per token",
    "floor": "the time of a step however small",
    "memory": "floor and context by one factor",
    "requests": "the time per request",
    "context": "the time per attended position",
    EVERYTHING: "every term by a factor of its own",
}
"""Kinds in words."""

FACTOR_SPREADS: Final = (0.1, 0.5)
"""Standard deviations of the logarithm of a factor: drivers and clocks, and whole swaps; either is
as likely."""

SHAPE_SPREAD: Final = 0.3
"""Of everything that is no term: shapes of the formula, noise and its slopes."""

REDRAWN: Final = 2.0
"""Variance of the change of a discrepancy that is drawn anew, over its own."""


def moved_terms(kind: str) -> tuple[str, ...]:
    """Terms that a kind of change moves."""
    return tuple(TERMS) if kind == EVERYTHING else KINDS[kind]


def along(layout: Layout, terms: Collection[str]) -> Array:
    """The direction among the coordinates in which a factor common to terms moves them, (dim,)."""
    names = [name for term in terms for name in TERMS[term]]
    direction = np.zeros(layout.dim)
    direction[: len(layout.quantities)] = np.isin(layout.quantities, names)
    return direction


def prior_of_change(
    layout: Layout, kinds: Collection[str], *, discrepancy_variance: float
) -> Array:
    """Covariance of the changes that some kinds allow together, shape (dim, dim).

    The noise may change with any of them, or alone.

    Parameters
    ----------
    layout : Layout
        The coordinates.
    kinds : collection of str
        Kinds that may have happened, of `KINDS` or "everything".
    discrepancy_variance : float
        Prior variance of the discrepancy, 1 on the scale of log latency.
    """
    variance = max(FACTOR_SPREADS) ** 2
    covariance = np.zeros((layout.dim, layout.dim))
    covariance[layout.log_sigma, layout.log_sigma] = SHAPE_SPREAD**2
    if EVERYTHING in kinds:
        own = np.full(layout.dim, SHAPE_SPREAD**2)
        own[layout.loadings] = REDRAWN * discrepancy_variance
        covariance = np.diag(own)
    moved = [[term] for term in TERMS] if EVERYTHING in kinds else [KINDS[kind] for kind in kinds]
    for terms in moved:
        direction = along(layout, terms)
        covariance += variance * np.outer(direction, direction)
    return covariance
