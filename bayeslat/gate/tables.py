"""Largest contexts that fit, for all S at one B or all B at one S, ready to be searched.

T grows with C, so a step fits up to a largest C, in either regime. The largest S (or B) that fits
with a given C is then found by bisection in the running maximum from the far end, however latency
behaves in S and B.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["Column", "Row"]

type Contexts = NDArray[np.int64]


class _Falling:
    """The last place at which values reach a bound."""

    def __init__(self, values: Contexts) -> None:
        self._last = values.size - 1
        # Backwards the running maximum ascends, as the bisection needs it.
        self._ascending = np.maximum.accumulate(values[::-1]).astype(np.int32)

    def __call__(self, bound: int) -> int:
        return self._last - int(self._ascending.searchsorted(bound))


class Row:
    """What fits with B requests, by the number i = S - B of further tokens.

    Parameters
    ----------
    batch : int
        B.
    older, own : array of int, shape (S - B,)
        Largest C above S that fits, and largest C up to S; -1 where none does. Decode steps, in the
        first place, know no such difference.
    """

    def __init__(self, batch: int, older: Contexts, own: Contexts) -> None:
        tokens = batch + np.arange(older.size)
        self._batch, self._older = batch, older.astype(np.int32)
        self._last_older, self._last_own = _Falling(older), _Falling(own)
        # A context that grows with the tokens keeps its distance C - S; what never fits stays so.
        self._growing_older = _Falling(np.where(older < 0, NEVER, older - tokens))
        self._growing_own = _Falling(np.where(own < 0, NEVER, own - tokens))

    def last(self, context: int) -> int:
        """Largest i that fits with C positions; negative where none does."""
        own = self._last_own(context)
        # A step with C <= S has more tokens than any with C > S.
        return own if own > 0 else max(own, self._older_below(context))

    def _older_below(self, context: int) -> int:
        last = self._last_older(context)
        if last <= 0 or self._batch + last < context:
            return last
        fitting = np.flatnonzero(self._older[: max(context - self._batch, 1)] >= context)
        return int(fitting[-1]) if fitting.size else -1

    def last_growing(self, distance: int) -> int:
        """Largest i that fits with S + distance positions; negative where none does."""
        return self._growing_older(distance) if distance > 0 else self._growing_own(distance)


class Column:
    """What fits with S tokens, by the number B - 1.

    Parameters
    ----------
    tokens : int
        S.
    older, own : array of int, shape (min(S, largest B),)
        As in `Row`.
    """

    def __init__(self, tokens: int, older: Contexts, own: Contexts) -> None:
        self._tokens = tokens
        self._last_older, self._last_own = _Falling(older), _Falling(own)

    def last(self, context: int) -> int:
        """Largest B - 1 that fits with C positions; negative where none does."""
        return self._last_older(context) if context > self._tokens else self._last_own(context)


NEVER = -(2**31)
"""Less than any distance of a context from a token count."""
