import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import special, stats

from bayeslat.discrepancy import Discrepancy, basis_for
from bayeslat.errors import InputError
from bayeslat.predictive import DeploymentDraws, Estimate, LatencyDistribution, SampledDistribution
from bayeslat.predictive.draws import Points
from bayeslat.predictive.sampled import (
    _noise_of_mean,
    divided,
    expected_latency,
    missing_normals,
    noise_and_missing,
    sample_means,
)
from bayeslat.schema import Deployment

FAMILIES = [("student_t", 3.5), ("student_t", 6.0), ("normal", np.inf), ("lognormal", np.inf)]
BASIS = basis_for(np.array([1.0, 8.0, 8.0]), np.array([1.0, 8.0, 600.0]))
POINTS = Points(np.array([4.0, 2.0, 1.0]), np.array([4.0, 900.0, 1e6]), np.array([4e3, 2e3, 1e6]))


def make_draws(n=20, *, family="normal", nu=np.inf, sigma=0.1, scale=0.1, seed=0):
    rng = np.random.default_rng(seed)
    typical = {"P_max": 30.0, "k_S": 0.01, "w_1": 1.0, "tau_0": 5.0, "tau_C": 1e-5}
    return DeploymentDraws(
        Deployment("H100-80GB", "llama-7b"),
        {name: value * rng.lognormal(0.0, 0.1, n) for name, value in typical.items()},
        sigma * rng.lognormal(0.0, 0.1, n),
        np.full(n, nu),
        family,
        rng.normal([0.4, 0.1, -0.1], 0.05, size=(n, 3)),
        Discrepancy(BASIS, 0.1 * rng.normal(size=(n, BASIS.size)), np.full(n, scale)),
    )


