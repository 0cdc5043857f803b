"""A small decoder-only transformer in JAX whose steps are worth timing.

Pre-norm RMSNorm, rotary positions, grouped-query attention, SwiGLU, tied embeddings: the layout of
the Llama family [1]_, at sizes that a laptop runs. The weights are random, because the time of a
step does not depend on what the model says. `prefill` computes a prompt and returns its KV cache,
`decode` adds one token to every request; the test suite holds both against `forward`.

The cache has exactly as many positions as are attended to. A cache of a larger, fixed capacity
would make a step cost what the capacity costs, and the context column of the table a lie.

References
----------
.. [1] Touvron et al., "LLaMA: Open and Efficient Foundation Language Models", arXiv:2302.13971.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

__all__ = ["LayerCache", "Transformer", "Weights", "decode", "forward", "init_weights", "prefill"]

_ROPE_BASE = 10_000.0
_NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class Transformer:
    """Shape of a decoder-only transformer.

    Attributes
    ----------
    layers : int
        Number of blocks.
    hidden_size : int
        Width of the residual stream; `heads` times `head_size`.
    heads, kv_heads : int
        Query heads, and the key/value heads that they share; `heads` is a multiple of `kv_heads`.
    mlp_size : int
        Width of the gated MLP.
    vocabulary : int
        Number of tokens; the embedding is also the output head.
    """

    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    mlp_size: int
    vocabulary: int

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.heads

    @property
    def parameters(self) -> int:
        """Number of weights, all of them active at every token."""
        return sum(math.prod(shape) for shape in self._embedding_shapes().values()) + (
            self.layers * sum(math.prod(shape) for shape in self._layer_shapes().values())
        )

    def _embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"embedding": (self.vocabulary, self.hidden_size), "norm": (self.hidden_size,)}

    def _layer_shapes(self) -> dict[str, tuple[int, ...]]:
        hidden, kv_size = self.hidden_size, self.kv_heads * self.head_size
        return {
            "attention_norm": (hidden,),
            "query": (hidden, hidden),
            "key": (hidden, kv_size),
            "value": (hidden, kv_size),
            "output": (hidden, hidden),
            "mlp_norm": (hidden,),
            "gate": (hidden, self.mlp_size),
            "up": (hidden, self.mlp_size),
            "down": (self.mlp_size, hidden),
        }


class Weights(NamedTuple):
    """Weights of a transformer: the embedding, the final norm and one mapping per block."""

    embedding: jax.Array
    norm: jax.Array
    layers: tuple[dict[str, jax.Array], ...]


class LayerCache(NamedTuple):
    """Keys and values of one block, each of shape (batch, positions, kv_heads, head_size)."""

    key: jax.Array
    value: jax.Array


def init_weights(shape: Transformer, *, seed: int = 0, dtype: DTypeLike = jnp.float32) -> Weights:
    """Draw random weights; the same seed gives the same weights on every device.

    Parameters
    ----------
    shape : Transformer
        The shape of the model.
    seed : int
        Seed of the draw.
    dtype : DTypeLike
        Floating-point type of the weights, and with them of the whole step.

    Returns
    -------
    Weights
        Matrices with entries of variance 1 / fan-in; norms are ones.
    """
    rng = np.random.default_rng(seed)

    def draw(size: tuple[int, ...]) -> jax.Array:
        if len(size) == 1:
            return jnp.ones(size, dtype)
        values = rng.standard_normal(size, dtype=np.float32) / np.float32(math.sqrt(size[0]))
        return jnp.asarray(values, dtype)

    layers = tuple(
        {name: draw(size) for name, size in shape._layer_shapes().items()}
        for _ in range(shape.layers)
    )
    outer = {name: draw(size) for name, size in shape._embedding_shapes().items()}
    return Weights(outer["embedding"], outer["norm"], layers)


def _rms_norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    x32 = x.astype(jnp.float32)
    variance = jnp.mean(x32 * x32, axis=-1, keepdims=True)
    return (x32 * jax.lax.rsqrt(variance + _NORM_EPSILON)).astype(x.dtype) * scale


def _rotate(x: jax.Array, positions: jax.Array) -> jax.Array:
    """Rotary position embedding of (batch, tokens, heads, head_size) at (tokens,) positions."""
    half = x.shape[-1] // 2
    frequencies = _ROPE_BASE ** (-np.arange(half, dtype=np.float32) / np.float32(half))
    angles = positions.astype(jnp.float32)[:, None] * jnp.asarray(frequencies, jnp.float32)
    cos, sin = jnp.cos(angles)[None, :, None, :], jnp.sin(angles)[None, :, None, :]
    left, right = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    rotated = jnp.concatenate([left * cos - right * sin, left * sin + right * cos], axis=-1)
    return rotated.astype(x.dtype)


def _attend(query: jax.Array, cache: LayerCache, *, causal: bool) -> jax.Array:
    """Softmax attention; query heads are grouped by the key/value head that they share."""
    batch, tokens, heads, head_size = query.shape
    kv_heads = cache.key.shape[2]
    grouped = query.reshape(batch, tokens, kv_heads, heads // kv_heads, head_size)
    scores = jnp.einsum("btkgh,bskh->bkgts", grouped, cache.key).astype(jnp.float32)
    scores = scores * np.float32(1.0 / math.sqrt(head_size))
    if causal:
        visible = jnp.tril(jnp.ones((tokens, cache.key.shape[1]), bool))
        scores = jnp.where(visible, scores, np.float32(-1e30))
    weights = jax.nn.softmax(scores, axis=-1).astype(query.dtype)
    mixed = jnp.einsum("bkgts,bskh->btkgh", weights, cache.value)
    return mixed.reshape(batch, tokens, heads * head_size)


def _block(
    shape: Transformer,
    weights: dict[str, jax.Array],
    x: jax.Array,
    positions: jax.Array,
    cache: LayerCache | None,
) -> tuple[jax.Array, LayerCache]:
    """One block; without a cache the tokens attend to themselves, else the last slot is filled."""
    batch, tokens, _ = x.shape
    normed = _rms_norm(x, weights["attention_norm"])
    query, key, value = (
        (normed @ weights[name]).reshape(batch, tokens, -1, shape.head_size)
        for name in ("query", "key", "value")
    )
    query, key = _rotate(query, positions), _rotate(key, positions)
    if cache is None:
        cache = LayerCache(key, value)
        mixed = _attend(query, cache, causal=True)
    else:
        cache = LayerCache(cache.key.at[:, -1:].set(key), cache.value.at[:, -1:].set(value))
        mixed = _attend(query, cache, causal=False)
    x = x + mixed @ weights["output"]
    normed = _rms_norm(x, weights["mlp_norm"])
    gated = jax.nn.silu(normed @ weights["gate"]) * (normed @ weights["up"])
    return x + gated @ weights["down"], cache


def _hidden_states(
    shape: Transformer,
    weights: Weights,
    tokens: jax.Array,
    positions: jax.Array,
    caches: tuple[LayerCache, ...] | None,
) -> tuple[jax.Array, tuple[LayerCache, ...]]:
    x = weights.embedding[tokens]
    filled = []
    for index, layer in enumerate(weights.layers):
        x, cache = _block(shape, layer, x, positions, None if caches is None else caches[index])
        filled.append(cache)
    return _rms_norm(x, weights.norm), tuple(filled)


def forward(shape: Transformer, weights: Weights, tokens: jax.Array) -> jax.Array:
    """Logits of every position of a batch of prompts, without a cache.

    Parameters
    ----------
    shape : Transformer
        The shape of the model.
    weights : Weights
        Its weights.
    tokens : jax.Array
        Token ids of shape (batch, length).

    Returns
    -------
    jax.Array
        Logits of shape (batch, length, vocabulary).
    """
    positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    x, _ = _hidden_states(shape, weights, tokens, positions, None)
    return x @ weights.embedding.T


def prefill(
    shape: Transformer, weights: Weights, tokens: jax.Array
) -> tuple[jax.Array, tuple[LayerCache, ...]]:
    """Compute a batch of prompts: the logits of the last position, and the KV cache.

    Parameters
    ----------
    shape : Transformer
        The shape of the model.
    weights : Weights
        Its weights.
    tokens : jax.Array
        Token ids of shape (batch, length).

    Returns
    -------
    logits : jax.Array
        Shape (batch, vocabulary); engines, too, compute the head for the last position only.
    caches : tuple of LayerCache
        One cache of `length` positions per block.
    """
    positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    x, caches = _hidden_states(shape, weights, tokens, positions, None)
    return x[:, -1] @ weights.embedding.T, caches


def decode(
    shape: Transformer, weights: Weights, tokens: jax.Array, caches: tuple[LayerCache, ...]
) -> tuple[jax.Array, tuple[LayerCache, ...]]:
    """Add one token to every request; the token's own position is the last slot of the cache.

    Parameters
    ----------
    shape : Transformer
        The shape of the model.
    weights : Weights
        Its weights.
    tokens : jax.Array
        Token ids of shape (batch,).
    caches : tuple of LayerCache
        One cache per block; all slots but the last hold the past, the last is overwritten.

    Returns
    -------
    logits : jax.Array
        Shape (batch, vocabulary).
    caches : tuple of LayerCache
        The caches with the last slot filled.
    """
    positions = jnp.full((1,), caches[0].key.shape[1] - 1, dtype=jnp.int32)
    x, caches = _hidden_states(shape, weights, tokens[:, None], positions, caches)
    return x[:, -1] @ weights.embedding.T, caches
