"""Alpha-fair utilities of the service of tenants: from throughput to max-min fairness.

Service x_i of tenant i is its tokens in the step, and its normalised service x_i / w_i. With

    U_a(u) = u^(1 - a) / (1 - a)   (a != 1),    U_1(u) = log u

an allocation is alpha-fair where it maximises sum_i w_i U_a(x_i / w_i) (Mo and Walrand, 2000):
a = 0 maximises tokens, a = 1 is proportionally fair with weights w_i, and a large a maximises the
least x_i / w_i. For a >= 1 a tenant without service has utility minus infinity; allocations are
then compared by how many tenants go without, and among equals by the utility of the others.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bayeslat.errors import InputError

__all__ = ["check_alpha", "utility_tables"]

type Array = NDArray[np.float64]

MAX_ALPHA: Final = 32.0
"""Beyond it even utilities of like tenants differ by less than numbers resolve."""


def utility_tables(
    tokens: Sequence[int],
    weights: Sequence[float],
    requests: Sequence[int],
    alpha: float,
    counted: Sequence[bool] | NDArray[np.bool_] | None = None,
) -> list[Array]:
    """Utility of every number of requests of each tenant.

    Parameters
    ----------
    tokens : sequence of int
        Tokens of one request of each tenant.
    weights : sequence of float
        w_i.
    requests : sequence of int
        Most requests of each tenant.
    alpha : float
        Of the utility.
    counted : sequence of bool, optional
        Tenants whose utility counts; that of others is zero whatever they have.

    Returns
    -------
    list of array, shape (1 + requests of the tenant,)
        w_i U_a(k tokens_i / w_i) for k = 0, 1, ..., up to a positive factor that all tenants share
        (and for a = 1 up to a constant). For a >= 1 the entry at zero is so low that no service of
        others outweighs it.

    Raises
    ------
    InputError
        For an alpha that is out of its range.
    """
    check_alpha(alpha)
    counts = [True] * len(tokens) if counted is None else list(counted)
    each = list(zip(tokens, weights, requests, counts, strict=True))
    least = min(s / w for s, w, _, counting in each if counting)
    tables: list[Array] = []
    for s, w, n, counting in each:
        if not counting:
            tables.append(np.zeros(n + 1))
            continue
        # In units of the least normalised service of one request no power overflows.
        own = np.arange(n + 1) * (s / w / least)
        with np.errstate(divide="ignore"):
            utility = np.log(own) if alpha == 1.0 else own ** (1.0 - alpha) / (1.0 - alpha)
        tables.append(np.asarray(w * utility, dtype=float))
    if alpha >= 1.0:
        largest = np.abs(np.concatenate([table[1:] for table in tables])).max(initial=1.0)
        for table in (one for one, counting in zip(tables, counts, strict=True) if counting):
            table[0] = -4.0 * (len(tables) + 1) * largest
    return tables


def check_alpha(alpha: float) -> None:
    """Raise `InputError` unless alpha is between zero and `MAX_ALPHA`."""
    if not 0.0 <= alpha <= MAX_ALPHA:
        raise InputError(
            f"got alpha={alpha!r}, expected a number from 0 (throughput) over 1 (proportional"
            f" fairness) to {MAX_ALPHA:g} (nearly max-min); choose one"
        )
