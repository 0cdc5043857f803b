"""The walk changes no posterior: its log-density is the model's, Jacobian included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeslat.catalog import load_catalog
from bayeslat.inference.curvature import Derivatives
from bayeslat.inference.density import flat_density
from bayeslat.inference.geometry import Geometry, gaussian_geometry, recentred
from bayeslat.model import ModelSpec, build_model
from bayeslat.model.design import fleet_design
from bayeslat.model.pooling import marginal_variance, prior_mean

STEP = 1e-5
"""Of the differences: their rounding and truncation are about equal."""


@pytest.fixture(scope="module")
def model(tiny_steps):
    return build_model(tiny_steps)


@pytest.fixture(scope="module")
def geometry(tiny_steps, model) -> Geometry:
    spec, design = ModelSpec(), fleet_design(tiny_steps.deployments, load_catalog())
    return gaussian_geometry(
        model,
        tiny_steps,
        spec.quantities,
        design.w_1,
        design.levels["stack"].index,
        mean=prior_mean(spec, design),
        variance=marginal_variance(spec, design),
        seed=0,
    )


def test_flat_density_is_the_log_density_of_the_model(model):
    density = flat_density(model)
    point = model.initial_point()
    rng = np.random.default_rng(0)
    flat = density.initial + 0.05 * rng.standard_normal(density.dim)
    moved = {
        name: flat[where].reshape(np.shape(point[name])) for name, where in density.slices().items()
    }
    found = density.prior(jnp.asarray(flat)) + density.likelihood(jnp.asarray(flat))
    assert float(found) == pytest.approx(
        float(model.compile_logp(mode="FAST_COMPILE")(moved)), rel=1e-10
    )


def test_log_density_differs_from_the_model_by_the_jacobian_alone(geometry):
    def flat(u):
        y = jnp.asarray(geometry.centre) + geometry.factor.apply(u)
        return geometry.target.flatten(y)[0]

    differences = []
    for seed in range(4):
        u = jnp.asarray(0.5 * np.random.default_rng(seed).standard_normal(geometry.dim))
        model_log_density = geometry.target.density.prior(
            flat(u)
        ) + geometry.target.density.likelihood(flat(u))
        _, log_jacobian = np.linalg.slogdet(np.asarray(jax.jacfwd(flat)(u)))
        differences.append(float(geometry.log_density(u) - model_log_density - log_jacobian))
    np.testing.assert_allclose(differences, differences[0], atol=1e-6)


@pytest.fixture(scope="module")
def autodiff(geometry) -> Derivatives:
    """Derivatives near the centre by autodiff, the second ones as differences of the first.

    Autodiff to second order takes half a minute to compile.
    """
    y = geometry.centre + 0.01
    both = jax.jit(jax.value_and_grad(geometry.target.log_posterior))
    moves = STEP * np.eye(geometry.dim)
    columns = [(both(y + move)[1] - both(y - move)[1]) / (2.0 * STEP) for move in moves]
    value, gradient = both(y)
    return Derivatives(float(value), np.asarray(gradient), np.array(columns))


def test_derivatives_are_those_of_autodiff(geometry, autodiff):
    found = geometry.target.derivatives(geometry.centre + 0.01)
    assert found.value == pytest.approx(autodiff.value)
    np.testing.assert_allclose(found.gradient, autodiff.gradient, rtol=1e-8, atol=1e-8)
    scale = np.sqrt(np.abs(np.diag(autodiff.hessian)) + 1.0)
    assert np.abs((found.hessian - autodiff.hessian) / np.outer(scale, scale)).max() < 1e-6


def matrix(geometry: Geometry) -> np.ndarray:
    """The linear map of a geometry."""
    return geometry.factor.map(np.eye(geometry.dim)).T


def test_factor_whitens_the_curvature(geometry):
    rng = np.random.default_rng(1)
    cloud = geometry.to_coordinates(rng.standard_normal((16, geometry.dim)))
    curvature = -np.mean([geometry.target.derivatives(y).hessian for y in cloud], axis=0)
    root = matrix(geometry)
    eigenvalues = np.linalg.eigvalsh(root.T @ curvature @ root)
    assert 0.1 < eigenvalues.min() and eigenvalues.max() < 10.0


def test_recentred_map_is_centred_at_the_pilot_mean(geometry):
    draws = 0.3 * np.random.default_rng(0).standard_normal((2, 50, geometry.dim))
    moved = recentred(geometry, draws)
    expected = geometry.to_coordinates(draws).reshape(-1, geometry.dim).mean(axis=0)
    np.testing.assert_allclose(moved.centre, expected)
    assert np.linalg.matrix_rank(matrix(moved)) == geometry.dim
