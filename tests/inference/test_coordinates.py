"""The map of the log-parameters is a bijection and states its own Jacobian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeslat.inference.coordinates import Coordinates

FULL = ("P_max", "k_B", "k_S", "w_0", "tau_0", "tau_B", "tau_S", "tau_C")
BARE = ("P_max", "k_S", "tau_0")


def coordinates(parameters: tuple[str, ...], resolution: float) -> Coordinates:
    return Coordinates(
        parameters, np.log([0.5, 1.0, 10.0]), np.full((len(parameters), 3), resolution)
    )


def points(parameters: tuple[str, ...], seed: int) -> np.ndarray:
    centres = {
        "P_max": 9.0,
        "k_B": 1.0,
        "k_S": 0.01,
        "w_0": 5.0,
        "tau_0": 3.0,
        "tau_B": 0.05,
        "tau_S": 0.01,
        "tau_C": 3e-4,
    }
    rng = np.random.default_rng(seed)
    centre = np.log([centres[name] for name in parameters])[:, None]
    return centre + 1.5 * rng.standard_normal((len(parameters), 3))


@pytest.mark.parametrize("parameters", [FULL, BARE])
@pytest.mark.parametrize("resolution", [1e-3, 0.05, 1.0])
def test_there_and_back(parameters, resolution):
    mapping = coordinates(parameters, resolution)
    for seed in range(5):
        theta = points(parameters, seed)
        back, _ = mapping.to_log_parameters(jnp.asarray(mapping.from_log_parameters(theta)))
        np.testing.assert_allclose(back, theta, atol=1e-8)


@pytest.mark.parametrize("parameters", [FULL, BARE])
@pytest.mark.parametrize("resolution", [1e-2, 1.0])
def test_stated_log_determinant_is_that_of_autodiff(parameters, resolution):
    mapping = coordinates(parameters, resolution)
    z = jnp.asarray(mapping.from_log_parameters(points(parameters, 7)))

    def flat(vector):
        return mapping.to_log_parameters(vector.reshape(z.shape))[0].ravel()

    _, expected = np.linalg.slogdet(np.asarray(jax.jacfwd(flat)(z.ravel())))
    _, stated = mapping.to_log_parameters(z)
    assert float(stated) == pytest.approx(expected, abs=1e-7)


def test_far_coordinates_stay_finite_with_their_gradient():
    mapping = coordinates(FULL, 0.01)

    def total(z):
        theta, log_jacobian = mapping.to_log_parameters(z)
        return theta.sum() + log_jacobian

    for value in (-500.0, 500.0):
        z = jnp.full((len(FULL), 3), value)
        assert np.isfinite(total(z))
        assert np.isfinite(jax.grad(total)(z)).all()
