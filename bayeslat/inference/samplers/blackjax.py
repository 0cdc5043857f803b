"""NUTS of blackjax: window adaptation, then one vectorised program for all chains."""

from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np

from bayeslat.inference.samplers.base import (
    LogDensity,
    SamplerDraws,
    SamplerSettings,
    jittered_starts,
)

__all__ = ["sample"]


def sample(log_density: LogDensity, dim: int, settings: SamplerSettings) -> SamplerDraws:
    """Sample with blackjax; it shows no progress bar."""
    adaptation = blackjax.window_adaptation(
        blackjax.nuts,
        log_density,
        target_acceptance_rate=settings.target_accept,
        max_num_doublings=settings.max_depth,
    )

    def one_chain(key: jax.Array, start: jax.Array) -> Any:
        warm_key, draw_key = jax.random.split(key)
        (state, parameters), _ = adaptation.run(warm_key, start, num_steps=settings.tune)
        step = blackjax.nuts(
            log_density,
            **{**parameters, "max_num_doublings": settings.max_depth},
        ).step

        def transition(state: Any, key: jax.Array) -> Any:
            state, info = step(key, state)
            kept = (state.position, info.is_divergent, info.num_integration_steps, info.energy)
            return state, kept

        return jax.lax.scan(transition, state, jax.random.split(draw_key, settings.draws))[1]

    keys = jax.random.split(jax.random.key(settings.seed), settings.chains)
    starts = jnp.asarray(jittered_starts(dim, settings))
    position, diverging, n_steps, energy = jax.jit(jax.vmap(one_chain))(keys, starts)
    return SamplerDraws(*(np.asarray(part) for part in (position, diverging, n_steps, energy)))
