"""The compiled loop of the engine simulator: one run of one workload, step by step.

The scheduler is that of vLLM's engine core (V1): a step has a budget of tokens; requests that run
are served first, in the order of their admission, then waiting ones are admitted while budget,
sequences and KV blocks last. A prompt that exceeds what is left of the budget is computed in
chunks. Where a running request finds no free block, the one admitted last is preempted: it loses
its cache, goes back to the head of the queue and recomputes what it had. With static batching a
batch is formed when the engine is empty and kept until its last request has ended; requests that
have ended go on taking a place in the step. With separate prefills a step computes either prompts
or further tokens: running requests pause while prompts are admitted.

Arrivals are given, or those of a closed loop: then every request that ends brings the next one,
after a time to think.

Arguments that the compiled functions share:

* `requests`, shape (N_COUNTS, request): tokens of prompt and output, those whose cache is computed
  and those generated so far;
* `queue`, shape (2, request): in its first row the requests that run, in the order of admission, in
  its second those that were preempted, the next one last;
* `new`, shape (request,): tokens that each place of the running ones computes in this step;
* `state`: the counters N_RUNNING to KNOWN, the last being the requests whose arrival is known;
* `limits`: the settings MAX_RUNNING to SEPARATE.

All of it is one module because numba's cache on disk does not notice changes of what a function
calls in another.
"""

from typing import Any, Final

import numba
import numpy as np

__all__ = [
    "ARRIVAL",
    "FINISH",
    "FIRST",
    "FIRST_GAP_MS",
    "GAPS_PER_E_FOLD",
    "N_GAPS",
    "N_TIMES",
    "N_TOTALS",
    "OVERFLOWED",
    "SCHEDULED",
    "TOTALS",
    "run_engine",
]

ARRIVAL, SCHEDULED, FIRST, FINISH, OVERFLOWED, N_TIMES = range(6)
"""Rows of the times of requests; OVERFLOWED is when a request left for the fallback."""

TOTALS: Final = (
    "n_steps",
    "busy_ms",
    "end_ms",
    "preemptions",
    "recomputed_tokens",
    "idle_slots",
    "kv_peak_blocks",
    "kv_block_ms",
    "running_ms",
)
"""What a run sums up; `kv_block_ms` and `running_ms` are integrals over time."""

(
    N_STEPS,
    BUSY,
    END,
    PREEMPTIONS,
    RECOMPUTED,
    IDLE_SLOTS,
    KV_PEAK,
    KV_INTEGRAL,
    RUNNING_INTEGRAL,
    N_TOTALS,
) = range(10)

PROMPT, OUTPUT, COMPUTED, GENERATED, N_COUNTS = range(5)
N_RUNNING, N_RETURNED, NEXT, ENDED, FREE, LEFT, PREEMPTED, KNOWN, N_STATE = range(9)
MAX_RUNNING, BUDGET, LARGEST_CHUNK, BLOCK, CAPACITY, STATIC, SEPARATE, N_LIMITS = range(8)
"""LARGEST_CHUNK is 0 where a prompt is computed in one step; CAPACITY counts blocks."""

FIRST_GAP_MS: Final = 0.01
GAPS_PER_E_FOLD: Final = 50.0
N_GAPS: Final = 1000
"""Cells of the histogram of gaps between tokens: 2 % wide, from 10 us on, the last one open."""

STUDENT_T, NORMAL, LOGNORMAL = range(3)

_compiled: Any = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})


@_compiled
def _between(table, row, column, weight_row, weight_column):
    """Bilinear interpolation from the cell (row, column)."""
    near = table[row, column] * (1.0 - weight_column) + table[row, column + 1] * weight_column
    far = table[row + 1, column] * (1.0 - weight_column) + table[row + 1, column + 1] * (
        weight_column
    )
    return near * (1.0 - weight_row) + far * weight_row


@_compiled
def _noise(family, nu, scale, rng):
    """Latency over its location."""
    if scale == 0.0:
        return 1.0
    if family == STUDENT_T and nu < np.inf:
        return max(1.0 + scale * rng.standard_t(nu), 0.0)
    if family == LOGNORMAL:
        return np.exp(scale * rng.standard_normal())
    return max(1.0 + scale * rng.standard_normal(), 0.0)


