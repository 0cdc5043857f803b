"""Samplers behind one signature: a log-density in, draws out."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from bayeslat.inference.samplers import blackjax, numpyro, nutpie
from bayeslat.inference.samplers.base import Sampler, SamplerDraws, SamplerSettings

__all__ = ["PREPARATIONS", "SAMPLERS", "Sampler", "SamplerDraws", "SamplerSettings"]

SAMPLERS: Final[Mapping[str, Sampler]] = MappingProxyType(
    {"numpyro": numpyro.sample, "nutpie": nutpie.sample, "blackjax": blackjax.sample}
)
"""Every sampler by name; the first is the default."""

PREPARATIONS: Final[Mapping[str, Callable[..., Any]]] = MappingProxyType(
    {"numpyro": numpyro.prepare}
)
"""What a sampler, by name, can do ahead: of the arguments of a sampler, with the numbers that the
log-density takes as data still unknown."""
