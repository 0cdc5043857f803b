"""Which steps a simulated engine runs: decode, mixed and prefill, within its KV memory."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslat.errors import InputError

__all__ = ["DEFAULT_MIX", "Workload", "draw_workload"]

DEFAULT_MIX: Final[Mapping[str, float]] = {"decode": 0.5, "mixed": 0.25, "prefill": 0.25}
"""Shares of the phases among the steps."""

_LARGEST_STEP: Final = 8192


class Workload(NamedTuple):
    """Steps of one simulated deployment, one entry a step; C >= S >= B >= 1."""

    phase: NDArray[Any]
    batch_size: NDArray[np.int64]
    total_tokens: NDArray[np.int64]
    context_tokens: NDArray[np.int64]


def draw_workload(
    rng: np.random.Generator, n: int, *, mix: Mapping[str, float], capacity: float = np.inf
) -> Workload:
    """Draw `n` simulated steps.

    Decode: 1 to 128 requests of 32 to 2,048 past positions. Prefill: 1 to 8 prompts of 16 to 2,048
    tokens, at most 8,192 together. Mixed: 1 to 64 decoding requests beside one prompt's chunk of 32
    to 512 tokens. All log-uniform, all within the KV capacity.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the draw.
    n : int
        Number of steps.
    mix : mapping of str to float
        Weight of each of "decode", "mixed", "prefill"; absent is zero.
    capacity : float
        KV positions that fit into memory; at least 8,192, so that any step fits.

    Raises
    ------
    InputError
        Unknown phases, or weights that are negative or all zero.
    """
    phase = rng.choice(list(DEFAULT_MIX), size=n, p=_shares(mix))
    is_prefill, is_mixed = phase == "prefill", phase == "mixed"
    prompts, lengths = _log_uniform(rng, 1, 8, n), _log_uniform(rng, 16, 2048, n)
    lengths = np.minimum(lengths, _LARGEST_STEP // prompts)
    decoding = np.where(is_mixed, _log_uniform(rng, 1, 64, n), _log_uniform(rng, 1, 128, n))
    chunk = np.where(is_mixed, _log_uniform(rng, 32, 512, n), 0)

    batch = np.where(is_prefill, prompts, decoding + is_mixed)
    tokens = np.where(is_prefill, prompts * lengths, decoding + chunk)
    scatter = np.exp(0.3 * rng.standard_normal(n) / np.sqrt(batch))
    past = (decoding * _log_uniform(rng, 32, 2048, n) * scatter).astype(np.int64)
    past += chunk * rng.integers(0, 4, n)
    context = np.where(is_prefill, tokens, np.minimum(tokens + past, capacity)).astype(np.int64)
    return Workload(phase, batch, tokens, context)


def _log_uniform(rng: np.random.Generator, low: int, high: int, n: int) -> NDArray[np.int64]:
    """Whole numbers from `low` to `high`, uniform on the logarithmic scale."""
    return np.exp(rng.uniform(np.log(low), np.log(high + 1), n)).astype(np.int64).clip(low, high)


def _shares(mix: Mapping[str, float]) -> NDArray[np.float64]:
    weights = np.array([mix.get(phase, 0.0) for phase in DEFAULT_MIX], dtype=float)
    if (
        not set(mix) <= set(DEFAULT_MIX)
        or not (weights >= 0).all()
        or not 0 < weights.sum() < np.inf
    ):
        raise InputError(
            f"mix: got {dict(mix)!r}, expected non-negative weights of {', '.join(DEFAULT_MIX)}, "
            f"at least one of them positive; correct the mix"
        )
    return weights / weights.sum()