def make_samples(shape=(40, 101), seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(20.0, 3.0, (shape[0], 1)) + rng.gamma(4.0, 1.0, shape)


# The distribution


def test_sf_and_cdf_count_samples():
    samples = make_samples()
    distribution = SampledDistribution(samples)
    t = np.concatenate([[0.0, 100.0], samples[3, :5], np.linspace(10.0, 40.0, 20)])
    exact = np.array([(samples > value).mean() for value in t])
    np.testing.assert_allclose(distribution.sf(t), exact, rtol=0, atol=1e-12)
    np.testing.assert_allclose(distribution.cdf(t), 1.0 - exact, rtol=0, atol=1e-12)
    assert distribution.sf(t.reshape(3, 9)).shape == (3, 9)
    assert type(distribution.sf(20.0)) is float


def test_quantiles_are_order_statistics():
    samples = make_samples((10, 100))
    distribution = SampledDistribution(samples)
    q = np.array([1e-6, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0 - 1e-9])
    exact = np.quantile(samples, q, method="inverted_cdf")
    np.testing.assert_array_equal(distribution.ppf(q), exact)
    np.testing.assert_array_equal(distribution.isf(np.array([0.1, 0.5])), exact[[3, 2]])
    assert distribution.median() == exact[2]
    assert distribution.interval(0.8) == (exact[1], exact[3])
    assert (distribution.cdf(distribution.ppf(q)) >= q - 1e-12).all()


def test_rounding_does_not_move_a_rank():
    counts = SampledDistribution(np.arange(1.0, 101.0)[None])
    assert 0.07 * 100 > 7.0
    assert counts.ppf(0.07) == 7.0
    np.testing.assert_array_equal(counts.ppf(np.arange(1, 100) / 100), np.arange(1.0, 100.0))


def test_moments_are_those_of_the_samples():
    samples = make_samples()
    distribution = SampledDistribution(samples)
    assert distribution.mean() == pytest.approx(samples.mean(), rel=1e-12)
    assert distribution.std() == pytest.approx(samples.std(), rel=1e-12)
    assert (distribution.n_draws, distribution.n_replicates) == samples.shape


def test_credible_intervals_are_quantiles_over_draws():
    samples = make_samples()
    distribution = SampledDistribution(samples)
    for answer, value, per_draw in (
        (distribution.sf(24.0, credible=0.8), distribution.sf(24.0), (samples > 24.0).mean(axis=1)),
        (
            distribution.cdf(24.0, credible=0.8),
            distribution.cdf(24.0),
            (samples <= 24).mean(axis=1),
        ),
        (
            distribution.ppf(0.9, credible=0.8),
            distribution.ppf(0.9),
            np.quantile(samples, 0.9, axis=1, method="inverted_cdf"),
        ),
        (distribution.mean(credible=0.8), samples.mean(), samples.mean(axis=1)),
    ):
        assert isinstance(answer, Estimate)
        expected = (value, *np.quantile(per_draw, [0.1, 0.9]))
        assert tuple(answer) == pytest.approx(expected, rel=1e-9)
        assert all(type(part) is float for part in answer)
        assert answer.lower < answer.value < answer.upper


def test_credible_answers_have_the_shape_of_the_query():
    distribution = SampledDistribution(make_samples())
    t = np.array([[20.0, 25.0, 30.0], [22.0, 27.0, 60.0]])
    answer = distribution.sf(t, credible=0.9)
    assert np.shape(answer.lower) == (2, 3)
    assert answer.lower[1, 1] == pytest.approx(distribution.sf(27.0, credible=0.9).lower)
    levels = distribution.ppf([[0.5], [0.9]], credible=0.9)
    assert np.shape(levels.upper) == (2, 1)
    assert levels.upper[1, 0] == pytest.approx(distribution.ppf(0.9, credible=0.9).upper)


def test_upper_bound_is_an_order_statistic():
    samples = make_samples((100, 57))
    distribution = SampledDistribution(samples)
    per_draw = np.sort((samples > 24.0).mean(axis=1))
    for confident, rank in ((0.001, 0), (0.5, 49), (0.9, 89), (0.901, 90), (0.999, 99)):
        assert distribution.sf_upper(24.0, confident=confident) == pytest.approx(per_draw[rank])
    assert distribution.sf_upper([20.0, 24.0], confident=0.9).shape == (2,)


def test_infinite_samples_make_infinite_answers_without_warnings():
    samples = make_samples((10, 100))
    samples[7:] = np.inf
    distribution = SampledDistribution(samples)
    assert distribution.mean() == distribution.std() == np.inf
    assert distribution.ppf(0.71) == np.inf
    assert distribution.ppf(0.7) == samples[:7].max()
    assert distribution.sf(1e9) == pytest.approx(0.3)
    assert distribution.sf(np.inf) == 0.0
    for answer in (distribution.median(credible=0.8), distribution.mean(credible=0.8)):
        assert np.isfinite(answer.lower)
        assert answer.upper == np.inf
    few = distribution.median(credible=0.2)
    assert np.isfinite(few.upper)
    everything = SampledDistribution(np.full((3, 4), np.inf)).median(credible=0.9)
    assert tuple(everything) == (np.inf, np.inf, np.inf)


def test_random_picks_come_from_the_samples():
    samples = make_samples((5, 20))
    distribution = SampledDistribution(samples)
    picked = distribution.rvs(2_000, seed=3)
    assert np.isin(picked, samples).all()
    error = 4.0 * samples.std() / math.sqrt(2_000)
    assert abs(picked.mean() - samples.mean()) < error
    np.testing.assert_array_equal(picked, distribution.rvs(2_000, seed=3))


def test_sums_pair_samples():
    one, two = make_samples(seed=1), make_samples(seed=2)
    total = SampledDistribution(one) + SampledDistribution(two)
    np.testing.assert_array_equal(total.samples, one + two)
    with pytest.raises(InputError, match="expected equal ones"):
        SampledDistribution(one) + SampledDistribution(two[:, :-1])
    with pytest.raises(TypeError):
        SampledDistribution(one) + 1.0


def test_samples_are_copied_and_read_only():
    samples = make_samples()
    distribution = SampledDistribution(samples)
    before = distribution.median()
    samples += 1.0
    assert distribution.median() == before
    with pytest.raises(ValueError, match="read-only"):
        distribution.samples[0, 0] = 1.0


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([[1.0, np.nan]], "got 1 of 2 samples"),
        ([[1.0, -np.inf]], "minus infinity"),
        ([1.0, 2.0], "expected .draw, replicate."),
        (np.empty((0, 3)), "at least one"),
    ],
)
def test_what_is_no_sample_is_refused_in_one_line(samples, message):
    with pytest.raises(InputError, match=message) as refusal:
        SampledDistribution(samples)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("q", [0.0, 1.0, np.nan])
def test_quantiles_need_probabilities(q):
    with pytest.raises(InputError, match="strictly between 0 and 1"):
        SampledDistribution(make_samples()).ppf(q)


def test_arguments_are_checked():
    distribution = SampledDistribution(make_samples())
    with pytest.raises(InputError, match="t=nan"):
        distribution.sf(np.nan)
    for method in (distribution.sf, distribution.ppf):
        with pytest.raises(InputError, match="credible=95"):
            method(0.5, credible=95)
    with pytest.raises(InputError, match="confident=1"):
        distribution.sf_upper(0.5, confident=1.0)


# The two kinds of spread


