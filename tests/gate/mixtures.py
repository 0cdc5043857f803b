"""Posterior mixtures made by hand, of the kinds that a gate has to hold."""

from dataclasses import replace

import numpy as np

from bayeslat.discrepancy import Discrepancy, basis_for, unknown_powers
from bayeslat.predictive import DeploymentDraws
from bayeslat.predictive.draws import Points
from bayeslat.schema import Deployment

KINDS = ("student_t", "lognormal", "not_monotone", "no_context", "wide")
BASIS = basis_for(np.array([1.0, 8.0, 5.0, 2.0]), np.array([1.0, 8.0, 260.0, 900.0]))
TYPICAL = {
    "P_max": 40.0,
    "k_S": 0.01,
    "w_1": 1.0,
    "tau_0": 5.0,
    "tau_B": 0.05,
    "tau_C": 2e-4,
    "r_C": 1.6,
    "r_F": 1.3,
    "r_B": 0.7,
}


def mixture(kind, *, n=400, spread=None, noise=0.05):
    """Random draws; the plain kind has everything that the default model has."""
    rng = np.random.default_rng(3)
    typical, family, nu = dict(TYPICAL), "student_t", 4.0
    if kind == "lognormal":
        family, nu = "lognormal", np.inf
    if kind == "not_monotone":
        typical |= {"k_B": 0.3, "w_0": 30.0, "tau_B": 0.4}
    if kind == "no_context":
        typical = {name: value for name, value in typical.items() if name not in ("tau_C", "r_C")}
    if spread is None:
        spread = 0.3 if kind == "wide" else 0.05
    parameters = {name: value * rng.lognormal(0.0, spread, n) for name, value in typical.items()}
    draws = DeploymentDraws(
        Deployment("H100-80GB", "llama-7b"),
        parameters,
        noise * rng.lognormal(0.0, 0.1, n),
        np.full(n, nu),
        family,
    )
    if kind == "no_context":
        return draws
    discrepancy = Discrepancy(
        BASIS,
        0.02 * rng.normal(size=(n, BASIS.size)),
        np.full(n, 0.03),
        unknown_powers(n, seed=1),
        (1.0, 900.0),
    )
    slopes = rng.normal([0.3, -0.1, -0.05], 0.02, size=(n, 3))
    return replace(draws, slopes=slopes, discrepancy=discrepancy)


def exact(draws, batch, tokens, context, sla_ms):
    """P(latency > SLA) of the mixture."""
    flat = [np.ravel(np.asarray(v, float)) for v in np.broadcast_arrays(batch, tokens, context)]
    return draws.sf_mean(np.full(flat[0].size, float(sla_ms)), Points(*flat))


def random_steps(n, *, seed, max_batch=64, max_tokens=2048, max_context=200_000):
    """Possible steps, a third of them decodes."""
    rng = np.random.default_rng(seed)
    batch = np.floor(np.exp(rng.uniform(0.0, np.log(max_batch + 1), n)))
    more = np.floor(np.exp(rng.uniform(0.0, np.log(max_tokens - batch + 1))))
    tokens = np.where(rng.random(n) < 1 / 3, batch, np.minimum(batch + more, max_tokens))
    context = np.floor(tokens * np.exp(rng.uniform(0.0, np.log(max_context / tokens))))
    return batch, tokens, np.where(rng.random(n) < 0.2, np.floor(tokens * rng.random(n)), context)
