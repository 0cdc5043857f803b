"""Sums of engine steps: which steps a prefill or a decode takes, and how they are sampled together.

With a fixed posterior draw a phase is a sum over its steps. Runs of many steps of one kind are
summed in groups, each at the middle of its contexts: latency is linear in C, so that the location
of a sum is exact, and its noise is that of means (`bayeslat.predictive.sampled.sample_means`).
"""

from dataclasses import dataclass
from typing import Any, Final, TypedDict
from zlib import crc32

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslat.decisions.arguments import check_count, check_not_negative
from bayeslat.errors import InputError
from bayeslat.predictive import DeploymentDraws, SampledDistribution
from bayeslat.predictive.draws import Points
from bayeslat.predictive.sampled import (
    expected_latency,
    missing_normals,
    repeated_shares,
    sample_means,
)

__all__ = ["MAX_DRAWS", "Ensemble", "Sampling", "decode_steps", "groups", "prefill_steps"]

type Array = NDArray[np.float64]

MAX_DRAWS: Final = 400
N_REPLICATES: Final = 1_000
MAX_GROUPS: Final = 32
"""Groups into which a run of like steps is put."""


class Sampling(TypedDict, total=False):
    """How phases are sampled: what every function here takes as keywords.

    Parameters
    ----------
    max_draws : int
        Posterior draws that are used, evenly spaced; 400 by default.
    n_replicates : int
        Requests that are sampled for each draw; 1,000 by default.
    seed : int or Generator
        Of the noise; 0 by default. Different steps have independent noise, the same steps the same:
        two requests of one kind, to be added, need two seeds. What the discrepancy's features miss
        does not depend on it.
    step_overhead_ms : float or array, shape (draw,)
        Time between steps, at least zero; one number, or one for each of the posterior draws. None
        by default.
    repeated_share : float, optional
        Share of the noise's variance that all steps of a phase have in common; unknown by default,
        see `bayeslat.predictive.sampled.repeated_shares`. A phase of a single step has its noise
        whole, whichever part of it would come back.
    """

    max_draws: int
    n_replicates: int
    seed: int | np.random.Generator
    step_overhead_ms: ArrayLike
    repeated_share: float | None


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Thinned draws with all that their steps share; `of` takes the keywords of `Sampling`."""

    draws: DeploymentDraws
    missing: Array
    repeated: Array
    overhead: Array
    n_replicates: int
    seed: int | np.random.Generator

    @classmethod
    def of(
        cls,
        draws: DeploymentDraws,
        *,
        max_draws: int = MAX_DRAWS,
        n_replicates: int = N_REPLICATES,
        seed: int | np.random.Generator = 0,
        step_overhead_ms: ArrayLike = 0.0,
        repeated_share: float | None = None,
    ) -> "Ensemble":
        """Thin the draws, and what belongs to each of them."""
        n = min(check_count("max_draws", max_draws, at_least=1), draws.n_draws)
        overhead = _check_overhead(step_overhead_ms, draws.n_draws)
        pick = np.linspace(0, draws.n_draws - 1, n).astype(int)
        return cls(
            draws.take(pick),
            missing_normals(draws)[pick],
            repeated_shares(draws, repeated_share)[pick],
            overhead[pick, None],
            check_count("n_replicates", n_replicates, at_least=1),
            seed,
        )

    def total(self, steps: Points) -> Array:
        """Random time of all steps together, shape (draw, replicate)."""
        total = np.zeros((self.draws.n_draws, self.n_replicates))
        several = steps.n_averaged.sum() > 1.0
        means = sample_means(
            self.draws,
            steps,
            missing=self.missing,
            n_replicates=self.n_replicates,
            rng=self._rng(steps),
            repeated=self.repeated if several else 0.0,
        )
        for n, mean in zip(steps.n_averaged, means, strict=True):
            total += n * (mean + self.overhead)
        return total

    def _rng(self, steps: Points) -> np.random.Generator:
        """Noise of these steps: the same whenever they are asked for, independent of all others."""
        if isinstance(self.seed, np.random.Generator):
            return self.seed
        design = steps.batch_size, steps.total_tokens, steps.context_tokens, steps.n_averaged
        return np.random.default_rng([self.seed, crc32(np.stack(design).tobytes())])

    def expected(self, steps: Points) -> Array:
        """Expected time of a step at each point, shape (draw, point)."""
        return expected_latency(self.draws, steps, missing=self.missing) + self.overhead

    def wait(self, queueing: SampledDistribution | None) -> Any:
        """Samples of the wait, which must be those of the same draws."""
        if queueing is None:
            return 0.0
        shape = (self.draws.n_draws, self.n_replicates)
        if queueing.samples.shape != shape:
            raise InputError(
                f"got queueing with samples of shape {queueing.samples.shape}, expected"
                f" {shape} (draw, replicate); set max_draws and n_replicates to what it has"
            )
        return queueing.samples


def prefill_steps(
    prompt_tokens: int,
    chunk_tokens: int | None,
    running: int,
    running_context: float,
    *,
    max_groups: int = MAX_GROUPS,
) -> Points:
    """Steps of a prefill: `n_averaged` steps at each point, whole chunks first, then the rest."""
    prompt = check_count("prompt_tokens", prompt_tokens, at_least=1)
    chunk = (
        prompt if chunk_tokens is None else check_count("chunk_tokens", chunk_tokens, at_least=1)
    )
    riders = check_count("running", running, at_least=0)
    riding = riders * check_not_negative("running_context", running_context)
    n_whole = (prompt - 1) // chunk
    middle, count = groups(n_whole, max_groups)
    tokens = np.append(np.full(middle.size, float(chunk)), prompt - n_whole * chunk)
    attended = np.append((middle + 1.0) * chunk, prompt)
    batch = np.full(tokens.size, riders + 1.0)
    return Points(batch, tokens + riders, attended + riding, np.append(count, 1.0))


def decode_steps(batch_size: int, context_per_request: float, n_steps: int) -> Points:
    """Steps of a decode whose requests all attend to one position more each time."""
    batch = float(check_count("batch_size", batch_size, at_least=1))
    context = check_not_negative("context_per_request", context_per_request)
    middle, count = groups(n_steps, MAX_GROUPS)
    every = np.full(middle.size, batch)
    return Points(every, every, batch * (context + middle), count)


def groups(n_steps: int, max_groups: int) -> tuple[Array, Array]:
    """Middle (counted from zero) and length of nearly equal groups of consecutive steps.

    The first step is a group of its own: it may be the only one that attends to nothing older.
    """
    first = 1 if n_steps > max_groups > 1 else 0
    rest = np.linspace(first, n_steps, min(n_steps, max_groups) - first + 1)
    edges = np.append(np.zeros(first), np.round(rest))
    return 0.5 * (edges[:-1] + edges[1:] - 1.0), np.diff(edges)


def _check_overhead(value: ArrayLike, n_draws: int) -> Array:
    """Overhead of each draw, shape (draw,)."""
    overhead = np.asarray(value, dtype=float)
    if (
        overhead.shape not in {(), (n_draws,)}
        or not ((overhead >= 0.0) & (overhead < np.inf)).all()
    ):
        raise InputError(
            f"got step_overhead_ms={value!r}, expected finite milliseconds of at least 0, one or"
            f" one for each of {n_draws} draws; correct the overhead"
        )
    return np.broadcast_to(overhead, n_draws)
