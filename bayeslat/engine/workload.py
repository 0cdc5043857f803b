"""Requests that arrive at an engine: when, with how long a prompt, and for how many tokens."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from bayeslat.errors import InputError

__all__ = ["Workload"]

type Array = NDArray[np.float64]
type Lengths = int | ArrayLike | Callable[[np.random.Generator, int], Any]
"""A number of tokens for all, an array to draw from, or a function of (generator, n)."""

TIME_COLUMNS: Final = {"arrival_ms": 1.0, "arrival_s": 1000.0}
"""Columns that say when a request arrived, with what makes milliseconds of them."""

LENGTH_COLUMNS: Final = {
    "prompt_tokens": ("prompt_tokens", "input_tokens"),
    "output_tokens": ("output_tokens",),
}
"""Columns of a trace that hold lengths, under the names they are known by."""


@dataclass(frozen=True, eq=False)
class Workload:
    """Requests in the order of their arrival.

    Parameters
    ----------
    arrival_ms : array, shape (request,)
        Milliseconds, ascending, not negative.
    prompt_tokens, output_tokens : integer arrays, shape (request,)
        At least one each.
    users : int
        0 where arrivals are given. Else a closed loop: so many users, each with one request at a
        time, take the requests in their order; arrivals but the first `users` are not looked at.
    think_ms : float
        In a closed loop the time between an answer and the user's next request.

    Raises
    ------
    InputError
        No request, arrays of different sizes, arrivals that descend, or lengths below one.
    """

    arrival_ms: NDArray[Any]
    prompt_tokens: NDArray[Any]
    output_tokens: NDArray[Any]
    users: int = 0
    think_ms: float = 0.0

    def __post_init__(self) -> None:
        arrival = np.atleast_1d(np.asarray(self.arrival_ms, dtype=float))
        if arrival.size == 0:
            raise InputError("got a workload without requests, expected at least one; add requests")
        if not (np.isfinite(arrival).all() and arrival[0] >= 0 and (np.diff(arrival) >= 0).all()):
            raise InputError(
                "got arrivals that are not finite, negative or not in order, expected ascending"
                " milliseconds from 0 on; sort the requests by arrival"
            )
        if not (
            self.users == int(self.users) and self.users >= 0 and 0.0 <= self.think_ms < np.inf
        ):
            raise InputError(
                f"got users={self.users} who think for {self.think_ms} ms, expected a whole number"
                " of users and at least 0 ms; 0 users are no closed loop"
            )
        object.__setattr__(self, "arrival_ms", arrival)
        for name in ("prompt_tokens", "output_tokens"):
            object.__setattr__(self, name, _tokens(name, getattr(self, name), arrival.size))

    @property
    def size(self) -> int:
        """Number of requests."""
        return self.arrival_ms.size

    @property
    def arrivals_per_s(self) -> float:
        """Mean rate of arrivals; infinite where all arrive at once."""
        span = self.arrival_ms[-1] - self.arrival_ms[0]
        return 1e3 * (self.size - 1) / span if span > 0 else np.inf

    @property
    def variability(self) -> float:
        """Squared coefficient of variation of the gaps between arrivals; 1 for a Poisson stream."""
        gaps = np.diff(self.arrival_ms)
        mean = gaps.mean() if gaps.size else 0.0
        return float(gaps.var() / mean**2) if mean > 0 else np.nan

    @classmethod
    def poisson(
        cls,
        arrivals_per_s: float,
        *,
        n: int,
        prompt_tokens: Lengths,
        output_tokens: Lengths,
        seed: int = 0,
    ) -> Self:
        """Poisson arrivals.

        Parameters
        ----------
        arrivals_per_s : float
            Mean rate.
        n : int
            Requests.
        prompt_tokens, output_tokens : int, array or callable
            The same for all; lengths to draw from, with replacement; or a function of a generator
            and n.
        seed : int
            Seed of everything random.

        Raises
        ------
        InputError
            A rate that is not positive, n below one, or lengths that are none.
        """
        return cls.bursty(
            arrivals_per_s,
            variability=1.0,
            n=n,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            seed=seed,
        )

    @classmethod
    def bursty(
        cls,
        arrivals_per_s: float,
        *,
        variability: float,
        n: int,
        prompt_tokens: Lengths,
        output_tokens: Lengths,
        seed: int = 0,
    ) -> Self:
        """Gamma-distributed gaps between arrivals; other arguments as in `poisson`.

        Parameters
        ----------
        variability : float
            Squared coefficient of variation of the gaps: 0 for a clock, 1 for a Poisson stream,
            more for bursts.
        """
        _check_rate(arrivals_per_s)
        if not (np.isfinite(variability) and variability >= 0.0):
            raise InputError(
                f"got variability={variability}, expected a finite number of at least 0; 1 is a"
                " Poisson stream"
            )
        if n != int(n) or n < 1:
            raise InputError(f"got n={n} requests, expected a whole number of at least 1")
        times, prompts, outputs = np.random.default_rng(seed).spawn(3)
        mean = 1e3 / arrivals_per_s
        if variability > 0.0:
            gaps = times.gamma(1.0 / variability, variability * mean, size=n)
        else:
            gaps = np.full(n, mean)
        return cls(
            np.cumsum(gaps),
            _lengths(prompt_tokens, prompts, n),
            _lengths(output_tokens, outputs, n),
        )

    @classmethod
    def closed_loop(
        cls,
        users: int,
        *,
        n: int,
        prompt_tokens: Lengths,
        output_tokens: Lengths,
        think_ms: float = 0.0,
        seed: int = 0,
    ) -> Self:
        """Users who each wait for their answer before they ask again; all begin at time zero.

        Parameters
        ----------
        users, n : int
            Users, and requests of all together.
        prompt_tokens, output_tokens, seed
            As in `poisson`.
        think_ms : float
            Time between an answer and the next request.

        Raises
        ------
        InputError
            Fewer users than one, or fewer requests than users.
        """
        if not 1 <= users <= n:
            raise InputError(f"got {users} users with {n} requests, expected 1 <= users <= n")
        prompts, outputs = np.random.default_rng(seed).spawn(2)
        lengths = _lengths(prompt_tokens, prompts, n), _lengths(output_tokens, outputs, n)
        return cls(np.zeros(n), *lengths, users, think_ms)

    @classmethod
    def from_trace(cls, trace: pd.DataFrame | str | Path) -> Self:
        """Recorded arrivals.

        Parameters
        ----------
        trace : DataFrame or path of a CSV file
            Columns ``arrival_s`` or ``arrival_ms``, ``prompt_tokens`` (or ``input_tokens``) and
            ``output_tokens``. The first arrival becomes time zero; rows are sorted by arrival.

        Raises
        ------
        InputError
            A file that is not there or no table, a column that is missing, no rows, or values that
            are no numbers.
        """
        table = trace if isinstance(trace, pd.DataFrame) else _read(Path(trace))
        if table.empty:
            raise InputError("got a trace without rows, expected at least one request")
        time = _first_column(table, tuple(TIME_COLUMNS))
        columns = [_first_column(table, names) for names in LENGTH_COLUMNS.values()]
        values = np.column_stack([_numbers(table, name) for name in (time, *columns)])
        values = values[np.argsort(values[:, 0], kind="stable")]
        arrival = (values[:, 0] - values[0, 0]) * TIME_COLUMNS[time]
        return cls(arrival, values[:, 1], values[:, 2])

    def at_rate(self, arrivals_per_s: float) -> Self:
        """The same requests with their arrivals stretched to another mean rate.

        Raises
        ------
        InputError
            A rate that is not positive, or requests that all arrive at once.
        """
        _check_rate(arrivals_per_s)
        if not np.isfinite(self.arrivals_per_s):
            raise InputError(
                "got requests that all arrive at once, expected a spread of arrivals to stretch;"
                " make the workload with Workload.poisson"
            )
        return replace(self, arrival_ms=self.arrival_ms * (self.arrivals_per_s / arrivals_per_s))

    def select(self, where: Any) -> Self:
        """The requests of a mask or of ascending indices."""
        return replace(
            self,
            arrival_ms=self.arrival_ms[where],
            prompt_tokens=self.prompt_tokens[where],
            output_tokens=self.output_tokens[where],
        )


def _check_rate(arrivals_per_s: float) -> None:
    if not (np.isfinite(arrivals_per_s) and arrivals_per_s > 0.0):
        raise InputError(
            f"got arrivals_per_s={arrivals_per_s}, expected a positive finite rate;"
            " correct the load"
        )


def _tokens(name: str, values: ArrayLike, n: int) -> NDArray[np.int64]:
    """Lengths as whole numbers, one a request."""
    array = np.asarray(values, dtype=float)
    if array.shape != (n,):
        raise InputError(
            f"got {name} of shape {array.shape}, expected one for each of {n} requests"
        )
    if not (np.isfinite(array) & (array >= 1.0) & (array == np.floor(array))).all():
        raise InputError(
            f"got {name} from {array.min():g}, expected whole numbers of at least 1; drop requests"
            " without tokens"
        )
    return array.astype(np.int64)


def _lengths(lengths: Lengths, rng: np.random.Generator, n: int) -> Array:
    if callable(lengths):
        return np.asarray(lengths(rng, n), dtype=float)
    given = np.atleast_1d(np.asarray(lengths, dtype=float))
    if given.size == 0:
        raise InputError("got no lengths, expected at least one number of tokens to draw from")
    return np.full(n, given[0]) if given.size == 1 else rng.choice(given, size=n)


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as fault:
        raise InputError(
            f"got the trace {path}, which cannot be read ({fault}), expected a CSV file with"
            " arrival_s, prompt_tokens and output_tokens; check the path"
        ) from fault


def _first_column(table: pd.DataFrame, names: tuple[str, ...]) -> str:
    for name in names:
        if name in table.columns:
            return name
    raise InputError(
        f"got a trace with columns {', '.join(map(str, table.columns))}, expected"
        f" {' or '.join(names)}; rename the column"
    )


def _numbers(table: pd.DataFrame, name: str) -> Array:
    values = pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=float)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise InputError(
            f"got '{table[name].iloc[bad[0]]}' as {name} in row {bad[0] + 1} of the trace, expected"
            f" a number; correct or remove the {bad.size} such rows"
        )
    return values
