"""Arrow Gaussians against dense linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeslat.inference.arrow import (
    MIN_EIGENVALUE,
    MIN_TAIL_PRECISION,
    ArrowFactor,
    ArrowLayout,
    arrow_layout,
    inverse_root,
)

SIZES = {
    "none": [],
    "one": [3],
    "equal": [2, 2, 2],
    "several": [1, 4, 2, 4, 1],
}
N_CORE = 6


def layout_of(sizes: list[int], seed: int = 0) -> ArrowLayout:
    """Leaves at random places, each near two or four coordinates of the core."""
    rng = np.random.default_rng(seed)
    dim = N_CORE + sum(sizes)
    places = rng.permutation(dim)
    core = np.sort(places[:N_CORE])
    leaves = np.split(places[N_CORE:], np.cumsum(sizes)[:-1]) if sizes else []
    near = [rng.permutation(core)[: 2 if own.size < 4 else 4] for own in leaves]
    return arrow_layout(dim, leaves, near)


def precision_of(layout: ArrowLayout, seed: int = 1) -> np.ndarray:
    """A positive definite matrix with the arrow's zeros."""
    rng = np.random.default_rng(seed)
    terms = [layout.core]
    for leaf in layout.leaves:
        terms += [
            np.concatenate([own, layout.core[near]])
            for own, near in zip(leaf.own, leaf.near, strict=True)
        ]
    precision = np.zeros((layout.dim, layout.dim))
    for members in terms:
        root = rng.standard_normal((members.size, members.size))
        precision[np.ix_(members, members)] += root @ root.T + 2.0 * np.eye(members.size)
    return precision


def dense(factor: ArrowFactor, dim: int) -> np.ndarray:
    """The factor as a matrix, column by column."""
    return np.stack([np.asarray(factor.apply(jnp.asarray(u))) for u in np.eye(dim)], axis=1)


@pytest.fixture(params=SIZES)
def layout(request) -> ArrowLayout:
    return layout_of(SIZES[request.param])


def test_every_coordinate_is_in_the_core_or_in_one_leaf(layout):
    parts = [layout.core, *(leaf.own.ravel() for leaf in layout.leaves)]
    joined = np.concatenate(parts)
    assert sorted(joined) == list(range(layout.dim))
    np.testing.assert_array_equal(joined[layout.order], np.arange(layout.dim))


def test_factor_is_a_root_of_the_covariance(layout):
    precision = precision_of(layout)
    matrix = dense(layout.factor(precision), layout.dim)
    np.testing.assert_allclose(matrix @ matrix.T, np.linalg.inv(precision), rtol=1e-8, atol=1e-10)


def test_only_the_entries_of_the_arrow_are_read(layout):
    precision = precision_of(layout)
    arrow = precision_of(layout, seed=2) != 0.0
    spoiled = np.where(arrow, precision, 1e6)
    expected = dense(layout.factor(precision), layout.dim)
    np.testing.assert_array_equal(dense(layout.factor(spoiled), layout.dim), expected)
    assert arrow.all() == (not layout.leaves)


def test_maps_agree_with_the_matrix(layout):
    rng = np.random.default_rng(3)
    factor = layout.factor(precision_of(layout))
    matrix = dense(factor, layout.dim)
    draws = rng.standard_normal((2, 70, layout.dim))  # more than one batch of the map
    np.testing.assert_allclose(factor.map(draws), draws @ matrix.T, atol=1e-12)
    np.testing.assert_allclose(factor.map(draws[0, 0]), matrix @ draws[0, 0], atol=1e-12)
    gradient = rng.standard_normal(layout.dim)
    np.testing.assert_allclose(factor.pull_back(gradient), matrix.T @ gradient, atol=1e-12)


def test_whitening_inverts_the_core_of_the_map(layout):
    draws = np.random.default_rng(4).standard_normal((20, layout.dim))
    factor = layout.factor(precision_of(layout))
    np.testing.assert_allclose(
        factor.whitened(factor.map(draws)), draws[:, : layout.core.size], atol=1e-10
    )


def test_stretching_acts_on_the_white_noise_of_the_core(layout):
    rng = np.random.default_rng(5)
    factor = layout.factor(precision_of(layout))
    linear = rng.standard_normal((layout.core.size, layout.core.size))
    first = np.eye(layout.dim)
    first[: layout.core.size, : layout.core.size] = linear
    expected = dense(factor, layout.dim) @ first
    found = dense(factor.stretched(linear), layout.dim)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_factor_is_data_to_a_compiled_program(layout):
    traced = []

    @jax.jit
    def apply(factor, u):
        traced.append(u)
        return factor.apply(u)

    u = np.random.default_rng(6).standard_normal(layout.dim)
    for seed in (1, 2):
        factor = layout.factor(precision_of(layout, seed))
        np.testing.assert_allclose(apply(factor, u), factor.map(u), atol=1e-12)
    assert len(traced) == 1


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_an_indefinite_precision_is_clipped_to_a_definite_one(sizes):
    layout = layout_of(sizes)
    precision = precision_of(layout)
    worst = np.linalg.eigvalsh(precision)[-1]
    precision -= np.diag(np.where(np.arange(layout.dim) % 2, 2.0 * worst, 0.0))
    matrix = dense(layout.factor(precision), layout.dim)
    assert np.isfinite(matrix).all()
    assert np.linalg.matrix_rank(matrix) == layout.dim


def test_inverse_root_is_symmetric_in_units_and_batched():
    rng = np.random.default_rng(2)
    roots = rng.standard_normal((3, 4, 4))
    precision = roots @ np.swapaxes(roots, 1, 2) + np.eye(4)
    units = np.diag([0.1, 1.0, 10.0, 100.0])
    plain, scaled = inverse_root(precision), inverse_root(units @ precision @ units)
    expected = np.linalg.inv(precision)
    np.testing.assert_allclose(plain @ np.swapaxes(plain, 1, 2), expected, rtol=1e-8)
    again = units @ scaled @ np.swapaxes(scaled, 1, 2) @ units
    np.testing.assert_allclose(again, expected, rtol=1e-8)
    np.testing.assert_allclose(plain[1], inverse_root(precision[1]), rtol=1e-12)


def test_only_what_is_not_definite_is_clipped_after_scaling():
    """Of a correlation matrix with eigenvalues 1 + c, 1 - c: the second is small, or below zero."""
    for correlation, least in ((1.0 - 1e-3, 1e-3), (1.4, MIN_EIGENVALUE)):
        scale = np.array([1.0, 1e3])
        precision = np.array([[1.0, correlation], [correlation, 1.0]]) * np.outer(scale, scale)
        root = inverse_root(precision)
        half = np.array([[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2.0)
        values = np.array([1.0 + correlation, least])
        expected = (half / values) @ half.T / np.outer(scale, scale)
        np.testing.assert_allclose(root @ root.T, expected, rtol=1e-8)


def test_a_tail_keeps_a_least_precision_given_the_rest():
    """A scale whose joint mode with what it scales runs away, beside one that does not."""
    precision = np.diag([2.0, 3.0, 5.0, 50.0])
    precision[0, 2] = precision[2, 0] = 4.0  # what is left of the scale: 5 - 16 / 2 = -3
    layout = arrow_layout(4, [], [], tail=[2, 3])
    factor = dense(layout.factor(precision), 4)
    held = precision.copy()
    held[2, 2] = 16.0 / 2.0 + MIN_TAIL_PRECISION
    np.testing.assert_allclose(factor @ factor.T, np.linalg.inv(held), rtol=1e-10)
