"""The fast recipe changes no posterior: it agrees with the hierarchy written out plainly.

The package integrates the effects out, walks in other coordinates under a fitted linear map and
draws the effects back. Here the same hierarchy stands with every effect as a variable, in a PyMC
model that shares no code with the package but its formula's letters, sampled as PyMC samples it.
"""

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
import xarray as xr
from monte_carlo import mean_over_draws, squared_deviations, z_bound, z_scores

import bayeslat as bl
from bayeslat.catalog import load_catalog
from bayeslat.discrepancy import Basis, basis_for
from bayeslat.model import ModelSpec, Prior, ScalePrior
from bayeslat.schema import Deployment
from bayeslat.simulate.formula import simulate_from_formula

GPUS, LLMS = ("A100-80GB", "H100-80GB"), ("llama-13b", "llama-7b")
MEDIANS = {"slope": 0.11, "floor": 14.0, "floor_share": 0.25}
SPREAD = 0.5
ELASTICITIES = {
    "slope": {"compute": -0.7, "size": 0.9},
    "floor": {"bandwidth": -0.5, "size": 0.5},
    "floor_share": {},
}
LEVELS = {"gpu": 0.2, "model": 0.2, "engine": 0.4, "stack": 0.15, "site": 0.12}
"""Medians of the pooling scales. There is one engine, and a stack for each LLM."""

NAMES = tuple(MEDIANS)
HELD = {level: ScalePrior(median, spread=0.0) for level, median in LEVELS.items()}
SAMPLED = {
    level: ScalePrior(median, spread=0.0 if level == "engine" else 0.5)
    for level, median in LEVELS.items()
}
PRIORS = {
    name: Prior(
        MEDIANS[name], SPREAD, ELASTICITIES[name], **(HELD if name == "floor_share" else SAMPLED)
    )
    for name in NAMES
}
TUNE, DRAWS = 400, 600

MIXES = {False: {"decode": 1, "prefill": 1}, True: {"decode": 1}}
"""With the discrepancy decode steps alone: a curve has a third of the features of a surface."""


def steps_of(mix: dict[str, float]) -> bl.Observations:
    sizes = {"llama-7b": 1.0, "llama-13b": 1.9}
    speeds = {"A100-80GB": 1.0, "H100-80GB": 2.0}
    truth = {
        Deployment(gpu, llm): {
            "P_max": 9.5 * speeds[gpu],
            "k_S": 0.012,
            "w_1": sizes[llm],
            "tau_0": 4.0 * sizes[llm] ** 0.5 / speeds[gpu] ** 0.5,
        }
        for gpu in GPUS
        for llm in LLMS
    }
    table = simulate_from_formula(truth, rows_per_deployment=40, sigma=0.08, mix=mix, seed=3)
    return bl.validate_steps(table)


def is_sampled(name: str, level: str) -> bool:
    return name != "floor_share" and level != "engine"


def prior_median(name: str) -> float:
    value = MEDIANS[name]
    return float(np.log(value / (1 - value)) if name == "floor_share" else np.log(value))


def plain_model(steps: bl.Observations, discrepancy: bool) -> pm.Model:
    """The hierarchy with explicit, non-centred effects."""
    catalog = load_catalog()
    gpu = np.array([GPUS.index(d.gpu) for d in steps.deployments])
    llm = np.array([LLMS.index(d.model) for d in steps.deployments])
    n = len(steps.deployments)
    sheets = {
        "compute": np.log([catalog.gpu(d.gpu).peak_tflops / 312.0 for d in steps.deployments]),
        "bandwidth": np.log([catalog.gpu(d.gpu).bandwidth_tbs / 2.04 for d in steps.deployments]),
        "size": np.log([catalog.llm(d.model).active_b / 7.0 for d in steps.deployments]),
    }
    members = {
        "gpu": gpu,
        "model": llm,
        "engine": np.zeros(n, int),
        "stack": llm,
        "site": np.arange(n),
    }
    with pm.Model() as model:
        pooled = {name: plain_quantity(name, sheets, members) for name in NAMES}
        plain_likelihood(steps, pooled, np.exp(sheets["size"]), gpu, llm, discrepancy)
    return model


def plain_quantity(name: str, sheets: dict, members: dict):
    value = prior_median(name) + pm.Normal(f"intercept {name}", 0, SPREAD)
    for sheet, power in ELASTICITIES[name].items():
        value = value + pm.Normal(f"elasticity {name} {sheet}", power, 0.2) * sheets[sheet]
    for level, index in members.items():
        scale = LEVELS[level]
        if is_sampled(name, level):
            scale = pm.LogNormal(f"{level}_scale {name}", np.log(scale), 0.5)
        standard = pm.Normal(f"{level}_standard {name}", shape=int(index.max()) + 1)
        effect = pm.Deterministic(f"{level}_effect {name}", scale * standard)
        value = value + effect[index]
    value = value + 0.05 * pm.Normal(f"own_standard {name}", shape=len(members["site"]))
    return pm.Deterministic(f"pooled {name}", value)


