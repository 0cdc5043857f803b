"""NUTS of numpyro: the whole chain is one compiled JAX program."""

import warnings
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import MCMC, NUTS

from bayeslat.inference.devices import chains_at_once
from bayeslat.inference.samplers.base import (
    LogDensity,
    SamplerDraws,
    SamplerSettings,
    jittered_starts,
)

__all__ = ["sample"]

type Chain = Callable[[Any], Any]


def sample(log_density: LogDensity, dim: int, settings: SamplerSettings) -> SamplerDraws:
    """Sample with numpyro; as many chains at once as the device takes."""
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


def _chain_method(chains: int) -> str | Callable[[Chain], Chain]:
    """One device a chain where there are enough; else waves on a CPU, one program elsewhere."""
    at_once = chains_at_once(chains)
    if at_once < chains:
        return partial(_in_waves, at_once)
    return "parallel" if jax.local_device_count() >= chains else "vectorized"


def _in_waves(at_once: int, chain: Chain) -> Chain:
    """All chains, `at_once` after `at_once`, through one program that is compiled once."""
    wave = jax.pmap(chain)

    def every_chain(starts: Any) -> Any:
        """Leaves of `starts` and of the result have the chain as first axis."""
        n = len(jax.tree.leaves(starts)[0])
        parts = [
            wave(jax.tree.map(itemgetter(slice(i, i + at_once)), starts))
            for i in range(0, n, at_once)
        ]
        return jax.tree.map(_joined, *parts)

    return every_chain


def _joined(*leaves: jax.Array) -> Any:
    """Along the first axis, where possible in numpy: JAX compiles a program for every shape."""
    if jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
        return jnp.concatenate(leaves)
    return np.concatenate(leaves)