def by_hand(draws, points):
    """Location, noise and missing scale, from the definition."""
    b, s, c = points.batch_size, points.total_tokens, points.context_tokens
    p = {name: values[:, None] for name, values in draws.parameters.items()}
    mu = p["tau_0"] + p["w_1"] * s / p["P_max"] / -np.expm1(-p["k_S"] * s) + p["tau_C"] * c
    h = 1.0 - b / s
    slopes = draws.slopes @ np.array([s > b, (1.0 - h) * np.log(s / 16.0), h * np.log(s / 512.0)])
    phi = BASIS.features(b, s)
    mu = mu * np.exp(draws.discrepancy.weights @ phi.T)
    missing = np.sqrt(1.0 - np.square(phi).sum(axis=1)) * draws.discrepancy.scale[:, None]
    return mu, draws.sigma[:, None] * np.exp(slopes), missing


@pytest.mark.parametrize("n_averaged", [1.0, 50.0])
def test_spread_is_split_into_noise_and_what_is_missed(n_averaged):
    draws = make_draws(scale=0.3)
    points = replace(POINTS, n_averaged=np.full(3, n_averaged))
    scales, exact = noise_and_missing(draws, points), by_hand(draws, points)
    np.testing.assert_allclose(scales.location, exact[0], rtol=1e-9)
    np.testing.assert_allclose(scales.noise, exact[1], rtol=1e-6)
    np.testing.assert_allclose(scales.missing, exact[2], rtol=1e-6, atol=1e-9)
    single = draws.location_and_scale(POINTS)[1]
    np.testing.assert_allclose(np.hypot(scales.noise, scales.missing), single, rtol=1e-9)


def test_nothing_is_missed_without_a_discrepancy():
    draws = replace(make_draws(), discrepancy=None)
    assert not noise_and_missing(draws, POINTS).missing.any()


def test_missing_normals_are_normal_and_the_deployments_own():
    draws = make_draws(1_000)
    normals = missing_normals(draws)
    levels = np.sort(special.ndtr(normals))
    assert np.abs(levels - (np.arange(1_000) + 0.5) / 1_000).max() <= 0.5e-3 + 1e-9
    np.testing.assert_array_equal(normals, missing_normals(make_draws(1_000, seed=5)))
    other = replace(draws, deployment=Deployment("A100-80GB", "llama-7b"))
    assert abs(np.corrcoef(normals, missing_normals(other))[0, 1]) < 4.0 / math.sqrt(1_000)
    order = np.corrcoef(normals, np.arange(1_000))[0, 1]
    assert abs(order) < 4.0 / math.sqrt(1_000)


def test_a_single_draw_has_a_missing_part_of_its_own():
    assert missing_normals(make_draws(1))[0] != 0.0


def moments_of_means(draws, points, n):
    """Mean and standard deviation of the mean of n steps in each draw, from the families."""
    mu, noise, missing = by_hand(draws, points)
    level = mu * np.exp(missing * missing_normals(draws)[:, None])
    if draws.family == "lognormal":
        level = level * np.exp(noise**2 / 2)
        return level, level * np.sqrt(np.expm1(noise**2) / n)
    variance = 1.0 / (1.0 - 2.0 / draws.nu[:, None])
    return level, level * noise * np.sqrt(variance / n)


@pytest.mark.parametrize(("family", "nu"), FAMILIES)
@pytest.mark.parametrize("n", [1.0, 7.0, 400.0])
def test_random_means_have_the_moments_of_means(family, nu, n):
    sigma, replicates = 0.3 if family == "lognormal" else 0.04, 4_000
    draws = make_draws(family=family, nu=nu, sigma=sigma)
    points = replace(POINTS, n_averaged=np.full(3, n))
    parts = sample_means(
        draws,
        points,
        missing=missing_normals(draws),
        n_replicates=replicates,
        rng=np.random.default_rng(1),
    )
    samples = np.stack(list(parts), axis=-1)
    mean, std = moments_of_means(draws, points, n)
    assert samples.shape == (20, replicates, 3)
    error = (samples.mean(axis=1) - mean) / (std / math.sqrt(replicates))
    assert np.abs(error).max() < 4.0
    assert abs(error.sum()) / math.sqrt(error.size) < 4.0
    if nu > 4.0:
        ratio = samples.var(axis=1) / std**2 - 1.0
        spread = math.sqrt((kurtosis_of_means(family, nu, std / mean, n) - 1.0) / replicates)
        assert abs(ratio.mean()) < 4.0 * spread / math.sqrt(ratio.size)


