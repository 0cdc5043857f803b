"""The nearest Gaussian: exact for a Gaussian, and at its own optimality conditions elsewhere."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import optimize

from bayeslat.inference.curvature import Derivatives
from bayeslat.inference.gaussian import inverse_root, nearest_gaussian


def test_a_gaussian_is_recovered():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((6, 6))
    precision, mean = root @ root.T + np.eye(6), 3.0 * rng.standard_normal(6)
    target = SimpleNamespace(
        derivatives=lambda y: Derivatives(0.0, -precision @ (y - mean), -precision)
    )
    centre, factor = nearest_gaussian(target, np.zeros(6), np.eye(6), np.random.default_rng(1))
    np.testing.assert_allclose(centre, mean, atol=0.05)
    np.testing.assert_allclose(factor @ factor.T @ precision, np.eye(6), atol=0.05)


def test_a_skewed_density_gets_its_mean_gradient_to_zero():
    """Ten independent log-gamma variables, where both optimality conditions have closed forms.

    With log-density a y - exp(y) and y normal(m, s^2): E[gradient] = a - exp(m + s^2/2) = 0 and
    1/s^2 = E[exp(y)] = a.
    """
    shape = np.linspace(1.0, 10.0, 10)
    target = SimpleNamespace(
        derivatives=lambda y: Derivatives(0.0, shape - np.exp(y), -np.diag(np.exp(y)))
    )
    runs = [
        nearest_gaussian(target, np.zeros(10), np.eye(10), np.random.default_rng(seed))
        for seed in range(20)
    ]
    centres = np.array([centre for centre, _ in runs])
    variances = np.array([np.diag(factor @ factor.T) for _, factor in runs])
    error = centres.std(axis=0) / np.sqrt(len(runs))
    # The cloud lies on a sphere, so E[exp(y)] misses the far tail: allow 2 % on top of 4 errors.
    assert np.all(np.abs(centres.mean(axis=0) - (np.log(shape) - 0.5 / shape)) < 4 * error + 0.02)
    np.testing.assert_allclose(variances.mean(axis=0), 1.0 / shape, rtol=0.15)


def test_scales_are_found_where_the_joint_mode_has_none():
    """A hierarchy of effects x_i ~ N(0, exp(2 t)) seen through noise: its mode is at t = -inf."""
    seen, noise = np.array([-2.0, -1.0, 0.5, 1.0, 2.5, -1.5, 0.2, 1.8]), 0.3

    def derivatives(y):
        x, t = y[:-1], y[-1]
        pull = (seen - x) / noise**2 - x * np.exp(-2 * t)
        slope = -len(x) + (x**2).sum() * np.exp(-2 * t) - t
        full = np.diag(np.append(np.full(len(x), -1 / noise**2 - np.exp(-2 * t)), 0.0))
        full[-1, :-1] = full[:-1, -1] = 2 * x * np.exp(-2 * t)
        full[-1, -1] = -2 * (x**2).sum() * np.exp(-2 * t) - 1.0
        return Derivatives(0.0, np.append(pull, slope), full)

    def marginal(t):  # x integrated out, prior t ~ N(0, 1)
        variance = np.exp(2 * t) + noise**2
        return 0.5 * (len(seen) * np.log(variance) + (seen**2).sum() / variance + t**2)

    target = SimpleNamespace(derivatives=derivatives)
    start = np.append(seen, -2.0)
    precision = -derivatives(start).hessian
    centre, factor = nearest_gaussian(target, start, precision, np.random.default_rng(0))
    best = optimize.minimize_scalar(marginal, bounds=(-3, 3), method="bounded").x
    assert abs(centre[-1] - best) < np.sqrt((factor @ factor.T)[-1, -1])


def test_a_cloud_that_leaves_the_support_is_drawn_in():
    """A normal density with an edge five standard deviations away and a far too wide start."""
    target = SimpleNamespace(
        derivatives=lambda y: Derivatives(
            0.0,
            np.where(np.abs(y) < 5.0, -y, np.nan),
            np.diag(np.where(np.abs(y) < 5.0, -1.0, np.nan)),
        )
    )
    start = 1e-4 * np.eye(3)
    centre, factor = nearest_gaussian(target, np.ones(3), start, np.random.default_rng(0))
    # The start has a weight of a hundredth or so left in the averages.
    np.testing.assert_allclose(centre, 0.0, atol=0.1)
    np.testing.assert_allclose(factor @ factor.T, np.eye(3), atol=0.2)


def test_inverse_root_is_unit_free():
    rng = np.random.default_rng(2)
    root = rng.standard_normal((4, 4))
    precision = root @ root.T + np.eye(4)
    units = np.diag([0.1, 1.0, 10.0, 100.0])
    plain, scaled = inverse_root(precision), inverse_root(units @ precision @ units)
    np.testing.assert_allclose(units @ scaled @ scaled.T @ units, plain @ plain.T, rtol=1e-8)
    assert plain @ plain.T == pytest.approx(np.linalg.inv(precision), rel=1e-8)
