import math

import numpy as np
import pytest

from bayeslat import queueing
from bayeslat.decisions.queues import posterior_queue
from bayeslat.decisions.services import BatchService, batch_service
from bayeslat.decisions.serving import StepOverhead
from bayeslat.errors import InputError
from bayeslat.predictive import DeploymentDraws
from bayeslat.schema import Deployment

LEVELS = (0.5, 0.9, 0.99)


def make_draws(latency_ms, *, family="lognormal", sigma=0.0):
    """Draws in which every step takes this long."""
    n = len(latency_ms)
    parameters = {"P_max": np.full(n, 1e9), "k_S": np.full(n, 1.0), "w_1": np.full(n, 1.0)}
    parameters["tau_0"] = np.asarray(latency_ms, dtype=float)
    sigmas, nu = np.full(n, sigma), np.full(n, np.inf)
    return DeploymentDraws(Deployment("H100-80GB", "llama-7b"), parameters, sigmas, nu, family)


def service_of(draws, **options):
    """Service of one step, whose noise is new every time."""
    question = {"prompt_tokens": 10, "output_tokens": 1, "overhead": StepOverhead(0.0)}
    return batch_service(draws, **(question | {"repeated_share": 0.0} | options))


def of_samples(samples, *, square=None):
    """A service whose samples are given, shape (draw, replicate)."""
    samples = np.asarray(samples, dtype=float)[:, None, :]
    second = np.square(samples).mean(axis=2) if square is None else np.reshape(square, (-1, 1))
    cap = 20.0 * np.median(samples, axis=(0, 2))
    return BatchService(samples, samples.mean(axis=2), second, cap, 0.0)


def md1_wait_sf(t, rate, service):
    """P(W > t) of M/D/1 (Erlang, 1909)."""
    u = rate * (t - service * np.arange(int(t / service) + 1))
    terms = [(-x) ** k / math.factorial(k) * math.exp(x) for k, x in enumerate(u)]
    return 1.0 - (1.0 - rate * service) * math.fsum(terms)


def test_without_noise_and_spread_it_is_the_queue_of_constant_services():
    queue = posterior_queue(service_of(make_draws([10.0] * 5)), arrivals_per_s=70.0)
    assert queue.probability_unstable == 0.0
    np.testing.assert_allclose(queue.utilisation, 0.7)
    assert queue.mean_wait_ms().value == pytest.approx(0.07 * 100.0 / (2.0 * 0.3))
    for t in (0.0, 5.0, 10.0, 25.0, 60.0, 105.0):
        exact = md1_wait_sf(t, 0.07, 10.0)
        found = queue.wait_sf(t)
        assert found.lower <= exact <= found.upper
        assert found.value == pytest.approx(exact, abs=0.01)
        if t >= 10.0:  # the answer is the wait and a constant
            late = queue.sojourn_sf(t + 10.0)
            assert late.lower <= exact <= late.upper
    assert queue.sojourn_sf(9.0).lower > 1.0 - 1e-6
    for q in LEVELS:
        found = queue.sojourn_ppf(q)
        assert found.lower <= found.value <= found.upper < found.lower * 1.15
        assert md1_wait_sf(found.lower - 10.2, 0.07, 10.0) > 1.0 - q if q > 0.5 else True
        assert md1_wait_sf(found.upper - 9.8, 0.07, 10.0) < 1.0 - q


def test_the_mean_wait_is_that_of_pollaczek_and_khinchine():
    latency = np.array([5.0, 8.0, 10.0, 12.0])
    queue = posterior_queue(
        service_of(make_draws(latency, family="normal", sigma=0.2)), arrivals_per_s=60.0
    )
    rho = 0.06 * latency
    by_hand = 0.06 * latency**2 * (1.0 + 0.2**2) / (2.0 * (1.0 - rho))
    np.testing.assert_allclose(queue.mean_wait, by_hand, rtol=1e-5)
    np.testing.assert_allclose(queue.utilisation, rho, rtol=1e-6)
    found = queue.mean_wait_ms(credible=0.5)
    assert found == pytest.approx((by_hand[1], by_hand[0], by_hand[2]), rel=1e-5)
    assert queue.load().value == pytest.approx(rho.mean())


