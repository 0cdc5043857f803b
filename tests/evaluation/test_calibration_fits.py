"""Data sets from the prior, and one compiled target for all of them."""

import jax.numpy as jnp
import numpy as np
import pytest

from bayeslat.errors import InputError
from bayeslat.evaluation.calibration_fits import (
    CompiledFleet,
    in_model_order,
    points_of,
    simulate_from_prior,
)
from bayeslat.inference.density import flat_density
from bayeslat.model import ModelSpec, build_model
from bayeslat.model.priors import NOISE_GPU_SPREAD, NOISE_MEAN, NOISE_SCALE

N = 120


@pytest.fixture(scope="module")
def simulations(short_steps):
    return simulate_from_prior(short_steps, n=N, seed=4)


@pytest.fixture(scope="module")
def compiled(short_steps) -> CompiledFleet:
    return CompiledFleet.of(short_steps)


def truths(simulations, name: str) -> np.ndarray:
    """One variable over all simulations, shape (simulation, ...)."""
    return np.array([each.truth[name].to_numpy()[0, 0] for each in simulations])


def test_truths_have_the_prior_that_is_written_down(simulations):
    """Noise and its shape, whose marginal priors need no covariance."""
    log_sigma = truths(simulations, "log_sigma")[:, 0]
    spread = np.sqrt(NOISE_MEAN[1] ** 2 + NOISE_GPU_SPREAD**2 + NOISE_SCALE[0] ** 2)
    # Large noise makes latencies that are not positive, which are passed over: a one-sided loss.
    assert abs(log_sigma.mean() - np.log(NOISE_MEAN[0])) < 6.0 * spread / np.sqrt(N)
    excess = np.exp(truths(simulations, "nu_excess_log__"))
    assert abs(excess.mean() - 20.0) < 4.0 * np.sqrt(200.0 / N)


def test_data_sets_are_of_the_design_and_positive(short_steps, simulations):
    for each in simulations:
        assert each.observations.latency_ms.min() > 0.0
        np.testing.assert_array_equal(each.observations.total_tokens, short_steps.total_tokens)
    first = simulations[0].observations.latency_ms
    assert not np.array_equal(first, simulations[1].observations.latency_ms)


def test_more_data_sets_begin_with_the_same(short_steps, simulations):
    few = simulate_from_prior(short_steps, n=3, seed=4)
    for one, same in zip(few, simulations, strict=False):
        np.testing.assert_array_equal(one.observations.latency_ms, same.observations.latency_ms)
        assert one.truth.identical(same.truth)


def test_noise_stretches_what_lies_between_latencies_and_their_location(short_steps, compiled):
    """Residuals over the scale that the truth says have the spread that was asked for."""
    for noise in (1.0, 1.5):
        simulations = simulate_from_prior(short_steps, n=40, seed=5, noise=noise)
        found = np.abs(np.concatenate([residuals(compiled, each) for each in simulations]))
        # 23 degrees of freedom in the middle; half of |Z| is below 0.68 to 0.69 for any of them.
        error = np.sqrt(0.25 / found.size) / 0.63  # of a median, over the density there
        assert abs(np.median(found) / noise - 0.686) < 5.0 * error


def residuals(compiled: CompiledFleet, simulation) -> np.ndarray:
    """Standardised residuals of all rows."""
    observations, found = simulation.observations, []
    for position in range(len(observations.deployments)):
        own = np.flatnonzero(observations.deployment_index == position)
        draws = compiled.draws_of(simulation.truth, position)
        mu, sigma = draws.location_and_scale(points_of(observations, own))
        found.append((observations.latency_ms[own] / mu[0] - 1.0) / sigma[0])
    return np.concatenate(found)


def test_strays_are_refused(short_steps):
    with pytest.raises(InputError, match="strays"):
        simulate_from_prior(short_steps, ModelSpec(strays=True))


def test_a_target_with_data_is_the_posterior_of_a_model_built_with_them(simulations, compiled):
    """Another data set needs no other program."""
    for each in simulations[:2]:
        latencies = in_model_order(each.observations)
        target = compiled.target.moved(data=(latencies,))
        own = flat_density(build_model(each.observations, compiled.spec))
        flat = jnp.asarray(own.initial + 0.1)
        found = target.density.likelihood(flat, *target.data)
        assert float(found) == pytest.approx(float(own.likelihood(flat)), rel=1e-10)
        assert target.log_posterior_of is compiled.target.log_posterior_of


def test_quantities_are_every_free_variable_and_what_is_predicted(simulations, compiled):
    found = compiled.quantities(simulations[0].truth, simulations[0].observations)
    shapes = compiled.target.density.shapes
    free = sum(int(np.prod(shape)) for name, shape in shapes.items() if name != "discrepancy")
    assert len(found) == free + 1 + 2 * 2 * 2
    assert all(values.shape == (1, 1) and np.isfinite(values).all() for values in found.values())
    label = compiled.fleet.deployments[0].label
    truth = simulations[0].truth["quantities"].sel(quantity="floor", deployment=label)
    assert found[f"quantities[floor, {label}]"] == truth.to_numpy()
    predicted = {name: values.item() for name, values in found.items() if "latency" in name}
    tails = [name for name in predicted if name.startswith("latency p99")]
    assert len(tails) == 4
    assert all(predicted[name] > predicted[name.replace(" p99", "")] for name in tails)
