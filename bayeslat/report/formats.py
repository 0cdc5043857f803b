"""Numbers as a page shows them: few digits, intervals in brackets, nothing that is only noise."""

import math
from typing import Final

from bayeslat.predictive import Estimate

__all__ = ["FILTERS", "number", "percent"]

LEAST_PERCENT: Final = 0.01
"""Smaller probabilities are shown as smaller than this: tails beyond it are the model's word."""


def number(value: float) -> str:
    """Three digits, whole numbers from 1,000 on."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞"
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")


def percent(share: float) -> str:
    """A share in percent, without the sign; what is not quite all or nothing is told from it."""
    value = 100.0 * share
    if value in (0.0, 100.0):
        return f"{value:.0f}"
    if 0.0 < value < LEAST_PERCENT:
        return f"< {LEAST_PERCENT:g}"
    if 99.9 < value < 100.0:
        return "> 99.9"
    return f"{value:.1f}" if abs(value) >= 1.0 else f"{value:.2f}"


def _bounds(estimate: Estimate) -> str:
    return f"[{number(estimate.lower)}, {number(estimate.upper)}]"


def _percent_bounds(estimate: Estimate) -> str:
    """Bounds in percent; nothing where both round to what stands in front of them."""
    shown = [percent(bound) for bound in estimate]
    return "" if shown[1] == shown[2] == shown[0] else f"[{shown[1]}, {shown[2]}]"


FILTERS: Final = {
    "number": number,
    "percent": percent,
    "bounds": _bounds,
    "percent_bounds": _percent_bounds,
}
"""What the templates call."""
