"""Regimes of an engine step: decode alone, long prefill, and what lies between."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from bayeslat.observations import Observations

__all__ = ["REGIMES", "regimes_of"]

REGIMES: Final = ("decode", "mixed", "long prefill")
LONG_PREFILL: Final = 512
"""Tokens a request from which on a step is a long prefill."""


def regimes_of(steps: Observations) -> NDArray[np.str_]:
    """Regime of every step, shape (row,).

    A step of as many tokens as requests decodes. One with at least 512 tokens a request computes
    long prompts. The others mix decodes with prompts, or compute short prompts.
    """
    decodes = steps.total_tokens <= steps.batch_size
    long = steps.total_tokens >= LONG_PREFILL * steps.batch_size
    return np.select([decodes, long], [REGIMES[0], REGIMES[2]], REGIMES[1])
