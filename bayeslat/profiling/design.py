"""Which steps are measured: the model sizes, and the grid of batch sizes and lengths."""

import itertools
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

import numpy as np

from bayeslat.catalog import LLM
from bayeslat.errors import InputError
from bayeslat.profiling.transformer import Transformer

__all__ = ["SIZES", "DesignPoint", "datasheet", "model_name", "step_design", "transformers"]

type Phase = Literal["decode", "prefill"]

SIZES: Final = MappingProxyType(
    {
        "tiny": Transformer(4, 256, heads=4, kv_heads=2, mlp_size=704, vocabulary=4096),
        "small": Transformer(6, 512, heads=8, kv_heads=4, mlp_size=1408, vocabulary=8192),
        "base": Transformer(8, 768, heads=12, kv_heads=4, mlp_size=2048, vocabulary=8192),
    }
)
"""Sizes of the toy model: 4, 22 and 57 million parameters."""

_DECODE_GRID: Final = ((1, 2, 4, 8, 16, 32), (16, 64, 128, 256, 512))
_PREFILL_GRID: Final = ((1, 2, 4, 8), (16, 32, 64, 128, 256, 512))


@dataclass(frozen=True)
class DesignPoint:
    """One kind of step: a size, a phase, B requests, each with `length` positions.

    Attributes
    ----------
    size : str
        Key of `SIZES`.
    phase : {"decode", "prefill"}
        Decode computes the last of the `length` positions, prefill all of them.
    batch_size : int
        B, requests in the step.
    length : int
        Positions that each request attends to, its own newest token among them.
    """

    size: str
    phase: Phase
    batch_size: int
    length: int

    @property
    def total_tokens(self) -> int:
        """S, tokens computed in the step."""
        return self.batch_size * (1 if self.phase == "decode" else self.length)

    @property
    def context_tokens(self) -> int:
        """C, KV positions attended to, summed over the requests; S itself for a whole prompt."""
        return self.batch_size * self.length


def transformers(sizes: tuple[str, ...]) -> dict[str, Transformer]:
    """Shapes of the named sizes.

    Raises
    ------
    InputError
        No size, or a name that is not in `SIZES`.
    """
    unknown = [size for size in sizes if size not in SIZES]
    if unknown or not sizes:
        raise InputError(
            f"sizes: got {list(sizes)!r}, expected one or more of {', '.join(SIZES)}; "
            f"correct the names"
        )
    return {size: SIZES[size] for size in sizes}


def model_name(shape: Transformer) -> str:
    """Name of a toy model in tables, for example ``toy-22M``."""
    return f"toy-{shape.parameters / 1e6:.0f}M"


def datasheet(shape: Transformer) -> LLM:
    """Catalogue entry of a toy model."""
    return LLM(
        model_name(shape),
        parameters_b=shape.parameters / 1e9,
        layers=shape.layers,
        hidden_size=shape.hidden_size,
        kv_heads=shape.kv_heads,
        head_size=shape.head_size,
        source="toy transformer of bayeslat.profiling",
    )


def step_design(
    sizes: tuple[str, ...], *, peak_tflops: float, max_step_ms: float, rng: np.random.Generator
) -> list[DesignPoint]:
    """Design points in the order in which to prepare them.

    Sizes and phases take turns. Each starts with its smallest and its largest step and goes on in
    random order, so that whatever prefix fits into the time at hand spans the whole grid.

    Parameters
    ----------
    sizes : tuple of str
        Keys of `SIZES`.
    peak_tflops : float
        Matrix throughput of the device; steps that could not finish within `max_step_ms` even at
        this rate are left out.
    max_step_ms : float
        Longest step worth waiting for.
    rng : numpy.random.Generator
        Source of the order.

    Returns
    -------
    list of DesignPoint
        At least one decode point for each size.
    """
    grids: tuple[tuple[Phase, tuple[tuple[int, ...], ...]], ...] = (
        ("decode", _DECODE_GRID),
        ("prefill", _PREFILL_GRID),
    )
    queues = []
    for size, (phase, grid) in itertools.product(sizes, grids):
        points = [DesignPoint(size, phase, *pair) for pair in itertools.product(*grid)]
        affordable = [p for p in points if _floor_ms(p, peak_tflops) <= max_step_ms]
        queues.append(_extremes_first([affordable[i] for i in rng.permutation(len(affordable))]))
    turns = itertools.chain.from_iterable(itertools.zip_longest(*queues))
    return [point for point in turns if point is not None]


def _extremes_first(points: list[DesignPoint]) -> list[DesignPoint]:
    """Move the points of the least and of the most context to the front."""
    contexts = [point.context_tokens for point in points]
    return sorted(points, key=lambda p: min(contexts) < p.context_tokens < max(contexts))


def _floor_ms(point: DesignPoint, peak_tflops: float) -> float:
    if point.phase == "decode":
        return 0.0
    return 2 * SIZES[point.size].parameters * point.total_tokens / (peak_tflops * 1e9)
