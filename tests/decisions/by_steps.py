"""Draws made by hand, and sums over their steps from a formula written down again."""

import math
from dataclasses import replace

import numpy as np

from bayeslat.discrepancy import Discrepancy, basis_for
from bayeslat.predictive import DeploymentDraws
from bayeslat.predictive.sampled import missing_normals
from bayeslat.schema import Deployment

BASIS = basis_for(np.array([1.0, 8.0, 5.0]), np.array([1.0, 8.0, 260.0]))


def make_draws(n=20, *, family="normal", nu=np.inf, sigma=0.1, spread=0.1, extended=False, **fixed):
    rng = np.random.default_rng(7)
    typical = {
        "P_max": 30.0,
        "k_S": 0.01,
        "w_1": 1.0,
        "tau_0": 5.0,
        "tau_B": 0.05,
        "tau_C": 1e-4,
        "r_C": 1.5,
        **fixed,
    }
    parameters = {name: value * rng.lognormal(0.0, spread, n) for name, value in typical.items()}
    scale, nus = sigma * rng.lognormal(0.0, 0.1, n), np.full(n, nu)
    draws = DeploymentDraws(Deployment("H100-80GB", "llama-7b"), parameters, scale, nus, family)
    if not extended:
        return draws
    weights = 0.1 * rng.normal(size=(n, BASIS.size))
    return replace(
        draws,
        slopes=rng.normal([0.4, 0.1, -0.1], 0.05, size=(n, 3)),
        discrepancy=Discrepancy(BASIS, weights, np.full(n, 0.2)),
    )


def step(draws, b, s, c):
    """Location and noise scale of one step in each draw, what is missed included; from scratch."""
    p = draws.parameters
    mu = p["tau_0"] + p["w_1"] * s / p["P_max"] / (1.0 - np.exp(-p["k_S"] * s))
    mu = mu + p["tau_B"] * b + p["tau_C"] * (p["r_C"] if c > s > b else 1.0) * c
    if draws.discrepancy is None:
        return mu, mu * draws.sigma
    h = 1.0 - b / s
    features = [float(s > b), (1.0 - h) * np.log(s / 16.0), h * np.log(s / 512.0)]
    phi = BASIS.features(np.array([b]), np.array([s]))[0]
    mu = mu * np.exp(draws.discrepancy.weights @ phi)
    missed = np.sqrt(1.0 - phi @ phi) * draws.discrepancy.scale * missing_normals(draws)
    mu = mu * np.exp(missed)
    return mu, mu * draws.sigma * np.exp(draws.slopes @ features)


def prefill_by_hand(prompt, chunk, running, context):
    done, steps = 0, []
    while done < prompt:
        new = min(chunk, prompt - done)
        done += new
        steps.append((running + 1, new + running, done + running * context))
    return steps


def decode_by_hand(batch, context, n_steps):
    return [(batch, batch, batch * (context + j)) for j in range(n_steps)]


def sum_by_hand(draws, steps):
    """Mean and standard deviation of the sum of steps with normal noise, shape (draw,)."""
    each = [step(draws, *one) for one in steps]
    return sum(mu for mu, _ in each), np.sqrt(sum(np.square(sd) for _, sd in each))


def assert_normal_rows(samples, mean, std):
    """Rows of samples have these means and standard deviations, to four standard errors."""
    n = samples.shape[1]
    off = (samples.mean(axis=1) - mean) / (std / math.sqrt(n))
    assert np.abs(off).max() < 4.0
    assert abs(off.sum()) / math.sqrt(off.size) < 4.0
    wide = (samples.std(axis=1) / std - 1.0) * math.sqrt(2.0 * n)
    assert np.abs(wide).max() < 4.0
    assert abs(wide.sum()) / math.sqrt(wide.size) < 4.0
