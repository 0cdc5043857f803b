"""The posterior in force as a fleet like another."""

import numpy as np
import pytest

import bayeslat as bl
from bayeslat import online


@pytest.fixture(scope="module")
def moved(fleet, steps):
    """A state in which one deployment has been adapted and another has been reweighted."""
    state = online.start(fleet)
    seven = steps[(steps["gpu"] == "H100-80GB") & (steps["model"] == "llama-7b")]
    other = steps[(steps["gpu"] == "A100-80GB") & (steps["model"] == "llama-13b")]
    slower = seven.iloc[:100].assign(latency_ms=1.3 * seven["latency_ms"].iloc[:100])
    state = online.observe(state, slower)
    return online.observe(state, other.iloc[:20])


def test_the_fleet_answers_with_the_draws_of_every_belief(moved):
    for member in moved.members:
        found = moved.fleet.draws(member.deployment)
        rows = bl.validate_steps(bl.simulate_fleet(rows_per_deployment=20).steps)
        points = online.member.Rows.of(rows, arrival=0, order=np.arange(len(rows))).points
        mu, sigma = found.location_and_scale(points)
        own_mu, own_sigma = member.belief.even.location_and_scale(points)
        np.testing.assert_array_equal(mu, own_mu)
        np.testing.assert_array_equal(sigma, own_sigma)
        np.testing.assert_array_equal(found.nu, member.belief.even.nu)


def test_the_adapted_fleet_survives_its_file(moved, tmp_path):
    moved.fleet.save(tmp_path / "now.nc")
    again = bl.load(tmp_path / "now.nc")
    for member in moved.members:
        ours = again.latency(*member.deployment[:2], batch_size=16, total_tokens=16)
        theirs = moved.fleet.latency(*member.deployment[:2], batch_size=16, total_tokens=16)
        assert ours.ppf(0.99) == theirs.ppf(0.99)
    assert "H100-80GB/llama-7b" in again.provenance["adapted"]


def test_an_adapted_fleet_still_predicts_newcomers(moved):
    new = moved.fleet.cold_start(bl.GPU("X1", peak_tflops=800, bandwidth_tbs=3.0, memory_gb=96))
    assert new.latency("X1", "llama-7b", batch_size=8, total_tokens=8).median() > 0


def test_recent_rows_come_back_as_observations(moved):
    found = moved.rows()
    assert len(found) == sum(member.of_regime.sum() for member in moved.members)
    everything = moved.rows(of_regime=False)
    assert len(everything) == moved.n_seen
    assert moved.base is not moved.fleet


def test_the_version_rises_with_what_is_taken_over_alone(moved):
    assert moved.version == sum(member.version for member in moved.members) >= 1
    quiet = [member for member in moved.members if member.n_seen == 0]
    assert all(member.version == 0 for member in quiet)


def test_an_unknown_deployment_gets_one_line(moved):
    with pytest.raises(bl.UnknownDeploymentError, match=r"state\.deployments"):
        moved.of(bl.Deployment("B200", "llama-7b"))
