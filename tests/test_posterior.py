"""FleetPosterior: queries, provenance, bad questions."""

import json
from dataclasses import replace

import numpy as np
import pytest

import bayeslat as bl
from bayeslat.errors import InputError, StaleGateError, UnknownDeploymentError

STEP = {"batch_size": 8, "total_tokens": 8, "context_tokens": 4000}


def test_latency_broadcasts_and_matches_single_queries(tiny_fleet):
    tokens = np.array([[8, 64], [256, 1024]])
    many = tiny_fleet.latency(
        "A100-80GB", "llama-7b", batch_size=8, total_tokens=tokens, context_tokens=4000
    )
    one = tiny_fleet.latency("A100-80GB", "llama-7b", **STEP)
    assert many.sf(30.0).shape == (2, 2)
    assert many.sf(30.0)[0, 0] == pytest.approx(one.sf(30.0), abs=1e-9)


def test_default_context_is_the_typical_one_of_the_deployment(tiny_fleet, tiny_steps):
    deployment = tiny_fleet.deployments[0]
    rows = tiny_steps.slice_of(deployment)
    ratio = np.median(tiny_steps.context_tokens[rows] / tiny_steps.batch_size[rows])
    assert tiny_fleet.typical_context(deployment) == pytest.approx(ratio)
    lat = tiny_fleet.latency(*deployment[:2], batch_size=4, total_tokens=4)
    assert float(lat.context_tokens) == pytest.approx(4 * ratio)


def test_max_tokens_is_the_largest_that_fits(tiny_fleet):
    query = {"batch_size": 8, "context_tokens": 4000.0}
    largest = tiny_fleet.max_tokens("A100-80GB", "llama-7b", sla_ms=50.0, risk=0.05, **query)

    def risk(tokens):
        lat = tiny_fleet.latency("A100-80GB", "llama-7b", total_tokens=tokens, **query)
        return lat.sf(50.0)

    assert risk(largest) <= 0.05 < risk(largest + 1)
    confident = tiny_fleet.max_tokens(
        "A100-80GB", "llama-7b", sla_ms=50.0, risk=0.05, confident=0.95, **query
    )
    assert confident <= largest
    assert tiny_fleet.max_tokens("A100-80GB", "llama-7b", sla_ms=0.5, risk=0.05, **query) is None


def test_unknown_deployment_names_the_nearest(tiny_fleet):
    with pytest.raises(UnknownDeploymentError, match=r"nearest: .*A100-80GB/llama-7b"):
        tiny_fleet.find("A100-80", "llama-7b")


def test_ambiguous_deployment_lists_the_choices(tiny_steps):
    frame = tiny_steps.to_frame()
    posterior = _with_deployments(frame)
    with pytest.raises(UnknownDeploymentError, match="fits 2 deployments"):
        posterior.find("A100-80GB", "llama-7b")
    assert posterior.find("A100-80GB", "llama-7b", tp=2).tp == 2


def _with_deployments(frame):
    """A posterior that only knows its deployments: enough for a look-up."""

    class Known(bl.FleetPosterior):
        deployments = (
            bl.Deployment("A100-80GB", "llama-7b", 1),
            bl.Deployment("A100-80GB", "llama-7b", 2),
        )

    return Known(tree=None)


def test_provenance_says_where_the_posterior_comes_from(tiny_fleet, tiny_steps):
    provenance = tiny_fleet.provenance
    assert provenance["data_fingerprint"] == tiny_steps.fingerprint
    assert provenance["n_rows"] == len(tiny_steps)
    assert provenance["quarantine"]["n_read"] == len(tiny_steps)
    assert provenance["versions"]["pymc"]
    assert provenance["seed"] == 0 and provenance["created"]


def test_posterior_is_labelled_by_deployment_gpu_and_model(tiny_fleet):
    posterior = tiny_fleet.posterior
    assert posterior["P_max"].dims == ("chain", "draw", "deployment")
    assert set(posterior["gpu_effect"].dims) == {"chain", "draw", "quantity", "gpu"}
    assert set(posterior["model_effect"].dims) == {"chain", "draw", "quantity", "model"}
    assert json.loads(tiny_fleet.tree.attrs["verdict"])["chains"] == 4


