"""Roofline arithmetic: FLOPs, bytes, intensities and the least time a step can take.

Arrays in, arrays out: every argument may be a number or an array, shapes broadcast, and jax arrays
work as well as numpy's. `None` and NaN stand for "unknown" and come out as NaN. Units are part of
the names: ``_b`` billions, ``_tflops`` TFLOP/s, ``_tbs`` TB/s, ``_ms`` milliseconds; bytes are
bytes.

Formulas: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model",
CACM 52 (2009), with the usual 2 FLOPs per parameter and token of a transformer.
"""

import math
import re
from types import ModuleType
from typing import Any, Final

import numpy as np

__all__ = [
    "arithmetic_intensity",
    "bytes_per_parameter",
    "bytes_per_value",
    "cached_bytes",
    "decode_floor_ms",
    "decode_intensity",
    "decode_time_ms",
    "goodput_per_s",
    "is_compute_bound",
    "kv_bytes",
    "kv_transfer_time_s",
    "prefill_intensity",
    "prefill_time_ms",
    "required_bandwidth_gbs",
    "ridge_point",
    "static_batching_idle_ms",
    "step_floor_ms",
    "step_flops",
    "tensor_tflops",
    "weight_bytes",
]

type Array = Any
"""A number, a numpy array or a jax array."""

_PRECISIONS: Final = (
    # Order matters: a stated width ("gptq-8bit", "w4a16") goes before the name of the method.
    (0.5, r"w4|int4|fp4|nf4|4bit|q4"),
    (1.0, r"w8|int8|fp8|float8|f8|8bit|q8|e4m3|e5m2"),
    (0.5, r"awq|gptq"),
    (2.0, r"^$|^auto$|^none$|w16|fp16|bf16|float16|f16|half|16bit"),
    (4.0, r"fp32|float32|f32|32bit"),
)
_SEPARATORS: Final = re.compile(r"[\s_\-.]+")
_FOUR_BIT_ARITHMETIC: Final = re.compile(r"w4a4|fp4")


def _number(value: Array | None) -> Array:
    """NaN where a value is not known, the value itself otherwise."""
    return math.nan if value is None else value


def _spelling(precision: str) -> str:
    return _SEPARATORS.sub("", precision.casefold())


def bytes_per_parameter(precision: str) -> float:
    """Bytes that one weight takes in memory.

    Parameters
    ----------
    precision
        As logs write it: "" (16 bits), "bf16", "fp8", "w8a8", "awq", "GPTQ-Int4", "mxfp4" ...
        "awq" and "gptq" without a width are taken as 4 bits. Scales and layers that a method
        leaves in 16 bits are not counted, so that the figure is a lower bound.

    Returns
    -------
    float
        Bytes, or NaN where the precision is not one we know: then no bound can be given.
    """
    spelling = _spelling(precision)
    return next((size for size, names in _PRECISIONS if re.search(names, spelling)), math.nan)


def bytes_per_value(precision: str) -> float:
    """Least bytes that one cached key or value takes under this weight precision.

    A deployment with weights of 8 bits or fewer often caches keys and values in 8 bits too, and
    logs do not say so.

    Parameters
    ----------
    precision
        As in `bytes_per_parameter`.

    Returns
    -------
    float
        Bytes, or NaN where the precision is not one we know.
    """
    size = bytes_per_parameter(precision)
    return size if math.isnan(size) else min(max(size, 1.0), 2.0)


