"""NUTS of nutpie: chains run in Rust threads and call the compiled JAX gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import nutpie
from nutpie.compiled_pyfunc import from_pyfunc

from bayeslat.inference.samplers.base import (
    START_JITTER,
    LogDensity,
    SamplerDraws,
    SamplerSettings,
)

__all__ = ["sample"]


def sample(log_density: LogDensity, dim: int, settings: SamplerSettings) -> SamplerDraws:
    """Sample with nutpie."""
    gradient = jax.jit(jax.value_and_grad(log_density))
    gradient(jnp.zeros(dim))  # compile once, before the threads ask for it

    def make_logp() -> Callable[[Any], tuple[float, Any]]:
        def logp(u: Any) -> tuple[float, Any]:
            value, slope = gradient(u)
            return float(value), np.asarray(slope)

        return logp

    def make_expand(*_: Any) -> Callable[[Any], dict[str, Any]]:
        return lambda u: {"position": np.asarray(u)}

    model = from_pyfunc(
        dim,
        make_logp,
        make_expand,
        expanded_dtypes=[np.dtype("float64")],
        expanded_shapes=[(dim,)],
        expanded_names=["position"],
        make_initial_point_fn=lambda seed: (
            START_JITTER * np.random.default_rng(seed).standard_normal(dim)
        ),
    )
    tree = nutpie.sample(
        model,
        draws=settings.draws,
        tune=settings.tune,
        chains=settings.chains,
        seed=settings.seed,
        save_warmup=False,
        progress_bar=settings.progress,
        target_accept=settings.target_accept,
        maxdepth=settings.max_depth,
    )
    stats = tree["sample_stats"]
    return SamplerDraws(
        position=tree["posterior"]["position"].to_numpy(),
        diverging=stats["diverging"].to_numpy(),
        n_steps=stats["n_steps"].to_numpy(),
        energy=stats["energy"].to_numpy(),
    )
