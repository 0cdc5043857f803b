"""The compiled loop of the engine simulator: one run of one workload, step by step.

The scheduler is that of vLLM's engine core (V1): a step has a budget of tokens; requests that run
are served first, in the order of their admission, then waiting ones are admitted while budget,
sequences and KV blocks last. A prompt that exceeds what is left of the budget is computed in
chunks. Where a running request finds no free block, the one admitted last is preempted: it loses
its cache, goes back to the head of the queue and recomputes what it had. With static batching a
batch is formed when the engine is empty and kept until its last request has ended; requests that
have ended go on taking a place in the step. With separate prefills a step computes either prompts
or further tokens: running requests pause while prompts are admitted, which is at once, only when
nothing decodes (a batch then forms over as many steps as its prompts take), or when enough of them
wait.

With a gate a step is built so that a table says yes to it: for B and S - B it holds the largest C
at which a step fits, interpolated as step times are. Decodes come first; where they do not all fit,
those served least recently. Then come chunks of the prompts that have begun, in the order of
admission and none overtaking another, each as large as fits; then waiting requests, as long as a
decode step of all that run, each with its prompt and the output expected of it, fits as well. A
request that does not fit alone runs alone: its step is forced.

Arrivals are given, or those of a closed loop: then every request that ends brings the next one,
after a time to think.

Arguments that the compiled functions share:

* `requests`, shape (N_COUNTS, request): tokens of prompt and output, those whose cache is computed
  and those generated so far;
* `queue`, shape (2, request): in its first row the requests that run, in the order of admission, in
  its second those that were preempted, the next one last;
* `new`, shape (request,): tokens that each place of the running ones computes in this step;
* `state`: the counters N_RUNNING to FORCED;
* `limits`: the settings MAX_RUNNING to GATED, and `scales` those that are no whole numbers;
* `gate`: the tuple (tables, rows, columns, nodes) of the gate's two tables, shape (2, row, column),
  with the places of every B and S - B in them and the nodes of S - B;
* `size`: the tuple (B, S, C) of what has been chosen for the step so far.

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
    "N_SCALES",
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
    "over_sla",
    "decode_steps",
    "decode_steps_over_sla",
    "forced_steps",
    "forced_steps_over_sla",
)
"""What a run sums up; `kv_block_ms` and `running_ms` are integrals over time, `decode_steps` are
the steps with at least one decode, and a step is forced where no smaller one was left to choose."""

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
    OVER,
    WITH_DECODES,
    OVER_WITH_DECODES,
    FORCED_STEPS,
    FORCED_OVER,
    N_TOTALS,
) = range(15)

PROMPT, OUTPUT, COMPUTED, GENERATED, N_COUNTS = range(5)
(
    N_RUNNING,
    N_RETURNED,
    NEXT,
    ENDED,
    FREE,
    LEFT,
    PREEMPTED,
    KNOWN,
    SINCE_PROMPTS,
    FORCED,
    N_FINISHED,
    FINISHED_TOKENS,
    N_STATE,
) = range(13)
"""KNOWN are the requests whose arrival is known, SINCE_PROMPTS the decode steps since prompts were
computed, FORCED whether this step is, and FINISHED_TOKENS the output of those that were served."""

(
    MAX_RUNNING,
    BUDGET,
    LARGEST_CHUNK,
    BLOCK,
    CAPACITY,
    STATIC,
    SEPARATE,
    MAX_WAITING_STEPS,
    GATED,
    N_LIMITS,
) = range(10)
"""LARGEST_CHUNK is 0 where a prompt is computed in one step; CAPACITY counts blocks."""

WAITING_RATIO, EXPECTED_OUTPUT, SLA, N_SCALES = range(4)
"""EXPECTED_OUTPUT is 0 where it is the mean of requests that have ended."""

TOGETHER, PROMPTS_FIRST, DECODES_FIRST, THRESHOLD = range(4)
"""Values of SEPARATE: steps hold both; else when steps of prompts alone come."""

OLDER, OWN = range(2)
"""The gate's table for steps that attend to older tokens, and for those that do not."""

