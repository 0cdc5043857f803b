"""The map of the pooled quantities is a bijection and states its own Jacobian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeslat.inference.coordinates import SHARES, STRAIGHTENED, Coordinates
from bayeslat.model import DEFAULT_PRIORS, ModelSpec
from bayeslat.model.quantities import LOGIT_QUANTITIES, link
from bayeslat.schema import OPTIONAL_PARAMETERS

FULL = ModelSpec(terms=OPTIONAL_PARAMETERS).quantities
BARE = ("slope", "floor_share", "floor")
CENTRES = {name: link(name, DEFAULT_PRIORS[name].median) for name in FULL}


def coordinates(quantities: tuple[str, ...], resolution: float) -> Coordinates:
    return Coordinates(quantities, np.full((len(quantities), 3), resolution))


def points(quantities: tuple[str, ...], seed: int, spread: float = 1.5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centre = np.array([CENTRES[name] for name in quantities])[:, None]
    return centre + spread * rng.standard_normal((len(quantities), 3))


@pytest.mark.parametrize("quantities", [FULL, BARE])
@pytest.mark.parametrize("resolution", [1e-3, 0.05, 1.0])
def test_there_and_back(quantities, resolution):
    mapping = coordinates(quantities, resolution)
    for seed in range(5):
        theta = points(quantities, seed)
        back, _ = mapping.to_quantities(jnp.asarray(mapping.from_quantities(theta)))
        np.testing.assert_allclose(back, theta, atol=1e-8)


@pytest.mark.parametrize("quantities", [FULL, BARE])
@pytest.mark.parametrize("resolution", [1e-2, 1.0])
def test_stated_log_determinant_is_that_of_autodiff(quantities, resolution):
    mapping = coordinates(quantities, resolution)
    z = jnp.asarray(mapping.from_quantities(points(quantities, 7)))

    def flat(vector):
        return mapping.to_quantities(vector.reshape(z.shape))[0].ravel()

    _, expected = np.linalg.slogdet(np.asarray(jax.jacfwd(flat)(z.ravel())))
    _, stated = mapping.to_quantities(z)
    assert float(stated) == pytest.approx(expected, abs=1e-7)


def test_far_coordinates_stay_finite_with_their_gradient():
    mapping = coordinates(FULL, 0.01)

    def total(z):
        theta, log_jacobian = mapping.to_quantities(z)
        return theta.sum() + log_jacobian

    for value in (-500.0, 500.0):
        z = jnp.full((len(FULL), 3), value)
        assert np.isfinite(total(z))
        assert np.isfinite(jax.grad(total)(z)).all()


@pytest.mark.parametrize("resolution", [1e-3, 0.1])
def test_there_and_back_far_from_every_wall_and_at_it(resolution):
    mapping = coordinates(FULL, resolution)
    for spread in (8.0, 25.0):
        theta = points(FULL, 1, spread)
        back, _ = mapping.to_quantities(jnp.asarray(mapping.from_quantities(theta)))
        np.testing.assert_allclose(back, theta, atol=1e-7)


def test_each_coordinate_moves_its_own_quantity_alone():
    mapping = coordinates(FULL, 0.05)
    z = jnp.asarray(mapping.from_quantities(points(FULL, 3)))
    flat = jax.jacfwd(lambda v: mapping.to_quantities(v.reshape(z.shape))[0].ravel())(z.ravel())
    np.testing.assert_array_equal(flat, np.diag(np.diag(flat)))
    assert (np.diag(flat) > 0).all()


def test_a_resolved_term_is_a_straight_line_and_an_unresolved_one_a_logarithm():
    """d(quantity) / d(coordinate) is size / value where the value is seen, one where it is not."""
    size = 0.01
    for name in STRAIGHTENED:
        mapping = Coordinates((name,), np.full((1, 1), size))
        for value, expected in ((100.0 * size, 0.01), (1e-3 * size, 1.0)):
            assert slope_at(mapping, np.log(value)) == pytest.approx(expected, rel=2e-2)


def test_a_resolved_share_is_a_straight_line_between_its_walls():
    size = 0.01
    for name in SHARES:
        mapping = Coordinates((name,), np.full((1, 1), size))
        middle = size / (0.3 * 0.7)  # d logit = d share / (share (1 - share))
        assert slope_at(mapping, link(name, 0.3)) == pytest.approx(middle, rel=1e-2)
        for wall in (1e-5, 1.0 - 1e-5):
            assert slope_at(mapping, link(name, wall)) == pytest.approx(1.0, rel=2e-2)


def slope_at(mapping: Coordinates, quantity: float) -> float:
    """Derivative of the quantity by its coordinate."""
    z = jnp.asarray(mapping.from_quantities(np.full((1, 1), quantity)))
    return float(jax.grad(lambda v: mapping.to_quantities(v)[0].sum())(z)[0, 0])


def test_all_other_quantities_are_their_own_coordinates():
    left = [name for name in FULL if name not in STRAIGHTENED + SHARES]
    assert {"slope", "floor", "k_B", "overhead", "slope_share"} <= set(left)
    assert set(SHARES) <= set(LOGIT_QUANTITIES)
    theta = points(tuple(left), 2)
    mapping = coordinates(tuple(left), 0.05)
    np.testing.assert_array_equal(mapping.from_quantities(theta), theta)
