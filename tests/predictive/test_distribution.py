from dataclasses import replace

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from bayeslat import saturation
from bayeslat.discrepancy import Discrepancy, basis_for
from bayeslat.errors import InputError
from bayeslat.predictive import DeploymentDraws, Estimate, LatencyDistribution
from bayeslat.predictive.draws import BLOCK, Points
from bayeslat.predictive.kernels import ERROR
from bayeslat.schema import Deployment

SHAPES = [("student_t", nu) for nu in (1.2, 2.0, 2.5, 5.0, 50.0)]
FAMILIES = [*SHAPES, ("normal", np.inf), ("lognormal", np.inf)]
ONE_OF_EACH = [("student_t", 5.0), ("normal", np.inf), ("lognormal", np.inf)]
STEP = (16, 512, 8_000.0)
BASIS = basis_for(np.array([1.0, 16.0, 16.0, 128.0]), np.array([1.0, 16.0, 600.0, 8_192.0]))


def make_draws(n=60, *, family="student_t", nu=5.0, sigma=0.1, absent=(), seed=0, extended=False):
    """Draws around typical values; `extended` ones have every term that a fit may leave out."""
    rng = np.random.default_rng(seed)
    typical = {
        "P_max": 30.0,
        "k_B": 0.2,
        "k_S": 0.01,
        "w_0": 20.0,
        "w_1": 1.0,
        "tau_0": 5.0,
        "tau_B": 0.05,
        "tau_S": 0.002,
        "tau_C": 1e-5,
        "gamma_B": 1e-3,
        "gamma_S": 1e-5,
    }
    if extended:
        typical |= {"m_S": 2.0, "r_F": 1.5, "r_B": 0.6, "r_C": 1.8}
    parameters = {
        name: value * rng.lognormal(0.0, 0.15, n)
        for name, value in typical.items()
        if name not in absent
    }
    shape = 1.0 + (nu - 1.0) * rng.lognormal(0.0, 0.05, n) if nu > 2.0 else np.full(n, nu)
    scale = sigma * rng.lognormal(0.0, 0.1, n)
    draws = DeploymentDraws(Deployment("H100-80GB", "llama-7b"), parameters, scale, shape, family)
    if not extended:
        return draws
    weights, spread = 0.1 * rng.normal(size=(n, BASIS.size)), 0.2 * rng.lognormal(0.0, 0.2, n)
    discrepancy = Discrepancy(BASIS, weights, spread)
    slopes = rng.normal([0.4, 0.15, -0.1], 0.1, size=(n, 3))
    return replace(draws, slopes=slopes, discrepancy=discrepancy)


def located(draws, step=STEP, n_averaged=1.0):
    """Location and relative scale of each draw, from the definition."""
    batch, tokens, _ = step
    mu = np.asarray(saturation.latency(draws.parameters, *step))
    share = 1.0 - batch / tokens
    slopes = np.zeros((draws.n_draws, 3)) if draws.slopes is None else draws.slopes
    decode, prefill = (1.0 - share) * np.log(tokens / 16.0), share * np.log(tokens / 512.0)
    variance = (draws.sigma * np.exp(slopes @ [tokens > batch, decode, prefill])) ** 2 / n_averaged
    if draws.discrepancy is not None:
        basis = draws.discrepancy.basis
        features = basis.features(np.array([batch]), np.array([tokens]))[0]
        mu = mu * np.exp(draws.discrepancy.weights @ features)
        variance = variance + (1.0 - features @ features) * draws.discrepancy.scale**2
    return mu, np.sqrt(variance)


def components(draws, step=STEP, n_averaged=1.0):
    """One frozen scipy distribution a draw, not clipped at zero."""
    mu, sigma = located(draws, step, n_averaged)
    if draws.family == "lognormal":
        return [stats.lognorm(s, scale=m) for m, s in zip(mu, sigma, strict=True)]
    if draws.family == "normal":
        return [stats.norm(m, s * m) for m, s in zip(mu, sigma, strict=True)]
    shape = n_averaged * draws.nu
    return [stats.t(nu, m, s * m) for m, s, nu in zip(mu, sigma, shape, strict=True)]


def direct_sf(draws, t, step=STEP, n_averaged=1.0):
    t = np.asarray(t, dtype=float)
    values = np.mean([c.sf(t) for c in components(draws, step, n_averaged)], axis=0)
    return np.where(t < 0.0, 1.0, values)


