"""Samplers behind one signature: a log-density in, draws out."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from bayeslat.inference.samplers import blackjax, numpyro, nutpie
from bayeslat.inference.samplers.base import Sampler, SamplerDraws, SamplerSettings

__all__ = ["SAMPLERS", "Sampler", "SamplerDraws", "SamplerSettings"]

SAMPLERS: Final[Mapping[str, Sampler]] = MappingProxyType(
    {"numpyro": numpyro.sample, "nutpie": nutpie.sample, "blackjax": blackjax.sample}
)
"""Every sampler by name; the first is the default."""
