"""Simulated steps whose truth IS the saturation formula: for tests of parameter recovery only."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslat.errors import InputError
from bayeslat.saturation import latency
from bayeslat.schema import Deployment
from bayeslat.simulate.workload import DEFAULT_MIX, draw_workload

__all__ = ["simulate_from_formula"]


def simulate_from_formula(
    parameters: Mapping[Deployment, Mapping[str, float]],
    *,
    rows_per_deployment: int = 300,
    sigma: float = 0.04,
    nu: float = 5.0,
    mix: Mapping[str, float] = DEFAULT_MIX,
    seed: int = 0,
) -> pd.DataFrame:
    """Simulate steps ``T (1 + sigma t_nu)`` with T from `bayeslat.saturation.latency`.

    Parameters
    ----------
    parameters : mapping of Deployment to mapping of str to float
        True parameters of each deployment, named as in `bayeslat.schema.PARAMETERS`. An empty
        engine is written as "simulated".
    rows_per_deployment : int
        Steps of each.
    sigma : float
        Relative scale of the noise.
    nu : float
        Degrees of freedom of its Student-t distribution. Draws that would make a latency
        non-positive are drawn again; at the default this happens once in a million steps.
    mix : mapping of str to float
        Weights of "decode", "mixed" and "prefill" steps.
    seed : int
        Seed of the steps and of the noise.

    Returns
    -------
    pandas.DataFrame
        Canonical steps table, simulated.

    Raises
    ------
    InputError
        No deployment, no rows, or a scale or degrees of freedom that are not positive.
    """
    if not parameters or rows_per_deployment < 1 or not sigma > 0 or not nu > 0:
        raise InputError(
            f"simulate: got {len(parameters)} deployments, {rows_per_deployment} rows, sigma "
            f"{sigma}, nu {nu}, expected all of them positive; correct the one that is not"
        )
    streams = np.random.SeedSequence(seed).spawn(len(parameters))
    tables = []
    for (deployment, truth), stream in zip(parameters.items(), streams, strict=True):
        rng = np.random.default_rng(stream)
        work = draw_workload(rng, rows_per_deployment, mix=mix)
        typical = latency(truth, work.batch_size, work.total_tokens, work.context_tokens)
        noise = _relative_noise(rng, rows_per_deployment, sigma=sigma, nu=nu)
        named = deployment._replace(engine=deployment.engine or "simulated")
        table = {**named._asdict(), **work._asdict(), "latency_ms": typical * noise}
        tables.append(pd.DataFrame({**table, "n_averaged": 1}))
    return pd.concat(tables, ignore_index=True)


def _relative_noise(
    rng: np.random.Generator, n: int, *, sigma: float, nu: float
) -> NDArray[np.float64]:
    noise = 1 + sigma * rng.standard_t(nu, n)
    while (bad := noise <= 0).any():
        noise[bad] = 1 + sigma * rng.standard_t(nu, int(bad.sum()))
    return noise
