import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeslat.profiling.transformer import (
    LayerCache,
    Transformer,
    decode,
    forward,
    init_weights,
    prefill,
)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


GROUPED = Transformer(2, 32, heads=4, kv_heads=2, mlp_size=48, vocabulary=64)
MULTI_HEAD = Transformer(3, 24, heads=3, kv_heads=3, mlp_size=40, vocabulary=50)


def draw_tokens(shape, batch, length):
    rng = np.random.default_rng(5)
    return jnp.asarray(rng.integers(0, shape.vocabulary, (batch, length)), jnp.int32)


def with_free_slot(caches):
    pad = ((0, 0), (0, 1), (0, 0), (0, 0))
    return tuple(LayerCache(jnp.pad(c.key, pad), jnp.pad(c.value, pad)) for c in caches)


@pytest.mark.parametrize("shape", [GROUPED, MULTI_HEAD])
def test_prefill_then_decode_equals_a_full_forward_pass(shape):
    weights = init_weights(shape, dtype=jnp.float64)
    tokens = draw_tokens(shape, 3, 9)
    full = forward(shape, weights, tokens)

    logits, caches = prefill(shape, weights, tokens[:, :6])
    np.testing.assert_allclose(logits, full[:, 5], rtol=1e-5, atol=1e-5)
    for position in range(6, 9):
        logits, caches = decode(shape, weights, tokens[:, position], with_free_slot(caches))
        np.testing.assert_allclose(logits, full[:, position], rtol=1e-5, atol=1e-5)
    assert caches[0].key.shape == (3, 9, shape.kv_heads, shape.head_size)


def test_attention_is_causal_and_sees_the_whole_past():
    weights = init_weights(GROUPED)
    tokens = draw_tokens(GROUPED, 1, 8)
    full = forward(GROUPED, weights, tokens)
    last = forward(GROUPED, weights, tokens.at[0, -1].add(1) % GROUPED.vocabulary)
    first = forward(GROUPED, weights, (tokens.at[0, 0].add(1)) % GROUPED.vocabulary)
    np.testing.assert_array_equal(full[:, :-1], last[:, :-1])
    assert not np.allclose(full[:, -1], first[:, -1], atol=1e-4)


def test_attention_depends_on_positions_and_not_only_on_the_set_of_tokens():
    weights = init_weights(GROUPED)
    tokens = draw_tokens(GROUPED, 1, 8)
    swapped = tokens[:, jnp.asarray([1, 0, 2, 3, 4, 5, 6, 7])]
    assert not np.allclose(
        forward(GROUPED, weights, tokens)[:, -1],
        forward(GROUPED, weights, swapped)[:, -1],
        atol=1e-4,
    )


@pytest.mark.parametrize("shape", [GROUPED, MULTI_HEAD])
def test_declared_parameters_are_the_weights(shape):
    leaves = jax.tree.leaves(init_weights(shape))
    assert sum(leaf.size for leaf in leaves) == shape.parameters


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_every_array_keeps_the_type_of_the_weights_when_x64_is_on(dtype):
    assert jax.config.jax_enable_x64
    weights = init_weights(GROUPED, dtype=dtype)
    logits, caches = prefill(GROUPED, weights, draw_tokens(GROUPED, 2, 4))
    logits, caches = decode(GROUPED, weights, jnp.zeros((2,), jnp.int32), with_free_slot(caches))
    assert {leaf.dtype for leaf in jax.tree.leaves((weights, logits, caches))} == {jnp.dtype(dtype)}


def test_weights_follow_the_seed():
    first, again = init_weights(GROUPED, seed=3), init_weights(GROUPED, seed=3)
    other = init_weights(GROUPED, seed=4)
    np.testing.assert_array_equal(first.embedding, again.embedding)
    assert not np.array_equal(first.embedding, other.embedding)
