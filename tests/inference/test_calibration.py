"""Simulation-based calibration: truths drawn from the prior have uniform ranks in the posterior.

Talts et al. (2018). All replicates together are one density, the product of their posteriors, so
one compiled run of a sampler of the package samples every one of them. Half of the replicates have
noise that is 1.5 times what their parameters say: the same test must refuse them.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm
import pytest
from monte_carlo import mean_over_draws
from pymc.sampling.jax import get_jaxified_graph
from pytensor import tensor as pt
from pytensor.graph.replace import clone_replace
from scipy import stats

import bayeslat as bl
from bayeslat.catalog import load_catalog
from bayeslat.identifiability import combinations
from bayeslat.inference.coordinates import Coordinates
from bayeslat.inference.density import flat_density
from bayeslat.inference.geometry import Geometry
from bayeslat.inference.samplers import SAMPLERS, SamplerSettings
from bayeslat.inference.structure import structure_of
from bayeslat.inference.target import Target
from bayeslat.model import ModelSpec, Prior, ScalePrior, build_model
from bayeslat.model.design import fleet_design
from bayeslat.model.likelihood import NU_OFFSET
from bayeslat.model.priors import POOLING_LEVELS
from bayeslat.model.quantities import link, to_parameters
from bayeslat.model.rows import row_layout
from bayeslat.noise import NOISE_FEATURES, noise_features
from bayeslat.saturation import latency

N_REPLICATES = 48
WRONG_NOISE = 1.5
N_RANKS = 63
"""Posterior draws that a truth is ranked among, thinned to be nearly independent."""

SETTINGS = SamplerSettings(draws=500, tune=400, chains=2, seed=11)
LEVEL = 1e-3
"""Probability that the right model fails, over all quantities."""

HELD = 0.1
"""Every pooling scale but that of GPUs, which is sampled around it."""

SCALES = {
    level: ScalePrior(HELD, spread=0.3 if level == "gpu" else 0.0) for level in POOLING_LEVELS
}
SPEC = ModelSpec(
    terms=(),
    priors={
        "slope": Prior(0.11, 0.3, {"compute": -0.7}, **SCALES),
        "floor_share": Prior(0.25, 0.3, **SCALES),
        "floor": Prior(14.0, 0.3, {"bandwidth": -0.5}, **SCALES),
    },
    discrepancy=False,
)


@pytest.fixture(scope="module")
def model(short_steps) -> pm.Model:
    return build_model(short_steps, SPEC)


@pytest.fixture(scope="module")
def truths(short_steps) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(21)
    return [draw_prior(short_steps, rng) for _ in range(2 * N_REPLICATES)]


def draw_prior(steps: bl.Observations, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One draw of every free variable of the model, effect by effect."""
    gpus = [load_catalog().gpu(deployment.gpu) for deployment in steps.deployments]
    sheets = {
        "compute": np.log([gpu.peak_tflops / 312.0 for gpu in gpus]),
        "bandwidth": np.log([gpu.bandwidth_tbs / 2.04 for gpu in gpus]),
    }
    n = len(gpus)
    quantities, scales = [], []
    for name in SPEC.quantities:
        prior = SPEC.prior(name)
        value = rng.normal(link(name, prior.median), prior.spread)
        for sheet, power in prior.elasticity.items():
            value = value + rng.normal(power, 0.2) * sheets[sheet]
        scale = HELD * np.exp(0.3 * rng.standard_normal())
        shared = HELD * rng.standard_normal(3).sum()  # one LLM, one engine, one stack
        effects = scale * rng.standard_normal(n) + shared
        site, own = HELD * rng.standard_normal(n), 0.05 * rng.standard_normal(n)
        quantities.append(value + effects + site + own)
        scales.append(scale)
    location = rng.normal(np.log(0.05), 0.7)
    spread = 0.5 * np.exp(0.4 * rng.standard_normal())
    device = 0.4 * rng.standard_normal(n)
    slopes = rng.normal(0.0, [0.5, 0.1, 0.1])
    return {
        "quantities": np.array(quantities),
        "gpu_scale": np.array(scales),
        "log_sigma_mean": location,
        "log_sigma_scale": spread,
        "log_sigma_gpu": device,
        "log_sigma": rng.normal(location + device, spread),
        "log_sigma_slopes_mean": slopes,
        "log_sigma_slopes": rng.normal(slopes, [0.5, 0.2, 0.2], size=(n, 3)).T,
        "nu_excess": rng.gamma(2.0, 10.0),
    }


