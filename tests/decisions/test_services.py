import math
from dataclasses import replace

import numpy as np
import pytest

from bayeslat.decisions import services
from bayeslat.decisions.services import batch_service
from bayeslat.decisions.serving import StepOverhead
from bayeslat.discrepancy import Discrepancy, basis_for
from bayeslat.errors import InputError
from bayeslat.noise import FAMILIES
from bayeslat.predictive import DeploymentDraws
from bayeslat.predictive.draws import Points
from bayeslat.predictive.sampled import missing_normals, noise_and_missing
from bayeslat.schema import Deployment

BASIS = basis_for(np.array([1.0, 8.0, 5.0]), np.array([1.0, 8.0, 260.0]))
NO_GAP = StepOverhead(0.0)
NEW_NOISE = {"repeated_share": 0.0}


def make_draws(n=20, *, family="normal", nu=np.inf, sigma=0.05, extended=False, **fixed):
    rng = np.random.default_rng(7)
    typical = {
        "P_max": 30.0,
        "k_S": 0.01,
        "w_1": 1.0,
        "tau_0": 5.0,
        "tau_B": 0.05,
        "tau_C": 1e-3,
        "r_C": 1.5,
        **fixed,
    }
    parameters = {name: value * rng.lognormal(0.0, 0.1, n) for name, value in typical.items()}
    deployment = Deployment("H100-80GB", "llama-7b")
    draws = DeploymentDraws(deployment, parameters, np.full(n, sigma), np.full(n, nu), family)
    if not extended:
        return draws
    weights = 0.1 * rng.normal(size=(n, BASIS.size))
    return replace(draws, discrepancy=Discrepancy(BASIS, weights, np.full(n, 0.2)))


def exact_draws(n=20, **options):
    """Draws without any noise."""
    return make_draws(n, family="lognormal", sigma=0.0, **options)


def step(draws, b, s, c):
    """Latency of one step in each draw, what is missed included; from scratch."""
    p = draws.parameters
    mu = p["tau_0"] + p["w_1"] * s / p["P_max"] / (1.0 - np.exp(-p["k_S"] * s))
    mu = mu + p["tau_B"] * b + p["tau_C"] * (p["r_C"] if c > s > b else 1.0) * c
    if draws.discrepancy is None:
        return mu
    phi = BASIS.features(np.array([float(b)]), np.array([float(s)]))[0]
    missed = np.sqrt(1.0 - phi @ phi) * draws.discrepancy.scale * missing_normals(draws)
    return mu * np.exp(draws.discrepancy.weights @ phi + missed)


def steps_by_hand(size, prompt, output, budget=8192):
    """Every (B, S, C) of a batch: prompts side by side, then tokens one by one."""
    n = math.ceil(size * prompt / budget)
    each = size * prompt / n
    prefill = [(size, each, each * (k + 1)) for k in range(n)]
    return prefill + [(size, size, size * (prompt + k)) for k in range(1, output)]


def simulated(draws, steps, gap, n_replicates, seed=1):
    """Services step by step: shape (draw, replicate); all noise is new."""
    rng, total = np.random.default_rng(seed), 0.0
    for b, s, c in steps:
        point = Points(np.array([float(b)]), np.array([float(s)]), np.array([float(c)]))
        noise = noise_and_missing(draws, point).noise
        size = (draws.n_draws, n_replicates)
        standard = draws.noise.standard_rvs(draws.nu[:, None], size, rng)
        factor = (
            np.exp(noise * standard)
            if draws.noise.log_scale
            else np.maximum(1.0 + noise * standard, 0.0)
        )
        total = total + step(draws, b, s, c)[:, None] * factor + gap[:, None]
    return total


def assert_same_moment(values, expected, power=1.0):
    """Rows of samples have these moments, to four Monte Carlo errors, one by one and together."""
    values = values**power
    error = values.std(axis=1, ddof=1) / math.sqrt(values.shape[1])
    off = (values.mean(axis=1) - expected) / error
    assert np.abs(off).max() < 4.5
    assert abs(off.sum()) / math.sqrt(off.size) < 4.0


# Without noise


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize(
    ("size", "prompt", "output", "budget"),
    [(1, 700, 1, 8192), (3, 900, 40, 8192), (4, 5000, 9, 1024), (8, 1, 2, 8), (1, 9, 300, 8192)],
)
def test_without_noise_a_service_is_the_sum_of_its_steps(extended, size, prompt, output, budget):
    draws = exact_draws(extended=extended)
    service = batch_service(
        draws,
        prompt_tokens=prompt,
        output_tokens=output,
        max_batch=size,
        max_num_batched_tokens=budget,
        overhead=NO_GAP,
        n_replicates=3,
    )
    by_hand = sum(step(draws, *one) for one in steps_by_hand(size, prompt, output, budget))
    for column in range(3):
        np.testing.assert_allclose(service.samples[:, size - 1, column], by_hand, rtol=1e-9)
    np.testing.assert_allclose(service.mean[:, size - 1], by_hand, rtol=1e-9)
    np.testing.assert_allclose(service.second_moment[:, size - 1], by_hand**2, rtol=1e-9)
    assert service.cut_share == 0.0


