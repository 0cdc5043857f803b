"""Chains in pieces: the length of a run changes nothing about its beginning."""

import jax
import jax.numpy as jnp
import numpy as np

from bayeslat.inference.nuts import PIECE, Tuning, pieces

TUNING = Tuning(tune=60, target_accept=0.8, max_depth=5)


def run(n_pieces: int, mean: float = 0.0) -> list[np.ndarray]:
    def density(mean, u):
        return -0.5 * jnp.sum((u - mean) ** 2)

    keys = jax.random.split(jax.random.key(2), 1)
    found = pieces(density, (jnp.asarray(mean),), jnp.full((1, 3), mean), keys, TUNING, n_pieces)
    return [np.concatenate(parts, axis=1) for parts in zip(*found, strict=True)]


def test_a_longer_run_begins_as_the_shorter_one():
    short, long = run(2), run(3)
    assert long[0].shape == (1, 3 * PIECE, 3)
    for first, second in zip(short, long, strict=True):
        np.testing.assert_array_equal(first, second[:, : 2 * PIECE])


def test_draws_are_those_of_the_density():
    position, diverging, steps, _ = run(20, mean=7.0)
    kept = position[0, TUNING.tune :]
    assert np.abs(kept.mean(axis=0) - 7.0).max() < 5 * 1.0 / np.sqrt(200)
    assert not diverging[:, TUNING.tune :].any() and (steps < 2**TUNING.max_depth).all()


def test_the_potential_of_the_start_does_not_show():
    """Nobody computes it, and a start in a far tail is left all the same."""

    def density(u):
        return -0.5 * jnp.sum(u**2)

    keys = jax.random.split(jax.random.key(3), 1)
    found = list(pieces(density, (), jnp.full((1, 3), 30.0), keys, TUNING, 2))
    position, _, _, energy = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
    assert np.abs(position[0, TUNING.tune :]).max() < 6.0
    assert energy[0, 1:].max() < 1e4


def test_other_data_compile_nothing():
    traced: list = []

    def density(mean, u):
        traced.append(u)
        return -0.5 * jnp.sum((u - mean) ** 2)

    counts = []
    for mean in (0.0, 3.0):
        keys = jax.random.split(jax.random.key(2), 1)
        list(pieces(density, (jnp.asarray(mean),), jnp.full((1, 3), mean), keys, TUNING, 1))
        counts.append(len(traced))
    assert counts[0] == counts[1] > 0