@pytest.fixture(scope="module")
def data(short_steps, truths) -> np.ndarray:
    """Latencies of every replicate, in the order of the model's rows; the last half is wrong."""
    rng = np.random.default_rng(22)
    noises = np.repeat([1.0, WRONG_NOISE], N_REPLICATES)
    order = row_layout(short_steps).order
    pairs = zip(truths, noises, strict=True)
    return np.array([simulate(short_steps, truth, noise, rng)[order] for truth, noise in pairs])


def simulate(
    steps: bl.Observations, truth: dict[str, np.ndarray], noise: float, rng: np.random.Generator
) -> np.ndarray:
    """Latencies of one replicate from the formula itself, in the order of the table."""
    rows = steps.deployment_index
    parameters = natural(truth["quantities"], steps)
    mu = latency(
        {name: values[rows] for name, values in parameters.items()},
        steps.batch_size,
        steps.total_tokens,
    )
    features = noise_features(steps.batch_size, steps.total_tokens)
    followed = (features * truth["log_sigma_slopes"].T[rows]).sum(axis=1)
    sigma = noise * np.exp(truth["log_sigma"][rows] + followed)
    return mu * (1.0 + sigma * rng.standard_t(NU_OFFSET + truth["nu_excess"], rows.size))


def natural(quantities: np.ndarray, steps: bl.Observations) -> dict[str, np.ndarray]:
    """Parameters in their units from quantities, shape (..., quantity, deployment)."""
    named = dict(zip(SPEC.quantities, np.moveaxis(quantities, -2, 0), strict=True))
    w_1 = fleet_design(steps.deployments, load_catalog()).w_1
    return to_parameters(named, np.broadcast_to(w_1, quantities[..., 0, :].shape))


class Replicates:
    """The product of the posteriors of all replicates, in the coordinates of the package."""

    def __init__(self, model: pm.Model, steps: bl.Observations, data: np.ndarray) -> None:
        self.density = flat_density(model)
        self.data = jnp.asarray(data)
        observed = model.rvs_to_values[model["latency_ms"]]
        latencies = pt.vector("latencies", dtype="float64")
        graph = clone_replace(
            model.logp(vars=model.observed_RVs, jacobian=True), {observed: latencies}
        )
        self._likelihood = get_jaxified_graph([*model.value_vars, latencies], [graph])
        shape = self.density.shapes["quantities"]
        design = fleet_design(steps.deployments, load_catalog())
        self.structure = structure_of(model, self.density, design.levels["stack"].index)
        self.coordinates = Coordinates(SPEC.quantities, np.full(shape, 0.1))
        centre = self.density.initial.copy()
        where = self.density.slices()["quantities"]
        start = centre[where].reshape(shape)
        centre[where] = self.coordinates.from_quantities(start).ravel()
        self.centre = centre

    @property
    def dim(self) -> int:
        return self.centre.size * len(self.data)

    def log_likelihood(self, flat: jax.Array, latencies: jax.Array) -> jax.Array:
        parts = [
            flat[where].reshape(self.density.shapes[name])
            for name, where in self.density.slices().items()
        ]
        return self._likelihood(*parts, latencies)[0]

    def geometry(self, latencies: jax.Array) -> Geometry:
        density = replace(
            self.density, likelihood=lambda flat: self.log_likelihood(flat, latencies)
        )
        target = Target(density, self.coordinates, self.structure)
        unit = self.structure.layout.factor(np.eye(self.centre.size))
        return Geometry(target, self.centre, unit)

    def log_density(self, u: jax.Array) -> jax.Array:
        each = u.reshape(len(self.data), -1)
        return jax.vmap(lambda row, y: self.geometry(y).log_density(row))(each, self.data).sum()

    def flat(self, draws: np.ndarray) -> np.ndarray:
        """Draws of u to flat vectors of the model, shape (chain, draw, replicate, dim)."""
        y = self.centre + draws.reshape(*draws.shape[:2], len(self.data), -1)
        flatten = self.geometry(self.data[0]).target.flatten
        one = jax.vmap(jax.vmap(jax.vmap(lambda row: flatten(row)[0])))
        return np.asarray(jax.jit(one)(jnp.asarray(y)))