NEVER: Final = 2**62
"""The turn of requests that are not to be served."""

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
def _enough_wait(arrival, state, needed, now):
    """Whether at least so many requests wait."""
    if state[N_RETURNED] >= needed:
        return True
    last = state[NEXT] + needed - state[N_RETURNED] - 1
    return last < arrival.size and arrival[last] <= now


@_compiled
def _prompts_now(arrival, limits, scales, state, now):
    """Whether a step of prompts alone may come now."""
    if limits[SEPARATE] == PROMPTS_FIRST or state[N_RUNNING] == 0:
        return True
    since = state[SINCE_PROMPTS]
    if limits[SEPARATE] == DECODES_FIRST:
        return since == 0  # the batch is still forming
    if since >= limits[MAX_WAITING_STEPS]:
        return True
    return since > 0 and _enough_wait(
        arrival, state, int(scales[WAITING_RATIO] * state[N_RUNNING]), now
    )


@_compiled
def _schedule_separate(arrival, requests, queue, new, limits, scales, state, totals, times, now):
    """A step of prompts alone, or of further tokens alone."""
    before = state[N_RUNNING]
    new[:before] = 0
    if _prompts_now(arrival, limits, scales, state, now):
        _admit(arrival, requests, queue, new, limits, state, times, now)
    if state[N_RUNNING] > before:
        state[SINCE_PROMPTS] = 0
    else:
        _serve_running(requests, queue, new, limits, state, totals)
        state[SINCE_PROMPTS] += 1


@_compiled
def _room(gate, batch, tokens, positions):
    """Positions that a step might attend to beyond its own; negative where it does not fit."""
    tables, rows, columns, _ = gate
    table = tables[OLDER] if positions > tokens else tables[OWN]
    row, column = int(rows[0, batch]), int(columns[0, tokens - batch])
    weight_row, weight_column = rows[1, batch], columns[1, tokens - batch]
    return _between(table, row, column, weight_row, weight_column) - positions


@_compiled
def _decodes(requests, i):
    """Whether a running request computes a further token next, and no part of a prompt."""
    rest = requests[PROMPT, i] + requests[GENERATED, i] - requests[COMPUTED, i]
    return rest == 1 and requests[GENERATED, i] > 0


@_compiled
def _choose_in_turn(requests, queue, new, gate, state, served):
    """Give further tokens to those served least recently, as many as fit and one at least."""
    turn = np.full(state[N_RUNNING], NEVER)
    for position in range(state[N_RUNNING]):
        if _decodes(requests, queue[0, position]):
            turn[position] = served[queue[0, position]]
    batch, positions = 0, 0
    for position in np.argsort(turn, kind="mergesort"):
        i = queue[0, position]
        if turn[position] == NEVER:
            return
        more = positions + requests[COMPUTED, i] + 1
        fits = _room(gate, batch + 1, batch + 1, more) >= 0.0
        if fits:
            new[position], positions = 1, more
            batch += 1
        elif batch == 0:
            new[position] = 1
            state[FORCED] = 1
            return


@_compiled
def _choose_decodes(requests, queue, new, gate, state, served):
    """Mark the requests that compute a further token; how many there are to choose from."""
    batch, positions = 0, 0
    state[FORCED] = 0
    for position in range(state[N_RUNNING]):
        i = queue[0, position]
        new[position] = 0
        if _decodes(requests, i):
            new[position] = 1
            batch += 1
            positions += requests[COMPUTED, i] + 1
    if batch > 0 and _room(gate, batch, batch, positions) < 0.0:
        new[: state[N_RUNNING]] = 0
        _choose_in_turn(requests, queue, new, gate, state, served)
    return batch


@_compiled
def _hold(requests, queue, new, limits, state, totals):
    """Blocks for the chosen ones; those admitted last give way. How many keep their place."""
    position, kept = 0, 0
    while position < state[N_RUNNING]:
        if new[position] > 0:
            i = queue[0, position]
            have = _blocks(requests[COMPUTED, i], limits[BLOCK])
            needed = _blocks(requests[COMPUTED, i] + new[position], limits[BLOCK]) - have
            while needed > state[FREE] and state[N_RUNNING] > position:
                _preempt(requests, queue, limits, state, totals)
            if state[N_RUNNING] <= position:
                break
            state[FREE] -= needed
            state[LEFT] -= new[position]
            kept += 1
        position += 1
    return kept