def tensor_tflops(
    precision: str, *, peak_tflops: Array | None, fp8_tflops: Array | None = None
) -> Array:
    """Highest dense tensor throughput that a deployment of this precision can use.

    Weight-only formats (AWQ, GPTQ, w4a16) still multiply in 16 bits. An 8-bit format uses the fp8
    rate; where the datasheet gives none, twice the 16-bit rate, the ratio of every tensor core that
    multiplies in 8 bits. 4-bit arithmetic doubles that once more.

    Parameters
    ----------
    precision
        As in `bytes_per_parameter`.
    peak_tflops, fp8_tflops
        Dense 16-bit and fp8 throughput, TFLOP/s.

    Returns
    -------
    array
        TFLOP/s; NaN where unknown.
    """
    peak = _number(peak_tflops)
    eight_bit = 2.0 * peak if fp8_tflops is None else fp8_tflops
    spelling = _spelling(precision)
    if "a16" in spelling:
        return peak
    if _FOUR_BIT_ARITHMETIC.search(spelling):
        return 2.0 * eight_bit
    is_eight_bit = "a8" in spelling or bytes_per_parameter(precision) == 1.0
    return eight_bit if is_eight_bit else peak


def step_flops(active_parameters_b: Array | None, total_tokens: Array) -> Array:
    """FLOPs of a step: 2 for each active parameter and token.

    Parameters
    ----------
    active_parameters_b
        Parameters that one token uses, billions.
    total_tokens
        Tokens computed in the step.

    Returns
    -------
    array
        FLOPs. Attention over the context is left out, so the figure is low for long prompts.
    """
    return 2e9 * _number(active_parameters_b) * total_tokens


def weight_bytes(parameters_b: Array | None, bytes_per_parameter: Array = 2.0) -> Array:
    """Bytes of the weights.

    Parameters
    ----------
    parameters_b
        Parameters, billions: the active ones for what one token reads, all for what is stored.
    bytes_per_parameter
        Bytes of one weight.

    Returns
    -------
    array
        Bytes.
    """
    return 1e9 * _number(parameters_b) * bytes_per_parameter


def kv_bytes(positions: Array, kv_bytes_per_position: Array | None) -> Array:
    """Bytes of key-value cache that some positions take.

    Parameters
    ----------
    positions
        Context positions, summed over the requests.
    kv_bytes_per_position
        Bytes of one position over all layers.

    Returns
    -------
    array
        Bytes.
    """
    return positions * _number(kv_bytes_per_position)


def prefill_time_ms(
    active_parameters_b: Array | None,
    total_tokens: Array,
    peak_tflops: Array | None,
    *,
    mfu: Array = 1.0,
    tp: Array = 1,
) -> Array:
    """Time of a compute-bound step: FLOPs over the throughput reached. Also that of one chunk.

    Parameters
    ----------
    active_parameters_b
        Parameters that one token uses, billions.
    total_tokens
        Tokens computed in the step.
    peak_tflops
        Dense throughput of one device in the precision used, TFLOP/s.
    mfu
        Share of the peak that is reached, in (0, 1].
    tp
        Devices that share the work.

    Returns
    -------
    array
        Milliseconds.
    """
    return 1e-9 * step_flops(active_parameters_b, total_tokens) / (_number(peak_tflops) * mfu * tp)


def decode_time_ms(
    weight_bytes: Array,
    kv_bytes: Array,
    bandwidth_tbs: Array | None,
    *,
    efficiency: Array = 1.0,
    tp: Array = 1,
) -> Array:
    """Time of a memory-bound step: bytes read over the bandwidth reached.

    Parameters
    ----------
    weight_bytes, kv_bytes
        Bytes of weights (once a step) and of key-value cache that the step reads.
    bandwidth_tbs
        Memory bandwidth of one device, TB/s.
    efficiency
        Share of the bandwidth that is reached, in (0, 1].
    tp
        Devices that share the bytes.

    Returns
    -------
    array
        Milliseconds.
    """
    return 1e-9 * (weight_bytes + kv_bytes) / (_number(bandwidth_tbs) * efficiency * tp)


def arithmetic_intensity(flops: Array, bytes_read: Array) -> Array:
    """FLOPs for each byte read, FLOP/byte."""
    return flops / bytes_read


def ridge_point(peak_tflops: Array | None, bandwidth_tbs: Array | None) -> Array:
    """Intensity above which a device is compute-bound, FLOP/byte (TFLOP/s over TB/s)."""
    return _number(peak_tflops) / _number(bandwidth_tbs)


