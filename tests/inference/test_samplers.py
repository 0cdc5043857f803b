"""Every sampler samples what it is given: a known Gaussian, and each other's posterior."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from monte_carlo import mean_over_draws, z_bound, z_scores
from scipy import stats

import bayeslat as bl
from bayeslat.identifiability import combinations
from bayeslat.inference.samplers import SAMPLERS, SamplerDraws, SamplerSettings
from bayeslat.predictive.draws import Points
from bayeslat.saturation import latency
from bayeslat.schema import Deployment
from bayeslat.simulate.formula import simulate_from_formula

DIM = 5
SETTINGS = SamplerSettings(draws=400, tune=300, chains=2, seed=3)
MEAN = np.linspace(-1.0, 1.0, DIM)
ROOT = np.tril(0.5 * np.ones((DIM, DIM))) + np.diag(np.geomspace(0.3, 3.0, DIM))
COVARIANCE = ROOT @ ROOT.T
PRECISION = np.linalg.inv(COVARIANCE)


def gaussian(u):
    centred = u - MEAN
    return -0.5 * centred @ jnp.asarray(PRECISION) @ centred


@pytest.fixture(scope="module", params=list(SAMPLERS))
def drawn(request) -> SamplerDraws:
    return SAMPLERS[request.param](gaussian, DIM, SETTINGS)


def test_every_array_starts_with_chain_and_draw(drawn):
    front = (SETTINGS.chains, SETTINGS.draws)
    assert drawn.position.shape == (*front, DIM)
    assert drawn.diverging.shape == drawn.n_steps.shape == drawn.energy.shape == front
    assert drawn.diverging.dtype == bool and not drawn.diverging.any()
    assert (drawn.n_steps >= 1).all() and (drawn.n_steps < 2**SETTINGS.max_depth).all()
    # Energy is potential plus kinetic energy, so it is never below the potential.
    potential = -np.apply_along_axis(gaussian_numpy, 2, drawn.position)
    assert (drawn.energy - potential > -1e-6).all()


def gaussian_numpy(u):
    return -0.5 * (u - MEAN) @ PRECISION @ (u - MEAN)


def test_chains_are_their_own(drawn):
    first, second = drawn.position
    assert not np.isclose(first, second).any()


def test_means_and_covariances_are_within_monte_carlo_error(drawn):
    centred = drawn.position - MEAN
    i, j = np.triu_indices(DIM)
    found = mean_over_draws(np.concatenate([centred, centred[..., i] * centred[..., j]], axis=-1))
    expected = np.concatenate([np.zeros(DIM), COVARIANCE[i, j]])
    assert found.ess.min() > 100
    # 20 moments of each of three samplers.
    bound = z_bound(len(SAMPLERS) * expected.size)
    assert np.abs((found.mean - expected) / found.error).max() < bound


def test_same_seed_gives_the_same_draws_and_another_gives_others():
    short = SamplerSettings(draws=20, tune=20, chains=2, seed=5)
    sample = SAMPLERS["numpyro"]
    again = sample(gaussian, DIM, short).position
    np.testing.assert_array_equal(sample(gaussian, DIM, short).position, again)
    other = SamplerSettings(draws=20, tune=20, chains=2, seed=6)
    assert not np.isclose(sample(gaussian, DIM, other).position, again).any()


def test_numpyro_compiles_once_for_other_data_and_another_length():
    traced = []

    def shifted(shift, u):
        traced.append(shift)
        return -0.5 * jnp.sum((u - shift) ** 2)

    def mean(shift: float, draws: int) -> np.ndarray:
        density = Partial(shifted, jnp.full(2, shift))
        settings = SamplerSettings(draws=draws, tune=50, chains=2, seed=0)
        return SAMPLERS["numpyro"](density, 2, settings).position.mean(axis=(0, 1))

    first = mean(0.0, 60)
    n_traced = len(traced)
    second = mean(3.0, 130)
    assert len(traced) == n_traced > 0
    np.testing.assert_allclose(first, 0.0, atol=0.7)
    np.testing.assert_allclose(second, 3.0, atol=0.5)


def test_a_bar_leaves_standard_output_alone(capsys):
    settings = SamplerSettings(draws=20, tune=20, chains=2, progress=True)
    SAMPLERS["numpyro"](gaussian, DIM, settings)
    assert capsys.readouterr().out == ""


TRUTH = {
    Deployment("A100-80GB", "llama-7b"): {
        "P_max": 10.0, "k_S": 0.01, "w_1": 1.0, "tau_0": 4.0, "tau_B": 0.04, "tau_C": 3e-4,
    },
    Deployment("H100-80GB", "llama-7b"): {
        "P_max": 22.0, "k_S": 0.008, "w_1": 1.0, "tau_0": 3.0, "tau_B": 0.03, "tau_C": 2e-4,
    },
}  # fmt: skip
SPEC = bl.ModelSpec(terms=("tau_B", "tau_C"), discrepancy=False)
SIGMA, NU = 0.05, 5.0
POINTS = Points(
    batch_size=np.array([16.0, 16.0, 2.0]),
    total_tokens=np.array([16.0, 272.0, 2048.0]),
    context_tokens=np.array([8000.0, 8000.0, 2048.0]),
)
"""A decode, a mixed and a prefill step."""


def answers(fleet: bl.FleetPosterior) -> np.ndarray:
    """Draws of what users ask for, shape (chain, draw, quantity).

    P(T > t) at the true median and p99 is a mean over draws, so it has a Monte Carlo error, and
    equal P(T > t) there means equal p50 and p99.
    """
    posterior = fleet.posterior
    shape = (posterior.sizes["chain"], posterior.sizes["draw"])
    columns = []
    for deployment in fleet.deployments:
        draws = fleet.draws(deployment)
        found = combinations(draws.parameters, draws.parameters["w_1"])
        columns += [np.log(found["slope"]), np.log(found["floor"]), np.log(draws.sigma)]
        truth = TRUTH[deployment._replace(engine="")]
        for q in (0.5, 0.99):
            typical = latency(truth, POINTS.batch_size, POINTS.total_tokens, POINTS.context_tokens)
            t = typical * (1.0 + SIGMA * stats.t.ppf(q, NU))
            columns += list(draws.sf_draws(t, POINTS).T)
    return np.stack(columns, axis=-1).reshape(*shape, -1)


@pytest.mark.slow
def test_samplers_agree_on_the_posterior_of_a_fleet():
    steps = bl.validate_steps(
        simulate_from_formula(TRUTH, rows_per_deployment=60, sigma=SIGMA, nu=NU, seed=1)
    )
    found = {
        name: mean_over_draws(answers(bl.fit(steps, SPEC, sampler=name, draws=500, seed=7)))
        for name in SAMPLERS
    }
    n = found["numpyro"].mean.size
    assert min(estimate.ess.min() for estimate in found.values()) > 400
    pairs = [("numpyro", "nutpie"), ("numpyro", "blackjax"), ("nutpie", "blackjax")]
    worst = {pair: np.abs(z_scores(found[pair[0]], found[pair[1]])).max() for pair in pairs}
    assert max(worst.values()) < z_bound(n * len(pairs)), worst