@pytest.mark.parametrize(("family", "nu"), FAMILIES)
@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.8])
def test_sf_is_the_mixture(family, nu, sigma):
    draws = make_draws(family=family, nu=nu, sigma=sigma)
    t = np.concatenate([[-1.0, 0.0], np.geomspace(0.01, 1e5, 400), np.linspace(10.0, 60.0, 400)])
    distribution = LatencyDistribution(draws, *STEP)
    exact = direct_sf(draws, t)
    np.testing.assert_allclose(distribution.sf(t), exact, rtol=0, atol=ERROR)
    np.testing.assert_allclose(distribution.cdf(t), 1.0 - exact, rtol=0, atol=ERROR)
    few = np.array([distribution.sf(value) for value in t[::50]])
    np.testing.assert_allclose(few, exact[::50], rtol=0, atol=ERROR)


@pytest.mark.parametrize("absent", ["k_B", "w_0", "tau_B", "tau_S", "tau_C", "gamma_B", "gamma_S"])
def test_sf_leaves_absent_terms_out(absent):
    draws = make_draws(absent=(absent,))
    t = np.linspace(10.0, 60.0, 50)
    answer = LatencyDistribution(draws, *STEP).sf(t)
    np.testing.assert_allclose(answer, direct_sf(draws, t), rtol=0, atol=ERROR)


