"""Event simulation of one station, first come first served, compiled.

Arrivals and service times come in as arrays, so that a simulation is a function of them, anything
can be fed in (recorded arrivals, predictive draws), and two policies can be compared on the same
numbers. The compiled loops release the interpreter lock: run posterior draws in threads.

With a finite `cut` a request that has waited for so long leaves for a fallback: one server of its
own queue, first come first served, with service times `fallback_services`. A request whose turn
comes exactly then is still served by the station.
"""

from typing import Any, Literal, NamedTuple

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslat.errors import InputError
from bayeslat.queueing.arguments import nonnegative, positive, whole

__all__ = ["Events", "poisson_arrivals", "simulate_bulk", "simulate_servers"]

type Array = NDArray[np.float64]


class Events(NamedTuple):
    """What happened to each request, arrays of shape (n,) in the order of arrival.

    A request that the last batch left waiting for ever has infinite times and batch size zero.
    """

    wait: Array
    """From arrival to the start of service, at whichever server that was."""

    start: Array
    """Start of service."""

    finish: Array
    """End of service."""

    batch_size: NDArray[np.int64]
    """Requests in the batch; one at a station without batches and at the fallback."""

    overflowed: NDArray[np.bool_]
    """Whether the fallback served it."""


def poisson_arrivals(rate: float, n: int, rng: np.random.Generator) -> Array:
    """Times of the first n arrivals of a Poisson process, ascending.

    Raises
    ------
    InputError
        If the rate is not positive or `n` is not a whole number from one on.
    """
    mean_gap = 1.0 / float(positive("rate", rate))
    return np.cumsum(rng.exponential(mean_gap, int(whole("n", n))))


def simulate_servers(
    arrivals: ArrayLike,
    services: ArrayLike,
    *,
    servers: int = 1,
    cut: float = np.inf,
    fallback_services: ArrayLike | None = None,
) -> Events:
    """Simulate c servers that each serve one request at a time.

    Parameters
    ----------
    arrivals : array, shape (n,)
        Times of arrival, ascending.
    services : array, shape (n,)
        Service time of each request, should the station serve it.
    servers : int
        Servers c.
    cut : float
        Wait after which a request leaves for the fallback; never, if infinite.
    fallback_services : array, shape (n,), optional
        Service time of each request, should it overflow; needed with a finite cut.

    Raises
    ------
    InputError
        If an argument is out of its range or shapes disagree.
    """
    times, patience, slow = _check(arrivals, cut, fallback_services)
    work = _same_length("services", services, times)
    count = int(whole("servers", servers))
    start, finish, overflowed = _run_servers(times, work, count, patience)
    _run_fallback(times, slow, patience, start, finish, overflowed)
    return Events(start - times, start, finish, np.ones(times.size, np.int64), overflowed)


def simulate_bulk(
    arrivals: ArrayLike,
    service_times: ArrayLike,
    *,
    min_batch: int = 1,
    max_wait: float = np.inf,
    timer: Literal["free", "oldest"] = "free",
    rng: np.random.Generator | None = None,
    cut: float = np.inf,
    fallback_services: ArrayLike | None = None,
) -> Events:
    """Simulate one server that serves batches, under the policy of `bayeslat.queueing.bulk`.

    Parameters
    ----------
    arrivals : array, shape (n,)
        Times of arrival, ascending.
    service_times : array, shape (max_batch,) or (max_batch, atom)
        Service time of a batch of 1, 2, ..., max_batch; with several atoms, one is picked for
        each batch, all equally probable.
    min_batch : int
        Requests that a free server waits for.
    max_wait : float
        Time after which it starts with fewer.
    timer : {"free", "oldest"}
        Whether `max_wait` counts from when the server is free and a request waits, or from the
        arrival of the oldest waiting request. Where requests overflow while a batch is forming,
        "free" keeps its start as long as one is left, "oldest" goes on to the next oldest.
    rng : numpy.random.Generator, optional
        Picks the atoms; needed where there are several.
    cut, fallback_services
        As in `simulate_servers`.

    Raises
    ------
    InputError
        If an argument is out of its range or shapes disagree.
    """
    times, patience, slow = _check(arrivals, cut, fallback_services)
    table = positive("service_times", service_times)
    table = np.ascontiguousarray(table.reshape(len(table), -1)) if table.ndim in (1, 2) else table
    least = int(whole("min_batch", min_batch))
    longest = float(nonnegative("max_wait", max_wait, infinite=True))
    if table.ndim != 2 or least > len(table):
        raise InputError(
            f"got service_times of shape {table.shape} with min_batch={least}, expected"
            " (max_batch,) or (max_batch, atom) with max_batch >= min_batch; give a row for each"
            " batch size"
        )
    if timer not in ("free", "oldest"):
        raise InputError(f"got timer={timer!r}, expected 'free' or 'oldest'; choose one of them")
    picks = _picks(rng, times.size, table.shape[1])
    start, finish, sizes, overflowed = _run_bulk(
        times, table, picks, least, longest, timer == "oldest", patience
    )
    _run_fallback(times, slow, patience, start, finish, overflowed)
    return Events(start - times, start, finish, sizes, overflowed)