def is_compute_bound(intensity: Array, ridge: Array) -> Array:
    """Whether a step computes for longer than it reads; False where either is unknown (NaN)."""
    return intensity >= ridge


def prefill_intensity(
    batch_size: Array,
    prompt_tokens: Array,
    *,
    active_parameters_b: Array | None,
    bytes_per_parameter: Array = 2.0,
) -> Array:
    """Intensity of a prefill of B prompts, FLOP/byte: B T_in with weights of 16 bits.

    Parameters
    ----------
    batch_size, prompt_tokens
        Prompts computed together, and tokens of each.
    active_parameters_b
        Parameters that one token uses, billions.
    bytes_per_parameter
        Bytes of one weight.
    """
    flops = step_flops(active_parameters_b, batch_size * prompt_tokens)
    return arithmetic_intensity(flops, weight_bytes(active_parameters_b, bytes_per_parameter))


def decode_intensity(
    batch_size: Array,
    *,
    active_parameters_b: Array | None,
    context_per_request: Array = 0.0,
    kv_bytes_per_position: Array | None = None,
    bytes_per_parameter: Array = 2.0,
) -> Array:
    """Intensity of a decode step of B requests, FLOP/byte: B where the cache is small.

    Parameters
    ----------
    batch_size
        Requests of the step.
    active_parameters_b, bytes_per_parameter
        As in `prefill_intensity`.
    context_per_request
        Cached positions that each request reads.
    kv_bytes_per_position
        Bytes of cache of one position; `None` leaves the cache out.
    """
    weights = weight_bytes(active_parameters_b, bytes_per_parameter)
    per_position = 0.0 if kv_bytes_per_position is None else kv_bytes_per_position
    cache = kv_bytes(batch_size * context_per_request, per_position)
    return arithmetic_intensity(step_flops(active_parameters_b, batch_size), weights + cache)


def kv_transfer_time_s(kv_bytes: Array, bandwidth_gbs: Array) -> Array:
    """Seconds that moving `kv_bytes` bytes takes over a link of `bandwidth_gbs` GB/s."""
    return 1e-9 * kv_bytes / bandwidth_gbs


def required_bandwidth_gbs(kv_bytes: Array, allowed_time_s: Array) -> Array:
    """Link bandwidth, GB/s, that moves `kv_bytes` bytes within `allowed_time_s` seconds."""
    return 1e-9 * kv_bytes / allowed_time_s


def static_batching_idle_ms(output_tokens: Array, tpot_ms: Array, *, xp: ModuleType = np) -> Array:
    """Time that static batching leaves places of a batch idle: sum(T_max - T_i) TPOT.

    Parameters
    ----------
    output_tokens : array, shape (..., request)
        Output tokens of each request of a batch, which ends with the longest.
    tpot_ms : array, shape (...)
        Time of a step in milliseconds.
    xp
        Array namespace.

    Returns
    -------
    array, shape (...)
        Milliseconds, summed over the requests.
    """
    tokens = xp.asarray(output_tokens)
    return (tokens.max(axis=-1, keepdims=True) - tokens).sum(axis=-1) * tpot_ms


def goodput_per_s(satisfied: Array, total_time_s: Array) -> Array:
    """Requests per second that keep their SLO, of `satisfied` requests in `total_time_s`."""
    return satisfied / total_time_s


def cached_bytes(
    total_tokens: Array,
    context_tokens: Array | None,
    kv_bytes_per_position: Array | None,
    *,
    xp: ModuleType = np,
) -> Array:
    """Bytes of cache that a step must read: positions cached before it, 0 where they are unknown.

    Parameters
    ----------
    total_tokens
        Tokens computed in the step: their positions need not come from memory.
    context_tokens
        Positions attended to, summed over the requests; `None` or NaN leaves the cache out.
    kv_bytes_per_position
        Bytes of cache of one position; `None` or NaN leaves the cache out.
    xp
        Array namespace.
    """
    if context_tokens is None or kv_bytes_per_position is None:
        return 0.0
    older = xp.maximum(context_tokens - total_tokens, 0.0)
    per_position = xp.where(xp.isnan(kv_bytes_per_position), 0.0, kv_bytes_per_position)
    return kv_bytes(xp.where(xp.isnan(older), 0.0, older), per_position)


