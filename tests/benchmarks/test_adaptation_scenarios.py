"""Scenarios change what they say and nothing else, and a seed fixes every row."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import bayeslat as bl
from adaptation.scenarios import (
    BURST_FACTOR,
    BURST_SHARE,
    SCENARIOS,
    SWAPPED,
    Scenario,
    simulated_stream,
)
from adaptation.streams import Stream, label_of, of_deployment
from bayeslat.simulate import SimulatedFleet
from bayeslat.simulate.mechanism import kv_capacity

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


@pytest.fixture(scope="module")
def fleet() -> SimulatedFleet:
    return bl.simulate_fleet(
        gpus=("A100-80GB", "H100-80GB"), models=("llama-7b",), rows_per_deployment=5
    )


def short(name: str, **changes: int) -> Scenario:
    """A scenario with fewer rows."""
    return replace(BY_NAME[name], **{"before": 400, "after": 400, **changes})


def log_ratio(fleet: SimulatedFleet, stream: Stream, deployment: bl.Deployment) -> np.ndarray:
    """log(measured / typical under the old law), row by row."""
    rows = of_deployment(stream.steps, deployment)
    typical = fleet.truth[deployment].mechanism.typical_ms(
        rows["batch_size"], rows["total_tokens"], rows["context_tokens"]
    )
    return np.log(rows["latency_ms"].to_numpy() / typical)


def shift(values: np.ndarray, before: int) -> tuple[float, float]:
    """Median after less median before, with its standard error (normal body)."""
    old, new = values[:before], values[before:]
    spread = 1.4826 * np.median(np.abs(old - np.median(old)))
    error = 1.2533 * spread * np.sqrt(1 / old.size + 1 / new.size)
    return float(np.median(new) - np.median(old)), float(error)


def test_a_slow_down_moves_one_gpu_type_by_what_it_says(fleet: SimulatedFleet) -> None:
    stream = simulated_stream(short("slow-down"), fleet, seed=1)
    assert [one.gpu for one in stream.moved] == ["A100-80GB"]
    for deployment in fleet.truth:
        found, error = shift(log_ratio(fleet, stream, deployment), 400)
        assert found == pytest.approx(np.log(1.15) * (deployment in stream.moved), abs=4 * error)


def test_a_seed_fixes_every_row_and_another_gives_others(fleet: SimulatedFleet) -> None:
    first, again, other = (
        simulated_stream(short("slow-down"), fleet, seed=seed).steps for seed in (1, 1, 2)
    )
    pd.testing.assert_frame_equal(first, again)
    assert not np.isin(first["latency_ms"], other["latency_ms"]).any()


def test_probes_ask_the_same_steps_with_new_noise(fleet: SimulatedFleet) -> None:
    stream = simulated_stream(short("slow-down"), fleet, seed=1)
    deployment = stream.tracked[0]
    asked = [stream.world.probe(deployment, seen) for seen in (0, 450, 500)]
    design = ["batch_size", "total_tokens", "context_tokens"]
    for later in asked[1:]:
        pd.testing.assert_frame_equal(later[design], asked[0][design])
        assert not np.isclose(later["latency_ms"], asked[0]["latency_ms"]).any()


def test_a_slow_drift_rises_in_a_line(fleet: SimulatedFleet) -> None:
    stream = simulated_stream(short("thermal", after=6000), fleet, seed=1)
    deployment = stream.tracked[0]
    steps = stream.world.probe(deployment, 0)
    for seen, true in ((0, 1.0), (399, 1.0), (400 + 2499, 1.1), (400 + 4999, 1.2), (6399, 1.2)):
        factor = stream.world.factor(deployment, steps, seen)
        assert factor == pytest.approx(np.full(len(steps), true / 1.2))


def test_the_other_llm_behind_the_name_is_that_llm(fleet: SimulatedFleet) -> None:
    stream = simulated_stream(short("swap"), fleet, seed=1)
    (deployment,) = stream.moved
    assert deployment.model == SWAPPED[0]
    mechanism = fleet.truth[deployment].mechanism
    larger = replace(mechanism, llm=bl.load_catalog().llm(SWAPPED[1]))
    steps = stream.world.probe(deployment, 500)
    design = [steps[name] for name in ("batch_size", "total_tokens", "context_tokens")]
    expected = mechanism.typical_ms(*design) / larger.typical_ms(*design)
    assert stream.world.factor(deployment, steps, 0) == pytest.approx(expected)
    room = kv_capacity(mechanism.gpu, larger.llm, tp=deployment.tp)
    assert of_deployment(stream.steps, deployment)["context_tokens"].max() <= room


def test_a_burst_hits_its_share_of_its_rows_alone(fleet: SimulatedFleet) -> None:
    stream = simulated_stream(short("burst", after=1000), fleet, seed=3)
    assert not stream.moved and stream.onset == 400
    assert stream.disturbed == stream.tracked
    (deployment,) = stream.tracked
    # Stalls of this height are one row in 3,000: log(3 / 1.2) * 4 is 3.7, times a share of 0.015.
    high = log_ratio(fleet, stream, deployment) > np.log(0.6 * BURST_FACTOR)
    expected, sd = 500 * BURST_SHARE, np.sqrt(500 * BURST_SHARE * (1 - BURST_SHARE))
    assert high[400:900].sum() == pytest.approx(expected, abs=4 * sd)
    assert high[:400].sum() + high[900:].sum() <= 4


def test_workload_alone_moves_steps_and_no_law(fleet: SimulatedFleet) -> None:
    stream = simulated_stream(short("workload"), fleet, seed=1)
    assert stream.onset == 400 and not stream.moved
    for deployment in fleet.truth:
        phase = of_deployment(stream.steps, deployment)["phase"].to_numpy()
        after = np.mean(phase[400:] == "decode")
        assert after == pytest.approx(0.9, abs=4 * np.sqrt(0.9 * 0.1 / 400))
        assert np.mean(phase[:400] == "decode") < 0.65
        found, error = shift(log_ratio(fleet, stream, deployment), 400)
        assert found == pytest.approx(0.0, abs=4 * error)


def test_only_what_a_law_is_about_becomes_slower(fleet: SimulatedFleet) -> None:
    decode = pd.DataFrame({"batch_size": [1.0], "total_tokens": [1.0], "context_tokens": [32.0]})
    prompt = pd.DataFrame(
        {"batch_size": [2.0], "total_tokens": [8000.0], "context_tokens": [8000.0]}
    )
    for name, changed, left in (("compute", prompt, decode), ("context", None, decode)):
        stream = simulated_stream(short(name), fleet, seed=1)
        factor = stream.world.factor(stream.moved[0], left, 0)
        assert factor == pytest.approx([1.0], abs=2e-3)
        if changed is not None:
            assert stream.world.factor(stream.moved[0], changed, 0) < 0.85
    busy = decode.assign(batch_size=64.0, total_tokens=64.0, context_tokens=64.0 * 1024)
    assert stream.world.factor(stream.moved[0], busy, 0) < 0.8


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_ticks_hold_every_row_once_and_deployments_take_turns(
    fleet: SimulatedFleet, name: str
) -> None:
    stream = simulated_stream(short(name, before=70, after=80), fleet, seed=0)
    ticks = list(stream.ticks())
    pd.testing.assert_frame_equal(pd.concat([tick.rows for tick in ticks]), stream.steps)
    assert [tick.seen for tick in ticks] == list(range(0, 150, stream.tick))
    for tick in ticks[:-1]:
        counts = label_of(tick.rows).value_counts()
        assert (counts == stream.tick).all() and len(counts) == len(fleet.truth)
    assert (np.diff(stream.steps["timestamp"]) > 0).all()
    assert len(bl.validate_steps(stream.steps)) == len(stream.steps)