def test_the_overhead_is_added_once_a_step():
    draws, gap = exact_draws(), StepOverhead(2.0, 0.5)
    question = {"prompt_tokens": 900, "output_tokens": 11, "max_num_batched_tokens": 300}
    none = batch_service(draws, overhead=NO_GAP, **question)
    some = batch_service(draws, overhead=gap, **question)
    waited = 13 * gap.draws(draws.n_draws)  # three steps of prefill and ten tokens
    np.testing.assert_allclose((some.samples - none.samples)[:, 0].T, [waited] * 400)
    np.testing.assert_allclose((some.mean - none.mean)[:, 0], waited)
    default = batch_service(draws, **question)
    np.testing.assert_allclose(
        (default.mean - none.mean)[:, 0], 13 * StepOverhead().draws(draws.n_draws)
    )


# With noise


@pytest.mark.parametrize(
    ("family", "nu"), [("normal", np.inf), ("student_t", 8.0), ("lognormal", np.inf)]
)
@pytest.mark.parametrize("sigma", [0.05, 0.3])
def test_moments_are_those_of_a_simulation_step_by_step(family, nu, sigma):
    draws = make_draws(8, family=family, nu=nu, sigma=sigma, extended=True)
    service = batch_service(
        draws, prompt_tokens=900, output_tokens=20, max_batch=2, n_replicates=4_000, **NEW_NOISE
    )
    gap = StepOverhead().draws(8)
    for size in (1, 2):
        direct = simulated(draws, steps_by_hand(size, 900, 20), gap, 4_000)
        own = service.samples[:, size - 1]
        for power, expected in ((1.0, service.mean), (2.0, service.second_moment)):
            assert_same_moment(direct, expected[:, size - 1], power)
            assert_same_moment(own, expected[:, size - 1], power)
        spread = np.log(own.std(axis=1) / direct.std(axis=1))
        heavy = 2.0 if family == "student_t" else 1.0  # the kurtosis widens the error
        assert np.abs(spread).max() < 4.5 * heavy / math.sqrt(4_000)
        own_variance = service.second_moment[:, size - 1] - service.mean[:, size - 1] ** 2
        off = np.log(direct.std(axis=1) / np.sqrt(own_variance))
        assert np.abs(off).max() < 4.5 * heavy / math.sqrt(2 * 4_000)


def test_the_moments_of_one_step_are_those_of_its_family():
    """Mean and second moment of a clipped Student-t, by quadrature."""
    draws = make_draws(4, family="student_t", nu=5.0, sigma=0.6)
    service = batch_service(draws, prompt_tokens=500, output_tokens=1, overhead=NO_GAP, **NEW_NOISE)
    level = step(draws, 1, 500, 500)
    u = (np.arange(2_000_000) + 0.5) / 2_000_000
    factor = np.maximum(1.0 + 0.6 * FAMILIES["student_t"].standard_ppf(u, 5.0), 0.0)
    assert factor.min() == 0.0
    np.testing.assert_allclose(service.mean[:, 0], level * factor.mean(), rtol=1e-5)
    # What the last half in two million holds of a second moment is 1e-4 of it.
    np.testing.assert_allclose(
        service.second_moment[:, 0], level**2 * np.square(factor).mean(), rtol=5e-4
    )


def test_groups_of_steps_answer_as_every_step_alone(monkeypatch):
    draws = make_draws(6, sigma=0.1)
    question = {
        "prompt_tokens": 3_000,
        "output_tokens": 90,
        "max_num_batched_tokens": 100,
        "n_replicates": 4_000,
        **NEW_NOISE,
    }
    grouped = batch_service(draws, **question)
    monkeypatch.setattr(services, "MAX_GROUPS", 10_000)
    alone = batch_service(draws, **question, seed=1)
    np.testing.assert_allclose(grouped.mean, alone.mean, rtol=1e-12)
    ratio = np.log(grouped.samples.std(axis=2) / alone.samples.std(axis=2))
    assert np.abs(ratio).max() < 4.5 / math.sqrt(4_000)
    variance = [one.second_moment - one.mean**2 for one in (grouped, alone)]
    np.testing.assert_allclose(*variance, rtol=2e-3)


