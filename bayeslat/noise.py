"""Noise families on a relative scale, as plain array functions.

A step of location ``mu`` (the formula's latency) and relative scale ``sigma`` is distributed as

* ``student_t``: mu (1 + sigma Z), Z Student-t with nu degrees of freedom (default);
* ``normal``: mu (1 + sigma Z), Z standard normal;
* ``lognormal``: mu exp(sigma Z), Z standard normal.

A latency is never negative: the first two families are clipped at zero. For positive observations
the clipped density equals the plain one, so the likelihood is unchanged, while the predictive has
no negative quantile. The Student-t has moments of order below nu only.

The logarithm of sigma is linear in `noise_features` of a step: steps that compute prompts have a
noise of their own, and it may rise or fall with the token count in either phase.
"""

from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from bayeslat.saturation import prefill_share

__all__ = [
    "DECODE_TOKENS",
    "FAMILIES",
    "NOISE_FEATURES",
    "PREFILL_TOKENS",
    "NoiseFamily",
    "noise_features",
    "standardise",
]

type Array = NDArray[np.float64]

NOISE_FEATURES: Final = ("prefill", "decode_tokens", "prefill_tokens")
"""What the log noise of a step is linear in."""

DECODE_TOKENS: Final = 16.0
PREFILL_TOKENS: Final = 512.0
"""Token counts at which the features of tokens are zero: sigma is the noise of such a decode step,
and the first feature tells the noise of such a prefill from it."""


def noise_features(batch_size: Any, total_tokens: Any) -> Array:
    """What the log noise of a step is linear in, shape (..., feature).

    With h the prefill share these are whether any prompt is computed (S > B),
    (1 - h) log(S / `DECODE_TOKENS`) and h log(S / `PREFILL_TOKENS`). The first is no share: of what
    prompts ask of a step B, S and C tell little, however short the chunk.

    Parameters
    ----------
    batch_size, total_tokens : array, shape (...)
        B and S.
    """
    tokens = np.asarray(total_tokens, dtype=float)
    share = prefill_share(np.asarray(batch_size, dtype=float), tokens)
    decode = (1.0 - share) * np.log(tokens / DECODE_TOKENS)
    return np.stack([share > 0.0, decode, share * np.log(tokens / PREFILL_TOKENS)], axis=-1)


class NoiseFamily(Protocol):
    """What a family must offer; every array argument broadcasts."""

    @property
    def name(self) -> str:
        """The family's name in a model's specification."""

    @property
    def log_scale(self) -> bool:
        """Whether the noise adds to log latency instead of scaling latency."""

    @property
    def has_shape(self) -> bool:
        """Whether the standard variate has a shape parameter nu."""

    def standard_sf(self, z: Array, nu: Array) -> Array:
        """P(Z > z) of the standard variate."""

    def standard_pdf(self, z: Array, nu: Array) -> Array:
        """Density of the standard variate."""

    def standard_logpdf(self, z: Array, nu: Array) -> Array:
        """Logarithm of the density, finite where the density underflows."""

    def standard_ppf(self, q: Array, nu: Array) -> Array:
        """Quantile of the standard variate."""

    def standard_rvs(self, nu: Array, size: tuple[int, ...], rng: np.random.Generator) -> Array:
        """Draws of the standard variate."""

    def moments(self, sigma: Array, nu: Array) -> tuple[Array, Array]:
        """Mean and second moment of latency / mu, clipped at zero; infinite where they are."""


@dataclass(frozen=True)
class _StudentT:
    name: str = "student_t"
    log_scale: bool = False
    has_shape: bool = True

    def standard_sf(self, z: Array, nu: Array) -> Array:
        return special.stdtr(nu, -z)

    def standard_pdf(self, z: Array, nu: Array) -> Array:
        return stats.t.pdf(z, nu)

    def standard_logpdf(self, z: Array, nu: Array) -> Array:
        return stats.t.logpdf(z, nu)

    def standard_ppf(self, q: Array, nu: Array) -> Array:
        return special.stdtrit(nu, q)

    def standard_rvs(self, nu: Array, size: tuple[int, ...], rng: np.random.Generator) -> Array:
        return rng.standard_t(np.broadcast_to(nu, size))

    def moments(self, sigma: Array, nu: Array) -> tuple[Array, Array]:
        sigma, nu = np.broadcast_arrays(np.asarray(sigma, float), np.asarray(nu, float))
        cut = -1.0 / sigma
        with np.errstate(divide="ignore", invalid="ignore"):
            tail = (nu + cut**2) / (nu - 1.0) * self.standard_pdf(cut, nu)
            first = self.standard_sf(cut, nu) + sigma * tail
            # E[Z^2; Z > c] = nu/(nu-2) P(t_{nu-2} sqrt(nu/(nu-2)) > c) (nu-1) - nu P(Z > c).
            inner = special.stdtr(nu - 2.0, -cut * np.sqrt((nu - 2.0) / nu))
            square = nu * (nu - 1.0) / (nu - 2.0) * inner - nu * self.standard_sf(cut, nu)
            second = self.standard_sf(cut, nu) + 2.0 * sigma * tail + sigma**2 * square
        return np.where(nu > 1.0, first, np.inf), np.where(nu > 2.0, second, np.inf)


@dataclass(frozen=True)
class _Normal:
    name: str = "normal"
    log_scale: bool = False
    has_shape: bool = False

    def standard_sf(self, z: Array, nu: Array) -> Array:
        return special.ndtr(-z)

    def standard_pdf(self, z: Array, nu: Array) -> Array:
        return np.exp(self.standard_logpdf(z, nu))

    def standard_logpdf(self, z: Array, nu: Array) -> Array:
        return -0.5 * (np.square(z) + np.log(2.0 * np.pi))

    def standard_ppf(self, q: Array, nu: Array) -> Array:
        return special.ndtri(q)

    def standard_rvs(self, nu: Array, size: tuple[int, ...], rng: np.random.Generator) -> Array:
        return rng.standard_normal(size)

    def moments(self, sigma: Array, nu: Array) -> tuple[Array, Array]:
        cut = -1.0 / np.asarray(sigma, float)
        above, density = special.ndtr(-cut), self.standard_pdf(cut, nu)
        first = above + sigma * density
        second = above + 2.0 * sigma * density + np.square(sigma) * (above + cut * density)
        return first, second


@dataclass(frozen=True)
class _LogNormal(_Normal):
    name: str = "lognormal"
    log_scale: bool = True

    def moments(self, sigma: Array, nu: Array) -> tuple[Array, Array]:
        return np.exp(0.5 * np.square(sigma)), np.exp(2.0 * np.square(sigma))


FAMILIES: Final[dict[str, NoiseFamily]] = {
    family.name: family for family in (_StudentT(), _Normal(), _LogNormal())
}
"""Every noise family by name."""


def standardise(family: NoiseFamily, t_ms: Any, mu: Any, sigma: Any) -> Any:
    """The standard variate z at which a family's latency equals ``t_ms`` (all broadcast)."""
    if family.log_scale:
        return np.log(t_ms / mu) / sigma
    return (t_ms / mu - 1.0) / sigma