def test_quantiles_of_every_draw_agree_with_a_simulation():
    rng = np.random.default_rng(3)
    samples = rng.gamma(2.0, [[4.0], [5.0], [6.0]], size=(3, 400))
    service = of_samples(samples)
    queue = posterior_queue(service, arrivals_per_s=60.0)
    n = 2_000_000
    arrivals = queueing.poisson_arrivals(0.06, n, rng)
    for draw in range(3):
        events = queueing.simulate_servers(arrivals, rng.choice(samples[draw], n))
        time = (events.finish - arrivals)[n // 20 :]
        lower, upper = queue.sojourn.quantile(0.99)
        assert upper[draw] < 1.1 * lower[draw]
        for q in LEVELS:
            low, high = (side[draw] for side in queue.sojourn.quantile(q))
            for bound, sign in ((low, -1.0), (high, 1.0)):
                late = time > bound
                error = queueing.batch_means_error(late)
                assert error < 0.1 * (1.0 - q)
                assert sign * (late.mean() - (1.0 - q)) < 4.0 * error


def test_the_answer_is_the_mixture_over_draws():
    service = of_samples(np.random.default_rng(0).gamma(4.0, [[1.0], [2.0], [3.0]], (3, 300)))
    queue = posterior_queue(service, arrivals_per_s=50.0)
    value = queue.sojourn_ppf(0.9).value
    alone = [posterior_queue(of_samples(service.samples[d]), arrivals_per_s=50.0) for d in range(3)]
    tails = [queue.sojourn_sf(value).value] + [
        np.mean([one.sojourn_sf(value + shift).value for one in alone]) for shift in (-0.3, 0.3)
    ]
    assert tails[0] <= 0.1 + 1e-9
    assert tails[2] < 0.1 < tails[1]


# Draws that differ


def test_draws_of_which_some_are_unstable():
    latency = np.linspace(8.0, 12.0, 41)
    queue = posterior_queue(service_of(make_draws(latency)), arrivals_per_s=100.0)
    unstable = latency >= 10.0
    assert queue.probability_unstable == pytest.approx(unstable.mean())
    np.testing.assert_array_equal(np.isinf(queue.mean_wait), unstable)
    assert queue.mean_wait_ms().value == np.inf  # more than half of the draws
    assert queue.sojourn_ppf(0.99).value == queue.sojourn_ppf(0.99).upper == np.inf
    assert np.isfinite(queue.sojourn_ppf(0.3).value)
    assert np.isfinite(queue.sojourn_ppf(0.5).lower)
    assert queue.wait_sf(1e4).value >= unstable.mean()
    np.testing.assert_array_equal(queue.wait.at(1e9)[0], unstable.astype(float))


def test_arrivals_may_be_draws_too():
    service = service_of(make_draws([10.0] * 3))
    together = posterior_queue(service, arrivals_per_s=[20.0, 50.0, 80.0])
    np.testing.assert_array_equal(together.arrivals_per_s, [20.0, 50.0, 80.0])
    np.testing.assert_allclose(together.utilisation, [0.2, 0.5, 0.8])
    lower, upper = together.sojourn.quantile(0.99)
    for draw, rate in enumerate([20.0, 50.0, 80.0]):
        alone = posterior_queue(service, arrivals_per_s=rate)
        assert alone.sojourn.quantile(0.99)[0][draw] == lower[draw]
        assert alone.sojourn.quantile(0.99)[1][draw] == upper[draw]
        assert alone.mean_wait[draw] == together.mean_wait[draw]


def test_intervals_widen_with_the_spread_of_parameters():
    levels = (np.arange(40) + 0.5) / 40 - 0.5
    widths = []
    for spread in (0.0, 0.1, 0.4):
        queue = posterior_queue(
            service_of(make_draws(10.0 * np.exp(spread * levels))), arrivals_per_s=60.0
        )
        found = queue.sojourn_ppf(0.99), queue.mean_wait_ms(), queue.load(), queue.wait_sf(30.0)
        widths.append([one.upper - one.lower for one in found])
    assert (np.diff(widths, axis=0) > 0.0).all()
    assert widths[0][2] == 0.0


def test_a_second_moment_without_end_makes_the_mean_wait_infinite_and_no_quantile():
    samples = np.random.default_rng(0).uniform(5.0, 15.0, (2, 200))
    queue = posterior_queue(of_samples(samples, square=[np.inf, np.inf]), arrivals_per_s=50.0)
    assert queue.mean_wait_ms().value == np.inf
    assert queue.sojourn_ppf(0.99).upper < 100.0


# Wrong questions


def test_a_load_that_no_draw_sustains_is_refused_in_one_line():
    service = service_of(make_draws([10.0, 12.0]))
    with pytest.raises(InputError, match=r"load of 1\.00 or more in every draw.*100/s") as fault:
        posterior_queue(service, arrivals_per_s=100.0)
    assert "\n" not in str(fault.value)
    assert posterior_queue(service, arrivals_per_s=99.0).probability_unstable == 0.5


@pytest.mark.parametrize("rate", [0.0, -1.0, np.nan, np.inf, [1.0], [1.0, 2.0, 0.0], np.ones(200)])
def test_wrong_arrivals_are_refused_in_one_line(rate):
    service = service_of(make_draws([1.0, 1.0, 1.0]))
    with pytest.raises(InputError, match="arrivals_per_s") as fault:
        posterior_queue(service, arrivals_per_s=rate)
    assert "\n" not in str(fault.value)


def test_wrong_levels_are_refused():
    queue = posterior_queue(service_of(make_draws([1.0])), arrivals_per_s=10.0)
    for ask in (
        lambda: queue.sojourn_ppf(1.0),
        lambda: queue.sojourn_ppf(0.5, credible=0.0),
        lambda: queue.wait_sf(-1.0),
        lambda: queue.mean_wait_ms(credible=2.0),
    ):
        with pytest.raises(InputError):
            ask()
