"""What the data resolve, against finite differences and a matrix inverse."""

import numpy as np
import pytest

import bayeslat as bl
from bayeslat.inference.resolution import term_resolution
from bayeslat.inference.starts import Start
from bayeslat.saturation import latency
from bayeslat.schema import Deployment
from bayeslat.simulate.formula import simulate_from_formula

TRUTH = {
    "P_max": 50.0,
    "k_B": 0.3,
    "k_S": 0.02,
    "w_0": 0.1,
    "w_1": 1.0,
    "tau_0": 4.0,
    "tau_B": 0.05,
    "tau_S": 0.01,
}
NAMES = tuple(name for name in TRUTH if name != "w_1")
SIGMA = 0.05
VARIANCE = np.linspace(0.3, 1.5, len(NAMES))


@pytest.fixture(scope="module")
def steps() -> bl.Observations:
    truth = {Deployment("A100-80GB", "llama-7b", 1, "simulated", ""): TRUTH}
    table = simulate_from_formula(truth, rows_per_deployment=80, sigma=SIGMA)
    return bl.validate_steps(table, source="formula", check_floor=False)


def resolved(steps: bl.Observations) -> dict[str, float]:
    theta = np.log([TRUTH[name] for name in NAMES])[:, None]
    start = Start(theta, np.log([SIGMA]))
    found = term_resolution(steps, NAMES, np.array([1.0]), start, VARIANCE[:, None])
    return dict(zip(NAMES, found[:, 0], strict=True))


def own_sd(steps: bl.Observations, name: str) -> float:
    """Standard deviation of log `name` where every other parameter has a prior and it has none."""

    def log_latency(theta):
        values = {**dict(zip(NAMES, np.exp(theta), strict=True)), "w_1": 1.0}
        return np.log(latency(values, steps.batch_size, steps.total_tokens, 0.0))

    theta, width = np.log([TRUTH[each] for each in NAMES]), 1e-5
    moves = width * np.eye(len(NAMES))
    columns = [(log_latency(theta + m) - log_latency(theta - m)) / (2 * width) for m in moves]
    jacobian = np.stack(columns, axis=1)
    others = np.array([each != name for each in NAMES])
    precision = jacobian.T @ jacobian / SIGMA**2 + np.diag(others / VARIANCE)
    return float(np.sqrt(np.linalg.inv(precision)[NAMES.index(name), NAMES.index(name)]))


def test_an_additive_term_is_resolved_to_its_own_standard_deviation(steps):
    found = resolved(steps)
    assert found["tau_B"] == pytest.approx(TRUTH["tau_B"] * own_sd(steps, "tau_B"), rel=1e-5)
    per_work = TRUTH["w_0"] / TRUTH["P_max"]
    assert found["w_0"] == pytest.approx(per_work * own_sd(steps, "w_0"), rel=1e-5)


def test_shares_of_floor_and_slope_are_resolved_in_their_own_unit(steps):
    found = resolved(steps)
    slope = 1.0 / TRUTH["P_max"]
    of_floor = TRUTH["tau_0"] / (TRUTH["tau_0"] + slope / TRUTH["k_S"])
    of_slope = TRUTH["tau_S"] / (TRUTH["tau_S"] + slope)
    expected = {
        "k_S": of_floor * own_sd(steps, "tau_0"),
        "tau_S": of_slope * own_sd(steps, "tau_S"),
    }
    for slot, share in expected.items():
        assert found[slot] == pytest.approx(np.clip(share, 1e-3, 1.0), rel=1e-5)
        assert 1e-3 < share


def test_parameters_that_stay_logarithms_are_left_alone(steps):
    found = resolved(steps)
    assert [found[name] for name in ("P_max", "k_B", "tau_0")] == [1.0, 1.0, 1.0]
