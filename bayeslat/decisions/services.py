"""Service times of whole batches of requests, from posterior draws: what queues are made of.

A batch of b equal requests is served from start to end by one engine: prompts together, in as many
steps as the token budget asks for, then one step for each further token. With one output token this
is a classifier or an embedding model; with many it is static batching. An engine whose requests
join and leave at every step has no such service time: simulate it (`bayeslat.decisions.serving`).

Within a posterior draw the noise is new in every step, but for a share of it that all services of
the draw have in common, as they have its parameters (`bayeslat.predictive.sampled`).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bayeslat.decisions.arguments import check_count
from bayeslat.decisions.serving import StepOverhead, thinned
from bayeslat.decisions.steps import groups
from bayeslat.errors import InputError
from bayeslat.predictive import DeploymentDraws, Estimate
from bayeslat.predictive.draws import Points
from bayeslat.predictive.estimate import estimate
from bayeslat.predictive.sampled import divided, sample_means

__all__ = ["BatchService", "batch_service"]

type Array = NDArray[np.float64]

N_RUNS: Final = 50
N_REPLICATES: Final = 400
MAX_GROUPS: Final = 8
"""Groups into which steps of one kind are put, each at the middle of its contexts: latency is
linear in the context, so that the mean of their sum is exact."""

CAP: Final = 20.0
"""Services longer than this many medians are cut there, so that every moment is finite."""

SHORTEST_MS: Final = 1e-6
"""Noise that would make a service shorter than nothing makes it this short."""

LEAST_NOISE: Final = 1e-9
"""Relative scale below which noise counts as this: moments of clipped noise divide by it."""


@dataclass(frozen=True, eq=False)
class BatchService:
    """Service times of batches of one to `max_batch` requests.

    Parameters
    ----------
    samples : array, shape (draw, batch, replicate)
        Milliseconds, positive, cut at `cap_ms`.
    mean, second_moment : array, shape (draw, batch)
        E[S] and E[S^2] without the cut and without Monte Carlo error; the second is infinite where
        the noise has no variance.
    cap_ms : array, shape (batch,)
        Where services are cut: `CAP` medians over all draws, so that one grid holds them all. Where
        draws differ by as much, whole draws are cut; `cut_share` tells.
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
        own = self.mean[:, self._check_batch(batch_size) - 1]
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
        largest = self.max_batch if max_batch is None else self._check_batch(max_batch)
        sizes = np.arange(1, largest + 1)
        return np.asarray(1e3 * (sizes / self.mean[:, :largest]).max(axis=1))

    def _check_batch(self, batch_size: int) -> int:
        size = check_count("batch_size", batch_size, at_least=1)
        if size > self.max_batch:
            raise InputError(
                f"got a batch of {size}, expected at most the {self.max_batch} that were sampled;"
                " raise max_batch of batch_service"
            )
        return size


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
    repeated_share: float | None = None,
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
        Most tokens of a step, at least one for each request of a batch: longer prompts of a batch
        are spread evenly over several steps.
    overhead : StepOverhead, optional
        Prior of the time between steps; the default prior where not given.
    n_runs, n_replicates : int
        Posterior draws, evenly spaced, and services sampled for each.
    repeated_share : float, optional
        Share of the noise that all services of a draw have in common; unknown where not given, see
        `bayeslat.predictive.sampled.repeated_shares`.
    seed : int
        Seed of the noise.

    Raises
    ------
    InputError
        Numbers that are no whole numbers of at least one, fewer tokens a step than requests in a
        batch, or a share outside [0, 1].
    """
    prompt = check_count("prompt_tokens", prompt_tokens, at_least=1)
    output = check_count("output_tokens", output_tokens, at_least=1)
    largest = check_count("max_batch", max_batch, at_least=1)
    budget = check_count("max_num_batched_tokens", max_num_batched_tokens, at_least=largest)
    columns = check_count("n_replicates", n_replicates, at_least=1)
    kept, missing, share = thinned(draws, n_runs, repeated_share)
    gap = (overhead or StepOverhead()).draws(kept.n_draws)
    rng = np.random.default_rng(seed)
    samples = np.empty((kept.n_draws, largest, columns))
    mean, square = np.empty((2, kept.n_draws, largest))
    for size in range(1, largest + 1):
        points = _steps(size, prompt, output, budget)
        waited = gap * points.n_averaged.sum()
        own = np.repeat(waited[:, None], columns, axis=1)
        parts = sample_means(
            kept, points, missing=missing, n_replicates=columns, rng=rng, repeated=share
        )
        for part, n in zip(parts, points.n_averaged, strict=True):
            own += n * part
        first, variance = _moments(kept, points, missing, share)
        samples[:, size - 1] = own
        mean[:, size - 1] = first + waited
        square[:, size - 1] = variance + mean[:, size - 1] ** 2
    cap = CAP * np.median(samples, axis=(0, 2))
    cut = samples > cap[:, None]
    return BatchService(
        np.clip(samples, SHORTEST_MS, cap[:, None]), mean, square, cap, float(cut.mean())
    )


def _steps(size: int, prompt: int, output: int, budget: int) -> Points:
    """Steps of a batch, in groups; `n_averaged` says how many a point stands for.

    The k-th of n prefill steps attends to k/n of all prompts, the k-th decode step to prompt + k
    positions of each request.
    """
    n_prefill = -(-size * prompt // budget)
    before, prefills = groups(n_prefill, MAX_GROUPS)
    attended = size * prompt * (before + 1.0) / n_prefill
    before, decodes = groups(output - 1, MAX_GROUPS)
    tokens = np.repeat([size * prompt / n_prefill, size], [prefills.size, decodes.size])
    return Points(
        np.full(tokens.size, float(size)),
        tokens,
        np.append(attended, size * (prompt + before + 1.0)),
        np.append(prefills, decodes),
    )


def _moments(
    draws: DeploymentDraws, points: Points, missing: Array, share: Array
) -> tuple[Array, Array]:
    """Mean and variance of the sum over all steps in each draw, each of shape (draw,).

    Of a group, the variance is that of steps at its middle.
    """
    location, noise, common = divided(draws, points, share)
    level = location * np.exp(common * missing[:, None])
    first, second = draws.noise.moments(np.maximum(noise, LEAST_NOISE), draws.nu[:, None])
    variance = np.square(level) * np.maximum(second - np.square(first), 0.0)
    n = points.n_averaged
    return (n * level * first).sum(axis=1), (n * variance).sum(axis=1)
