"""A fleet of known truth: what users ask for is recovered, within the error that is claimed."""

import numpy as np
import pytest
from scipy import stats

import bayeslat as bl
from bayeslat.saturation import latency
from bayeslat.schema import Deployment
from bayeslat.simulate.formula import simulate_from_formula

pytestmark = pytest.mark.slow

SPEEDS = {"A100-80GB": 1.0, "H100-80GB": 2.1, "L40S": 0.75}
SIZES = {"llama-7b": 6.738 / 7.0, "llama-13b": 13.016 / 7.0}
SIGMA, NU = 0.04, 5.0
MIN_BATCH = 8
"""The fitted model leaves out how the batch saturates: from eight requests on, nothing tells."""

POINTS = {
    "batch_size": np.array([8, 32, 100, 16, 40]),
    "total_tokens": np.array([8, 32, 100, 150, 400]),
    "context_tokens": np.array([2000, 10000, 40000, 4000, 12000]),
}
"""Decode and mixed steps within the data."""


def truth_of(gpu: str, llm: str) -> dict[str, float]:
    speed, size = SPEEDS[gpu], SIZES[llm]
    return {
        "P_max": 10.0 * speed,
        "k_B": 2.0,
        "k_S": 0.009,
        "w_0": 8.0 * speed**0.5,
        "w_1": size,
        "tau_0": 3.5 * (size / speed) ** 0.5,
        "tau_B": 0.05 * size**0.6,
        "tau_S": 0.008 * size / speed,
        "tau_C": 3e-4 * size / speed,
    }


TRUTH = {Deployment(gpu, llm): truth_of(gpu, llm) for gpu in SPEEDS for llm in SIZES}


@pytest.fixture(scope="module")
def fleet() -> bl.FleetPosterior:
    table = simulate_from_formula(TRUTH, rows_per_deployment=260, sigma=SIGMA, nu=NU, seed=5)
    steps = table[table["batch_size"] >= MIN_BATCH].reset_index(drop=True)
    return bl.fit(bl.validate_steps(steps), seed=6)


def test_it_converged(fleet):
    assert fleet.verdict.passed, fleet.verdict


def predictions(fleet: bl.FleetPosterior):
    """Truth with its estimate: median at five points, p99 at three, P(T > t) at two."""
    for deployment, parameters in TRUTH.items():
        found = fleet.latency(deployment.gpu, deployment.model, **POINTS)
        typical = latency(parameters, *POINTS.values())
        yield typical, found.ppf(0.5, credible=0.9)
        p99 = typical * (1.0 + SIGMA * stats.t.ppf(0.99, NU))
        three = {name: values[:3] for name, values in POINTS.items()}
        subset = fleet.latency(deployment.gpu, deployment.model, **three)
        yield p99[:3], subset.ppf(0.99, credible=0.9)
        slow = 1.05 * typical[3:]
        rest = {name: values[3:] for name, values in POINTS.items()}
        subset = fleet.latency(deployment.gpu, deployment.model, **rest)
        yield np.full(2, stats.t.sf(0.05 / SIGMA, NU)), subset.sf(slow, credible=0.9)


def test_credible_intervals_cover_the_truth(fleet):
    # Sixty quantities, ten a deployment. Those of one deployment hang together through its slope,
    # floor and noise: they count as three, so eighteen independent intervals in all, of which at
    # least eleven hold the truth with probability 0.999.
    inside = np.concatenate(
        [(found.lower <= truth) & (truth <= found.upper) for truth, found in predictions(fleet)]
    )
    independent = 3 * len(TRUTH)
    least = stats.binom.ppf(1e-3, independent, 0.9) / independent
    assert inside.size == 60
    assert inside.mean() >= least, inside.mean()


def errors_of(fleet: bl.FleetPosterior) -> np.ndarray:
    """Relative error of the median, each deployment at each point."""
    return np.array(
        [
            fleet.latency(deployment.gpu, deployment.model, **POINTS).ppf(0.5)
            / latency(parameters, *POINTS.values())
            - 1.0
            for deployment, parameters in TRUTH.items()
        ]
    )


def test_medians_are_within_a_few_per_cent(fleet):
    # About 110 steps of 4 % noise a deployment and nine parameters leave 0.04 sqrt(9 / 110) = 1.1 %
    # on average over the design; its corners, up to four times that.
    errors = errors_of(fleet)
    assert np.sqrt(np.mean(np.square(errors))) < 0.02
    assert np.abs(errors).max() < 0.05


def test_what_the_data_tell_is_marked(fleet):
    table = fleet.identifiability().set_index("quantity")
    assert table.loc["slope", "informed"].all()
    assert table.loc["floor", "informed"].all()


def test_strays_are_told_from_steps():
    """A third of a log being anything moves its answers no more than fewer steps would."""
    table = simulate_from_formula(TRUTH, rows_per_deployment=260, sigma=SIGMA, nu=NU, seed=5)
    steps = table[table["batch_size"] >= MIN_BATCH].reset_index(drop=True)
    rng = np.random.default_rng(8)
    stray = rng.random(len(steps)) < 1 / 3
    steps.loc[stray, "latency_ms"] *= np.exp(rng.uniform(0.3, 2.5, stray.sum()))
    observations = bl.validate_steps(steps, check_floor=False)
    fleet = bl.fit(observations, bl.ModelSpec(strays=True), draws=500, seed=6)
    # Each deployment has about 110 steps: a share of a third is known to 0.045.
    share = fleet.posterior["stray_share"].mean(("chain", "draw")).to_numpy()
    assert np.abs(share - 1 / 3).max() < 0.15
    errors = errors_of(fleet)
    # Two thirds of the steps, so 1.2 times the error without strays.
    assert np.sqrt(np.mean(np.square(errors))) < 0.03
