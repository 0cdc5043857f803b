"""How long a simulated step takes on average, by a mechanism that no fitted formula contains.

A step is the softer of two maxima, arithmetic and memory traffic, plus what nothing hides: kernel
launches, all-reduces, sampling. Arithmetic comes in whole tiles and whole waves of tiles, so the
latency is a staircase in S; the efficiency of matrix products rises with S as a square root of a
hyperbola and never as the exponential of the saturation formula. A model that fits the simulated
steps therefore has to be right about shape, not about the author's choice of formula.
"""

import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslat.catalog import GPU, LLM
from bayeslat.errors import InputError

__all__ = ["StepMechanism", "draw_mechanism", "kv_capacity"]

_COMPUTE_UNITS: Final = 108
"""Streaming multiprocessors of a whole device; an A100's count stands for all."""

_TILES: Final = ((16, 16), (256, 64), (np.inf, 128))
"""(largest S, rows of a tile): kernels for few tokens use small tiles."""

_TILE_COLUMNS: Final = 128
_HALF_EFFICIENT_TOKENS: Final = 24.0
_OVERLAP: Final = 5.0
_ATTENTION_EFFICIENCY: Final = 0.35
_KV_EFFICIENCY: Final = 0.65
_MEMORY_IN_USE: Final = 0.9
_ENGINE_MS, _SAMPLING_MS_PER_REQUEST = 0.4, 0.015
_REDUCE_LATENCY_MS, _LINK_BYTES_PER_MS = 0.012, 2.0e8
_ACTIVATION_PASSES: Final = 10

_GPU_SPREAD, _MODEL_SPREAD, _DEPLOYMENT_SPREAD = 0.06, 0.04, 0.03


@dataclass(frozen=True)
class StepMechanism:
    """Typical step latency of one simulated deployment.

    Attributes
    ----------
    gpu, llm : GPU, LLM
        Datasheets with peak, bandwidth, parameters, layers, width and KV shape known.
    tp : int
        Devices that share the work.
    compute_efficiency : float
        Share of the peak that large matrix products reach.
    bandwidth_efficiency : float
        Share of the bandwidth at which weights are read.
    launch_ms_per_layer : float
        Launch time of the kernels of one layer.
    """

    gpu: GPU
    llm: LLM
    tp: int
    compute_efficiency: float
    bandwidth_efficiency: float
    launch_ms_per_layer: float

    def typical_ms(
        self, batch_size: ArrayLike, total_tokens: ArrayLike, context_tokens: ArrayLike
    ) -> NDArray[np.float64]:
        """Latency of a step without noise.

        Parameters
        ----------
        batch_size, total_tokens, context_tokens : array_like
            B requests, S tokens, C attended positions; C below S counts as S.

        Returns
        -------
        ndarray
            Milliseconds, of the broadcast shape.
        """
        b, s, c = np.broadcast_arrays(
            *(np.asarray(x, dtype=float) for x in (batch_size, total_tokens, context_tokens))
        )
        c = np.maximum(c, s)
        return _soft_maximum([self._compute_ms(b, s, c), self._memory_ms(s, c)]) + self._exposed_ms(
            b, s
        )

    def _compute_ms(self, b: NDArray, s: NDArray, c: NDArray) -> NDArray:
        tflops = (self.gpu.effective_tflops or np.nan) * self.tp
        padded = self._padded_tokens(s)
        rising = np.sqrt(padded / (padded + _HALF_EFFICIENT_TOKENS))
        products = 2 * (self.llm.active_b or np.nan) * padded / (self.compute_efficiency * rising)
        # Every token attends to its request's past and to half of its own tokens of this step.
        pairs = s * (c - (s - b) / 2) / b
        width = (self.llm.layers or 0) * (self.llm.hidden_size or 0)
        attention = 4 * width * pairs / 1e9 / _ATTENTION_EFFICIENCY
        return (products + attention) / tflops

    def _padded_tokens(self, s: NDArray) -> NDArray:
        """Tokens that whole waves of whole tiles have room for."""
        tile = np.select([s <= limit for limit, _ in _TILES], [rows for _, rows in _TILES])
        width = (self.llm.layers or 0) * (self.llm.hidden_size or 0) * self.tp
        columns = np.ceil((self.llm.active_b or np.nan) * 1e9 / width / _TILE_COLUMNS)
        units = max(1, round(_COMPUTE_UNITS * self.gpu.sm_share))
        waves = np.ceil(np.ceil(s / tile) * columns / units)
        return waves * units * tile / columns

    def _memory_ms(self, s: NDArray, c: NDArray) -> NDArray:
        bytes_per_ms = (self.gpu.bandwidth_tbs or np.nan) * 1e9 * self.tp
        weights = 2e9 * (self.llm.parameters_b or np.nan) / self.bandwidth_efficiency
        cache = self.llm.kv_bytes_per_position() * c / _KV_EFFICIENCY
        width = (self.llm.layers or 0) * (self.llm.hidden_size or 0)
        return (weights + cache + 2 * _ACTIVATION_PASSES * width * s) / bytes_per_ms

    def _exposed_ms(self, b: NDArray, s: NDArray) -> NDArray:
        layers = self.llm.layers or 0
        launch = _ENGINE_MS + self.launch_ms_per_layer * layers + _SAMPLING_MS_PER_REQUEST * b
        if self.tp == 1:
            return launch
        sent = 2 * 2 * (self.tp - 1) / self.tp * (self.llm.hidden_size or 0) * s
        return launch + 2 * layers * (_REDUCE_LATENCY_MS + sent / _LINK_BYTES_PER_MS)