@_compiled
def _step_time(tables, rows, columns, family, nu, batch, tokens, positions, rng):
    """Milliseconds of a step with `batch` requests, `tokens` tokens and `positions` attended."""
    location, sigma = tables[0], tables[2]
    per_position = tables[1] if positions > tokens else tables[3]
    row, column = int(rows[0, batch]), int(columns[0, tokens - batch])
    weight_row, weight_column = rows[1, batch], columns[1, tokens - batch]
    middle = _between(location, row, column, weight_row, weight_column)
    middle += positions * _between(per_position, row, column, weight_row, weight_column)
    scale = _between(sigma, row, column, weight_row, weight_column)
    return middle * _noise(family, nu, scale, rng)


@_compiled
def _gap_cell(gap):
    """Cell of the histogram that a gap between two tokens falls into."""
    if gap <= FIRST_GAP_MS:
        return 0
    return min(int(np.log(gap / FIRST_GAP_MS) * GAPS_PER_E_FOLD) + 1, N_GAPS - 1)


@_compiled
def _blocks(tokens, block_size):
    """Blocks of KV cache that hold this many positions."""
    return (tokens + block_size - 1) // block_size


@_compiled
def _follow(arrival, state, think, now):
    """In a closed loop whoever has an answer asks again."""
    if state[KNOWN] < arrival.size:
        arrival[state[KNOWN]] = now + think
        state[KNOWN] += 1


@_compiled
def _preempt(requests, queue, limits, state, totals):
    """Send the request that was admitted last back to the head of the queue."""
    last = queue[0, state[N_RUNNING] - 1]
    state[FREE] += _blocks(requests[COMPUTED, last], limits[BLOCK])
    totals[PREEMPTIONS] += 1
    totals[RECOMPUTED] += requests[COMPUTED, last]
    requests[COMPUTED, last] = 0
    queue[1, state[N_RETURNED]] = last
    state[N_RETURNED] += 1
    state[N_RUNNING] -= 1
    state[PREEMPTED] = 1


@_compiled
def _wanted(requests, i, limits, left):
    """Tokens that a running request computes next."""
    if limits[STATIC] and requests[GENERATED, i] == requests[OUTPUT, i]:
        return min(1, left)  # it has ended and still takes its place
    rest = requests[PROMPT, i] + requests[GENERATED, i] - requests[COMPUTED, i]
    chunk = limits[LARGEST_CHUNK]
    return min(rest, left, chunk) if chunk > 0 else min(rest, left)


@_compiled
def _serve_running(requests, queue, new, limits, state, totals):
    """Tokens and blocks for the requests that run; the last ones give way where blocks end."""
    position = 0
    while position < state[N_RUNNING]:
        i = queue[0, position]
        wanted = _wanted(requests, i, limits, state[LEFT])
        needed = 0  # a static batch has reserved its blocks
        if not limits[STATIC]:
            have = _blocks(requests[COMPUTED, i], limits[BLOCK])
            needed = _blocks(requests[COMPUTED, i] + wanted, limits[BLOCK]) - have
        while needed > state[FREE] and state[N_RUNNING] > position:
            _preempt(requests, queue, limits, state, totals)
        if state[N_RUNNING] <= position:
            return
        state[FREE] -= needed
        new[position] = wanted
        state[LEFT] -= wanted
        position += 1


@_compiled
def _next_waiting(arrival, queue, state, now):
    """The request that would be admitted next, or -1."""
    if state[N_RETURNED] > 0:
        return queue[1, state[N_RETURNED] - 1]
    if state[NEXT] < arrival.size and arrival[state[NEXT]] <= now:
        return state[NEXT]
    return -1


