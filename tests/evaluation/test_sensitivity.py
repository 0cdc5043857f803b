"""Sensitivity of latency to the step, and of answers to priors, against closed forms."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from made_posteriors import FLEET, SPEC, posterior_of, simulated, truth_of
from scipy import stats

import bayeslat as bl
from bayeslat.evaluation.prior_sensitivity import (
    PriorSensitivity,
    log_priors,
    power_sensitivity,
    prior_sensitivity,
)
from bayeslat.evaluation.sensitivity import AXES, latency_slopes, sensitivity_grid
from bayeslat.predictive.draws import Points

STEP = 1e-4


@pytest.fixture(scope="module")
def reference() -> bl.FleetPosterior:
    """A fitted fleet with a discrepancy."""
    return bl.load_released("reference-fleet")


def test_slopes_are_those_of_finite_differences(reference):
    draws = reference.draws(reference.deployments[0]).thin(50)
    # Decode, mixed and prefill steps, and one beyond the measured tokens; away from the jumps.
    design = np.array(
        [[8.0, 7.0, 30.0, 100.0, 3.0], [8.5, 900.0, 60.0, 300.0, 20_000.0],
         [500.0, 9000.0, 3000.0, 1000.0, 40_000.0]]
    )  # fmt: skip
    found = latency_slopes(draws, Points(*design))
    assert list(found) == list(AXES)
    for axis, name in enumerate(AXES):
        high, low = design.copy(), design.copy()
        high[axis] += STEP
        low[axis] -= STEP
        moved = draws.location(Points(*high)) - draws.location(Points(*low))
        np.testing.assert_allclose(found[name], moved / (2.0 * STEP), rtol=2e-4, atol=1e-9)


def test_a_grid_without_discrepancy_is_the_formula():
    steps = simulated(rows=20, deployments=FLEET[:1])
    draws = posterior_of(steps).draws(FLEET[0])
    grid = sensitivity_grid(draws, [1, 4, 64], [1, 16, 4096], context_per_request=100.0)
    truth = truth_of(FLEET[0])
    possible = grid.total_tokens[None, :] >= grid.batch_size[:, None]
    for name, parameter in (("batch_size", "tau_B"), ("context_tokens", "tau_C")):
        slope = grid.slopes[name]
        assert slope.value[possible] == pytest.approx(truth[parameter], rel=1e-2)
        assert np.isnan(slope.value[~possible]).all()
        assert (slope.lower[possible] < slope.upper[possible]).all()
        assert (grid.negative[name][possible] == 0.0).all()
    # At saturation one more token costs w_1 / P_max.
    assert grid.slopes["total_tokens"].value[0, -1] == pytest.approx(
        truth["w_1"] / truth["P_max"], rel=1e-2
    )
    assert grid.context_tokens[1, 0] == 400.0


def test_where_requests_make_a_step_faster_the_sign_says_so():
    """With saturation in B a larger batch shares the work of the same tokens better."""
    spec = bl.ModelSpec(terms=("k_B", "tau_B"), discrepancy=False)
    steps = simulated(rows=20, deployments=FLEET[:1])
    draws = posterior_of(steps, spec=spec, altered={"k_B": 0.05}).draws(FLEET[0])
    grid = sensitivity_grid(draws, [1, 200], [2000])
    assert grid.slopes["batch_size"].value[0, 0] < 0.0
    assert grid.negative["batch_size"][0, 0] == 1.0
    assert grid.negative["batch_size"][1, 0] == 0.0


@pytest.mark.parametrize(
    ("batch", "tokens", "options"),
    [([0, 4], [4], {}), ([8], [4], {}), ([], [4], {}), ([1], [4], {"credible": 1.5})],
)
def test_impossible_grids_are_refused(batch, tokens, options):
    draws = posterior_of(simulated(rows=5, deployments=FLEET[:1])).draws(FLEET[0])
    with pytest.raises(bl.InputError):
        sensitivity_grid(draws, batch, tokens, **options)


def normal_posterior(*, prior_mean: float, prior_sd: float, n: int):
    """Draws of a normal mean, its log prior and the log likelihood of n unit-variance data at 0."""
    prior, data = prior_sd**-2, float(n)
    mean, sd = prior_mean * prior / (prior + data), (prior + data) ** -0.5
    draws = np.random.default_rng(3).normal(mean, sd, (4, 2000))
    log_prior = stats.norm.logpdf(draws, prior_mean, prior_sd)
    return draws, log_prior, -0.5 * data * np.square(draws), (prior, data, mean, sd)


@pytest.mark.parametrize(("prior_mean", "prior_sd", "n"), [(0.5, 1.0, 20), (3.0, 0.3, 10)])
def test_power_scaling_of_a_normal_is_known(prior_mean, prior_sd, n):
    draws, log_prior, log_likelihood, (prior, data, mean, sd) = normal_posterior(
        prior_mean=prior_mean, prior_sd=prior_sd, n=n
    )
    for density, share, target in (
        (log_prior, prior / (prior + data), prior_mean),
        (log_likelihood, data / (prior + data), 0.0),
    ):
        found = power_sensitivity(draws[..., None], density)
        shift = np.log(2.0) * share * (target - mean) / sd
        assert abs(found["shift"][0] - shift) < 4.0 * found["shift_error"][0]
        assert abs(found["share"][0] - share) < 4.0 * found["share_error"][0]
        assert found["shift_error"][0] < 0.2


def sensitivity_of(draws, log_prior, log_likelihood) -> PriorSensitivity:
    parts = {"slope": log_prior, "all priors": log_prior, "likelihood": log_likelihood}
    lines = []
    for part, density in parts.items():
        found = {k: float(v[0]) for k, v in power_sensitivity(draws[..., None], density).items()}
        lines.append({"deployment": "one", "answer": "a", "part": part, **found})
    return PriorSensitivity(pd.DataFrame(lines))


@pytest.mark.parametrize(
    ("prior_mean", "prior_sd", "n", "diagnosis"),
    [
        (0.5, 1.0, 50, "informed by the data"),
        (0.1, 0.1, 20, "rather the prior's word than the data's"),
        (4.0, 1.0, 10, "prior and data pull apart"),
    ],
)
def test_weak_data_and_conflicts_are_told(prior_mean, prior_sd, n, diagnosis):
    draws, *densities, _ = normal_posterior(prior_mean=prior_mean, prior_sd=prior_sd, n=n)
    found = sensitivity_of(draws, *densities)
    assert list(found.table()["diagnosis"]) == [diagnosis]
    assert len(found.failures) == (diagnosis != "informed by the data")


def known_by_its_floor_alone(fleet: bl.FleetPosterior, *, off: float) -> bl.FleetPosterior:
    """The same draws, had all latencies followed the fleet's floor, and that been off its prior.

    Parameters
    ----------
    off
        How far the logarithm of the floor is off its prior median.
    """
    tree = fleet.tree.copy()
    posterior = tree["posterior"].to_dataset().copy(deep=True)
    intercept = posterior["intercept"]
    floor = intercept.sel(quantity="floor")
    for name in ("tau_0", "tau_B", "tau_C"):
        posterior[name] = posterior[name] * np.exp(floor)
    posterior["P_max"] = posterior["P_max"] / np.exp(floor)
    posterior["intercept"] = intercept.where(intercept["quantity"] != "floor", floor + off)
    tree["posterior"] = xr.DataTree(posterior)
    return bl.FleetPosterior(tree)


@pytest.fixture(scope="module")
def reference_steps() -> bl.Observations:
    return bl.validate_steps(bl.simulate_fleet().steps)


def test_a_fitted_fleet_is_informed_by_its_data(reference, reference_steps):
    found = prior_sensitivity(reference, reference_steps)
    assert len(found.table()) == 4 * len(reference.deployments)
    assert len(found.failures) == 0


def test_a_prior_far_from_the_posterior_is_found(reference, reference_steps):
    conflict = known_by_its_floor_alone(reference, off=-4.0)
    failures = prior_sensitivity(conflict, reference_steps).failures
    assert set(failures["deployment"]) == {item.label for item in reference.deployments}
    assert "floor" in set(failures["part"])
    assert "prior and data pull apart" in set(failures["diagnosis"])
    assert (failures["shift"] > 0.0).all(), "towards the prior's larger floor"


def test_log_priors_by_hand(reference):
    """Of the floor: its global value, elasticities, sampled scales, and effects of fixed ones."""
    found = log_priors(reference)
    assert set(found) == {*reference.spec.quantities, "noise", "tails", "discrepancy"}
    posterior, prior = reference.posterior, reference.spec.prior("floor")
    own = posterior.sel(quantity="floor").stack(sample=("chain", "draw"))
    expected = stats.norm.logpdf(own["intercept"], 0.0, prior.spread)
    for regressor, mean in prior.elasticity.items():
        expected += stats.norm.logpdf(own["elasticity"].sel(regressor=regressor), mean, 0.2)
    for level in ("gpu", "setting", "model", "engine", "layout", "stack", "site"):
        scale = prior.scale(level)
        if scale.spread > 0.0:
            logs = np.log(own[f"{level}_scale"])
            expected += stats.norm.logpdf(logs, np.log(scale.median), scale.spread)
        elif f"{level}_effect" in own:
            effects = own[f"{level}_effect"].transpose("sample", level)
            expected += stats.norm.logpdf(effects, 0.0, scale.median).sum(axis=1)
    np.testing.assert_allclose(found["floor"], expected, rtol=1e-9)


def test_posteriors_without_a_prior_of_their_own_are_refused(reference, reference_steps):
    steps = simulated(rows=10, deployments=FLEET[:1])
    with pytest.raises(bl.InputError, match="cold start"):
        prior_sensitivity(posterior_of(steps, spec=SPEC), steps)
    other = reference_steps.for_deployment(reference_steps.deployments[0])
    with pytest.raises(bl.InputError, match="not those that the posterior was fitted to"):
        prior_sensitivity(reference, other)