def _soft_maximum(parts: list[NDArray]) -> NDArray:
    """Norm of high order: the larger part, and a little of the smaller where they are near."""
    largest = np.maximum.reduce(parts)
    return largest * sum((part / largest) ** _OVERLAP for part in parts) ** (1 / _OVERLAP)


def draw_mechanism(gpu: GPU, llm: LLM, *, tp: int, seed: int) -> StepMechanism:
    """Draw a deployment's efficiencies: effects of its GPU, of its model and of its own.

    Each effect depends on the seed and on the names only, so that a deployment has the same truth
    whichever others are in the fleet.

    Raises
    ------
    InputError
        The datasheets lack a number that the mechanism needs.
    """
    _require_known(gpu, llm)
    effects = np.exp(
        _GPU_SPREAD * _normals(seed, gpu.name)
        + _MODEL_SPREAD * _normals(seed, llm.name)
        + _DEPLOYMENT_SPREAD * _normals(seed, f"{gpu.name}/{llm.name}/{tp}")
    )
    return StepMechanism(
        gpu,
        llm,
        tp,
        compute_efficiency=min(0.58 * effects[0], 0.9),
        bandwidth_efficiency=min(0.85 * effects[1], 0.95),
        launch_ms_per_layer=0.03 * effects[2],
    )


def kv_capacity(gpu: GPU, llm: LLM, *, tp: int) -> float:
    """KV positions that fit into memory beside the weights; infinite where memory is unknown."""
    if gpu.memory_gb is None or llm.parameters_b is None:
        return np.inf
    free_gb = _MEMORY_IN_USE * gpu.memory_gb * tp - 2 * llm.parameters_b
    return free_gb * 1e9 / (llm.kv_bytes_per_position() or np.nan)


def _normals(seed: int, name: str) -> NDArray[np.float64]:
    return np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(3)


def _require_known(gpu: GPU, llm: LLM) -> None:
    if not gpu.is_known:
        raise InputError(
            f"gpus: got {gpu.name!r}, expected a GPU whose peak and bandwidth the catalogue knows; "
            f"correct the name or pass a catalogue with its datasheet"
        )
    needed = (llm.parameters_b, llm.layers, llm.hidden_size, llm.kv_bytes_per_position())
    if any(value is None or np.isnan(value) for value in needed):
        raise InputError(
            f"models: got {llm.name!r}, expected an LLM whose parameters, layers, width and KV "
            f"shape the catalogue knows; correct the name or pass a catalogue with its datasheet"
        )
