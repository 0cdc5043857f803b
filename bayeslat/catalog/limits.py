"""What datasheets say of a deployment: its floor, its roofline, and the room for its cache.

These functions take the entries of one GPU and one LLM; `Catalog` has them under names.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslat import roofline
from bayeslat.catalog.entries import GPU, LLM
from bayeslat.errors import InputError
from bayeslat.roofline import bytes_per_parameter, bytes_per_value, tensor_tflops

__all__ = [
    "StepRoofline",
    "Steps",
    "kv_bytes_per_token",
    "kv_capacity_tokens",
    "step_floor_ms",
    "step_roofline",
]

type Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StepRoofline:
    """Steps against the roofline of their datasheets; every array has the steps' shape.

    FLOPs and weights are those of the *active* parameters. For a mixture of experts the weights
    read are a lower bound: the tokens of a batch use different experts, and a large batch reads
    nearly all of them.

    Parameters
    ----------
    batch_size
        Requests of the step.
    flops
        Two for each active parameter and token.
    weight_bytes, kv_bytes
        Least bytes of weights and of older cache that the step reads.
    intensity, ridge
        FLOP/byte of the step, and above which a step is compute-bound at the rates reached.
    compute_ms, memory_ms, floor_ms
        Time of the FLOPs, time of the bytes, and the larger of both, milliseconds.
    bound
        "compute" or "memory", whichever takes longer; "unknown" where a datasheet does not tell.
    """

    batch_size: Array
    flops: Array
    weight_bytes: Array
    kv_bytes: Array
    intensity: Array
    ridge: Array
    compute_ms: Array
    memory_ms: Array
    floor_ms: Array
    bound: NDArray[np.str_]

    @property
    def floor_per_request_ms(self) -> Array:
        """Share of the floor that falls to one request: in a decode step, to one token."""
        return self.floor_ms / self.batch_size


class Steps(NamedTuple):
    """B requests, S tokens, C attended positions (NaN where unknown) and devices of steps."""

    batch_size: ArrayLike
    total_tokens: ArrayLike
    context_tokens: ArrayLike
    tp: ArrayLike


class _Rates(NamedTuple):
    """Datasheet values of a deployment, NaN or `None` where unknown."""

    active_b: float | None
    peak_tflops: float
    bandwidth_tbs: float | None
    kv_bytes_per_position: float | None
    bytes_per_parameter: float


def step_floor_ms(
    device: GPU,
    model: LLM,
    total_tokens: ArrayLike,
    context_tokens: ArrayLike,
    *,
    tp: ArrayLike,
    precision: str,
) -> Array:
    """Lower bound on the latency of steps, milliseconds; see `Catalog.step_floor_ms`."""
    rates = _rates(device, model, precision)
    floor = roofline.step_floor_ms(
        np.asarray(total_tokens, dtype=float),
        active_parameters_b=rates.active_b,
        peak_tflops=rates.peak_tflops,
        bandwidth_tbs=rates.bandwidth_tbs,
        context_tokens=np.asarray(context_tokens, dtype=float),
        kv_bytes_per_position=rates.kv_bytes_per_position,
        bytes_per_parameter=rates.bytes_per_parameter,
        tp=np.asarray(tp, dtype=float),
    )
    return np.asarray(floor, dtype=float)


def step_roofline(
    device: GPU,
    model: LLM,
    steps: Steps,
    *,
    precision: str,
    mfu: ArrayLike,
    bandwidth_efficiency: ArrayLike,
) -> StepRoofline:
    """Steps against the roofline of their deployment; see `Catalog.roofline`."""
    _check_share("mfu", mfu)
    _check_share("bandwidth_efficiency", bandwidth_efficiency)
    values = (*steps, mfu, bandwidth_efficiency)
    arrays = np.broadcast_arrays(*(np.asarray(value, dtype=float) for value in values))
    batch, tokens, context, tp, compute_share, memory_share = arrays
    _check_steps(batch, tokens, context, tp)
    rates = _rates(device, model, precision)
    flops = roofline.step_flops(rates.active_b, tokens)
    weights = roofline.weight_bytes(rates.active_b, rates.bytes_per_parameter)
    cache = roofline.cached_bytes(tokens, context, rates.kv_bytes_per_position)
    compute = roofline.prefill_time_ms(
        rates.active_b, tokens, rates.peak_tflops, mfu=compute_share, tp=tp
    )
    memory = roofline.decode_time_ms(
        weights, cache, rates.bandwidth_tbs, efficiency=memory_share, tp=tp
    )
    ridge = roofline.ridge_point(rates.peak_tflops, rates.bandwidth_tbs)
    numbers = np.broadcast_arrays(
        batch,
        flops,
        weights,
        cache,
        roofline.arithmetic_intensity(flops, weights + cache),
        ridge * compute_share / memory_share,
        compute,
        memory,
        np.maximum(compute, memory),
    )
    bound = np.broadcast_to(_bound(compute, memory), batch.shape)
    return StepRoofline(*(np.array(number) for number in (*numbers, bound)))


def kv_bytes_per_token(model: LLM, kv_precision: str) -> float:
    """Bytes of cache that one position takes over all layers, NaN where unknown."""
    found = model.kv_bytes_per_position(bytes_per_value(kv_precision))
    return math.nan if found is None else found


def kv_capacity_tokens(
    device: GPU,
    model: LLM,
    *,
    tp: int,
    precision: str,
    kv_precision: str,
    memory_utilisation: float,
) -> float:
    """Positions that the cache of a deployment holds; see `Catalog.kv_capacity_tokens`.

    The memory that the engine takes, less the weights of *all* parameters, over the cache of a
    position. Activations and the engine's own buffers are not taken off; on the other hand many
    devices hold a few per cent more than their name says. Layers with a sliding window count as
    the others, so for such a model an engine may report more. A device that holds a copy of what
    others hold too has less room: there are no more shards of the cache than key-value heads, and
    one of a compressed latent.
    """
    _check_share("memory_utilisation", memory_utilisation)
    if not (np.isfinite(tp) and tp == int(tp) >= 1):
        raise InputError(
            f"got tp={tp!r}, expected a whole number of devices of at least 1; correct the query"
        )
    size = bytes_per_parameter(precision or model.weight_precision)
    weights = float(roofline.weight_bytes(model.parameters_b, size))
    memory = math.nan if device.memory_gb is None else 1e9 * device.memory_gb
    per_token = kv_bytes_per_token(model, kv_precision) * _kv_copies(model, tp)
    room = memory * memory_utilisation * tp - weights
    tokens = room / per_token
    return tokens if math.isnan(tokens) else float(max(math.floor(tokens), 0))


def _kv_copies(model: LLM, tp: int) -> float:
    """How often `tp` devices together hold the cache of a position."""
    shards = model.kv_heads if model.kv_values_per_layer is None else 1
    return 1.0 if shards is None else max(1.0, tp / shards)


def _rates(device: GPU, model: LLM, precision: str) -> _Rates:
    """Values with the lower bound where log and LLM name two precisions."""
    named = (precision, model.weight_precision or precision)
    peaks = [
        tensor_tflops(name, peak_tflops=device.peak_tflops, fp8_tflops=device.fp8_tflops)
        for name in named
    ]
    # Only layers without a sliding window certainly read the whole context.
    cache = model.kv_bytes_per_position(min(map(bytes_per_value, named)))
    return _Rates(
        model.active_b,
        max(peaks) * device.sm_share,
        device.bandwidth_tbs,
        None if cache is None else cache * model.full_attention_share,
        float(np.min([bytes_per_parameter(name) for name in named])),
    )


def _bound(compute: Array, memory: Array) -> NDArray[np.str_]:
    known = np.isfinite(compute + memory)
    return np.where(known, np.where(compute >= memory, "compute", "memory"), "unknown")


def _check_share(name: str, value: ArrayLike) -> None:
    array = np.asarray(value, dtype=float)
    if not ((array > 0.0) & (array <= 1.0)).all():
        raise InputError(
            f"got {name}={value!r}, expected a share above 0 and up to 1; write 60 % as 0.6"
        )


def _check_steps(batch: Array, tokens: Array, context: Array, tp: Array) -> None:
    possible = (batch >= 1) & (tokens >= batch) & np.isfinite(tokens) & (tp >= 1)
    if not (possible & ~(context < 0)).all():
        raise InputError(
            f"got batch_size from {batch.min():g}, total_tokens from {tokens.min():g},"
            f" context_tokens from {context.min():g} and tp from {tp.min():g}, expected"
            " batch_size >= 1, total_tokens >= batch_size, context_tokens >= 0 or unknown, and"
            " tp >= 1; correct the query"
        )