def plain_likelihood(
    steps: bl.Observations, pooled: dict, w_1: np.ndarray, gpu, stack, discrepancy: bool
) -> None:
    n, row = len(steps.deployments), steps.deployment_index
    B, S = steps.batch_size, steps.total_tokens
    mean = pm.Normal("log_sigma_mean", np.log(0.05), 0.7)
    spread = pm.LogNormal("log_sigma_scale", np.log(0.5), 0.4)
    device = pm.Normal("log_sigma_gpu", 0, 0.4, shape=len(GPUS))
    own = spread * pm.Normal("sigma_z", shape=n)
    log_sigma = pm.Deterministic("log_sigma", mean + device[gpu] + own)
    spreads = np.array([0.5, 0.2, 0.2])
    slopes_mean = pm.Normal("log_sigma_slopes_mean", 0, [0.5, 0.1, 0.1], shape=3)
    slopes = slopes_mean[:, None] + spreads[:, None] * pm.Normal("slopes_z", shape=(3, n))
    slopes = pm.Deterministic("log_sigma_slopes", slopes)
    nu = 3 + pm.Gamma("nu_excess", 2, 0.1)

    slope, floor = pt.exp(pooled["slope"]), pt.exp(pooled["floor"])
    share = 1 / (1 + pt.exp(-pooled["floor_share"]))
    p_max, tau_0, k_s = w_1 / slope, share * floor, slope / ((1 - share) * floor)
    mu = tau_0[row] + w_1[row] * S / (p_max[row] * (1 - pt.exp(-k_s[row] * S)))
    h = 1 - B / S
    followed = h * slopes[0][row] + (1 - h) * np.log(S / 16) * slopes[1][row]
    followed = followed + h * np.log(S / 512) * slopes[2][row]
    variance = pt.exp(2 * (log_sigma[row] + followed))
    if discrepancy:
        delta, missing = plain_discrepancy(steps, stack)
        mu, variance = mu * pt.exp(delta), variance + missing
    pm.StudentT("latency", nu=nu, mu=mu, sigma=pt.sqrt(variance) * mu, observed=steps.latency_ms)


def plain_discrepancy(steps: bl.Observations, stack):
    """Discrepancy of each row, and the variance that the features miss."""
    basis = basis_of(steps)
    features = basis.features(steps.batch_size, steps.total_tokens)
    shared = pm.LogNormal("discrepancy_stack_scale", np.log(0.04), 0.4)
    own = pm.LogNormal("discrepancy_own_scale", np.log(0.03), 0.4)
    of_stack = shared * pm.Normal("stack_z", shape=(basis.size, len(LLMS)))
    n = len(steps.deployments)
    of_one = pt.sqrt(own**2 + 0.001**2) * pm.Normal("own_z", shape=(basis.size, n))
    weights = pm.Deterministic("discrepancy", of_stack[:, stack] + of_one)
    delta = (features * weights.T[steps.deployment_index]).sum(axis=1)
    return delta, (shared**2 + own**2) * (1 - np.square(features).sum(axis=1))


def basis_of(steps: bl.Observations) -> Basis:
    return basis_for(steps.batch_size, steps.total_tokens)


def discrepancy_draws(posterior: xr.Dataset, steps: bl.Observations) -> dict[str, np.ndarray]:
    """Scales, and the discrepancy itself at a few design points, shape (chain, draw)."""
    weights = posterior["discrepancy"].to_numpy()
    features = basis_of(steps).features(np.array([4.0, 64.0]), np.array([4.0, 64.0]))
    delta = np.einsum("pk,cdkn->cdpn", features, weights)
    found = {
        f"discrepancy {point} {d}": delta[:, :, i, d]
        for i, point in enumerate(("small", "large"))
        for d in range(delta.shape[3])
    }
    for name in ("discrepancy_stack_scale", "discrepancy_own_scale"):
        found[f"log {name}"] = np.log(posterior[name].to_numpy())
    return found


