import math
from itertools import pairwise

import numpy as np
import pytest
from by_steps import (
    make_draws,
    prefill_by_hand,
    step,
    sum_by_hand,
)

from bayeslat.decisions.steady import steady_load
from bayeslat.errors import InputError

LOAD = {"prompt_tokens": 300, "output_tokens": 50, "chunk_tokens": 128, "max_running": 64}


def engine(draws, gap_ms, n_requests):
    """Requests at fixed gaps through continuous batching: mean batch and wait of the last tenth."""
    now, left, decoding, area, last = 0.0, 0, [], 0.0, []
    admitted, arrivals = 0, [i * gap_ms for i in range(n_requests)]
    while admitted < n_requests:
        if left == 0 and len(decoding) < 64 and arrivals[admitted] <= now:
            left = 300
            last.append(now - arrivals[admitted])
            admitted += 1
        elif left == 0 and not decoding:
            now = arrivals[admitted]
            continue
        batch, new = len(decoding), min(left, 128)
        prefilled = 300 - left + new if new else 0
        context = sum(301 + j for j in decoding) + prefilled
        took = float(step(draws, batch + (new > 0), batch + new, context)[0][0])
        now, area = now + took, area + batch * took
        decoding = [j + 1 for j in decoding if j + 1 < 49]
        if new:
            left -= new
            if left == 0:
                decoding.append(0)
    return area / now, float(np.mean(last[-n_requests // 10 :]))


@pytest.mark.parametrize("utilisation", [0.1, 0.5, 0.8])
def test_running_batch_is_that_of_an_engine_under_regular_arrivals(utilisation):
    draws = make_draws(1, sigma=1e-9, tau_C=5e-4)
    capacity = steady_load(draws, arrivals_per_s=1.0, **LOAD).capacity_per_s[0]
    load = steady_load(draws, arrivals_per_s=utilisation * capacity, **LOAD)
    assert load.utilisation[0] == pytest.approx(utilisation)
    running, wait = engine(draws, 1e3 / (utilisation * capacity), 500)
    assert load.running[0] == pytest.approx(running, rel=0.08)
    assert wait < 5.0 * load.step_ms[0]


def test_capacity_is_where_an_engine_begins_to_fall_behind():
    draws = make_draws(1, sigma=1e-9, tau_C=5e-4)
    capacity = steady_load(draws, arrivals_per_s=1.0, **LOAD).capacity_per_s[0]
    kept, lost = (engine(draws, 1e3 / (share * capacity), 1_500)[1] for share in (0.93, 1.07))
    assert kept < 200.0
    assert lost > 1_000.0


def test_steps_of_one_length_have_a_closed_form():
    draws = make_draws(30, P_max=1e9, tau_B=0.0, tau_C=0.0)
    floor = draws.parameters["tau_0"]
    load = steady_load(draws, arrivals_per_s=20.0, step_overhead_ms=0.5, **LOAD)
    np.testing.assert_allclose(load.step_ms, floor + 0.5, rtol=1e-6)
    np.testing.assert_allclose(load.running, 0.02 * 49 * (floor + 0.5), rtol=1e-3)
    # A prompt has three chunks, and a request 49 decode steps: at most 49 / 3 requests run.
    np.testing.assert_allclose(load.capacity_per_s, 1e3 / 3 / (floor + 0.5), rtol=1e-6)
    few = steady_load(draws, arrivals_per_s=20.0, step_overhead_ms=0.5, **LOAD | {"max_running": 4})
    np.testing.assert_allclose(few.capacity_per_s, 1e3 * 4 / 49 / (floor + 0.5), rtol=1e-6)


def test_stability_is_judged_in_every_draw():
    draws = make_draws(200, spread=0.2)
    middle = float(np.median(steady_load(draws, arrivals_per_s=1.0, **LOAD).capacity_per_s))
    load = steady_load(draws, arrivals_per_s=middle, **LOAD)
    np.testing.assert_array_equal(load.stable, load.capacity_per_s >= middle)
    np.testing.assert_array_equal(load.stable, load.utilisation <= 1.0)
    assert load.probability_unstable == pytest.approx(0.5, abs=0.01)
    assert load.typical_running == round(float(np.median(load.running)))
    quiet = steady_load(draws, arrivals_per_s=1e-6, **LOAD)
    assert quiet.typical_running == 1
    assert quiet.probability_unstable == 0.0
    crowded = steady_load(draws, arrivals_per_s=1e6, **LOAD)
    assert crowded.probability_unstable == 1.0
    np.testing.assert_allclose(crowded.running, 49 / 3)


def test_running_batch_grows_with_the_load():
    draws = make_draws(20)
    loads = [steady_load(draws, arrivals_per_s=rate, **LOAD) for rate in (0.0, 1.0, 5.0, 10.0)]
    assert not loads[0].running.any()
    for less, more in pairwise(loads):
        assert (more.running > less.running).all()
        assert (more.step_ms >= less.step_ms).all()


def test_prompts_of_single_outputs_are_bounded_by_their_prefill():
    draws = make_draws(5, sigma=1e-9)
    question = {"prompt_tokens": 300, "output_tokens": 1, "chunk_tokens": 128, "max_running": 8}
    load = steady_load(draws, arrivals_per_s=1.0, **question)
    mean, _ = sum_by_hand(draws, prefill_by_hand(300, 128, 0, 0.0))
    # A chunk in the middle stands for all, also for the first, which attends to nothing older.
    np.testing.assert_allclose(load.capacity_per_s, 1e3 / mean, rtol=1e-3)
    assert not load.running.any()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"arrivals_per_s": -1.0}, "arrivals_per_s=-1"),
        ({"arrivals_per_s": math.inf}, "arrivals_per_s=inf"),
        ({"max_running": 0}, "max_running=0"),
        ({"output_tokens": 0}, "output_tokens=0"),
        ({"chunk_tokens": 0}, "chunk_tokens=0"),
    ],
)
def test_impossible_loads_are_refused(fault, message):
    with pytest.raises(InputError, match=message):
        steady_load(make_draws(), **({"arrivals_per_s": 1.0} | LOAD | fault))
