import numpy as np
import pandas as pd
import pytest

from bayeslat.engine import Workload
from bayeslat.errors import InputError


def test_poisson_gaps_are_exponential():
    n = 20_000
    served = Workload.poisson(5.0, n=n, prompt_tokens=10, output_tokens=[1, 3], seed=2)
    gaps = np.diff(served.arrival_ms)
    assert abs(gaps.mean() - 200.0) < 4 * 200.0 / np.sqrt(n)
    assert abs(served.variability - 1.0) < 4 * np.sqrt(8.0 / n)
    assert set(served.prompt_tokens) == {10}
    assert set(served.output_tokens) == {1, 3}


@pytest.mark.parametrize("variability", [0.0, 0.25, 4.0])
def test_bursts_have_the_variability_asked_for(variability):
    n = 40_000
    served = Workload.bursty(
        5.0, variability=variability, n=n, prompt_tokens=1, output_tokens=1, seed=3
    )
    # The variance of the estimated squared coefficient of a gamma is below (6 v + 4) v^2 (1 + v).
    error = np.sqrt((6.0 * variability + 4.0) * variability**2 * (1.0 + variability) / n)
    assert abs(served.variability - variability) <= 4 * error + 1e-9


def test_seed_decides_everything():
    def make(seed):
        return Workload.poisson(
            1.0,
            n=50,
            prompt_tokens=lambda r, n: r.integers(1, 9, n),
            output_tokens=[1, 2],
            seed=seed,
        )

    one, again, other = make(1), make(1), make(2)
    for name in ("arrival_ms", "prompt_tokens", "output_tokens"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    assert (one.arrival_ms != other.arrival_ms).any()


@pytest.mark.parametrize("names", [("prompt_tokens", "arrival_s"), ("input_tokens", "arrival_ms")])
def test_trace_is_sorted_and_starts_at_zero(names, tmp_path):
    prompt, arrival = names
    table = pd.DataFrame(
        {arrival: [3.0, 1.0, 2.0], prompt: [30, 10, 20], "output_tokens": [3, 1, 2]}
    )
    path = tmp_path / "trace.csv"
    table.to_csv(path, index=False)
    for trace in (table, path, str(path)):
        served = Workload.from_trace(trace)
        unit = 1e3 if arrival == "arrival_s" else 1.0
        np.testing.assert_allclose(served.arrival_ms, [0.0, unit, 2.0 * unit])
        assert served.prompt_tokens.tolist() == [10, 20, 30]


def test_rate_is_stretched_and_nothing_else():
    served = Workload.poisson(5.0, n=100, prompt_tokens=[1, 2, 3], output_tokens=1)
    faster = served.at_rate(20.0)
    assert faster.arrivals_per_s == pytest.approx(20.0)
    assert faster.variability == pytest.approx(served.variability)
    np.testing.assert_array_equal(faster.prompt_tokens, served.prompt_tokens)


def frame(**columns):
    base = {"arrival_s": [0.0, 1.0], "prompt_tokens": [5, 5], "output_tokens": [5, 5]}
    return pd.DataFrame(base | columns)


@pytest.mark.parametrize(
    ("make", "about"),
    [
        (lambda: Workload([], [], []), "without requests"),
        (lambda: Workload([1.0, 0.0], [1, 1], [1, 1]), "ascending"),
        (lambda: Workload([-1.0, 0.0], [1, 1], [1, 1]), "negative"),
        (lambda: Workload([0.0], [0], [1]), "prompt_tokens from 0"),
        (lambda: Workload([0.0], [1], [1.5]), "output_tokens from 1.5"),
        (lambda: Workload([0.0, 1.0], [1], [1, 1]), "one for each of 2"),
        (lambda: Workload.poisson(0.0, n=1, prompt_tokens=1, output_tokens=1), "arrivals_per_s=0"),
        (lambda: Workload.poisson(1.0, n=0, prompt_tokens=1, output_tokens=1), "n=0"),
        (lambda: Workload.poisson(1.0, n=1, prompt_tokens=[], output_tokens=1), "no lengths"),
        (
            lambda: Workload.bursty(1.0, variability=-1, n=1, prompt_tokens=1, output_tokens=1),
            "variability=-1",
        ),
        (
            lambda: Workload.closed_loop(3, n=2, prompt_tokens=1, output_tokens=1),
            "3 users with 2 requests",
        ),
        (lambda: Workload([0.0], [1], [1], users=1, think_ms=-1.0), "think for -1"),
        (lambda: Workload([0.0], [1], [1], users=1, think_ms=np.inf), "think for inf"),
        (
            lambda: Workload.closed_loop(2, n=2, prompt_tokens=1, output_tokens=1).at_rate(1.0),
            "all arrive at once",
        ),
        (lambda: Workload.from_trace(frame().iloc[:0]), "without rows"),
        (lambda: Workload.from_trace(frame().drop(columns="arrival_s")), "arrival_ms or arrival_s"),
        (
            lambda: Workload.from_trace(frame(prompt_tokens=["a", 5])),
            "'a' as prompt_tokens in row 1",
        ),
        (lambda: Workload.from_trace("nowhere.csv"), "cannot be read"),
        (lambda: Workload([0.0, 0.0], [1, 1], [1, 1]).at_rate(1.0), "all arrive at once"),
    ],
)
def test_wrong_input_is_refused_in_one_line(make, about):
    with pytest.raises(InputError, match=about) as refused:
        make()
    assert "\n" not in str(refused.value)
    assert "expected" in str(refused.value)


def test_empty_file_is_refused(tmp_path):
    path = tmp_path / "empty.csv"
    path.write_text("")
    with pytest.raises(InputError, match="cannot be read"):
        Workload.from_trace(path)
