"""Candidate steps: which steps could be measured, as a grid within bounds or from a file."""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from bayeslat.decisions.arguments import check_count
from bayeslat.errors import InputError
from bayeslat.predictive.draws import Points

__all__ = ["candidate_steps", "checked_points", "read_candidates"]

MOST: Final = 2.0**40
"""Tokens and positions beyond which a step is no step."""

PROMPTS: Final = (1, 2, 4, 8)
"""Prompts of a prefill step, as in the grid of `bayeslat.profiling`."""

SHORTEST_PROMPT: Final = 16
PROMPT_FACTOR: Final = 1.6
SHORTEST_CHUNK: Final = 40
CHUNK_FACTOR: Final = 2.56
"""From one chunk to the next: as from a prompt to the next but one."""

REQUIRED: Final = ("batch_size", "total_tokens")


def checked_points(
    batch_size: ArrayLike,
    total_tokens: ArrayLike,
    context_tokens: ArrayLike,
    n_averaged: ArrayLike = 1.0,
) -> Points:
    """Steps as flat `Points`, broadcast against each other.

    Parameters
    ----------
    batch_size, total_tokens, context_tokens, n_averaged : array
        B, S and C of the steps, and of how many each measurement is the mean.

    Raises
    ------
    InputError
        If B or S is no whole number, B < 1, S < B, C < 0 or n_averaged < 1, if a number is not
        finite or beyond what an engine holds, or without steps.
    """
    arrays = (batch_size, total_tokens, context_tokens, n_averaged)
    together = np.broadcast_arrays(*(np.asarray(values, dtype=float) for values in arrays))
    b, s, c, n = (np.array(values).ravel() for values in together)
    if b.size == 0:
        raise InputError("got no candidate steps, expected at least one; add steps")
    possible = (b >= 1.0) & (s >= b) & (s <= MOST) & (c >= 0.0) & (c <= MOST) & (n >= 1.0)
    possible &= (b == np.floor(b)) & (s == np.floor(s)) & np.isfinite(n)
    if not possible.all():
        first = int(np.argmin(possible))
        raise InputError(
            f"got the step B = {b[first]:g}, S = {s[first]:g}, C = {c[first]:g}, mean of"
            f" {n[first]:g}, expected whole S >= B >= 1, C >= 0, none beyond {MOST:g}, and a mean"
            " of one or more steps; correct it"
        )
    return Points(b, s, c, n)


def candidate_steps(
    *,
    max_batch_size: int = 64,
    max_total_tokens: int = 4_096,
    max_context_tokens: float = np.inf,
    lengths: tuple[int, ...] = (128, 1_024),
) -> Points:
    """Decode, prefill and mixed steps within bounds: what a profile of an engine could measure.

    Decode steps have 1, 2, 4, ... requests, prefills 1, 2, 4 or 8 prompts of 16, 26, 41, ...
    tokens, mixed steps 4, 16, 64, ... decoding requests beside a chunk of 40, 102, 262, ... tokens
    of one prompt. Token counts are no powers of two on purpose: kernels compute in tiles, of which
    such counts waste nothing, so that they are faster than their neighbours. The context is that of
    requests of these lengths, own tokens included.

    Parameters
    ----------
    max_batch_size, max_total_tokens : int
        Largest B and S.
    max_context_tokens : float
        Largest C, for example what the KV memory holds.
    lengths : tuple of int
        Positions of each decoding request.

    Raises
    ------
    InputError
        If a bound or a length is no whole number of at least one, if there is no length, or no step
        within the bounds.
    """
    most = check_count("max_batch_size", max_batch_size, at_least=1)
    tokens = check_count("max_total_tokens", max_total_tokens, at_least=1)
    if not lengths:
        raise InputError("got no lengths of requests, expected at least one; add one")
    positions = [check_count("lengths", length, at_least=1) for length in lengths]
    rows = [
        (batch, batch, batch * length)
        for length in positions
        for batch in _powers(1, min(most, tokens), 2)
    ]
    rows += [
        (prompts, prompts * length, prompts * length)
        for prompts in PROMPTS
        for length in _powers(SHORTEST_PROMPT, tokens // prompts, PROMPT_FACTOR)
        if prompts <= most
    ]
    rows += [
        (running + 1, running + chunk, running * length + chunk)
        for length in positions
        for running in _powers(4, most - 1, 4)
        for chunk in _powers(SHORTEST_CHUNK, tokens - running, CHUNK_FACTOR)
    ]
    held = [row for row in dict.fromkeys(rows) if row[2] <= max_context_tokens]
    return checked_points(*np.array(held, dtype=float).reshape(-1, 3).T)


def read_candidates(path: str | Path, *, context_per_request: float) -> Points:
    """Steps that could be measured, from a CSV file with the columns of a steps table.

    Parameters
    ----------
    path : str or Path
        Columns ``batch_size`` and ``total_tokens``; ``context_tokens`` and ``n_averaged`` where
        they are there, others are not looked at.
    context_per_request : float
        Positions of each request where the context is not told; at least the step's own tokens.

    Raises
    ------
    InputError
        If the file cannot be read, lacks a column, or holds an impossible step.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as fault:
        raise InputError(
            f"got the steps {path}, which cannot be read ({fault}), expected a CSV file with"
            f" {' and '.join(REQUIRED)}; check the path"
        ) from fault
    lacking = [name for name in REQUIRED if name not in table]
    if lacking:
        raise InputError(
            f"got steps with columns {', '.join(map(str, table.columns))}, expected"
            f" {' and '.join(REQUIRED)}; rename the columns"
        )
    batch, tokens = (_numbers(table, name) for name in REQUIRED)
    context = np.maximum(context_per_request * batch, tokens)
    if "context_tokens" in table:
        told = _numbers(table, "context_tokens")
        context = np.where(np.isnan(told), context, told)
    averaged = _numbers(table, "n_averaged") if "n_averaged" in table else 1.0
    return checked_points(batch, tokens, context, averaged)


def _numbers(table: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """A column as numbers, NaN where nothing is."""
    numbers = pd.to_numeric(table[name], errors="coerce")
    wrong = np.flatnonzero(numbers.isna() & table[name].notna())
    if wrong.size:
        raise InputError(
            f"got {table[name].iloc[wrong[0]]!r} as {name} in row {wrong[0] + 1} of the steps,"
            f" expected a number; correct or remove the {wrong.size} such rows"
        )
    return numbers.to_numpy(dtype=float)


def _powers(first: int, last: int, factor: float) -> list[int]:
    """first, first * factor, ... up to last, in whole numbers."""
    found: list[int] = []
    while (value := round(first * factor ** len(found))) <= last:
        found.append(value)
    return found