@_compiled
def _room_in_cell(gate, size, computed, extra):
    """`_room` where a further request brings S - B to `extra`."""
    batch, tokens, positions = size
    more = extra - (tokens - batch - 1)
    return _room(gate, batch + 1, tokens + more, positions + computed + more)


@_compiled
def _largest_chunk(gate, size, computed, most):
    """The most tokens of a further request with which the step fits; 0 where none does.

    Whether a step fits changes once at most between two nodes: the nodes are asked from above,
    and what lies between the last that fits and the next is halved.
    """
    columns, nodes = gate[2], gate[3]
    before = size[1] - size[0] - 1
    low, high = before + 1, before + most
    if _room_in_cell(gate, size, computed, high) >= 0.0:
        return most
    at, node = high, int(columns[0, high])
    while at > low:
        beyond = at
        while nodes[node] >= beyond:
            node -= 1
        at = max(nodes[node], low)
        if _room_in_cell(gate, size, computed, at) >= 0.0:
            while beyond - at > 1:
                middle = (at + beyond) // 2
                if _room_in_cell(gate, size, computed, middle) >= 0.0:
                    at = middle
                else:
                    beyond = middle
            return at - before
    return 0


@_compiled
def _chunk(gate, size, computed, whole, limits, state):
    """Tokens of a prompt in this step; 0 where it has to wait. Alone it never does."""
    most = min(whole, state[LEFT], limits[LARGEST_CHUNK])
    if most <= 0:
        return 0
    wanted = _largest_chunk(gate, size, computed, most)
    if wanted == 0 and size[0] == 0:
        state[FORCED] = 1
        return most
    return wanted


@_compiled
def _continue_prompts(requests, queue, new, limits, gate, state, totals, size):
    """Chunks of the prompts that have begun; B, S and C, and whether none had to wait."""
    position = 0
    while position < state[N_RUNNING]:
        i = queue[0, position]
        if new[position] == 0 and not _decodes(requests, i):
            computed = requests[COMPUTED, i]
            whole = requests[PROMPT, i] + requests[GENERATED, i] - computed
            wanted = _chunk(gate, size, computed, whole, limits, state)
            have = _blocks(computed, limits[BLOCK])
            needed = _blocks(computed + wanted, limits[BLOCK]) - have
            while needed > state[FREE] and size[0] == 0 and state[N_RUNNING] > 1:
                _preempt(requests, queue, limits, state, totals)
            if wanted == 0 or needed > state[FREE] or (state[FORCED] and size[0] > 0):
                return size, False
            new[position] = wanted
            state[FREE] -= needed
            state[LEFT] -= wanted
            size = size[0] + 1, size[1] + wanted, size[2] + computed + wanted
        position += 1
    return size, True


@_compiled
def _expected(requests, i, output):
    """Positions that a request is expected to hold when it ends."""
    return requests[PROMPT, i] + max(output, float(requests[GENERATED, i]))


@_compiled
def _admit_within(arrival, requests, queue, new, limits, scales, gate, state, times, size, now):
    """Admit waiting requests while the step fits, and the decode steps that it promises."""
    output, promised = scales[EXPECTED_OUTPUT], 0.0
    if output == 0.0 and state[N_FINISHED] > 0:
        output = state[FINISHED_TOKENS] / state[N_FINISHED]
    if _next_waiting(arrival, queue, state, now) >= 0:
        for position in range(state[N_RUNNING]):
            promised += _expected(requests, queue[0, position], output)
    while state[N_RUNNING] < limits[MAX_RUNNING] and not state[FORCED]:
        i = _next_waiting(arrival, queue, state, now)
        if i < 0:
            return
        promised += _expected(requests, i, output)
        batch = state[N_RUNNING] + 1
        if batch > 1 and _room(gate, batch, batch, promised) < 0.0:
            return
        computed = requests[COMPUTED, i]  # elsewhere, where the cache was transferred
        whole = requests[PROMPT, i] + requests[GENERATED, i] - computed
        wanted = _chunk(gate, size, computed, whole, limits, state)
        needed = _blocks(computed + wanted, limits[BLOCK])
        if wanted == 0 or needed > state[FREE]:
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
        size = size[0] + 1, size[1] + wanted, size[2] + computed + wanted


