"""Service times of whole batches of requests, from posterior draws: what queues are made of.

A batch of b equal requests is served from start to end by one engine: prompts together, in as many
steps as the token budget asks for, then one step for each further token. With one output token this
is a classifier or an embedding model; with many it is static batching. An engine whose requests
join and leave at every step has no such service time: simulate it (`bayeslat.decisions.serving`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bayeslat.decisions.serving import StepOverhead, thinned
from bayeslat.errors import InputError
from bayeslat.predictive import DeploymentDraws, Estimate
from bayeslat.predictive.draws import Points
from bayeslat.predictive.estimate import estimate
from bayeslat.predictive.sampled import noise_and_missing, sample_means

__all__ = ["BatchService", "batch_service"]

type Array = NDArray[np.float64]

N_RUNS: Final = 50
N_REPLICATES: Final = 400
MAX_GROUPS: Final = 8
"""Groups into which decode steps of a batch are put; latency is linear in the context."""

CAP: Final = 20.0
"""Services longer than this many medians are cut there, so that every moment is finite."""


@dataclass(frozen=True, eq=False)
class BatchService:
    """Service times of batches of one to `max_batch` requests.

    Parameters
    ----------
    samples : array, shape (draw, batch, replicate)
        Milliseconds, cut at `cap_ms`.
    mean, second_moment : array, shape (draw, batch)
        E[S] and E[S^2] without the cut, exact but for single steps being clipped at zero; the
        second is infinite where the noise has no variance.
    cap_ms : array, shape (batch,)
        Where services are cut.
    cut_share : float
        Share of all samples that were cut.
    """

    samples: Array
    mean: Array
    second_moment: Array
    cap_ms: Array
    cut_share: float

    @property
    def n_draws(self) -> int:
        """Number of posterior draws."""
        return self.samples.shape[0]

    @property
    def max_batch(self) -> int:
        """Largest batch."""
        return self.samples.shape[1]

    def mean_ms(self, batch_size: int = 1, *, credible: float = 0.9) -> Estimate:
        """Mean service of a batch, in milliseconds."""
        own = self.mean[:, batch_size - 1]
        return estimate(own.mean(), own, credible)

    def floor_ms(self, *, credible: float = 0.9) -> Estimate:
        """Median service of a request alone: no time to answer is typically shorter."""
        own = np.median(self.samples[:, 0], axis=1)
        return estimate(np.median(own), own, credible)

    def capacity_per_s(self, *, credible: float = 0.9) -> Estimate:
        """Most requests a second that batches of any size can serve."""
        own = self.capacity_per_draw()
        return estimate(own.mean(), own, credible)

    def capacity_per_draw(self, max_batch: int | None = None) -> Array:
        """Most requests a second with batches up to a size, shape (draw,)."""
        sizes = np.arange(1, (max_batch or self.max_batch) + 1)
        return np.asarray(1e3 * (sizes / self.mean[:, : sizes.size]).max(axis=1))


def batch_service(
    draws: DeploymentDraws,
    *,
    prompt_tokens: int,
    output_tokens: int,
    max_batch: int = 1,
    max_num_batched_tokens: int = 8192,
    overhead: StepOverhead | None = None,
    n_runs: int = N_RUNS,
    n_replicates: int = N_REPLICATES,
    seed: int = 0,
) -> BatchService:
    """Sample the service of batches of equal requests.

    Parameters
    ----------
    draws : DeploymentDraws
        Posterior draws of the deployment.
    prompt_tokens, output_tokens : int
        Of every request.
    max_batch : int
        Largest batch.
    max_num_batched_tokens : int
        Most tokens of a step: longer prompts of a batch are spread evenly over several.
    overhead : StepOverhead, optional
        Prior of the time between steps; the default prior where not given.
    n_runs, n_replicates : int
        Posterior draws, and services sampled for each.
    seed : int
        Seed of the noise.

    Raises
    ------
    InputError
        Numbers that are no whole numbers of at least one.
    """
    for name, value in (
        ("prompt_tokens", prompt_tokens),
        ("output_tokens", output_tokens),
        ("max_batch", max_batch),
        ("max_num_batched_tokens", max_num_batched_tokens),
    ):
        if not (np.isfinite(value) and value == int(value) and value >= 1):
            raise InputError(f"got {name}={value}, expected a whole number of at least 1")
    kept, missing = thinned(draws, n_runs)
    gap = (overhead or StepOverhead()).draws(kept.n_draws)
    rng = np.random.default_rng(seed)
    samples = np.zeros((kept.n_draws, max_batch, n_replicates))
    mean, square = np.zeros((2, kept.n_draws, max_batch))
    for size in range(1, max_batch + 1):
        points = _steps(size, prompt_tokens, output_tokens, max_num_batched_tokens)
        own = np.zeros((kept.n_draws, n_replicates))
        parts = sample_means(kept, points, missing=missing, n_replicates=n_replicates, rng=rng)
        for part, n in zip(parts, points.n_averaged, strict=True):
            own += n * part
        waited = gap * points.n_averaged.sum()
        first, variance = _moments(kept, points, missing)
        samples[:, size - 1] = own + waited[:, None]
        mean[:, size - 1] = first + waited
        square[:, size - 1] = variance + mean[:, size - 1] ** 2
    cap = CAP * np.median(samples, axis=(0, 2))
    cut = samples > cap[:, None]
    return BatchService(np.minimum(samples, cap[:, None]), mean, square, cap, float(cut.mean()))


def _steps(size: int, prompt_tokens: int, output_tokens: int, budget: int) -> Points:
    """Steps of a batch, decode steps in groups; `n_averaged` says how many a point stands for."""
    columns = [*_prefill_steps(size, prompt_tokens, budget)]
    columns += _decode_steps(size, prompt_tokens, output_tokens)
    batch, tokens, context, n = np.array(columns, dtype=float).T
    return Points(batch, tokens, context, n)


def _prefill_steps(size: int, prompt: int, budget: int) -> Iterator[tuple[float, ...]]:
    n = -(-size * prompt // budget)
    for step in range(n):
        tokens = max(size * prompt / n, size)
        yield size, tokens, size * prompt * (step + 1) / n, 1.0


def _decode_steps(size: int, prompt: int, output: int) -> Iterator[tuple[float, ...]]:
    """The k-th decode step attends to prompt + k positions of each request."""
    for group in np.array_split(np.arange(1, output), min(MAX_GROUPS, max(output - 1, 1))):
        if group.size:
            yield size, size, size * (prompt + group.mean()), group.size


def _moments(draws: DeploymentDraws, points: Points, missing: Array) -> tuple[Array, Array]:
    """Mean and variance of the sum over all steps in each draw, each of shape (draw,)."""
    location, noise, missed = noise_and_missing(draws, points)
    level = location * np.exp(missed * missing[:, None])
    first, second = draws.noise.moments(noise, draws.nu[:, None])
    variance = np.square(level) * np.maximum(second - np.square(first), 0.0)
    n = points.n_averaged
    return (n * level * first).sum(axis=1), (n * variance).sum(axis=1)
