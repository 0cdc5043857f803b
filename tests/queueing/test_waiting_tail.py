import ciw
import numpy as np
import pytest

from bayeslat.errors import InputError
from bayeslat.queueing import (
    batch_means_error,
    mg1_mean_wait,
    mg1_sojourn_tail,
    mg1_sojourn_tail_by_inversion,
    mg1_wait_tail,
    mg1_wait_tail_by_inversion,
    mmc_sojourn_quantile,
    mmc_sojourn_tail,
    mmc_wait_quantile,
    mmc_wait_tail,
    poisson_arrivals,
    service_grid,
    service_grid_from_samples,
    simulate_servers,
)
from bayeslat.queueing.waiting_tail import NUMERICAL_ERROR

STEP = 0.01
TIME = STEP * np.arange(4_000)
EXPONENTIAL = service_grid(np.exp(-TIME), STEP, mean_service=1.0 - np.exp(-TIME[-1]))


def constant_service(n_grid=400, step=0.01):
    return service_grid_from_samples([1.0], step, n_grid)


def summed(load, ladder, count):
    """P(X > k) of the geometric sum by Panjer's recursion in extended precision."""
    tail = np.concatenate([[load], ladder, [0.0]]).astype(np.longdouble)
    mass = -np.diff(tail)
    out = np.zeros(count, np.longdouble)
    out[0] = (1.0 - load) / (1.0 - mass[0])
    for k in range(1, count):
        n = min(k, mass.size - 1)
        out[k] = mass[1 : n + 1] @ out[k - n : k][::-1] / (1.0 - mass[0])
    return 1.0 - np.cumsum(out)


# Exponential service


@pytest.mark.parametrize("rho", [0.1, 0.5, 0.8, 0.95])
@pytest.mark.parametrize(
    ("tail", "exact", "quantile"),
    [
        (mg1_wait_tail, mmc_wait_tail, mmc_wait_quantile),
        (mg1_sojourn_tail, mmc_sojourn_tail, mmc_sojourn_quantile),
    ],
)
def test_bounds_enclose_m_m_1_and_are_tight(rho, tail, exact, quantile):
    bounds = tail(rho, EXPONENTIAL, n_grid=16_000)
    truth = exact(bounds.time, rho, 1.0)
    # The cap at 40 changes a probability by less than P(S > 40) / (1 - rho)^2.
    assert np.all(bounds.lower <= truth)
    assert np.all(bounds.upper >= truth - 1e-14)
    width = STEP * (rho / (1.0 - rho) + 1.0)
    assert np.all(bounds.upper - bounds.lower <= 2.0 * width * (1.0 - rho) + 3.0 * NUMERICAL_ERROR)
    for level in (0.5, 0.9, 0.99, 0.999):
        low, high = bounds.quantile(level)
        assert low - 1e-9 <= quantile(level, rho, 1.0) <= high + 1e-9
        # A quantile moves with every one of the rounded residuals below it.
        assert high - low <= 3.0 * STEP + 0.03 * high


def test_halving_the_step_halves_the_width():
    widths = []
    for step in (0.04, 0.02, 0.01):
        time = step * np.arange(int(40.0 / step))
        grid = service_grid(np.exp(-time), step, mean_service=1.0 - np.exp(-time[-1]))
        low, high = mg1_wait_tail(0.8, grid).at(8.0)
        widths.append(high - low)
    np.testing.assert_allclose(widths[:-1], np.multiply(2.0, widths[1:]), rtol=0.05)


def test_an_unknown_mean_widens_the_bounds_by_its_load():
    bounds = mg1_wait_tail(0.8, service_grid(np.exp(-TIME), STEP), n_grid=8_000)
    assert bounds.utilisation_lower <= 0.8 <= bounds.utilisation_upper
    assert bounds.utilisation_upper - bounds.utilisation_lower == pytest.approx(0.8 * STEP)
    truth = mmc_wait_tail(bounds.time, 0.8, 1.0)
    assert np.all((bounds.lower <= truth) & (truth <= bounds.upper))


# Numerical error


@pytest.mark.parametrize("rho", [0.3, 0.9, 0.999])
def test_transform_agrees_with_the_recursion_within_the_stated_error(rho):
    grid = service_grid_from_samples([0.3, 0.9, 1.8], 0.02, 100)
    bounds, ladder = mg1_wait_tail(rho, grid, n_grid=3_000), rho * grid.excess_upper
    for found, moved, sign in ((bounds.lower, 1, -1.0), (bounds.upper, 0, 1.0)):
        beyond = sign * (found - np.clip(summed(ladder[0], ladder[moved:], 3_000), 0.0, 1.0))
        assert np.all(beyond > -1e-15)
        assert np.all(beyond < 2.0 * NUMERICAL_ERROR)


