"""Weights that follow the quantities: as far as the rows ask for, and as a bijection."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayeslat as bl
from bayeslat.catalog import load_catalog
from bayeslat.discrepancy import basis_for
from bayeslat.inference.shear import WEIGHT_VARIANCE, Shear, shear_at
from bayeslat.model.design import fleet_design
from bayeslat.model.quantities import link, to_parameters
from bayeslat.noise import noise_features
from bayeslat.saturation import latency
from bayeslat.schema import Deployment
from bayeslat.simulate.formula import simulate_from_formula

NAMES = ("slope", "floor_share", "floor", "tau_C")
THETA = np.array([[link(n, v)] * 2 for n, v in zip(NAMES, (0.1, 0.4, 8.0, 3e-4), strict=True)])
TRUTH = {"P_max": 10.0, "k_S": 0.01, "w_1": 1.0, "tau_0": 4.0, "tau_C": 3e-4}
LOG_SIGMA = np.log([0.01, 0.02])
SLOPES = np.array([[0.6, -0.4], [0.2, -0.1], [-0.3, 0.2]])


@pytest.fixture(scope="module")
def steps() -> bl.Observations:
    truth = {Deployment(gpu, "llama-7b"): TRUTH for gpu in ("A100-80GB", "H100-80GB")}
    table = simulate_from_formula(truth, rows_per_deployment=60, sigma=0.01, seed=3)
    return bl.validate_steps(table, source="two deployments", check_floor=False)


def shear_of(steps: bl.Observations, log_sigma: np.ndarray = LOG_SIGMA) -> Shear:
    w_1 = fleet_design(steps.deployments, load_catalog()).w_1
    basis = basis_for(steps.batch_size, steps.total_tokens)
    return shear_at(steps, NAMES, w_1, basis, theta=THETA, log_sigma=log_sigma, slopes=SLOPES)


def test_weights_are_their_coordinates_at_the_origin(steps):
    np.testing.assert_array_equal(shear_of(steps).shift(jnp.asarray(THETA)), 0.0)


def test_the_shift_is_what_the_rows_ask_for(steps):
    """Ridge regression of the formula's change at the measured points on their features."""
    shear = shear_of(steps)
    basis = basis_for(steps.batch_size, steps.total_tokens)
    moved = THETA + np.array([0.1, 0.5, -0.1, 0.2])[:, None]
    found = np.asarray(shear.shift(jnp.asarray(moved)))
    for deployment in range(2):
        own = steps.deployment_index == deployment
        batch, tokens = steps.batch_size[own], steps.total_tokens[own]
        context = steps.context_tokens[own]

        def log_latency(
            theta, w_1=shear.w_1[deployment], points=(batch, tokens, context)
        ) -> np.ndarray:
            values = dict(zip(NAMES, theta, strict=True))
            return np.log(latency(to_parameters(values, w_1), *points))

        change = log_latency(moved[:, deployment]) - log_latency(THETA[:, deployment])
        features = basis.features(batch, tokens)
        log_noise = LOG_SIGMA[deployment] + noise_features(batch, tokens) @ SLOPES[:, deployment]
        variance = np.exp(2.0 * log_noise) + WEIGHT_VARIANCE * basis.missing(features)
        precision = np.eye(basis.size) / WEIGHT_VARIANCE + (features.T / variance) @ features
        asked = np.linalg.solve(precision, features.T @ (change / variance))
        # The shear knows the change at some points only, of rows whose contexts differ at random.
        left = features @ (found[deployment] - asked)
        assert np.sqrt(np.mean(left**2)) < 0.2 * np.sqrt(np.mean(change**2))


def test_few_rows_are_followed_one_by_one(steps):
    table = steps.to_frame().iloc[::12].reset_index(drop=True)
    few = bl.validate_steps(table, source="every twelfth", check_floor=False)
    shear = shear_of(few)
    assert shear.gain.shape[2] == np.bincount(few.deployment_index).max()
    for deployment in range(2):
        own = few.deployment_index == deployment
        np.testing.assert_array_equal(shear.context_tokens[deployment], few.context_tokens[own])


def test_without_information_weights_stay(steps):
    far = shear_of(steps, LOG_SIGMA + 20.0)
    shift = far.shift(jnp.asarray(THETA + 0.3))
    np.testing.assert_allclose(shift, 0.0, atol=1e-6)


def test_derivatives_are_those_of_autodiff(steps):
    shear = shear_of(steps)
    theta = jnp.asarray(THETA + 0.1)
    force = jnp.asarray(np.random.default_rng(0).standard_normal(shear.gain.shape[:2]))
    slope, bend = shear.derivatives(theta, force)
    full = jax.jacfwd(shear.shift)(theta)  # (deployment, basis, quantity, deployment)
    second = jax.hessian(lambda theta: (force * shear.shift(theta)).sum())(theta)
    for deployment in range(2):
        np.testing.assert_allclose(
            slope[deployment], full[deployment, :, :, deployment], rtol=1e-9, atol=1e-12
        )
        np.testing.assert_allclose(
            bend[deployment], second[:, deployment, :, deployment], rtol=1e-8, atol=1e-10
        )
    assert np.abs(full[0, :, :, 1]).max() == 0.0


def test_an_origin_moves_the_shift_by_a_constant(steps):
    shear = shear_of(steps)
    moved = replace(shear, origin=THETA + 0.2)
    there = jnp.asarray(THETA + 0.3)
    expected = shear.shift(there) - shear.shift(jnp.asarray(THETA + 0.2))
    np.testing.assert_allclose(moved.shift(there), expected, atol=1e-12)