def step_floor_ms(
    total_tokens: Array,
    *,
    active_parameters_b: Array | None,
    peak_tflops: Array | None,
    bandwidth_tbs: Array | None,
    context_tokens: Array | None = None,
    kv_bytes_per_position: Array | None = None,
    bytes_per_parameter: Array = 2.0,
    tp: Array = 1,
    xp: ModuleType = np,
) -> Array:
    """Lower bound on the latency of a step: the larger of its compute and its memory time.

    Every choice is the one that makes the bound smaller: the peak rates of the datasheet, only the
    active weights of a mixture of experts, no attention FLOPs, and only those context positions
    that were cached before the step (``context_tokens - total_tokens``). What it cannot see is a
    prefix that many requests share and an engine reads once, and that the input embedding is
    neither multiplied nor read: leave a margin (half the floor is the package's).

    Parameters
    ----------
    total_tokens
        Tokens computed in the step.
    active_parameters_b
        Parameters that one token uses, billions.
    peak_tflops
        Dense throughput of one device in the precision used, times its share in use, TFLOP/s;
        see `tensor_tflops`.
    bandwidth_tbs
        Memory bandwidth of one device, TB/s.
    context_tokens
        Positions attended to, summed over the requests; `None` or NaN leaves the cache out.
    kv_bytes_per_position
        Bytes of cache of one position; `None` leaves the cache out.
    bytes_per_parameter
        Bytes of one weight.
    tp
        Devices that share the work.
    xp
        Array namespace: `numpy`, or `jax.numpy` to trace the function.

    Returns
    -------
    array
        Milliseconds; NaN where parameters, throughput, bandwidth or precision are unknown.
    """
    cached = cached_bytes(total_tokens, context_tokens, kv_bytes_per_position, xp=xp)
    compute = prefill_time_ms(active_parameters_b, total_tokens, peak_tflops, tp=tp)
    weights = weight_bytes(active_parameters_b, bytes_per_parameter)
    memory = decode_time_ms(weights, cached, bandwidth_tbs, tp=tp)
    return xp.maximum(compute, memory)


def decode_floor_ms(
    batch_size: Array,
    context_per_request: Array = 0.0,
    *,
    active_parameters_b: Array | None,
    peak_tflops: Array | None,
    bandwidth_tbs: Array | None,
    kv_bytes_per_position: Array | None = None,
    bytes_per_parameter: Array = 2.0,
    tp: Array = 1,
    xp: ModuleType = np,
) -> Array:
    """Lower bound on a decode step of B requests, and so on their time per output token.

    Weights are read once a step and the cache once a request: (M_w + B M_kv) / bandwidth, unless
    the step is compute-bound. Over B it is the device's time for each token.

    Parameters
    ----------
    batch_size
        Requests of the step, one token each.
    context_per_request
        Cached positions that each request reads.
    active_parameters_b, peak_tflops, bandwidth_tbs, kv_bytes_per_position, tp, xp
        As in `step_floor_ms`.
    bytes_per_parameter
        Bytes of one weight.

    Returns
    -------
    array
        Milliseconds; NaN where unknown.
    """
    return step_floor_ms(
        batch_size,
        active_parameters_b=active_parameters_b,
        peak_tflops=peak_tflops,
        bandwidth_tbs=bandwidth_tbs,
        context_tokens=xp.asarray(batch_size * (context_per_request + 1.0)),
        kv_bytes_per_position=kv_bytes_per_position,
        bytes_per_parameter=bytes_per_parameter,
        tp=tp,
        xp=xp,
    )
