"""A full refit on demand, judged like any other."""

import numpy as np
import pytest

import bayeslat as bl
from bayeslat import online


@pytest.mark.slow
def test_the_fleet_is_fitted_anew_and_goes_on_from_there(tiny_fleet, tiny_steps):
    """After a slow-down of everything the fleet is renewed from recent rows alone."""
    table = bl.simulate_fleet(
        gpus=("A100-80GB", "H100-80GB"), models=("llama-7b",), rows_per_deployment=300, seed=0
    ).steps
    slower = table.assign(latency_ms=1.5 * table["latency_ms"])
    state = online.observe(online.start(tiny_fleet), slower)
    renewed = online.renew(state, draws=400, seed=3)
    assert {event.kind for event in renewed.events} == {"accepted"}
    assert renewed.version == state.version + 2
    assert renewed.n_seen == state.n_seen
    for member in renewed.members:
        own = slower[slower["gpu"] == member.deployment.gpu]
        found = renewed.fleet.latency(
            *member.deployment[:2],
            batch_size=own["batch_size"],
            total_tokens=own["total_tokens"],
            context_tokens=own["context_tokens"],
        )
        assert abs(np.log(own["latency_ms"] / found.median()).median()) < 0.05
    after = online.observe(renewed, slower.iloc[:40].assign(timestamp=np.arange(40.0)))
    assert after.n_seen == renewed.n_seen + 40


def test_a_deployment_without_rows_gets_one_line(fleet, steps):
    state = online.observe(online.start(fleet), steps.iloc[:5])
    with pytest.raises(bl.InputError, match="steps="):
        online.renew(state)