def test_noise_that_comes_back_does_not_average_out_within_a_draw():
    draws = make_draws(200, sigma=0.1, tau_C=0.0)
    question = {"prompt_tokens": 500, "output_tokens": 101, "overhead": NO_GAP, "n_runs": 200}
    new = batch_service(draws, **question, repeated_share=0.0)
    all_of_it = batch_service(draws, **question, repeated_share=1.0)
    relative = all_of_it.mean[:, 0] / new.mean[:, 0]
    np.testing.assert_allclose(relative, np.exp(0.1 * missing_normals(draws)), rtol=1e-6)
    np.testing.assert_allclose(all_of_it.samples[:, 0].std(axis=1), 0.0, atol=1e-9)
    assert np.isfinite(all_of_it.second_moment).all()
    part = batch_service(draws, **question, repeated_share=0.36)
    np.testing.assert_allclose(
        part.mean[:, 0], new.mean[:, 0] * np.exp(0.06 * missing_normals(draws)), rtol=1e-6
    )
    cv = [np.sqrt(one.second_moment / one.mean**2 - 1.0)[:, 0] for one in (part, new)]
    np.testing.assert_allclose(cv[0], 0.8 * cv[1], rtol=1e-4)
    unknown = batch_service(draws, **question)
    spread = [np.log(one.mean[:, 0] / new.mean[:, 0]).std() for one in (new, unknown, all_of_it)]
    assert spread[0] < spread[1] < spread[2]


def test_a_service_is_cut_at_twenty_medians():
    draws = make_draws(10, family="student_t", nu=1.5, sigma=3.0)
    service = batch_service(draws, prompt_tokens=50, output_tokens=1, max_batch=2, **NEW_NOISE)
    assert service.samples.max() == service.cap_ms.max()
    for size in range(2):
        own = service.samples[:, size]
        assert service.cap_ms[size] == pytest.approx(20.0 * np.median(own))
    assert service.cut_share == pytest.approx((service.samples == service.cap_ms[:, None]).mean())
    assert 0.0 < service.cut_share < 0.1
    assert (service.second_moment == np.inf).all() and np.isfinite(service.mean).all()


def test_no_service_is_shorter_than_nothing():
    draws = make_draws(10, sigma=2.0)
    service = batch_service(draws, prompt_tokens=50, output_tokens=1, overhead=NO_GAP, **NEW_NOISE)
    assert service.samples.min() > 0.0
    assert (service.samples < 1e-3).mean() > 0.2


# Summaries


def test_capacity_is_that_of_the_best_batch():
    draws = exact_draws()
    question = {"prompt_tokens": 100, "output_tokens": 5, "overhead": NO_GAP}
    service = batch_service(draws, max_batch=6, **question)
    each = np.stack([1e3 * b / service.mean[:, b - 1] for b in range(1, 7)])
    np.testing.assert_allclose(service.capacity_per_draw(), each.max(axis=0))
    np.testing.assert_allclose(service.capacity_per_draw(1), each[0])
    found = service.capacity_per_s(credible=0.8)
    assert found.value == pytest.approx(each.max(axis=0).mean())
    np.testing.assert_allclose(found[1:], np.quantile(each.max(axis=0), [0.1, 0.9]))
    assert service.mean_ms(3).value == pytest.approx(service.mean[:, 2].mean())
    assert service.floor_ms().value == pytest.approx(np.median(service.mean[:, 0]))
    assert (service.n_draws, service.max_batch) == (20, 6)


def test_draws_are_thinned_evenly_and_few_are_all_taken():
    draws = exact_draws(101)
    question = {"prompt_tokens": 100, "output_tokens": 3, "overhead": NO_GAP, "n_replicates": 2}
    every = batch_service(draws, **question, n_runs=1_000)
    some = batch_service(draws, **question, n_runs=6)
    assert every.n_draws == 101
    np.testing.assert_array_equal(some.mean, every.mean[::20])
    one = batch_service(exact_draws(1), **question)
    assert one.mean_ms().lower == one.mean_ms().upper == one.mean_ms().value


@pytest.mark.parametrize(
    "change",
    [
        {"prompt_tokens": 0},
        {"prompt_tokens": 1.5},
        {"output_tokens": 0},
        {"output_tokens": np.nan},
        {"max_batch": 0},
        {"max_batch": np.inf},
        {"max_num_batched_tokens": 3},
        {"n_runs": 0},
        {"n_replicates": 0},
        {"repeated_share": 1.5},
    ],
)
def test_wrong_questions_are_refused_in_one_line(change):
    question = {"prompt_tokens": 10, "output_tokens": 2, "max_batch": 4, **change}
    with pytest.raises(InputError, match=next(iter(change))) as fault:
        batch_service(exact_draws(2), **question)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("size", [0, 3, 1.5])
def test_batches_that_were_not_sampled_are_refused(size):
    service = batch_service(exact_draws(2), prompt_tokens=10, output_tokens=1, max_batch=2)
    with pytest.raises(InputError, match="batch"):
        service.mean_ms(size)
    with pytest.raises(InputError, match="batch"):
        service.capacity_per_draw(size)