def _check(
    arrivals: ArrayLike, cut: float, fallback_services: ArrayLike | None
) -> tuple[Array, float, Array]:
    """Arrival times, the cut, and service times at the fallback (zeros where there is none)."""
    times = np.ascontiguousarray(arrivals, dtype=float)
    if times.ndim != 1 or times.size == 0 or not np.isfinite(times).all():
        raise InputError(
            f"got arrivals of shape {times.shape}, expected finite times of shape (n,), n >= 1;"
            " give one time for each request"
        )
    if (np.diff(times) < 0.0).any():
        raise InputError("got arrivals that go back in time, expected ascending times; sort them")
    patience = float(nonnegative("cut", cut, infinite=True))
    if np.isinf(patience):
        return times, patience, np.zeros_like(times)
    if fallback_services is None:
        raise InputError(
            f"got cut={patience:g} without fallback_services, expected both; give the service time"
            " of each request at the fallback"
        )
    return times, patience, _same_length("fallback_services", fallback_services, times)


def _same_length(name: str, value: ArrayLike, times: Array) -> Array:
    array = np.ascontiguousarray(nonnegative(name, value))
    if array.shape != times.shape:
        raise InputError(
            f"got {name} of shape {array.shape}, expected {times.shape} as arrivals;"
            " give one for each request"
        )
    return array


def _picks(rng: np.random.Generator | None, n: int, atoms: int) -> NDArray[np.int64]:
    """Which atom the batch takes that starts with request i."""
    if atoms == 1:
        return np.zeros(n, np.int64)
    if rng is None:
        raise InputError(
            f"got {atoms} atoms of service time and no rng, expected a generator that picks one"
            " for each batch; pass numpy.random.default_rng(seed)"
        )
    return rng.integers(atoms, size=n)


@numba.njit(cache=True, nogil=True)
def _sift(free: Any, value: float) -> None:
    """Replace the least element of a heap."""
    place, size = 0, free.size
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and free[child + 1] < free[child]:
            child += 1
        if free[child] >= value:
            break
        free[place] = free[child]
        place = child
    free[place] = value


@numba.njit(cache=True, nogil=True)
def _run_servers(arrivals: Any, services: Any, servers: int, cut: float) -> Any:
    """Start, finish and overflow; `free` is a heap of the times at which servers are free."""
    n = arrivals.size
    start, finish = np.full(n, np.inf), np.full(n, np.inf)
    overflowed = np.zeros(n, np.bool_)
    free = np.full(servers, -np.inf)
    for i in range(n):
        begin = max(arrivals[i], free[0])
        if begin > arrivals[i] + cut:
            overflowed[i] = True
            continue
        start[i], finish[i] = begin, begin + services[i]
        _sift(free, finish[i])
    return start, finish, overflowed


@numba.njit(cache=True, nogil=True)
def _run_fallback(
    arrivals: Any, services: Any, cut: float, start: Any, finish: Any, overflowed: Any
) -> None:
    """Serve those that overflowed; they arrive here in the order in which they arrived there."""
    free = -np.inf
    for i in range(arrivals.size):
        if overflowed[i]:
            start[i] = max(arrivals[i] + cut, free)
            free = start[i] + services[i]
            finish[i] = free


@numba.njit(cache=True, nogil=True)
def _next_batch(
    arrivals: Any,
    head: int,
    free: float,
    min_batch: int,
    max_wait: float,
    oldest: bool,
    cut: float,
    overflowed: Any,
) -> Any:
    """When the next batch starts and with which request; moves on over those that overflow."""
    n, now, since = arrivals.size, free, np.nan
    while head < n:
        leaves = arrivals[head] + cut
        if leaves < now:
            overflowed[head] = True
            head += 1
            continue
        if arrivals[head] > now:
            now = since = arrivals[head]
        elif np.isnan(since):
            since = now
        last = head + min_batch - 1
        full = arrivals[last] if last < n else np.inf
        expires = (arrivals[head] if oldest else since) + max_wait
        start = max(now, min(full, expires))
        if start <= leaves:
            return start, head
        overflowed[head] = True
        head += 1
        now = leaves
    return np.inf, head


@numba.njit(cache=True, nogil=True)
def _run_bulk(
    arrivals: Any,
    table: Any,
    picks: Any,
    min_batch: int,
    max_wait: float,
    oldest: bool,
    cut: float,
) -> Any:
    n, max_batch = arrivals.size, table.shape[0]
    start, finish = np.full(n, np.inf), np.full(n, np.inf)
    sizes, overflowed = np.zeros(n, np.int64), np.zeros(n, np.bool_)
    head, free = 0, -np.inf
    while head < n:
        begin, head = _next_batch(
            arrivals, head, free, min_batch, max_wait, oldest, cut, overflowed
        )
        if begin == np.inf:
            break
        stop = head
        while stop < n and stop - head < max_batch and arrivals[stop] <= begin:
            stop += 1
        free = begin + table[stop - head - 1, picks[head]]
        start[head:stop], finish[head:stop], sizes[head:stop] = begin, free, stop - head
        head = stop
    sizes[overflowed] = 1
    return start, finish, sizes, overflowed
