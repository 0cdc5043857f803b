"""What the data resolve, against finite differences and a matrix inverse."""

import numpy as np
import pytest

import bayeslat as bl
from bayeslat.inference.coordinates import SHARES, STRAIGHTENED
from bayeslat.inference.resolution import SHARE_RESOLUTION, term_resolution
from bayeslat.inference.starts import Start
from bayeslat.model.quantities import link, to_parameters
from bayeslat.saturation import latency
from bayeslat.schema import Deployment
from bayeslat.simulate.formula import simulate_from_formula

TRUTH = {
    "slope": 0.03,
    "k_B": 0.3,
    "floor_share": 0.8,
    "overhead": 0.1,
    "floor": 5.0,
    "tau_B": 0.05,
    "slope_share": 0.3,
    "tau_C": 3e-4,
    "gamma_S": 1e-4,
}
NAMES = tuple(TRUTH)
THETA = np.array([link(name, value) for name, value in TRUTH.items()])
SIGMA = 0.05
VARIANCE = np.linspace(0.3, 1.5, len(NAMES))


def parameters_at(theta: np.ndarray) -> dict[str, np.ndarray]:
    return to_parameters(dict(zip(NAMES, theta, strict=True)), 1.0)


@pytest.fixture(scope="module")
def steps() -> bl.Observations:
    truth = {Deployment("A100-80GB", "llama-7b", 1, "simulated", ""): parameters_at(THETA)}
    table = simulate_from_formula(truth, rows_per_deployment=80, sigma=SIGMA)
    return bl.validate_steps(table, source="formula", check_floor=False)


def resolved(steps: bl.Observations, theta: np.ndarray = THETA) -> dict[str, float]:
    start = Start(theta[:, None], np.log([SIGMA]))
    found = term_resolution(steps, NAMES, np.array([1.0]), start, VARIANCE[:, None])
    return dict(zip(NAMES, found[:, 0], strict=True))


def own_sd(steps: bl.Observations, name: str) -> float:
    """Standard deviation of one quantity where every other has a prior and it has none."""

    def log_latency(theta):
        design = steps.batch_size, steps.total_tokens, steps.context_tokens
        return np.log(latency(parameters_at(theta), *design))

    width = 1e-5
    moves = width * np.eye(len(NAMES))
    columns = [(log_latency(THETA + m) - log_latency(THETA - m)) / (2 * width) for m in moves]
    jacobian = np.stack(columns, axis=1)
    others = np.array([each != name for each in NAMES])
    precision = (jacobian.T * steps.n_averaged) @ jacobian / SIGMA**2 + np.diag(others / VARIANCE)
    return float(np.sqrt(np.linalg.inv(precision)[NAMES.index(name), NAMES.index(name)]))


def test_an_additive_term_is_resolved_to_its_own_standard_deviation(steps):
    found = resolved(steps)
    for name in set(STRAIGHTENED) & set(NAMES):
        assert found[name] == pytest.approx(TRUTH[name] * own_sd(steps, name), rel=1e-5)


def test_a_share_is_resolved_in_its_own_unit(steps):
    found = resolved(steps)
    for name in SHARES:
        expected = TRUTH[name] * (1.0 - TRUTH[name]) * own_sd(steps, name)
        assert SHARE_RESOLUTION[0] < expected < SHARE_RESOLUTION[1]
        assert found[name] == pytest.approx(expected, rel=1e-5)


def test_the_resolution_of_a_share_stays_within_its_bounds(steps):
    theta = THETA.copy()
    theta[NAMES.index("floor_share")] = link("floor_share", 1e-6)
    assert resolved(steps, theta)["floor_share"] >= SHARE_RESOLUTION[0]
    theta[NAMES.index("floor")] = link("floor", 1e-9)  # nothing is seen of a floor that is not
    assert resolved(steps, theta)["floor_share"] <= SHARE_RESOLUTION[1]


def test_quantities_that_stay_as_they_are_pooled_are_left_alone(steps):
    found = resolved(steps)
    left = [name for name in NAMES if name not in STRAIGHTENED + SHARES]
    assert [found[name] for name in left] == [1.0] * len(left)
