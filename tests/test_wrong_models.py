"""Wrong models are found out: each by the check that a user would look at."""

from dataclasses import replace

import arviz as az
import numpy as np
import pytest
from scipy import stats

import bayeslat as bl
from bayeslat.checks import leave_one_out, predict_rows
from bayeslat.schema import Deployment
from bayeslat.simulate.formula import simulate_from_formula

pytestmark = [
    pytest.mark.slow,
    # Importance sampling itself says so where a step is not what a wrong model expects.
    pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto:UserWarning"),
]

N_ROWS = 300
SIGMA, NU = 0.04, 3.5
LEVEL = 1e-3
"""Probability that the right model is called wrong, of each check."""

CLEAR_Z = stats.norm.isf(LEVEL)
SIZES = {"llama-7b": 6.738 / 7.0, "llama-13b": 13.016 / 7.0}
SPEEDS = {"A100-80GB": 1.0, "H100-80GB": 2.4}
"""What pooling must not smooth away: the second GPU is not as fast as its datasheet says."""


def truth_of(gpu: str, size: float) -> dict[str, float]:
    speed = SPEEDS[gpu]
    return {
        "P_max": 10.0 * speed,
        "k_S": 0.009,
        "w_1": size,
        "tau_0": 3.5 * size / speed**0.4,
        "tau_B": 0.03,
        "tau_C": 6e-4 * size / speed**0.5,
    }


def simulated(sizes: dict[str, float], seed: int) -> bl.Observations:
    truth = {
        Deployment(gpu, llm): truth_of(gpu, size) for gpu in SPEEDS for llm, size in sizes.items()
    }
    table = simulate_from_formula(truth, rows_per_deployment=N_ROWS, sigma=SIGMA, nu=NU, seed=seed)
    return bl.validate_steps(table, check_floor=False)


@pytest.fixture(scope="module")
def steps() -> bl.Observations:
    return simulated(SIZES, seed=21)


@pytest.fixture(scope="module")
def right(steps) -> bl.FleetPosterior:
    return bl.fit(steps, draws=500, seed=1)


@pytest.fixture(scope="module")
def right_loo(right, steps) -> az.ELPDDataLOO:
    return leave_one_out(right, steps)


def z_of_difference(better: az.ELPDDataLOO, worse: az.ELPDDataLOO) -> float:
    """Difference of two expected log densities in its standard errors, over the same rows."""
    return z_of(np.asarray(better.elpd_i) - np.asarray(worse.elpd_i))


def z_of(difference: np.ndarray) -> float:
    return float(difference.sum() / (difference.std(ddof=1) * np.sqrt(difference.size)))


def z_of_coverage(fleet: bl.FleetPosterior, steps: bl.Observations) -> float:
    """How far the count of steps in their 90 % intervals is from what it should be."""
    inside = predict_rows(fleet, steps)["pit"].between(0.05, 0.95)
    return float((inside.sum() - 0.9 * inside.size) / np.sqrt(0.09 * inside.size))


def test_the_right_model_passes(right, steps):
    """On steps that it has not seen, so that no fit can flatter itself."""
    assert right.verdict.passed, right.verdict
    fresh = simulated(SIZES, seed=22)
    pit = predict_rows(right, fresh)["pit"]
    assert stats.kstest(pit, "uniform").pvalue > LEVEL
    assert abs(z_of_coverage(right, fresh)) < stats.norm.isf(LEVEL / 2)


def test_a_wrong_likelihood_is_flagged(steps, right_loo):
    normal = bl.fit(steps, bl.ModelSpec(likelihood="normal"), draws=500, seed=2)
    assert z_of_difference(right_loo, leave_one_out(normal, steps)) > CLEAR_Z
    pit = predict_rows(normal, steps)["pit"]
    assert stats.kstest(pit, "uniform").pvalue < LEVEL


def test_a_dropped_context_is_flagged(steps, right_loo):
    blind = bl.fit(steps, bl.ModelSpec().without("tau_C"), draws=500, seed=3)
    assert z_of_difference(right_loo, leave_one_out(blind, steps)) > CLEAR_Z
    table = predict_rows(blind, steps)
    # Its errors follow what it does not know.
    assert stats.spearmanr(table["pit"], table["context_tokens"]).pvalue < LEVEL


def test_pooled_away_differences_are_flagged(steps, right_loo):
    """Complete pooling: all steps as if one deployment had taken them."""
    one = {"gpu": "A100-80GB", "model": "llama-7b"}
    together = bl.validate_steps(steps.to_frame().assign(**one), check_floor=False)
    pooled = bl.fit(together, draws=500, seed=4)
    loo = leave_one_out(pooled, together)
    # Rows are told by their latencies, no two of which are equal.
    same, own = np.argsort(together.latency_ms), np.argsort(steps.latency_ms)
    difference = np.asarray(right_loo.elpd_i)[own] - np.asarray(loo.elpd_i)[same]
    assert z_of(difference) > CLEAR_Z
    pit = predict_rows(pooled, together)["pit"].to_numpy()[same]
    index = steps.deployment_index[own]
    assert stats.kruskal(*(pit[index == i] for i in range(4))).pvalue < LEVEL


def test_a_wrong_gauge_is_flagged(right):
    """The gauge is the active size of an LLM: one misstated eightfold misses where it is new."""
    known = bl.load_catalog().llm("llama-30b")
    held_out = simulated({"new": known.parameters_b / 7.0}, seed=23)
    told = {
        "right": replace(known, name="new"),
        "wrong": replace(known, name="new", parameters_b=8.0 * known.parameters_b),
    }
    inside = {}
    for name, entry in told.items():
        new = right.cold_start(entry, deployments=list(held_out.deployments), seed=5)
        inside[name] = predict_rows(new, held_out)["pit"].between(0.05, 0.95).mean()
    assert inside["right"] > 0.75
    assert inside["wrong"] < 0.5