def test_a_longer_transform_changes_nothing_beyond_the_stated_error():
    # Nearly saturated, so that what could be aliased is nearly one.
    service = service_grid_from_samples([0.3, 0.9, 1.8], 0.02, 100)
    short, long = (mg1_sojourn_tail(0.99999, service, n_grid=n) for n in (50_000, 300_000))
    for tails in ((short.lower, long.lower), (short.upper, long.upper)):
        difference = np.abs(tails[0] - tails[1][:50_000]).max()
        assert 0.0 < difference < NUMERICAL_ERROR


# Other services


def test_constant_service_has_its_closed_form():
    # Erlang: P(W <= t) = (1 - rho) sum_k (rho (k - t))^k / k! exp(rho (t - k)), k <= t, at D = 1.
    rho = 0.7
    bounds = mg1_wait_tail(rho, constant_service(n_grid=1_200))
    t = bounds.time + 1e-12
    factors, term = np.zeros_like(t), np.ones_like(t)
    for k in range(12):
        term = (rho * (k - t)) ** k / np.prod(np.arange(1.0, k + 1.0)) * np.exp(rho * (t - k))
        factors += np.where(t >= k, term, 0.0)
    truth = 1.0 - (1.0 - rho) * factors
    assert np.all(bounds.lower <= truth + 1e-8)
    assert np.all(bounds.upper >= truth - 1e-8)
    assert np.max(bounds.upper - bounds.lower) < 0.02


def test_area_under_the_tails_is_the_mean_wait():
    samples = np.random.default_rng(2).gamma(2.0, 0.5, size=400)
    grid = service_grid_from_samples(samples, 0.01, 1_000)
    assert grid.truncated_mass == 0.0
    bounds = mg1_wait_tail(0.7, grid, n_grid=8_000)
    mean = mg1_mean_wait(0.7, samples.mean(), (samples**2).mean())
    low, high = 0.01 * bounds.lower.sum(), 0.01 * bounds.upper.sum()
    assert low <= mean <= high
    assert high - low < 0.04 * mean


def test_simulated_waits_and_sojourns_lie_between_the_bounds():
    rng = np.random.default_rng(3)
    atoms, n = rng.lognormal(-0.5, 1.0, size=300), 1_000_000
    rho, service = 0.7, rng.choice(atoms, n)
    arrival = rho / atoms.mean()
    grid = service_grid_from_samples(atoms, 0.01, 2_000)
    assert grid.truncated_mass == 0.0
    events = simulate_servers(poisson_arrivals(arrival, n, rng), service)
    for tail, times in (
        (mg1_wait_tail, events.wait),
        (mg1_sojourn_tail, events.wait + service),
    ):
        bounds = tail(arrival, grid, n_grid=8_000)
        for t in (0.5, 2.0, 8.0):
            low, high = bounds.at(t)
            error = batch_means_error(times > t)
            assert high - low < 0.02 and error < 0.04 * high
            assert low - 4.0 * error < np.mean(times > t) < high + 4.0 * error


def test_another_simulator_agrees_with_the_bounds(assert_mean):
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Exponential(0.6)],
        service_distributions=[ciw.dists.Gamma(2.0, 0.5)],
        number_of_servers=[1],
    )
    ciw.seed(7)
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_time(100_000.0)
    records = sorted(simulation.get_all_records(), key=lambda record: record.arrival_date)
    wait = np.array([record.waiting_time for record in records])
    assert_mean(wait, mg1_mean_wait(0.6, 1.0, 1.5))
    survival = np.exp(-2.0 * TIME) * (1.0 + 2.0 * TIME)
    bounds = mg1_wait_tail(0.6, service_grid(survival, STEP, mean_service=1.0))
    for t in (0.5, 2.0, 4.0):
        assert_mean(wait > t, np.mean(bounds.at(t)), precision=0.06)


def test_both_routes_agree_on_a_hyperexponential():
    weights, rates = np.array([0.8, 0.2]), np.array([2.0, 1.0 / 3.0])
    mean = (weights / rates).sum()
    survival = np.exp(-TIME[:, None] * rates) @ weights
    capped = (weights / rates * (1.0 - np.exp(-rates * TIME[-1]))).sum()
    grid = service_grid(survival, STEP, mean_service=capped)
    arrival, t = 0.8 / mean, np.array([0.5, 3.0, 10.0])
    for by_grid, by_transform in (
        (mg1_wait_tail, mg1_wait_tail_by_inversion),
        (mg1_sojourn_tail, mg1_sojourn_tail_by_inversion),
    ):
        truth = by_transform(
            t, arrival, mean, lambda s: (weights * rates / (rates + s[..., None])).sum(-1)
        )
        for time, value in zip(t, truth, strict=True):
            low, high = by_grid(arrival, grid, n_grid=8_000).at(time)
            assert low - 1e-7 <= value <= high + 1e-7