@_compiled
def _schedule_within(
    arrival, requests, queue, new, limits, scales, gate, state, totals, times, served, now
):
    """Decide what the step computes so that the gate says yes to it."""
    state[LEFT], state[PREEMPTED] = limits[BUDGET], 0
    while (
        _choose_decodes(requests, queue, new, gate, state, served) > 0
        and _hold(requests, queue, new, limits, state, totals) == 0
    ):
        pass  # all that were chosen gave way; those who stay have more blocks now
    size = _step_size(requests, queue, new, state[N_RUNNING])
    go_on = not state[FORCED]
    if go_on:
        size, go_on = _continue_prompts(requests, queue, new, limits, gate, state, totals, size)
    if go_on and not state[FORCED] and not state[PREEMPTED]:
        _admit_within(arrival, requests, queue, new, limits, scales, gate, state, times, size, now)
    for position in range(state[N_RUNNING]):
        if new[position] > 0:
            served[queue[0, position]] = int(totals[N_STEPS]) + 1


@_compiled
def _schedule(arrival, requests, queue, new, limits, scales, state, totals, times, now):
    """Decide what the step computes."""
    state[LEFT], state[PREEMPTED] = limits[BUDGET], 0
    if limits[SEPARATE]:
        _schedule_separate(arrival, requests, queue, new, limits, scales, state, totals, times, now)
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
                state[N_FINISHED] += 1
                state[FINISHED_TOKENS] += requests[OUTPUT, i]
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
def _judge(requests, queue, new, state, totals, late):
    """Count a step that has a limit."""
    with_decodes = False
    for position in range(state[N_RUNNING]):
        if new[position] > 0 and requests[GENERATED, queue[0, position]] > 0:
            with_decodes = True
            break
    totals[OVER] += late
    totals[WITH_DECODES] += with_decodes
    totals[OVER_WITH_DECODES] += late and with_decodes
    totals[FORCED_STEPS] += state[FORCED]
    totals[FORCED_OVER] += late and state[FORCED] > 0


@_compiled
def run_engine(
    requests, limits, scales, gate, known, think, patience, overhead, tables, rows, columns,
    family, nu, rng, times, gaps, log,
):  # fmt: skip
    """Run the engine until every request has ended or left; fills `times`, `gaps` and `log`.

    Parameters
    ----------
    requests : integer array, shape (N_COUNTS, request)
        Prompts and outputs, at least one token each; the rest zero, or the prompt and one where
        another engine has computed the prompt and the first token.
    limits, scales : integer array, shape (N_LIMITS,), and array, shape (N_SCALES,)
        See the module's text; the limit SLA is infinite where steps have none.
    gate : tuple
        See the module's text; looked at where ``limits[GATED]``.
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
    served = np.zeros(arrival.size if limits[GATED] else 0, np.int64)
    held, now, n_steps = np.array([-1.0, 0.0]), 0.0, 0
    state[FREE], state[KNOWN] = limits[CAPACITY], known
    while state[ENDED] < arrival.size:
        if state[N_RUNNING] + state[N_RETURNED] == 0 and state[NEXT] < arrival.size:
            now = max(now, arrival[state[NEXT]])
        _leave(arrival, patience, think, state, times, now)
        if limits[GATED]:
            _schedule_within(
                arrival, requests, queue, new, limits, scales, gate, state, totals, times, served,
                now,
            )  # fmt: skip
        else:
            _schedule(arrival, requests, queue, new, limits, scales, state, totals, times, now)
        if state[N_RUNNING] == 0:
            continue
        size = _step_size(requests, queue, new, state[N_RUNNING])
        took = _step_time(tables, rows, columns, family, nu, *size, rng)
        if n_steps < log.shape[1]:
            log[0, n_steps], log[4, n_steps] = now, took
            log[1, n_steps], log[2, n_steps], log[3, n_steps] = size
        n_steps += 1
        if scales[SLA] < np.inf:
            _judge(requests, queue, new, state, totals, took > scales[SLA])
        now += took + overhead
        _account(totals, limits, state, took + overhead, now)
        _collect(
            requests, queue, new, limits, state, totals, times, think, last_token, gaps, held, now
        )
    return totals
