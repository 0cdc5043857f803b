import numpy as np
import pytest

from bayeslat.errors import InputError
from bayeslat.queueing import service_grid, service_grid_from_samples

STEP = 0.05
TIME = STEP * np.arange(200)
CAP = TIME[-1]


def capped_excess(rate=1.0):
    """E[(min(S, cap) - t)+] of an exponential service."""
    return (np.exp(-rate * TIME) - np.exp(-rate * CAP)) / rate


def test_excess_of_an_exponential_lies_between_the_bounds():
    exact, survival = capped_excess(), np.exp(-TIME)
    wide = service_grid(survival, STEP)
    narrow = service_grid(survival, STEP, mean_service=exact[0])
    for grid in (wide, narrow):
        assert np.all(grid.excess_lower <= exact + 1e-12)
        assert np.all(grid.excess_upper >= exact - 1e-12)
        assert grid.cap == pytest.approx(CAP)
        assert grid.truncated_mass == pytest.approx(np.exp(-CAP))
    gaps = [grid.excess_upper - grid.excess_lower for grid in (wide, narrow)]
    assert np.all(gaps[1] <= gaps[0] + 1e-12)
    assert gaps[0][0] == pytest.approx(STEP * (1.0 - np.exp(-CAP)))
    assert gaps[1][0] == pytest.approx(0.0, abs=1e-12)


def test_bounds_hold_for_a_survival_function_that_jumps():
    # Constant services 0.52 and 1.23 with probability 1/4 and 3/4, neither on the grid.
    survival = 0.25 * (TIME < 0.52) + 0.75 * (TIME < 1.23)
    exact = 0.25 * np.maximum(0.52 - TIME, 0.0) + 0.75 * np.maximum(1.23 - TIME, 0.0)
    grid = service_grid(survival, STEP)
    assert np.all(grid.excess_lower <= exact + 1e-12)
    assert np.all(grid.excess_upper >= exact - 1e-12)


def test_samples_give_the_empirical_distribution():
    samples = np.random.default_rng(0).lognormal(0.0, 1.5, size=(3, 500))
    samples[0, :20] = TIME[:20]
    grid = service_grid_from_samples(samples, STEP, TIME.size)
    capped = np.minimum(samples, CAP)
    for row, values in enumerate(capped):
        exact = np.maximum(values[:, None] - TIME, 0.0).mean(axis=0)
        np.testing.assert_allclose(grid.excess_lower[row], exact, atol=1e-12)
        at_least = (values[:, None] >= TIME - 1e-12).mean(axis=0)
        above = (values[:, None] > TIME + 1e-12).mean(axis=0)
        assert np.all((grid.survival[row] <= at_least) & (grid.survival[row] >= above))
    assert grid.excess_upper is grid.excess_lower
    np.testing.assert_allclose(grid.truncated_mass, (samples > CAP).mean(axis=1))
    assert np.all(grid.truncated_mass > 0.0)


def test_one_service_has_no_axis_of_draws():
    grid = service_grid_from_samples([0.2, 0.3], STEP, 20)
    assert grid.survival.shape == (20,)
    assert grid.excess_lower[0] == pytest.approx(0.25)
    assert service_grid(np.exp(-TIME), STEP).truncated_mass.shape == ()


@pytest.mark.parametrize(
    ("question", "match"),
    [
        (lambda: service_grid([1.0], STEP), "two grid points"),
        (lambda: service_grid([1.0, 0.5, 0.6], STEP), "rises"),
        (lambda: service_grid([1.1, 0.5], STEP), "leaves"),
        (lambda: service_grid([1.0, np.nan], STEP), "leaves"),
        (lambda: service_grid([1.0, 0.5], 0.0), "step=0"),
        (lambda: service_grid(np.exp(-TIME), STEP, mean_service=1.1), "within the bounds"),
        (lambda: service_grid(np.exp(-TIME), STEP, mean_service=0.9), "within the bounds"),
        (lambda: service_grid_from_samples([1.0, -1.0], STEP, 20), "samples=-1"),
        (lambda: service_grid_from_samples([1.0, np.inf], STEP, 20), "samples=inf"),
        (lambda: service_grid_from_samples([1.0], STEP, 1), "n_grid=1"),
    ],
)
def test_impossible_services_are_refused(question, match):
    with pytest.raises(InputError, match=match) as refusal:
        question()
    assert "\n" not in str(refusal.value)
