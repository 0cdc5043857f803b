"""What a posterior's variables become in the draws of a deployment, without a fit."""

import json

import numpy as np
import pytest
import xarray as xr

import bayeslat as bl
from bayeslat.discrepancy import POWER_SPREAD, basis_for
from bayeslat.model.spec import ModelSpec
from bayeslat.schema import Deployment

BASIS = basis_for(np.array([1.0, 8.0, 8.0]), np.array([1.0, 8.0, 2_000.0]))
N_CHAINS, N_DRAWS = 2, 25
OWN = ("H100-80GB", "llama-7b")


def make_fleet(*, extended, measured=(1.0, 2_000.0), fleet_tokens=None):
    """Two deployments with draws about typical values; newcomers where a fleet's tokens are."""
    rng = np.random.default_rng(1)
    dims, shape = ("chain", "draw", "deployment"), (N_CHAINS, N_DRAWS, 2)
    spec = ModelSpec()
    typical = {"P_max": 30.0, "k_S": 0.01, "tau_0": 5.0, "sigma": 0.05}
    names = {*spec.parameters, "sigma"}
    variables = {
        name: (dims, typical.get(name, 1e-3) * rng.lognormal(0.0, 0.1, shape)) for name in names
    }
    slopes = rng.normal(0.3, 0.1, (N_CHAINS, N_DRAWS, 3, 2))
    variables["log_sigma_slopes"] = (("chain", "draw", "noise_feature", "deployment"), slopes)
    variables["nu"] = (dims[:2], 3.0 + rng.random(shape[:2]))
    attrs = {"spec": spec.to_json(), "discrepancy_basis": ""}
    if extended:
        weights = 0.1 * rng.normal(size=(N_CHAINS, N_DRAWS, BASIS.size, 2))
        variables["discrepancy"] = (("chain", "draw", "basis", "deployment"), weights)
        variables["discrepancy_scale"] = (dims[:2], 0.1 + 0.1 * rng.random(shape[:2]))
        attrs["discrepancy_basis"] = BASIS.to_json()
    own = {"gpu": ["A100-80GB", OWN[0]], "model": [OWN[1]] * 2, "tp": [1, 1]}
    own |= {"engine": [""] * 2, "precision": [""] * 2}
    constants = {f"deployment_{name}": ("deployment", values) for name, values in own.items()}
    constants |= {"w_1": ("deployment", [1.0, 1.3]), "context_per_request": ("deployment", [0, 7])}
    ranges = np.broadcast_to(np.array(measured), (2, 1, 2))
    constants["measured_range"] = (("deployment", "design_axis", "bound"), ranges)
    constants["design_axis"] = ("design_axis", ["total_tokens"])
    if fleet_tokens is not None:
        attrs["fleet_tokens"] = json.dumps(fleet_tokens)
    tree = xr.DataTree.from_dict(
        {"posterior": xr.Dataset(variables), "constant_data": xr.Dataset(constants)}
    )
    tree.attrs.update(attrs)
    return bl.FleetPosterior(tree)


def test_a_plain_posterior_has_plain_draws():
    draws = make_fleet(extended=False).draws(Deployment(*OWN))
    assert draws.discrepancy is None
    np.testing.assert_array_equal(draws.parameters["w_1"], 1.3)


def test_slopes_of_noise_and_discrepancy_are_those_of_the_deployment():
    fleet = make_fleet(extended=True)
    draws, posterior = fleet.draws(Deployment(*OWN)), fleet.posterior
    np.testing.assert_array_equal(draws.discrepancy.basis.centres, BASIS.centres)
    for chain, draw in ((0, 0), (1, 7), (1, 24)):
        flat = chain * N_DRAWS + draw
        where = {"chain": chain, "draw": draw}
        one = posterior.isel(deployment=1, **where)
        np.testing.assert_array_equal(draws.slopes[flat], one["log_sigma_slopes"])
        assert draws.sigma[flat] == one["sigma"]
        assert draws.discrepancy.scale[flat] == one["discrepancy_scale"]
        np.testing.assert_array_equal(draws.discrepancy.weights[flat], one["discrepancy"])


@pytest.mark.parametrize("extended", [False, True])
def test_latency_passes_the_number_of_steps_on(extended):
    fleet = make_fleet(extended=extended)
    step = {"batch_size": 4, "total_tokens": 64, "context_tokens": 0}
    many = fleet.latency(*OWN, **step, n_averaged=[1, 16])
    np.testing.assert_array_equal(many.n_averaged, [1.0, 16.0])
    assert many.std()[0] == pytest.approx(fleet.latency(*OWN, **step).std(), rel=1e-12)
    assert many.std()[1] < many.std()[0]


def test_a_power_is_unknown_beyond_the_deployments_own_token_counts():
    fleet = make_fleet(extended=True, measured=(16.0, 512.0))
    discrepancy = fleet.draws(Deployment(*OWN)).discrepancy
    assert discrepancy.reach == (16.0, 512.0)
    assert discrepancy.power.std() == pytest.approx(POWER_SPREAD, rel=0.05)


@pytest.mark.parametrize(
    ("measured", "expected"), [((np.nan, np.nan), (8.0, 64.0)), ((2.0, 32.0), (2.0, 64.0))]
)
def test_a_newcomer_is_known_where_its_fleet_was_measured_or_itself(measured, expected):
    fleet = make_fleet(extended=True, measured=measured, fleet_tokens=[8.0, 64.0])
    assert fleet.draws(Deployment(*OWN)).discrepancy.reach == expected


def test_intervals_widen_with_the_distance_from_what_was_measured():
    narrow, wide = (
        make_fleet(extended=True, measured=(1.0, top)).latency(
            *OWN, batch_size=1, total_tokens=[256, 4096], context_tokens=0
        )
        for top in (512.0, 4096.0)
    )
    low, high = narrow.interval(0.9)
    before, after = wide.interval(0.9)
    assert (low[0], high[0]) == (before[0], after[0])
    assert low[1] < before[1] and high[1] > after[1]