@_compiled
def _first_tokens(whole, limits, left):
    """Tokens of a waiting request that fit into this step, or -1 where it has to wait."""
    chunk = limits[LARGEST_CHUNK]
    if limits[STATIC]:
        return min(whole, left, chunk) if chunk > 0 else min(whole, left)
    if left <= 0:
        return -1
    if chunk > 0:
        return min(whole, left, chunk)
    # A prompt that no budget would ever hold has a step of its own.
    return whole if whole <= left or left == limits[BUDGET] else -1


@_compiled
def _admit(arrival, requests, queue, new, limits, state, times, now):
    """Admit waiting requests while budget, places and blocks last."""
    if state[PREEMPTED] or (limits[STATIC] and state[N_RUNNING] > 0):
        return
    while state[N_RUNNING] < limits[MAX_RUNNING]:
        i = _next_waiting(arrival, queue, state, now)
        if i < 0:
            return
        computed = requests[COMPUTED, i]  # elsewhere, where the cache was transferred
        whole = requests[PROMPT, i] + requests[GENERATED, i] - computed
        wanted = _first_tokens(whole, limits, state[LEFT])
        held = computed + wanted
        if limits[STATIC]:
            held = requests[PROMPT, i] + requests[OUTPUT, i]
        needed = _blocks(held, limits[BLOCK])
        if wanted < 0 or needed > state[FREE]:
            return
        if state[N_RETURNED] > 0:
            state[N_RETURNED] -= 1
        else:
            state[NEXT] += 1
            times[SCHEDULED, i] = now
        queue[0, state[N_RUNNING]] = i
        new[state[N_RUNNING]] = wanted
        state[N_RUNNING] += 1
        state[FREE] -= needed
        state[LEFT] -= wanted


@_compiled
def _step_size(requests, queue, new, n_running):
    """B, S and C of the step."""
    batch, tokens, positions = 0, 0, 0
    for position in range(n_running):
        if new[position] > 0:
            batch += 1
            tokens += new[position]
            positions += requests[COMPUTED, queue[0, position]] + new[position]
    return batch, tokens, positions


@_compiled
def _schedule(arrival, requests, queue, new, limits, state, totals, times, now):
    """Decide what the step computes."""
    state[LEFT], state[PREEMPTED] = limits[BUDGET], 0
    if limits[SEPARATE]:
        before = state[N_RUNNING]
        new[:before] = 0
        _admit(arrival, requests, queue, new, limits, state, times, now)
        if state[N_RUNNING] == before:
            _serve_running(requests, queue, new, limits, state, totals)
    else:
        _serve_running(requests, queue, new, limits, state, totals)
        _admit(arrival, requests, queue, new, limits, state, times, now)


@_compiled
def _emit(i, requests, times, last_token, gaps, held, now):
    """A request's next token; `held` remembers the last gap, which most requests share."""
    requests[GENERATED, i] += 1
    if requests[GENERATED, i] == 1:
        times[FIRST, i] = now
    else:
        gap = now - last_token[i]
        if gap != held[0]:
            held[0], held[1] = gap, _gap_cell(gap)
        gaps[int(held[1])] += 1
    last_token[i] = now
    if requests[GENERATED, i] == requests[OUTPUT, i]:
        times[FINISH, i] = now


@_compiled
def _collect(
    requests, queue, new, limits, state, totals, times, think, last_token, gaps, held, now
):
    """Tokens that the step has brought, and the requests that end with it."""
    kept, n_ended, n_running = 0, 0, state[N_RUNNING]
    for position in range(n_running):
        i = queue[0, position]
        if requests[GENERATED, i] == requests[OUTPUT, i]:
            totals[IDLE_SLOTS] += 1
            n_ended += 1
        else:
            requests[COMPUTED, i] += new[position]
            if requests[COMPUTED, i] == requests[PROMPT, i] + requests[GENERATED, i]:
                _emit(i, requests, times, last_token, gaps, held, now)
            if requests[GENERATED, i] == requests[OUTPUT, i]:
                _follow(times[ARRIVAL], state, think, now)
                state[ENDED] += 1
                n_ended += 1
                if not limits[STATIC]:
                    state[FREE] += _blocks(requests[COMPUTED, i], limits[BLOCK])
                    continue
        queue[0, kept] = i
        kept += 1
    state[N_RUNNING] = kept
    if limits[STATIC] and n_ended == n_running:
        state[FREE], state[N_RUNNING] = limits[CAPACITY], 0


