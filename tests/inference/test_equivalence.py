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
from bayeslat.model import ModelSpec, Prior
from bayeslat.schema import Deployment
from bayeslat.simulate.formula import simulate_from_formula

GPUS, LLMS = ("A100-80GB", "H100-80GB"), ("llama-13b", "llama-7b")
MEDIANS = {"P_max": 9.0, "k_S": 0.01, "tau_0": 3.0}
SPREADS = {"P_max": 0.5, "k_S": 0.5, "tau_0": 0.5}
ELASTICITIES = {
    "P_max": {"compute": 0.7},
    "k_S": {"size": 0.3},
    "tau_0": {"bandwidth": -0.5, "size": 0.5},
}
NAMES = tuple(MEDIANS)
SPEC = ModelSpec(
    terms=(),
    priors={name: Prior(MEDIANS[name], SPREADS[name], ELASTICITIES[name]) for name in NAMES},
)
TUNE, DRAWS = 1000, 1000


@pytest.fixture(scope="module")
def steps() -> bl.Observations:
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
    table = simulate_from_formula(
        truth, rows_per_deployment=40, sigma=0.08, mix={"decode": 1, "prefill": 1}, seed=3
    )
    return bl.validate_steps(table)


def plain_model(steps: bl.Observations) -> pm.Model:
    """The hierarchy with explicit, non-centred effects."""
    catalog = load_catalog()
    gpu = np.array([GPUS.index(d.gpu) for d in steps.deployments])
    llm = np.array([LLMS.index(d.model) for d in steps.deployments])
    sheets = {
        "compute": np.log([catalog.gpu(d.gpu).effective_tflops / 312.0 for d in steps.deployments]),
        "bandwidth": np.log([catalog.gpu(d.gpu).bandwidth_tbs / 2.04 for d in steps.deployments]),
        "size": np.log([catalog.llm(d.model).active_b / 7.0 for d in steps.deployments]),
    }
    row, n = steps.deployment_index, len(steps.deployments)
    with pm.Model() as model:
        logs = {}
        for name in NAMES:
            log_value = np.log(MEDIANS[name]) + pm.Normal(f"intercept {name}", 0, SPREADS[name])
            for sheet, power in ELASTICITIES[name].items():
                slope = pm.Normal(f"elasticity {name} {sheet}", power, 0.2)
                log_value = log_value + slope * sheets[sheet]
            for level, median, index, size in (
                ("gpu", 0.2, gpu, len(GPUS)),
                ("model", 0.2, llm, len(LLMS)),
                ("deployment", 0.12, np.arange(n), n),
            ):
                if name == "k_S":  # its scales are constants
                    scale = median
                else:
                    scale = pm.LogNormal(f"{level}_scale {name}", np.log(median), 0.5)
                if level == "deployment":
                    scale = (scale**2 + 0.05**2) ** 0.5
                standard = pm.Normal(f"{level}_standard {name}", shape=size)
                effect = pm.Deterministic(f"{level}_effect {name}", scale * standard)
                log_value = log_value + effect[index]
            logs[name] = pm.Deterministic(f"log {name}", log_value)
        mean = pm.Normal("log_sigma_mean", np.log(0.05), 0.7)
        spread = pm.LogNormal("log_sigma_scale", np.log(0.5), 0.4)
        device = pm.Normal("log_sigma_gpu", 0, 0.4, shape=len(GPUS))
        own = spread * pm.Normal("sigma_z", shape=n)
        log_sigma = pm.Deterministic("log_sigma", mean + device[gpu] + own)
        nu = 1 + pm.Gamma("nu_excess", 2, 0.1)
        p_max, k_s, tau_0 = (pt.exp(logs[name])[row] for name in NAMES)
        tokens = steps.total_tokens
        throughput = p_max * (1 - pt.exp(-k_s * tokens))
        mu = tau_0 + np.exp(sheets["size"])[row] * tokens / throughput
        pm.StudentT(
            "latency", nu=nu, mu=mu, sigma=pt.exp(log_sigma)[row] * mu, observed=steps.latency_ms
        )
    return model


def from_plain(posterior: xr.Dataset) -> dict[str, np.ndarray]:
    """Draws of every compared quantity, shape (chain, draw)."""
    found = {"log nu - 1": np.log(posterior["nu_excess"].to_numpy())}
    for name in NAMES:
        for d in range(4):
            found[f"log {name} {d}"] = posterior[f"log {name}"].to_numpy()[..., d]
        found[f"intercept {name}"] = posterior[f"intercept {name}"].to_numpy()
        for sheet in ELASTICITIES[name]:
            key = f"elasticity {name} {sheet}"
            found[key] = posterior[key].to_numpy()
        for level in ("gpu", "model"):
            effect = posterior[f"{level}_effect {name}"].to_numpy()
            found |= {f"{level}_effect {name} {i}": effect[..., i] for i in range(2)}
        for level in () if name == "k_S" else ("gpu", "model", "deployment"):
            scale = posterior[f"{level}_scale {name}"].to_numpy()
            found[f"log {level}_scale {name}"] = np.log(scale)
    return found | {f"log_sigma {d}": posterior["log_sigma"].to_numpy()[..., d] for d in range(4)}


def from_fleet(posterior: xr.Dataset) -> dict[str, np.ndarray]:
    """The same quantities from a fitted fleet."""
    found = {"log nu - 1": np.log(posterior["nu"].to_numpy() - 1)}
    for name in NAMES:
        own = posterior.sel(parameter=name)
        for d in range(4):
            found[f"log {name} {d}"] = np.log(posterior[name].to_numpy()[..., d])
        found[f"intercept {name}"] = own["intercept"].to_numpy()
        for sheet in ELASTICITIES[name]:
            found[f"elasticity {name} {sheet}"] = own["elasticity"].sel(regressor=sheet).to_numpy()
        for level, labels in (("gpu", GPUS), ("model", LLMS)):
            for i, label in enumerate(labels):
                effect = own[f"{level}_effect"].sel({level: label})
                found[f"{level}_effect {name} {i}"] = effect.to_numpy()
        for level in () if name == "k_S" else ("gpu", "model", "deployment"):
            found[f"log {level}_scale {name}"] = np.log(own[f"{level}_scale"].to_numpy())
    sigma = np.log(posterior["sigma"].to_numpy())
    return found | {f"log_sigma {d}": sigma[..., d] for d in range(4)}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_recipe_and_plain_hierarchy_have_the_same_means_and_variances(steps):
    fleet = bl.fit(steps, SPEC, draws=DRAWS, seed=1)
    with plain_model(steps):
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
    ours, theirs = from_fleet(fleet.posterior), from_plain(plain["posterior"].to_dataset())
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