def test_identifiability_marks_what_the_data_did_not_inform(tiny_fleet):
    table = tiny_fleet.identifiability().set_index(["quantity", "deployment"])
    assert table.loc["floor", "informed"].all() and table.loc["slope", "informed"].all()
    assert set(table.index.unique("quantity")) >= {*tiny_fleet.spec.parameters, "floor", "slope"}


def test_impossible_steps_and_settings_are_refused(tiny_fleet, tiny_steps):
    with pytest.raises(InputError, match="total_tokens >= batch_size"):
        tiny_fleet.latency("A100-80GB", "llama-7b", batch_size=8, total_tokens=4)
    with pytest.raises(InputError, match="expected one of"):
        bl.fit(tiny_steps, sampler="metropolis")
    with pytest.raises(InputError, match="2 chains"):
        bl.fit(tiny_steps, chains=1)


# Gates


def test_a_gate_stands_for_its_posterior(thin_fleet):
    gate = thin_fleet.compile(
        "H100-80GB", "llama-7b", sla_ms=40.0, risk=0.05, max_batch_size=16, max_total_tokens=256
    )
    thin_fleet.check_gate(gate)
    latency = thin_fleet.latency(
        "H100-80GB", "llama-7b", batch_size=8, total_tokens=100, context_tokens=4_000
    )
    assert gate.p_exceed(8, 100, 4_000) == pytest.approx(latency.sf(40.0), abs=5e-4)
    with pytest.raises(StaleGateError, match="stale"):
        thin_fleet.check_gate(replace(gate, fingerprint="0" * 64))
    with pytest.raises(UnknownDeploymentError, match="nearest: H100-80GB/llama-7b"):
        thin_fleet.check_gate(replace(gate, deployment="H100-80GB/llama-8b/tp1/simulated"))
    with pytest.raises(UnknownDeploymentError, match="nearest"):
        thin_fleet.compile("H100-80GB", "llama-8b", sla_ms=40.0)


# Decisions about steps


def test_a_frontier_is_of_the_deployment(thin_fleet):
    space = bl.StepSpace(max_batch_size=32, max_total_tokens=256)
    found = thin_fleet.frontier(
        "H100-80GB", "llama-7b", sla_ms=[30.0, 60.0], risk=0.05, space=space
    )
    limits = [step.sla_ms for step in found.steps]
    assert sorted([*limits, *found.infeasible_ms, *found.dominated_ms]) == [30.0, 60.0]
    assert limits
    for step in found.steps:
        latency = thin_fleet.latency(
            "H100-80GB", "llama-7b", batch_size=step.batch_size, total_tokens=step.total_tokens,
            context_tokens=step.context_tokens,
        )  # fmt: skip
        assert step.p_exceeds.value == pytest.approx(latency.sf(step.sla_ms), abs=1e-6)
    usual = thin_fleet.frontier("H100-80GB", "llama-7b", sla_ms=[30.0], gate_draws=25).steps[0]
    typical = thin_fleet.typical_context(thin_fleet.find("H100-80GB", "llama-7b"))
    assert usual.context_tokens == pytest.approx(typical * usual.batch_size)


def test_tenants_share_a_step_within_the_risk(thin_fleet):
    tenants = [bl.Tenant("chat", 1, 800, 8), bl.Tenant("batch", 100, 100, 4)]
    front = thin_fleet.share_step("H100-80GB", "llama-7b", tenants, sla_ms=40.0, risk=0.05)
    assert front.steps
    assert all(step.p_exceeds.value <= 0.05 + 1e-3 for step in front.steps)


def test_points_to_measure_are_of_the_deployment(tiny_fleet):
    decision = bl.LargestTokens(8, sla_ms=40.0, risk=0.05)
    found = tiny_fleet.next_points("H100-80GB", "llama-7b", decision=decision, n=2)
    assert found.points.size == 2
    assert found.sd[2] < found.sd[0]
    with pytest.raises(UnknownDeploymentError, match="nearest"):
        tiny_fleet.next_points("H100-80GB", "llama-8b", decision=decision)