@_compiled
def _leave(arrival, patience, think, state, times, now):
    """Requests that have waited too long are gone before the step begins."""
    while state[NEXT] < arrival.size and arrival[state[NEXT]] + patience < now:
        times[OVERFLOWED, state[NEXT]] = arrival[state[NEXT]] + patience
        _follow(arrival, state, think, times[OVERFLOWED, state[NEXT]])
        state[NEXT] += 1
        state[ENDED] += 1


@_compiled
def _account(totals, limits, state, took, now):
    """Add a step to the totals."""
    used = limits[CAPACITY] - state[FREE]
    totals[N_STEPS] += 1
    totals[BUSY] += took
    totals[KV_INTEGRAL] += used * took
    totals[RUNNING_INTEGRAL] += state[N_RUNNING] * took
    totals[KV_PEAK] = max(totals[KV_PEAK], used)
    totals[END] = now


@_compiled
def run_engine(
    requests, limits, known, think, patience, overhead, tables, rows, columns, family, nu, rng,
    times, gaps, log,
):  # fmt: skip
    """Run the engine until every request has ended or left; fills `times`, `gaps` and `log`.

    Parameters
    ----------
    requests : integer array, shape (N_COUNTS, request)
        Prompts and outputs, at least one token each; the rest zero, or the prompt and one where
        another engine has computed the prompt and the first token.
    limits : integer array, shape (N_LIMITS,)
        See the module's text.
    known : int
        Requests whose arrival is given; each that ends makes the arrival of one more known.
    think : float
        Milliseconds from the end of a request to the arrival that it brings.
    patience : float
        Milliseconds after which a request that still waits leaves; infinite for never.
    overhead : float
        Milliseconds between two steps.
    tables : array, shape (4, row, column)
        Over the nodes of B and S - B: location, milliseconds per attended position, relative noise,
        and milliseconds per position where a step attends to its own tokens only.
    rows, columns : array, shape (2, value)
        For every B and every S - B the node below and the weight of the next.
    family, nu : int, float
        Noise.
    rng : Generator
        Of the noise.
    times : array, shape (N_TIMES, request)
        The arrivals, ascending, infinite where they are not known yet; the first token where it
        came from elsewhere; NaN where something has not happened, or never does.
    gaps : integer array, shape (N_GAPS,)
        Counts of gaps between successive tokens of a request.
    log : array, shape (5, step)
        Start, B, S, C and latency of the first steps.

    Returns
    -------
    array, shape (N_TOTALS,)
        See `TOTALS`.
    """
    arrival, totals, state = times[ARRIVAL], np.zeros(N_TOTALS), np.zeros(N_STATE, np.int64)
    queue = np.empty((2, arrival.size), np.int64)
    new, last_token = np.zeros(limits[MAX_RUNNING], np.int64), times[FIRST].copy()
    held, now, n_steps = np.array([-1.0, 0.0]), 0.0, 0
    state[FREE], state[KNOWN] = limits[CAPACITY], known
    while state[ENDED] < arrival.size:
        if state[N_RUNNING] + state[N_RETURNED] == 0 and state[NEXT] < arrival.size:
            now = max(now, arrival[state[NEXT]])
        _leave(arrival, patience, think, state, times, now)
        _schedule(arrival, requests, queue, new, limits, state, totals, times, now)
        if state[N_RUNNING] == 0:
            continue
        size = _step_size(requests, queue, new, state[N_RUNNING])
        took = _step_time(tables, rows, columns, family, nu, *size, rng)
        if n_steps < log.shape[1]:
            log[0, n_steps], log[4, n_steps] = now, took
            log[1, n_steps], log[2, n_steps], log[3, n_steps] = size
        n_steps += 1
        now += took + overhead
        _account(totals, limits, state, took + overhead, now)
        _collect(
            requests, queue, new, limits, state, totals, times, think, last_token, gaps, held, now
        )
    return totals
