"""Cheap Hessians against the dense one of autodiff."""

import jax
import jax.numpy as jnp
import numpy as np

from bayeslat.inference.curvature import blocked_hessian, dense_hessian

GROUP = np.array([0, 1, 2, 0, 1, 2, -1, -2])


def function(x):
    own, shared = x[:6].reshape(2, 3), x[6]
    return jnp.sum(jnp.sin(own[0] * own[1]) * jnp.exp(0.3 * shared)) + jnp.sum(own**3)


def test_dense_hessian_is_that_of_autodiff():
    x = jnp.asarray(np.random.default_rng(0).standard_normal(8))
    np.testing.assert_allclose(dense_hessian(function)(x), jax.hessian(function)(x), atol=1e-12)


def test_blocked_hessian_equals_the_dense_one_of_an_additive_function():
    x = jnp.asarray(np.random.default_rng(1).standard_normal(8))
    found = blocked_hessian(function, GROUP)(x)
    np.testing.assert_allclose(found, jax.hessian(function)(x), atol=1e-12)


def test_blocked_hessian_is_wrong_where_groups_interact():
    def coupled(x):
        return function(x) + x[0] * x[1]

    x = jnp.asarray(np.random.default_rng(2).standard_normal(8))
    assert not np.allclose(blocked_hessian(coupled, GROUP)(x), jax.hessian(coupled)(x))
