"""The climb against a quadratic, whose mode is known, and against coordinates that are held."""

from types import SimpleNamespace

import numpy as np
import pytest

from bayeslat.inference.curvature import Derivatives
from bayeslat.inference.mode import climb


def quadratic(mode: np.ndarray, precision: np.ndarray) -> SimpleNamespace:
    return SimpleNamespace(
        derivatives=lambda y: Derivatives(
            -0.5 * (y - mode) @ precision @ (y - mode), -precision @ (y - mode), -precision
        )
    )


def test_climb_reaches_the_mode_of_a_quadratic():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((5, 5))
    mode = rng.standard_normal(5)
    target = quadratic(mode, root @ root.T + np.eye(5))
    np.testing.assert_allclose(climb(target, np.zeros(5), np.ones(5, bool)), mode, atol=0.02)


def test_climb_leaves_held_coordinates_alone():
    precision = np.array([[2.0, 1.0], [1.0, 3.0]])
    target = quadratic(np.array([1.0, -1.0]), precision)
    found = climb(target, np.zeros(2), np.array([True, False]))
    assert found[1] == 0.0
    np.testing.assert_allclose(found[0], 0.5, atol=0.02)  # mode given y_1 = 0


@pytest.mark.parametrize("elsewhere", [-np.inf, np.nan])
def test_climb_stays_where_no_step_leads_uphill(elsewhere):
    target = SimpleNamespace(
        derivatives=lambda y: Derivatives(
            0.0 if np.all(y == 0) else elsewhere, np.ones_like(y), -np.eye(y.size)
        )
    )
    np.testing.assert_array_equal(climb(target, np.zeros(3), np.ones(3, bool)), np.zeros(3))


def test_climb_damps_its_way_past_what_is_not_a_number():
    def derivatives(y):  # the full Newton step from 0 lands beyond 2, where log is NaN
        left = 2.0 - y[0]
        with np.errstate(invalid="ignore"):
            value = float(np.log(left) + 5.0 * y[0])
        return Derivatives(value, np.array([5.0 - 1.0 / left]), np.array([[-1.0 / left**2]]))

    target = SimpleNamespace(derivatives=derivatives)
    np.testing.assert_allclose(climb(target, np.zeros(1), np.ones(1, bool)), 1.8, atol=0.05)