def test_many_points_answer_as_each_alone():
    draws = make_draws()
    rng = np.random.default_rng(3)
    batch = rng.integers(1, 65, BLOCK + 100)
    tokens = batch + rng.integers(0, 2_000, batch.size)
    context = rng.uniform(0.0, 1e5, batch.size)
    together = LatencyDistribution(draws, batch, tokens, context).sf(30.0)
    pick = rng.integers(0, batch.size, 40)
    alone = [LatencyDistribution(draws, batch[i], tokens[i], context[i]).sf(30.0) for i in pick]
    np.testing.assert_allclose(together[pick], alone, rtol=1e-12, atol=1e-14)
    points = Points(*(a.astype(float) for a in (batch, tokens, context)))
    per_draw = draws.sf_draws(np.full(batch.size, 30.0), points)
    np.testing.assert_allclose(per_draw.mean(axis=0), together, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("family", ["student_t", "lognormal"])
def test_steps_averaged_over_different_numbers_answer_as_each_alone(family):
    draws = make_draws(family=family, nu=4.0 if family == "student_t" else np.inf, extended=True)
    rng = np.random.default_rng(5)
    averaged = rng.choice([1.0, 3.0, 10.0], BLOCK + 100)
    together = LatencyDistribution(draws, *STEP, averaged)
    answers = {
        "sf": lambda each: each.sf(30.0),
        "ppf": lambda each: each.ppf(0.95),
        "pdf": lambda each: each.pdf(30.0),
        "mean": lambda each: each.mean(),
        "std": lambda each: each.std(),
        "lower": lambda each: each.sf(30.0, credible=0.8).lower,
        "quantile": lambda each: each.ppf(0.9, credible=0.8).upper,
    }
    for name, ask in answers.items():
        found = ask(together)
        for n in (1.0, 3.0, 10.0):
            alone = ask(LatencyDistribution(draws, *STEP, n))
            np.testing.assert_allclose(found[averaged == n], alone, rtol=1e-7, err_msg=name)


@pytest.mark.parametrize(("family", "nu"), FAMILIES)
@pytest.mark.parametrize("step", [STEP, (1, 1, 0.0), (4, 4_000, 1e5), (300, 300, 0.0)])
@pytest.mark.parametrize("n_averaged", [1.0, 50.0])
def test_sf_of_extended_draws_is_the_mixture(family, nu, step, n_averaged):
    draws = make_draws(family=family, nu=nu, extended=True)
    typical = np.median(located(draws, step)[0])
    t = np.concatenate([[-1.0, 0.0], typical * np.geomspace(1e-3, 1e3, 300)])
    t = np.concatenate([t, typical * np.linspace(0.5, 2.0, 300)])
    exact = direct_sf(draws, t, step, n_averaged)
    answer = LatencyDistribution(draws, *step, n_averaged).sf(t)
    np.testing.assert_allclose(answer, exact, rtol=0, atol=ERROR)


@pytest.mark.parametrize(("family", "nu"), FAMILIES)
@pytest.mark.parametrize("step", [STEP, (4, 4_000, 1e5)])
def test_quantiles_of_extended_draws_are_those_of_the_mixture(family, nu, step):
    draws = make_draws(15, family=family, nu=nu, extended=True)
    q = np.array([0.1, 0.5, 0.9, 0.99])
    answer = LatencyDistribution(draws, *step, 4.0).ppf(q)
    typical = np.median(located(draws, step)[0])
    exact = [
        optimize.brentq(
            lambda t, p=p: direct_sf(draws, t, step, 4.0) - (1.0 - p),
            1e-9 * typical,
            1e3 * typical,
            xtol=1e-12,
            rtol=1e-12,
        )
        for p in q
    ]
    np.testing.assert_allclose(answer, exact, rtol=1e-6)


@pytest.mark.parametrize(("family", "nu"), FAMILIES)
def test_quantiles_invert_the_mixture(family, nu):
    draws = make_draws(family=family, nu=nu, sigma=0.2)
    q = np.array([1e-3, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999])
    distribution = LatencyDistribution(draws, *STEP)
    t = distribution.ppf(q)
    inside = t > 0.0
    np.testing.assert_allclose(1.0 - distribution.sf(t)[inside], q[inside], rtol=0, atol=1e-11)
    np.testing.assert_allclose(direct_sf(draws, t)[inside], 1.0 - q[inside], rtol=0, atol=ERROR)
    assert (direct_sf(draws, 0.0) <= 1.0 - q[~inside] + ERROR).all()
    np.testing.assert_array_equal(distribution.isf(1.0 - q), distribution.ppf(1.0 - (1.0 - q)))
    assert distribution.median() == distribution.ppf(0.5)


def crossing(draws, t, q, step, error=1e-8):
    """Whether the mixture passes q, to its rounding, within a relative error about t."""
    distribution = LatencyDistribution(draws, *step)
    below, above = distribution.cdf(t * (1.0 - error)), distribution.cdf(t * (1.0 + error))
    return (below <= q + 1e-14) & (above >= q - 1e-14)


@pytest.mark.parametrize(("family", "nu"), FAMILIES)
@pytest.mark.parametrize("extended", [False, True])
def test_quantiles_of_many_points_are_crossings(family, nu, extended):
    """The bracket is a proof: no other solver is asked."""
    draws = make_draws(200, family=family, nu=nu, extended=extended)
    rng = np.random.default_rng(8)
    batch = rng.integers(1, 300, BLOCK + 77)
    tokens = batch + rng.integers(0, 5_000, batch.size) * (rng.random(batch.size) < 0.7)
    step = (batch, tokens, rng.uniform(0.0, 1e5, batch.size))
    for q in (0.01, 0.5, 0.99, rng.uniform(0.001, 0.999, batch.size)):
        t = LatencyDistribution(draws, *step).ppf(q)
        assert (crossing(draws, t, q, step) | (t == 0.0)).all()


@pytest.mark.parametrize("family", ["student_t", "normal", "lognormal"])
@pytest.mark.parametrize("sigma", [1e-6, 1e-3, 0.5])
@pytest.mark.parametrize("gap", [1.001, 3.0, 1e4])
def test_quantiles_of_draws_that_disagree_are_crossings(family, sigma, gap):
    """Two clusters of draws: between them the density vanishes and Newton's method fails."""
    draws = make_draws(40, family=family, nu=3.0 if family == "student_t" else np.inf, sigma=sigma)
    draws.parameters["tau_0"][:10] *= gap
    q = np.array([1e-6, 1e-3, 0.2, 0.2499, 0.2501, 0.7499, 0.75, 0.7501, 0.9, 0.999, 1 - 1e-6])
    t = LatencyDistribution(draws, *STEP).ppf(q)
    assert (np.diff(t) >= 0.0).all()
    assert (crossing(draws, t, q, STEP, 1e-7) | (t == 0.0)).all()


def test_quantiles_of_one_draw_are_its_own():
    draws = make_draws(1, nu=4.0)
    mu, sigma = located(draws)
    q = np.array([0.001, 0.3, 0.5, 0.99])
    exact = stats.t(draws.nu[0], mu[0], sigma[0] * mu[0]).ppf(q)
    np.testing.assert_allclose(LatencyDistribution(draws, *STEP).ppf(q), exact, rtol=1e-6)


def test_quantile_within_the_mass_at_zero_is_zero():
    distribution = LatencyDistribution(make_draws(family="normal", nu=np.inf, sigma=2.0), *STEP)
    at_zero = 1.0 - distribution.sf(0.0)
    assert at_zero > 0.2
    assert distribution.ppf(0.5 * at_zero) == 0.0
    assert distribution.ppf(at_zero + 0.01) > 0.0


@pytest.mark.parametrize(("family", "nu"), FAMILIES)
@pytest.mark.parametrize("extended", [False, True])
def test_random_latencies_follow_the_mixture(family, nu, extended):
    draws = make_draws(family=family, nu=nu, sigma=0.3, extended=extended)
    distribution = LatencyDistribution(draws, *STEP, 3.0 if extended else 1.0)
    n = 300_000 if extended else 1_000_000
    values = distribution.rvs(n, seed=7)
    assert values.shape == (n,) and values.min() >= 0.0
    for q in (0.05, 0.5, 0.9, 0.99, 0.999):
        t = distribution.ppf(q)
        error = np.sqrt(q * (1.0 - q) / n)
        below = max(q, distribution.cdf(0.0))  # the mass at zero may hold the quantile
        assert np.mean(values <= t) == pytest.approx(below, abs=4.5 * error)


def test_random_latencies_have_the_shape_of_the_points_and_a_seed():
    distribution = LatencyDistribution(make_draws(), [[1, 2, 4]], [[64], [128]], 0.0)
    assert distribution.shape == (2, 3)
    assert distribution.rvs(5).shape == (5, 2, 3)
    np.testing.assert_array_equal(distribution.rvs(5, seed=1), distribution.rvs(5, seed=1))
    assert not np.array_equal(distribution.rvs(5, seed=1), distribution.rvs(5, seed=2))


@pytest.mark.parametrize(("family", "nu"), ONE_OF_EACH)
@pytest.mark.parametrize("sigma", [0.1, 0.6])
@pytest.mark.parametrize("extended", [False, True])
def test_density_and_moments_agree_with_quadrature(family, nu, sigma, extended):
    draws = make_draws(15, family=family, nu=nu, sigma=sigma, extended=extended)
    distribution = LatencyDistribution(draws, *STEP, 2.5 if extended else 1.0)

    def integral(order):
        def over_log(u):
            t = np.exp(u)
            return t ** (order + 1) * np.exp(distribution.logpdf(t))

        return integrate.quad(over_log, -20.0, 35.0, points=[2.0, 3.0, 4.0], limit=400)[0]

    assert integral(0) == pytest.approx(distribution.sf(0.0), abs=2 * ERROR)
    assert distribution.mean() == pytest.approx(integral(1), rel=1e-6)
    assert distribution.std() == pytest.approx(np.sqrt(integral(2) - integral(1) ** 2), rel=1e-5)


def test_density_is_zero_for_no_latency():
    distribution = LatencyDistribution(make_draws(), *STEP)
    assert distribution.pdf(0.0) == 0.0
    assert distribution.logpdf(-3.0) == -np.inf


def test_std_is_infinite_and_mean_finite_for_heavy_tails():
    distribution = LatencyDistribution(make_draws(nu=1.5), *STEP)
    assert np.isfinite(distribution.mean())
    assert distribution.std() == np.inf


def test_interval_holds_its_mass():
    distribution = LatencyDistribution(make_draws(), *STEP)
    low, high = distribution.interval(0.9)
    assert distribution.sf(low) - distribution.sf(high) == pytest.approx(0.9, abs=1e-9)
    with pytest.raises(InputError, match="confidence"):
        distribution.interval(1.0)


@pytest.mark.parametrize("extended", [False, True])
def test_credible_intervals_are_quantiles_over_draws(extended):
    draws = make_draws(400, extended=extended)
    n_averaged = 9.0 if extended else 1.0
    distribution = LatencyDistribution(draws, *STEP, n_averaged)
    each = components(draws, STEP, n_averaged)
    for answer, per_draw, value in (
        (distribution.sf(30.0, credible=0.8), [c.sf(30.0) for c in each], distribution.sf(30.0)),
        (distribution.cdf(30.0, credible=0.8), [c.cdf(30.0) for c in each], distribution.cdf(30.0)),
        (distribution.ppf(0.99, credible=0.8), [c.ppf(0.99) for c in each], distribution.ppf(0.99)),
        (distribution.mean(credible=0.8), [c.mean() for c in each], distribution.mean()),
    ):
        assert isinstance(answer, Estimate)
        assert answer.value == pytest.approx(value, rel=1e-9)
        # Clipping at zero moves a draw's mean by its mass there, some 1e-5 for these draws.
        lower, upper = np.quantile(per_draw, [0.1, 0.9])
        assert (answer.lower, answer.upper) == pytest.approx((lower, upper), rel=1e-4, abs=ERROR)


def test_credible_answers_have_the_shape_of_the_query():
    distribution = LatencyDistribution(make_draws(), [1, 2, 4], 64, 0.0)
    for answer in (
        distribution.sf(20.0, credible=0.9),
        distribution.ppf([[0.5], [0.99]], credible=0.9),
        distribution.mean(credible=0.9),
        distribution.median(credible=0.9),
    ):
        shape = np.shape(answer.value)
        assert shape in {(3,), (2, 3)}
        assert np.shape(answer.lower) == np.shape(answer.upper) == shape
        assert (answer.lower < answer.upper).all()


def test_the_mean_of_steps_has_the_noise_of_their_number():
    draws = make_draws(family="normal", nu=np.inf, absent=(), sigma=0.1)
    one = LatencyDistribution(draws.take([0]), *STEP)
    many = LatencyDistribution(draws.take([0]), *STEP, [1.0, 4.0, 100.0])
    np.testing.assert_allclose(many.std(), one.std() / np.array([1.0, 2.0, 10.0]), rtol=1e-9)
    np.testing.assert_allclose(many.mean(), one.mean(), rtol=1e-9)
    low, high = many.interval(0.9)
    np.testing.assert_allclose((high - low)[0] / (high - low), [1.0, 2.0, 10.0], rtol=1e-6)


def test_what_the_formula_misses_does_not_average_out():
    """Far from the centres the spread of a long mean is the prior's, near them the data's."""
    draws = make_draws(300, family="normal", nu=np.inf, extended=True)
    far = LatencyDistribution(draws.take([0]), 1.0, 1e7, 0.0, 1e12)
    assert far.std() / far.mean() == pytest.approx(draws.discrepancy.scale[0], rel=1e-5)
    centre = LatencyDistribution(draws.take([0]), 1.0, 1.0, 0.0, 1e12)
    assert centre.std() / centre.mean() < 0.2 * draws.discrepancy.scale[0]


def test_a_decode_step_does_not_know_the_noise_of_a_prefill():
    plain = make_draws(family="normal", nu=np.inf)
    louder = replace(plain, slopes=np.tile([np.log(3.0), 0.0, 0.0], (plain.n_draws, 1)))
    t = np.linspace(5.0, 40.0, 9)
    decode, prefill = (32, 32, 1e4), (1, 10_000, 1e4)
    np.testing.assert_array_equal(
        LatencyDistribution(louder, *decode).sf(t), LatencyDistribution(plain, *decode).sf(t)
    )
    ratio = (
        LatencyDistribution(louder.take([0]), *prefill).std()
        / LatencyDistribution(plain.take([0]), *prefill).std()
    )
    assert ratio == pytest.approx(3.0, rel=1e-3)


def test_neutral_terms_change_nothing():
    plain = make_draws()
    ones, none = np.ones(plain.n_draws), np.zeros(plain.n_draws)
    neutral = replace(
        plain,
        parameters=plain.parameters | {"m_S": ones, "r_F": ones, "r_B": ones},
        slopes=np.zeros((plain.n_draws, 3)),
        discrepancy=Discrepancy(BASIS, np.zeros((plain.n_draws, BASIS.size)), none),
    )
    t = np.linspace(10.0, 60.0, 50)
    np.testing.assert_array_equal(
        LatencyDistribution(neutral, *STEP).sf(t), LatencyDistribution(plain, *STEP).sf(t)
    )


def test_upper_bound_is_an_order_statistic():
    draws = make_draws(100)
    distribution = LatencyDistribution(draws, *STEP)
    per_draw = np.sort([c.sf(30.0) for c in components(draws)])
    for confident, rank in ((0.001, 0), (0.5, 49), (0.9, 89), (0.901, 90), (0.999, 99)):
        bound = distribution.sf_upper(30.0, confident=confident)
        assert bound == pytest.approx(per_draw[rank], abs=ERROR)
    with pytest.raises(InputError, match="confident=1"):
        distribution.sf_upper(30.0, confident=1.0)


def test_scalars_give_floats_and_arrays_broadcast():
    draws = make_draws()
    scalar = LatencyDistribution(draws, *STEP)
    for answer in (
        scalar.sf(30.0),
        scalar.cdf(30.0),
        scalar.ppf(0.9),
        scalar.mean(),
        scalar.std(),
        scalar.pdf(30.0),
        *scalar.sf(30.0, credible=0.9),
    ):
        assert type(answer) is float
    averaged = LatencyDistribution(draws, 1, 64, 0.0, n_averaged=[[1.0, 4.0]])
    assert averaged.shape == averaged.sf(30.0).shape == averaged.rvs(3).shape[1:] == (1, 2)
    table = LatencyDistribution(draws, [[1], [2]], [64, 128, 256], 0.0)
    assert table.sf(30.0).shape == table.pdf(30.0).shape == table.mean().shape == (2, 3)
    assert table.ppf(np.full((4, 1, 1), 0.9)).shape == (4, 2, 3)
    assert table.sf(30.0)[1, 2] == pytest.approx(
        LatencyDistribution(draws, 2, 256, 0.0).sf(30.0), rel=1e-12
    )


@pytest.mark.parametrize("shape", [(0,), (1,), (1, 1)])
def test_short_arrays_keep_their_shape(shape):
    latency = LatencyDistribution(make_draws(), np.full(shape, 16.0), 512.0, 0.0)
    for answer in (latency.sf(30.0), latency.ppf(0.9), latency.mean(), latency.rvs(1)[0]):
        assert answer.shape == shape


def test_thinning_keeps_evenly_spaced_draws():
    draws = make_draws(100)
    assert draws.thin(200) is draws
    thin = draws.thin(10)
    assert thin.n_draws == 10 and thin.slopes is None and thin.discrepancy is None
    np.testing.assert_array_equal(thin.sigma, draws.sigma[::11])
    assert set(thin.parameters) == set(draws.parameters)


def test_taking_draws_takes_everything_of_them():
    draws = make_draws(30, extended=True)
    one = [LatencyDistribution(draws.take([m]), *STEP, 5.0).sf(25.0) for m in (3, 3, 8)]
    together = LatencyDistribution(draws.take([3, 3, 8]), *STEP, 5.0)
    assert together.sf(25.0) == pytest.approx(np.mean(one), rel=1e-12)


def test_answers_do_not_depend_on_the_cores(monkeypatch):
    draws = make_draws(20, extended=True)
    tokens = np.arange(1.0, 3.0 * BLOCK)
    distribution = LatencyDistribution(draws, 1.0, tokens, 0.0)
    answers = []
    for cores in (1, 3):
        monkeypatch.setattr("bayeslat.predictive.draws._cores", lambda cores=cores: cores)
        answers.append((distribution.sf(30.0), distribution.ppf(0.99)))
    np.testing.assert_array_equal(answers[0], answers[1])


def test_enormous_rates_do_not_warn():
    draws = make_draws()
    draws.parameters["k_B"] = draws.parameters["k_B"] * 1e9
    assert 0.0 <= LatencyDistribution(draws, 1e6, 1e9, 0.0).sf(30.0) <= 1.0
    assert np.isfinite(LatencyDistribution(draws, *STEP).ppf(0.99, credible=0.9).upper)


@pytest.mark.parametrize(
    "step", [(0, 10, 0), (16, 15, 0), (1, 1, -1), (np.nan, 10, 0), (1, 1, np.inf)]
)
def test_impossible_steps_are_refused(step):
    with pytest.raises(InputError, match="expected batch_size >= 1"):
        LatencyDistribution(make_draws(), *step)


@pytest.mark.parametrize("n_averaged", [0.0, -1.0, np.nan, np.inf, [1.0, 0.0]])
def test_means_of_an_impossible_number_of_steps_are_refused(n_averaged):
    with pytest.raises(InputError, match=r"n_averaged from .* expected positive") as refusal:
        LatencyDistribution(make_draws(), *STEP, n_averaged)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("q", [0.0, 1.0, -0.1, np.nan])
def test_quantiles_need_probabilities(q):
    with pytest.raises(InputError, match="strictly between 0 and 1"):
        LatencyDistribution(make_draws(), *STEP).ppf(q)


def test_credible_mass_is_a_probability():
    distribution = LatencyDistribution(make_draws(), *STEP)
    for method in (distribution.sf, distribution.ppf):
        with pytest.raises(InputError, match="credible=95"):
            method(0.5, credible=95)
