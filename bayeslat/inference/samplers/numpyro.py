"""NUTS of numpyro: the whole chain is one compiled JAX program."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import MCMC, NUTS

from bayeslat.inference.samplers.base import (
    LogDensity,
    SamplerDraws,
    SamplerSettings,
    jittered_starts,
)

__all__ = ["sample"]


def sample(log_density: LogDensity, dim: int, settings: SamplerSettings) -> SamplerDraws:
    """Sample with numpyro; chains in parallel where JAX has a device for each."""
    kernel = NUTS(
        potential_fn=lambda u: -log_density(u),
        target_accept_prob=settings.target_accept,
        max_tree_depth=settings.max_depth,
    )
    mcmc = MCMC(
        kernel,
        num_warmup=settings.tune,
        num_samples=settings.draws,
        num_chains=settings.chains,
        chain_method=_chain_method(settings.chains),
        progress_bar=settings.progress,
    )
    with warnings.catch_warnings():
        # numpyro builds its progress bar on an interface of JAX that is being renamed.
        warnings.simplefilter("ignore", DeprecationWarning)
        mcmc.run(
            jax.random.key(settings.seed),
            init_params=jnp.asarray(jittered_starts(dim, settings)),
            extra_fields=("diverging", "num_steps", "energy"),
        )
    extra = mcmc.get_extra_fields(group_by_chain=True)
    return SamplerDraws(
        position=np.asarray(mcmc.get_samples(group_by_chain=True)),
        diverging=np.asarray(extra["diverging"]),
        n_steps=np.asarray(extra["num_steps"]),
        energy=np.asarray(extra["energy"]),
    )


def _chain_method(chains: int) -> str:
    """One device a chain where there are enough, else all chains in one vectorised program."""
    if chains > 1 and jax.local_device_count() >= chains:
        return "parallel"
    return "vectorized"