def from_plain(posterior: xr.Dataset) -> dict[str, np.ndarray]:
    """Draws of every compared quantity, shape (chain, draw)."""
    found = {"log nu - 3": np.log(posterior["nu_excess"].to_numpy())}
    for name in NAMES:
        for d in range(4):
            found[f"pooled {name} {d}"] = posterior[f"pooled {name}"].to_numpy()[..., d]
        found[f"intercept {name}"] = posterior[f"intercept {name}"].to_numpy()
        for sheet in ELASTICITIES[name]:
            key = f"elasticity {name} {sheet}"
            found[key] = posterior[key].to_numpy()
        for level in ("gpu", "model", "engine", "stack"):
            effect = posterior[f"{level}_effect {name}"].to_numpy()
            found |= {f"{level}_effect {name} {i}": effect[..., i] for i in range(effect.shape[-1])}
        for level in LEVELS:
            if is_sampled(name, level):
                scale = posterior[f"{level}_scale {name}"].to_numpy()
                found[f"log {level}_scale {name}"] = np.log(scale)
    found |= {f"log_sigma {d}": posterior["log_sigma"].to_numpy()[..., d] for d in range(4)}
    return found | noise_slopes(posterior)


def from_fleet(fleet: bl.FleetPosterior) -> dict[str, np.ndarray]:
    """The same quantities from a fitted fleet."""
    posterior = fleet.posterior
    found = {"log nu - 3": np.log(posterior["nu"].to_numpy() - 3)}
    pooled = pooled_of(fleet)
    for name in NAMES:
        own = posterior.sel(quantity=name)
        for d in range(4):
            found[f"pooled {name} {d}"] = pooled[name][..., d]
        found[f"intercept {name}"] = own["intercept"].to_numpy()
        for sheet in ELASTICITIES[name]:
            found[f"elasticity {name} {sheet}"] = own["elasticity"].sel(regressor=sheet).to_numpy()
        for level in ("gpu", "model", "engine", "stack"):
            effect = own[f"{level}_effect"].to_numpy()  # members are sorted in both
            found |= {f"{level}_effect {name} {i}": effect[..., i] for i in range(effect.shape[-1])}
        for level in LEVELS:
            if is_sampled(name, level):
                found[f"log {level}_scale {name}"] = np.log(own[f"{level}_scale"].to_numpy())
    log_sigma = np.log(posterior["sigma"].to_numpy())
    found |= {f"log_sigma {d}": log_sigma[..., d] for d in range(4)}
    return found | noise_slopes(posterior)


def noise_slopes(posterior: xr.Dataset) -> dict[str, np.ndarray]:
    """Slopes of log noise of each deployment, shape (chain, draw)."""
    values = posterior["log_sigma_slopes"].to_numpy()
    return {f"log_sigma_slopes {k} {d}": values[..., k, d] for k in range(3) for d in range(4)}


def pooled_of(fleet: bl.FleetPosterior) -> dict[str, np.ndarray]:
    """Pooled quantities from the formula's parameters, shape (chain, draw, deployment)."""
    p_max, k_s, tau_0 = (fleet.posterior[name].to_numpy() for name in ("P_max", "k_S", "tau_0"))
    slope = fleet.tree["constant_data"]["w_1"].to_numpy() / p_max
    return {
        "slope": np.log(slope),
        "floor": np.log(tau_0 + slope / k_s),
        "floor_share": np.log(tau_0 * k_s / slope),
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("discrepancy", [False, True], ids=["formula", "discrepancy"])
def test_recipe_and_plain_hierarchy_have_the_same_means_and_variances(discrepancy):
    steps = steps_of(MIXES[discrepancy])
    spec = ModelSpec(terms=(), priors=PRIORS, discrepancy=discrepancy)
    fleet = bl.fit(steps, spec, draws=DRAWS, seed=1)
    with plain_model(steps, discrepancy):
        plain = pm.sample(
            DRAWS,
            tune=TUNE,
            chains=4,
            nuts_sampler="numpyro",
            nuts={"chain_method": "vectorized"},  # there may be fewer devices than chains
            target_accept=0.95,
            random_seed=2,
            progressbar=False,
            compute_convergence_checks=False,
        )
    written_out = plain["posterior"].to_dataset()
    ours, theirs = from_fleet(fleet), from_plain(written_out)
    if discrepancy:
        ours |= discrepancy_draws(fleet.posterior, steps)
        theirs |= discrepancy_draws(written_out, steps)
    assert ours.keys() == theirs.keys()
    scores, sizes = {}, {}
    for name in ours:
        pair = mean_over_draws(ours[name]), mean_over_draws(theirs[name])
        squares = [mean_over_draws(squared_deviations(x[name])) for x in (ours, theirs)]
        scores[f"mean {name}"] = float(z_scores(*pair))
        scores[f"variance {name}"] = float(z_scores(*squares))
        sizes[name] = float(min(each.ess for each in pair))
    assert min(sizes.values()) > 400, sizes
    bound = z_bound(len(scores))
    assert not {name: z for name, z in scores.items() if abs(z) > bound}
