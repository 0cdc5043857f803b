"""Cheap derivatives against those of autodiff, one Hessian column at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeslat.inference.curvature import IGNORED, SHARED, Derivatives, derivatives

GROUP = np.array([0, 1, 2, 0, 1, 2, SHARED, IGNORED])


def function(x):
    own, shared = x[:6].reshape(2, 3), x[6]
    return jnp.sum(jnp.sin(own[0] * own[1]) * jnp.exp(0.3 * shared)) + jnp.sum(own**3)


def point(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(8)


@pytest.mark.parametrize("group", [GROUP, np.full(8, SHARED)], ids=["grouped", "dense"])
def test_derivatives_are_those_of_autodiff(group):
    x = point(0)
    found = derivatives(function, group)(x)
    assert found.value == pytest.approx(float(function(x)))
    np.testing.assert_allclose(found.gradient, jax.grad(function)(x), atol=1e-12)
    np.testing.assert_allclose(found.hessian.toarray(), jax.hessian(function)(x), atol=1e-12)


@pytest.mark.parametrize("first", [0, 2], ids=["of one group", "of two groups"])
def test_what_is_dear_is_left_to_few_products(first):
    held, asked = np.zeros(8, dtype=bool), []
    held[first : 2 * first + 1] = True

    def given(x):
        asked.append(x)
        return function(jnp.where(held, jax.lax.stop_gradient(x), x))

    x = point(1)
    found = derivatives(function, GROUP, held=held, given=given)(x)
    np.testing.assert_allclose(found.hessian.toarray(), jax.hessian(function)(x), atol=1e-12)
    assert asked, "the function without derivatives was not used"


def test_a_hessian_is_wrong_where_groups_interact():
    def coupled(x):
        return function(x) + x[0] * x[1]

    x = point(2)
    found = derivatives(coupled, GROUP)(x).hessian.toarray()
    assert not np.allclose(found, jax.hessian(coupled)(x))


def test_derivatives_of_a_sum_add_up():
    one, two = (Derivatives(k, np.full(2, k), np.full((2, 2), k)) for k in (1.0, 10.0))
    found = one.plus(two)
    assert found.value == 11.0
    np.testing.assert_array_equal(found.gradient, [11.0, 11.0])
    np.testing.assert_array_equal(found.hessian, [[11.0, 11.0], [11.0, 11.0]])
