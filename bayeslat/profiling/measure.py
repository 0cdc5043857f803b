"""Real step latencies of this machine's own device, within a time budget.

The budget goes to three things: the device's roofline, compilation of as many design points as fit
into their share, and rounds of measurement. Each round visits every prepared point in a new random
order, so that a machine that slows down or speeds up meanwhile does not do so at one design point.
"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayeslat.catalog import GPU, LLM
from bayeslat.errors import InputError
from bayeslat.profiling.design import (
    SIZES,
    DesignPoint,
    datasheet,
    model_name,
    step_design,
    transformers,
)
from bayeslat.profiling.device import measure_device, step_dtype
from bayeslat.profiling.steps import Step, compile_step
from bayeslat.profiling.transformer import init_weights

__all__ = ["DeviceProfile", "check_seconds", "profile_device"]

_ROOFLINE_SHARE, _PREPARED_SHARE = 0.05, 0.6
_MAX_ROOFLINE_SECONDS = 2.0
_MAX_STEP_MS = 60.0
_STEPS_PER_VISIT = 3

type Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class DeviceProfile:
    """What was measured on this machine's device.

    Attributes
    ----------
    steps : pandas.DataFrame
        Canonical steps table, one row for each timed step, in the order of measurement.
    gpu : GPU
        The device, with its measured peak and bandwidth.
    llms : tuple of LLM
        The toy models.
    """

    steps: pd.DataFrame
    gpu: GPU
    llms: tuple[LLM, ...]


@dataclass(frozen=True)
class _Clock:
    """Time gone by since the start of a profile, as a share of its budget."""

    seconds: float
    start: float
    progress: Progress

    @property
    def used(self) -> float:
        return (time.perf_counter() - self.start) / self.seconds

    def report(self, message: str) -> None:
        self.progress(min(self.used, 1.0), message)


def check_seconds(seconds: float) -> None:
    """Raise `InputError` unless a time budget is positive and finite."""
    if not (np.isfinite(seconds) and seconds > 0):
        raise InputError(f"seconds: got {seconds!r}, expected a positive number; raise the budget")


def profile_device(
    *,
    seconds: float = 60.0,
    sizes: tuple[str, ...] = ("tiny", "small", "base"),
    seed: int = 0,
    progress: Progress | None = None,
) -> DeviceProfile:
    """Measure prefill and decode steps of small transformers on JAX's default device.

    Compilation and warm-up are inside the budget and outside the latencies. At least one design
    point is measured, however short the budget.

    Parameters
    ----------
    seconds : float
        Time budget; overrun by no more than one compilation or one visit of a design point.
    sizes : tuple of str
        Keys of `bayeslat.profiling.SIZES`.
    seed : int
        Seed of the weights and of the order of measurement.
    progress : callable, optional
        Called with the share of the budget used, in [0, 1], and a message.

    Returns
    -------
    DeviceProfile
        The steps, the device's measured datasheet and the models' datasheets.

    Raises
    ------
    InputError
        `seconds` is not positive and finite, or a size is unknown.
    """
    check_seconds(seconds)
    shapes = transformers(sizes)
    clock = _Clock(seconds, time.perf_counter(), progress or (lambda share, message: None))
    rng = np.random.default_rng(seed)

    clock.report("measuring the device's roofline")
    gpu = measure_device(seconds=min(_ROOFLINE_SHARE * seconds, _MAX_ROOFLINE_SECONDS))
    assert gpu.peak_tflops is not None
    design = step_design(
        tuple(shapes), peak_tflops=gpu.peak_tflops, max_step_ms=_MAX_STEP_MS, rng=rng
    )
    prepared = _prepare(design, seed=seed, clock=clock)
    rows = _measure(prepared, rng=rng, clock=clock)
    clock.report(f"measured {len(rows)} steps at {len(prepared)} design points")
    return DeviceProfile(
        steps=_table(rows, gpu.name),
        gpu=gpu,
        llms=tuple(datasheet(shape) for shape in shapes.values()),
    )


def _prepare(
    design: list[DesignPoint], *, seed: int, clock: _Clock
) -> list[tuple[DesignPoint, Step]]:
    """Compile design points until their share of the budget is used."""
    weights = {}
    prepared: list[tuple[DesignPoint, Step]] = []
    for point in design:
        if prepared and clock.used > _PREPARED_SHARE:
            break
        shape = SIZES[point.size]
        if point.size not in weights:
            weights[point.size] = init_weights(shape, seed=seed, dtype=step_dtype())
        prepared.append((point, compile_step(point, shape, weights[point.size])))
        clock.report(f"compiled {len(prepared)} of {len(design)} design points")
    return prepared


def _measure(
    prepared: list[tuple[DesignPoint, Step]], *, rng: np.random.Generator, clock: _Clock
) -> list[tuple[DesignPoint, int, float]]:
    """Rows (point, replicate, milliseconds) of rounds in random order until time is up."""
    rows: list[tuple[DesignPoint, int, float]] = []
    replicate = 0
    with _gc_paused():
        while not rows or clock.used < 1.0:
            for index in rng.permutation(len(prepared)):
                if rows and clock.used >= 1.0:
                    break
                point, step = prepared[index]
                # The model before has emptied the caches; an engine's own steps follow each other.
                step.time_ms()
                rows += [(point, replicate + k, step.time_ms()) for k in range(_STEPS_PER_VISIT)]
                clock.report(f"measured {len(rows)} steps")
            replicate += _STEPS_PER_VISIT
    return rows


@contextmanager
def _gc_paused() -> Iterator[None]:
    """Keep the garbage collector out of the timings."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _table(rows: list[tuple[DesignPoint, int, float]], gpu: str) -> pd.DataFrame:
    """Canonical steps table of the measured rows."""
    precision = "fp32" if np.dtype(step_dtype()).itemsize == 4 else "bf16"
    return pd.DataFrame(
        {
            "gpu": gpu,
            "model": [model_name(SIZES[point.size]) for point, _, _ in rows],
            "tp": 1,
            "engine": "jax",
            "precision": precision,
            "phase": [point.phase for point, _, _ in rows],
            "batch_size": [point.batch_size for point, _, _ in rows],
            "total_tokens": [point.total_tokens for point, _, _ in rows],
            "context_tokens": [point.context_tokens for point, _, _ in rows],
            "latency_ms": [latency for _, _, latency in rows],
            "n_averaged": 1,
            "replicate": [replicate for _, replicate, _ in rows],
        }
    )
