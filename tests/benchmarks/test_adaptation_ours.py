"""Ours among the contestants: the base at the start, and what its detector held against it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import bayeslat as bl
from adaptation.lineup import OURS, RIVALS, LineUp
from adaptation.ours import Online, start_online
from adaptation.rivals.fixed import Fixed
from adaptation.runs import CHOICES, Job, contestants_of, stream_of
from adaptation.scenarios import SCENARIOS, simulated_stream
from adaptation.streams import Stream, of_deployment
from bayeslat.online import OnlineSettings

SWAP = next(one for one in SCENARIOS if one.name == "swap")


@pytest.fixture(scope="module")
def fleet() -> bl.FleetPosterior:
    return bl.load_released("reference-fleet").thin(100)


@pytest.fixture(scope="module")
def stream() -> Stream:
    return simulated_stream(
        replace(SWAP, before=20, after=60, tick=20), bl.simulate_fleet(), seed=0
    )


def test_ours_starts_as_the_base_and_says_what_it_saw(
    fleet: bl.FleetPosterior, stream: Stream
) -> None:
    (deployment,) = stream.tracked
    start = start_online(fleet, OnlineSettings(draws=100), (deployment,))
    steps = stream.world.probe(deployment, 0).head(20)
    assert start.name == OURS and np.isnan(start.evidence(deployment))
    for found, expected in zip(
        start.predict(deployment, steps), Fixed(fleet).predict(deployment, steps), strict=True
    ):
        assert found == pytest.approx(expected)
    evidence, belief = [], start
    for tick in stream.ticks():
        belief = belief.observe(of_deployment(tick.rows, deployment))
        evidence.append(belief.evidence(deployment))
        drifted = [one for one in belief.happenings if one.kind == "drift"]
        assert bool(drifted) == (np.isfinite(evidence[-1]) and evidence[-1] >= 1.0)
        if drifted:
            assert drifted[0].deployment == deployment.label
            break
    found, expected = belief.predict(deployment, steps), belief.state.fleet.latency(
        *deployment[:2], tp=deployment.tp, batch_size=steps["batch_size"],
        total_tokens=steps["total_tokens"], context_tokens=steps["context_tokens"],
    )  # fmt: skip
    assert found.upper == pytest.approx(np.asarray(expected.ppf(0.95)), rel=1e-6)
    # The other LLM takes nearly twice as long: forty of its rows are more than enough.
    assert evidence[0] < 0.5 and evidence[-1] >= 1.0
    assert start.state.n_seen == 0


def test_everyone_of_the_tables_takes_part(tmp_path: Path) -> None:
    job = Job("slow-down", 0, Path("none.csv"), tmp_path, short=True)
    stream, lineup = stream_of(job)
    names = [one.name for one in contestants_of(job, lineup, stream)]
    assert names == [OURS, *RIVALS]
    alone = contestants_of(replace(job, kind="alarms"), lineup, stream)
    assert [type(one) for one in alone] == [Online]
    assert isinstance(lineup, LineUp) and len(stream.tracked) == 1
    assert set(CHOICES) >= {one.name for one in SCENARIOS}
    assert stream_of(replace(job, kind="alarms"))[0].tracked == ()
    assert job.path != replace(job, seed=1).path != replace(job, kind="alarms").path
