"""The starts: near the truth of simulated steps, also where single starts are lost."""

import numpy as np
import pytest

import bayeslat as bl
from bayeslat.inference import starts
from bayeslat.inference.starts import Start, starting_points
from bayeslat.model import ModelSpec
from bayeslat.model.quantities import link, to_parameters
from bayeslat.saturation import latency
from bayeslat.schema import Deployment
from bayeslat.simulate.formula import simulate_from_formula

TRUTHS = {
    Deployment("A100-80GB", "llama-7b", 1, "simulated", ""): {
        "P_max": 60.0, "k_B": 0.2, "k_S": 0.02, "w_0": 0.1, "w_1": 1.0,
        "tau_0": 3.0, "tau_B": 0.05, "tau_S": 0.005,
    },
    Deployment("H100-80GB", "llama-7b", 1, "simulated", ""): {
        "P_max": 150.0, "k_B": 0.4, "k_S": 0.01, "w_0": 0.1, "w_1": 1.0,
        "tau_0": 2.0, "tau_B": 0.02, "tau_S": 0.002,
    },
}  # fmt: skip
NAMES = ModelSpec(terms=("k_B", "w_0", "tau_B", "tau_S")).quantities
MEDIANS = {
    "slope": 0.015, "k_B": 0.3, "floor_share": 0.7, "overhead": 0.1, "floor": 3.0, "tau_B": 0.03,
    "slope_share": 0.2,
}  # fmt: skip
SIGMA = 0.03


@pytest.fixture(scope="module")
def steps() -> bl.Observations:
    table = simulate_from_formula(TRUTHS, rows_per_deployment=400, sigma=SIGMA, nu=4.0)
    return bl.validate_steps(table, source="formula", check_floor=False)


def start(steps: bl.Observations, spread: float = 1.0) -> Start:
    mean = np.array([[link(name, MEDIANS[name])] * 2 for name in NAMES])
    return starting_points(steps, NAMES, np.ones(2), mean, spread * np.ones_like(mean), seed=0)


def log_errors(steps: bl.Observations, found: Start) -> np.ndarray:
    """Log of fitted over true latency, at the steps themselves."""
    errors = []
    for d, deployment in enumerate(steps.deployments):
        rows = steps.deployment_index == d
        fitted = to_parameters(dict(zip(NAMES, found.quantities[:, d], strict=True)), 1.0)
        at = steps.batch_size[rows], steps.total_tokens[rows], 0.0
        errors.append(np.log(latency(fitted, *at) / latency(TRUTHS[deployment], *at)))
    return np.concatenate(errors)


def test_the_fit_is_near_the_truth_in_latency_and_noise(steps):
    found = start(steps)
    assert np.sqrt(np.mean(log_errors(steps, found) ** 2)) < SIGMA / 2
    # The scale is fitted with nu = 4, as simulated; its own error is SIGMA / sqrt(2 * 256).
    np.testing.assert_allclose(np.exp(found.log_sigma), SIGMA, rtol=0.2)


def test_the_best_of_many_starts_is_kept(steps, monkeypatch):
    """From one far-off start alone the fit may be lost; more starts never make it worse."""
    many = log_errors(steps, start(steps, spread=2.0))
    monkeypatch.setattr(starts, "N_STARTS", 1)
    one = log_errors(steps, start(steps, spread=2.0))
    assert np.mean(many**2) <= 1.05 * np.mean(one**2)


def test_a_few_outliers_move_little(steps):
    table = steps.to_frame()
    picked = np.random.default_rng(0).permutation(len(table))[: len(table) // 20]
    latencies = table["latency_ms"].to_numpy().copy()
    latencies[picked] *= 10.0
    table["latency_ms"] = latencies
    spoiled = bl.validate_steps(table, source="formula, 5 % stalls", check_floor=False)
    assert np.sqrt(np.mean(log_errors(steps, start(spoiled)) ** 2)) < SIGMA


def test_a_handful_of_rows_does_not_measure_noise_away(steps):
    """Five rows are fitted exactly by as many quantities."""
    few = steps.select(np.arange(len(steps)) % 80 == 0)
    assert np.bincount(few.deployment_index).tolist() == [5, 5]
    least = np.exp(start(few).log_sigma).min()
    assert least > 0.5 * starts.NOISE_MEAN[0] / np.sqrt(5 + starts.PRIOR_ROWS)