def quantities(
    replicates: Replicates, steps: bl.Observations, flat: np.ndarray
) -> dict[str, np.ndarray]:
    """Predictive quantities of flat vectors, shape (..., replicate, dim)."""
    where, shapes = replicates.density.slices(), replicates.density.shapes
    theta = flat[..., where["quantities"]]
    parameters = natural(theta.reshape(*theta.shape[:-1], *shapes["quantities"]), steps)
    found = combinations(parameters, parameters["w_1"])
    score = jax.vmap(replicates.log_likelihood)
    for _ in range(flat.ndim - 2):
        score = jax.vmap(score, in_axes=(0, None))
    result = {
        "log-likelihood": np.asarray(jax.jit(score)(jnp.asarray(flat), replicates.data)),
        "nu": flat[..., where["nu_excess_log__"]][..., 0],
    }
    for position in range(2):
        result[f"floor {position}"] = found["floor"][..., position]
        result[f"slope {position}"] = found["slope"][..., position]
        result[f"floor_share {position}"] = (
            parameters["tau_0"][..., position] / (found["floor"][..., position])
        )
        result[f"sigma {position}"] = flat[..., where["log_sigma"]][..., position]
        slopes = flat[..., where["log_sigma_slopes"]]
        slopes = slopes.reshape(*slopes.shape[:-1], *shapes["log_sigma_slopes"])
        for row, name in enumerate(NOISE_FEATURES):
            result[f"slope {name} {position}"] = slopes[..., row, position]
    return result


@pytest.fixture(scope="module")
def ranks(model, short_steps, truths, data) -> dict[str, np.ndarray]:
    """Rank of each truth among thinned posterior draws, by quantity; shape (replicate,)."""
    replicates = Replicates(model, short_steps, data)
    draws = SAMPLERS["blackjax"](replicates.log_density, replicates.dim, SETTINGS)
    posterior = quantities(replicates, short_steps, replicates.flat(draws.position))
    truth = quantities(
        replicates, short_steps, np.array([true_flat(model, each) for each in truths])
    )
    # First gate: the thinned draws are nearly independent.
    assert min(mean_over_draws(found).ess.min() for found in posterior.values()) > 2 * N_RANKS
    result = {}
    for name, found in posterior.items():
        pooled = found.reshape(-1, found.shape[-1])
        thinned = pooled[np.linspace(0, len(pooled) - 1, N_RANKS).astype(int)]
        result[name] = (thinned < truth[name]).sum(axis=0)
    return result


def true_flat(model: pm.Model, truth: dict[str, np.ndarray]) -> np.ndarray:
    """One truth as the model's flat vector of unconstrained values."""
    parts = []
    for variable in model.value_vars:
        plain = variable.name.removesuffix("_log__")
        value = truth[plain]
        parts.append(np.ravel(np.log(value) if plain != variable.name else value))
    return np.concatenate(parts)


def uniformity(ranks: np.ndarray) -> float:
    """p-value of the chi-square test of uniform ranks, 8 bins of 8 ranks."""
    counts = np.bincount(ranks * 8 // (N_RANKS + 1), minlength=8)
    return float(stats.chisquare(counts).pvalue)


@pytest.mark.slow
def test_ranks_of_the_truth_are_uniform(ranks):
    p = {name: uniformity(values[:N_REPLICATES]) for name, values in ranks.items()}
    assert min(p.values()) > LEVEL / len(p), p


@pytest.mark.slow
def test_ranks_refuse_noise_that_is_not_what_the_parameters_say(ranks):
    p = {name: uniformity(values[N_REPLICATES:]) for name, values in ranks.items()}
    assert max(p["sigma 0"], p["sigma 1"]) < LEVEL / len(p), p
