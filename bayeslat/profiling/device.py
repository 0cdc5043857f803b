"""What this machine's device can do at best: peak matrix throughput and memory bandwidth."""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from bayeslat.catalog import GPU

__all__ = ["device_name", "measure_device", "step_dtype"]

_MIN_REPEATS = 3


def step_dtype() -> DTypeLike:
    """Type of weights and activations: bfloat16 on an accelerator, float32 on a CPU."""
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16


def device_name() -> str:
    """Name of the device for the gpu column: no host name, nothing that tells a machine apart."""
    kind = jax.devices()[0].device_kind
    return f"cpu-{os.cpu_count() or 1}core" if kind == "cpu" else kind


def measure_device(*, seconds: float) -> GPU:
    """Measure the device's roofline in about `seconds`.

    The best of the repeats counts: both numbers serve as upper limits of what a step can do.

    Parameters
    ----------
    seconds : float
        Time for the two micro-benchmarks together; at least three repeats of each run.

    Returns
    -------
    GPU
        Entry with the measured peak (in the type of the steps) and bandwidth; memory unknown.
    """
    on_cpu = jax.default_backend() == "cpu"
    side, bandwidth_bytes = (1024, 2**27) if on_cpu else (8192, 2**30)
    return GPU(
        device_name(),
        peak_tflops=2 * side**3 / _best_time(*_matmul(side), seconds=seconds / 2) / 1e12,
        bandwidth_tbs=2
        * bandwidth_bytes
        / _best_time(*_copy(bandwidth_bytes), seconds=seconds / 2)
        / 1e12,
        source="measured on this machine",
    )


type _Chain = tuple[Callable[[Any], Any], jax.Array]


def _matmul(side: int) -> _Chain:
    """Square matrix product; the result of one call is the input of the next."""
    matrix = jnp.full((side, side), 1.0 / side, step_dtype())
    return jax.jit(partial(jnp.matmul, matrix)), matrix


def _copy(size_bytes: int) -> _Chain:
    """Scaling of a large array in place: every byte is read once and written once."""
    values = jnp.ones((size_bytes // 4,), jnp.float32)
    return jax.jit(lambda x: x * jnp.float32(1.0001), donate_argnums=0), values


def _best_time(call: Callable[[Any], Any], value: Any, *, seconds: float) -> float:
    """Shortest time of one call, in seconds, compilation left out."""
    value = jax.block_until_ready(call(value))
    deadline = time.perf_counter() + seconds
    best, repeats = float("inf"), 0
    while repeats < _MIN_REPEATS or time.perf_counter() < deadline:
        start = time.perf_counter_ns()
        value = jax.block_until_ready(call(value))
        best = min(best, (time.perf_counter_ns() - start) / 1e9)
        repeats += 1
    return best
