"""Compiled engine steps, each ready to be run and timed again and again."""

import time
from functools import partial

import jax
import jax.numpy as jnp

from bayeslat.profiling.design import DesignPoint
from bayeslat.profiling.transformer import (
    LayerCache,
    Transformer,
    Weights,
    decode,
    prefill,
)

__all__ = ["DecodeStep", "PrefillStep", "Step", "compile_step"]


def _greedy_decode(
    shape: Transformer, weights: Weights, tokens: jax.Array, caches: tuple[LayerCache, ...]
) -> tuple[jax.Array, tuple[LayerCache, ...]]:
    logits, caches = decode(shape, weights, tokens, caches)
    return jax.lax.argmax(logits, 1, jnp.int32), caches


def _greedy_prefill(
    shape: Transformer, weights: Weights, tokens: jax.Array
) -> tuple[jax.Array, tuple[LayerCache, ...]]:
    logits, caches = prefill(shape, weights, tokens)
    return jax.lax.argmax(logits, 1, jnp.int32), caches


class DecodeStep:
    """One decode step at fixed shapes; the KV cache is donated and so updated in place.

    Parameters
    ----------
    shape, weights
        The model.
    batch_size : int
        Requests in the step.
    length : int
        Positions that each attends to, the new one included.
    """

    def __init__(self, shape: Transformer, weights: Weights, *, batch_size: int, length: int):
        size = (batch_size, length, shape.kv_heads, shape.head_size)
        dtype = weights.embedding.dtype
        self._weights = weights
        self._tokens = jnp.zeros((batch_size,), jnp.int32)
        self._caches = tuple(
            # Small and not zero: a denormal or a zero may be a fast or a slow path of the device.
            LayerCache(jnp.full(size, 0.1, dtype), jnp.full(size, 0.1, dtype))
            for _ in range(shape.layers)
        )
        step = jax.jit(partial(_greedy_decode, shape), donate_argnums=2)
        self._run = step.lower(weights, self._tokens, self._caches).compile()

    def time_ms(self) -> float:
        """Run the step to its end; return its duration in milliseconds."""
        start = time.perf_counter_ns()
        self._tokens, self._caches = jax.block_until_ready(
            self._run(self._weights, self._tokens, self._caches)
        )
        return (time.perf_counter_ns() - start) / 1e6


class PrefillStep:
    """One prefill of a batch of whole prompts at fixed shapes.

    Parameters
    ----------
    shape, weights
        The model.
    batch_size : int
        Prompts in the step.
    length : int
        Tokens of each.
    """

    def __init__(self, shape: Transformer, weights: Weights, *, batch_size: int, length: int):
        self._weights = weights
        positions = jnp.arange(batch_size * length, dtype=jnp.int32) % shape.vocabulary
        self._tokens = positions.reshape(batch_size, length)
        step = jax.jit(partial(_greedy_prefill, shape))
        self._run = step.lower(weights, self._tokens).compile()

    def time_ms(self) -> float:
        """Run the step to its end; return its duration in milliseconds."""
        start = time.perf_counter_ns()
        jax.block_until_ready(self._run(self._weights, self._tokens))
        return (time.perf_counter_ns() - start) / 1e6


type Step = DecodeStep | PrefillStep


def compile_step(point: DesignPoint, shape: Transformer, weights: Weights) -> Step:
    """Compile the step of a design point and run it once, so that first-run costs are paid."""
    kind = DecodeStep if point.phase == "decode" else PrefillStep
    step: Step = kind(shape, weights, batch_size=point.batch_size, length=point.length)
    step.time_ms()
    return step