def test_a_cap_truncates_infinite_moments_and_says_how_much():
    # Pareto with index 1.5: E[S] = 3, E[S^2] infinite.
    means = []
    for n_grid in (2_000, 8_000):
        time = 0.05 * np.arange(n_grid)
        survival = np.minimum(np.maximum(time, 1.0) ** -1.5, 1.0)
        grid = service_grid(survival, 0.05)
        assert grid.truncated_mass == pytest.approx(grid.cap**-1.5)
        bounds = mg1_wait_tail(0.2, grid, n_grid=40_000)
        assert bounds.truncated_mass == grid.truncated_mass
        means.append(0.05 * bounds.lower.sum())
    # The mean wait grows with the square root of the cap, without a limit.
    assert means[1] > 1.5 * means[0]


# Draws


def test_draws_are_answered_one_by_one(monkeypatch):
    samples = np.random.default_rng(4).gamma(3.0, 0.3, size=(7, 100))
    rates = np.linspace(0.2, 0.9, 7)
    monkeypatch.setattr("bayeslat.queueing.waiting_tail.MAX_CELLS", 5_000)
    together = mg1_sojourn_tail(rates, service_grid_from_samples(samples, 0.02, 500), n_grid=900)
    assert together.lower.shape == together.upper.shape == (7, 900)
    for row, (rate, values) in enumerate(zip(rates, samples, strict=True)):
        alone = mg1_sojourn_tail(rate, service_grid_from_samples(values, 0.02, 500), n_grid=900)
        np.testing.assert_allclose(together.upper[row], alone.upper, atol=1e-12)
        np.testing.assert_allclose(together.lower[row], alone.lower, atol=1e-12)
        bounds = zip(together.quantile(0.9), alone.quantile(0.9), strict=True)
        assert all(many[row] == one for many, one in bounds)


def test_one_service_answers_many_rates():
    bounds = mg1_wait_tail([0.2, 0.5, 0.8], constant_service())
    assert bounds.lower.shape == (3, 400)
    assert np.all(np.diff(bounds.at(1.0)[0]) > 0.0)
    assert bounds.truncated_mass.shape == (3,)


def test_unstable_draws_are_one_and_infinite_and_the_others_are_not():
    bounds = mg1_wait_tail([0.5, 1.0, 3.0], constant_service())
    for tail in (bounds.lower, bounds.upper):
        np.testing.assert_array_equal(tail[1:], 1.0)
        assert tail[0, -1] < 0.01
    for side in bounds.quantile(0.9):
        np.testing.assert_array_equal(np.isinf(side), [False, True, True])
    for side in bounds.at(1e6):
        np.testing.assert_array_equal(side[1:], 1.0)


def test_beyond_the_grid_the_bounds_stay_bounds():
    bounds = mg1_wait_tail(0.9, constant_service(n_grid=200))
    low, high = bounds.at(50.0)
    assert low == 0.0 and high == bounds.upper[-1] > 0.0
    low, high = bounds.quantile(0.999)
    assert low == pytest.approx(2.0) and high == np.inf


def test_a_time_on_the_grid_is_not_rounded_away():
    bounds = mg1_wait_tail(0.9, constant_service(step=0.1, n_grid=100))
    for index in range(100):
        low, high = bounds.at(0.1 * index)
        assert low == bounds.lower[index] and high == bounds.upper[index]


@pytest.mark.parametrize(
    ("question", "match"),
    [
        (lambda: mg1_wait_tail(0.0, constant_service()), "arrival_rate=0"),
        (lambda: mg1_wait_tail(0.5, constant_service(), n_grid=0), "n_grid=0"),
        (
            lambda: mg1_sojourn_tail(
                [0.1, 0.2, 0.3], service_grid_from_samples(np.ones((2, 4)), 0.1, 30)
            ),
            "broadcast",
        ),
        (lambda: mg1_wait_tail(0.5, constant_service()).quantile(1.0), "level=1"),
        (lambda: mg1_wait_tail(0.5, constant_service()).at(-1.0), "t=-1"),
    ],
)
def test_impossible_arguments_are_refused(question, match):
    with pytest.raises(InputError, match=match) as refusal:
        question()
    assert "\n" not in str(refusal.value)