def kurtosis_of_means(family, nu, relative, n):
    """Kurtosis of what is sampled; the largest over draws and points."""
    if family == "lognormal":
        w = 1.0 + np.square(relative).max()
        return w**4 + 2.0 * w**3 + 3.0 * w**2 - 3.0
    return 3.0 + (6.0 / (nu - 4.0) / n if nu < np.inf else 0.0)


@pytest.mark.parametrize("n", [2, 8, 32])
@pytest.mark.parametrize("nu", [3.0, 5.0, 10.0])
def test_quantiles_of_means_of_student_t_steps(nu, n):
    """Against means taken step by step: how far tail probabilities are off is what is promised."""
    draws = make_draws(1, family="student_t", nu=nu, scale=0.0)
    point = Points(*(np.array([v]) for v in (4.0, 4.0, 0.0)), np.array([float(n)]))
    mu, noise, _ = (float(part[0, 0]) for part in by_hand(draws, point))
    rng, size = np.random.default_rng(2), 200_000
    direct = mu * (1.0 + noise * sum(rng.standard_t(nu, size) for _ in range(n)) / n)
    (found,) = sample_means(
        draws, point, missing=missing_normals(draws), n_replicates=size, rng=rng
    )
    for q in (0.05, 0.5, 0.95, 0.99):
        above = (found[0] > np.quantile(direct, q)).mean()
        error = 4.0 * math.sqrt(2.0 * q * (1.0 - q) / size)
        assert abs(above - (1.0 - q)) < (0.15 if nu > 4.0 else 0.4) * min(q, 1.0 - q) + error
    as_one_row = LatencyDistribution(draws, 4.0, 4.0, 0.0, n_averaged=n)
    exact = mu * noise * math.sqrt(1.0 / (1.0 - 2.0 / nu) / n)
    assert as_one_row.std() < 0.95 * exact  # why means of steps are not taken as one row here


@pytest.mark.parametrize("n", [1.0, 3.0, 50.0])
def test_student_t_means_have_the_kurtosis_of_means(n):
    draws = make_draws(1, family="student_t", nu=6.0)
    shape, _, scale = _noise_of_mean(draws, np.array([[0.1]]), n)
    variance, kurtosis = stats.t(shape[0, 0], scale=scale[0, 0]).stats("vk")
    assert variance == pytest.approx(0.01 * stats.t(6.0).var() / n)
    assert kurtosis == pytest.approx(stats.t(6.0).stats("k") / n)


def test_single_steps_are_those_of_the_latency_distribution():
    draws = make_draws(30, family="student_t", nu=4.0, scale=0.0)
    point = Points(*(np.array([v]) for v in (2.0, 700.0, 900.0)))
    (samples,) = sample_means(
        draws,
        point,
        missing=missing_normals(draws),
        n_replicates=5_000,
        rng=np.random.default_rng(4),
    )
    exact = LatencyDistribution(draws, 2.0, 700.0, 900.0)
    t = exact.ppf([0.05, 0.5, 0.9, 0.99])
    error = stats.binom(samples.size, exact.sf(t)).std() / samples.size
    assert (np.abs(SampledDistribution(samples).sf(t) - exact.sf(t)) < 4.0 * error).all()


def test_means_are_never_negative():
    draws = make_draws(5, family="student_t", nu=3.0, sigma=1.0)
    (samples, *_) = sample_means(
        draws, POINTS, missing=np.zeros(5), n_replicates=500, rng=np.random.default_rng(0)
    )
    assert samples.min() == 0.0


@pytest.mark.parametrize(("family", "nu"), FAMILIES)
def test_expected_latency_is_the_mean_given_the_draw(family, nu):
    draws = make_draws(family=family, nu=nu)
    found = expected_latency(draws, POINTS, missing=missing_normals(draws))
    np.testing.assert_allclose(found, moments_of_means(draws, POINTS, 1.0)[0], rtol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("nu", [3.0, 6.0, np.inf])
def test_dividing_the_noise_keeps_its_variance(share, nu):
    draws = replace(make_draws(), nu=np.full(make_draws().n_draws, nu))
    points = Points(np.array([1.0, 8.0]), np.array([1.0, 600.0]), np.array([10.0, 5e3]))
    whole, parts = noise_and_missing(draws, points), divided(draws, points, share)
    heavy = nu / (nu - 2.0) if np.isfinite(nu) else 1.0
    total = np.square(whole.missing) + heavy * np.square(whole.noise)
    np.testing.assert_allclose(
        np.square(parts.missing) + heavy * np.square(parts.noise), total, rtol=1e-12
    )
    np.testing.assert_allclose(np.square(parts.noise), (1 - share) * np.square(whole.noise))
