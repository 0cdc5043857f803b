"""The nearest Gaussian: exact for a Gaussian, and at its own optimality conditions elsewhere."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import optimize

from bayeslat.inference.arrow import ArrowFactor, arrow_layout
from bayeslat.inference.curvature import Derivatives
from bayeslat.inference.gaussian import nearest_gaussian


def target_of(derivatives, dim: int, leaves=(), near=()) -> SimpleNamespace:
    layout = arrow_layout(dim, [np.array(own) for own in leaves], [np.array(c) for c in near])

    def averaged(points):
        found = [derivatives(y) for y in points]
        return (
            np.mean([each.gradient for each in found], axis=0),
            -np.mean([each.hessian for each in found], axis=0),
        )

    return SimpleNamespace(averaged=averaged, structure=SimpleNamespace(layout=layout), dim=dim)


def covariance(factor: ArrowFactor) -> np.ndarray:
    """Covariance of the Gaussian that a factor stands for."""
    columns = factor.map(np.eye(factor.order.size))
    return columns.T @ columns


ARROWS = {"dense": {}, "arrow": {"leaves": [[1, 4], [5], [2]], "near": [[0, 3], [3], [0]]}}
"""Without leaves, and with leaves of two sizes."""


@pytest.mark.parametrize("arrow", ARROWS.values(), ids=ARROWS)
def test_a_gaussian_is_recovered(arrow):
    rng = np.random.default_rng(0)
    root = rng.standard_normal((6, 6))
    precision, mean = root @ root.T + np.eye(6), 3.0 * rng.standard_normal(6)
    if arrow:
        precision = np.where(meets(arrow), precision, 0.0) + 6.0 * np.eye(6)
    target = target_of(lambda y: Derivatives(0.0, -precision @ (y - mean), -precision), 6, **arrow)
    centre, factor = nearest_gaussian(target, np.zeros(6), np.random.default_rng(1))
    np.testing.assert_allclose(centre, mean, atol=0.05)
    np.testing.assert_allclose(covariance(factor) @ precision, np.eye(6), atol=0.05)


def meets(arrow: dict) -> np.ndarray:
    """Which coordinates an arrow lets meet."""
    inside = np.zeros((6, 6), dtype=bool)
    core = np.setdiff1d(np.arange(6), np.concatenate(arrow["leaves"]))
    inside[np.ix_(core, core)] = True
    for own, near in zip(arrow["leaves"], arrow["near"], strict=True):
        inside[np.ix_(own + near, own + near)] = True
    return inside


def test_a_skewed_density_gets_its_mean_gradient_to_zero():
    """Ten independent log-gamma variables, where both optimality conditions have closed forms.

    With log-density a y - exp(y) and y normal(m, s^2): E[gradient] = a - exp(m + s^2/2) = 0 and
    1/s^2 = E[exp(y)] = a.
    """
    shape = np.linspace(1.0, 10.0, 10)
    target = target_of(lambda y: Derivatives(0.0, shape - np.exp(y), -np.diag(np.exp(y))), 10)
    runs = [
        nearest_gaussian(target, np.zeros(10), np.random.default_rng(seed)) for seed in range(20)
    ]
    centres = np.array([centre for centre, _ in runs])
    variances = np.array([np.diag(covariance(factor)) for _, factor in runs])
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

    target = target_of(derivatives, len(seen) + 1)
    start = np.append(seen, -2.0)
    centre, factor = nearest_gaussian(target, start, np.random.default_rng(0))
    best = optimize.minimize_scalar(marginal, bounds=(-3, 3), method="bounded").x
    assert abs(centre[-1] - best) < np.sqrt(covariance(factor)[-1, -1])


def test_a_cloud_that_leaves_the_support_is_drawn_in():
    """Density exp(-y^4 / 4) with an edge at five, begun where it is so flat that a cloud leaves it.

    With y normal(0, s^2): 1/s^2 = E[3 y^2] = 3 s^2.
    """
    target = target_of(
        lambda y: Derivatives(
            0.0,
            np.where(np.abs(y) < 5.0, -(y**3), np.nan),
            np.diag(np.where(np.abs(y) < 5.0, -3.0 * y**2, np.nan)),
        ),
        3,
    )
    centre, factor = nearest_gaussian(target, np.full(3, 0.02), np.random.default_rng(0))
    np.testing.assert_allclose(centre, 0.0, atol=0.3)
    np.testing.assert_allclose(covariance(factor), np.eye(3) / np.sqrt(3.0), atol=0.25)
