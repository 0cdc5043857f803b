"""Expected information against exact Gaussian algebra, and against nested Monte Carlo."""

from dataclasses import replace

import numpy as np
import pytest
from by_steps import make_draws

from bayeslat.decisions.measuring.information import Belief
from bayeslat.decisions.measuring.sample_value import Outcomes
from bayeslat.predictive.draws import Points

N_PARTS, N_CANDIDATES = 2, 12


def exact_draws(covariance, n=400, seed=0):
    """Draws whose sample mean is zero and whose sample covariance is exactly the one given."""
    rng = np.random.default_rng(seed)
    raw = rng.standard_normal((n, len(covariance)))
    raw -= raw.mean(axis=0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw, rowvar=False))).T
    return white @ np.linalg.cholesky(covariance).T


def linear_belief(seed=0):
    """A linear model: parts, levels and scales are linear in few normals, with their covariance."""
    rng = np.random.default_rng(seed)
    size = N_PARTS + 2 * N_CANDIDATES
    maps = rng.normal(size=(size, 6))
    covariance = maps @ maps.T + 1e-6 * np.eye(size)
    joint = exact_draws(covariance)
    parts, level, scale = np.split(joint, [N_PARTS, N_PARTS + N_CANDIDATES], axis=1)
    kind = np.arange(N_CANDIDATES) // 2
    missing = rng.uniform(0.0, 1.0, N_CANDIDATES)
    noise, told = rng.uniform(0.1, 1.0, N_CANDIDATES), rng.uniform(0.5, 2.0, N_CANDIDATES)
    factors = np.empty((0, size))
    belief = Belief(parts, level, scale, missing, kind, noise, told, factors)
    same = kind[:, None] == kind
    levels = slice(N_PARTS, N_PARTS + N_CANDIDATES)
    covariance[levels, levels] += same * np.sqrt(np.outer(missing, missing))
    return belief, covariance


def posterior(covariance, rows, variances):
    """Covariance given measurements of some coordinates, by one dense solve."""
    rows = np.array(rows)
    measured = covariance[np.ix_(rows, rows)] + np.diag(variances)
    return covariance - covariance[:, rows] @ np.linalg.solve(measured, covariance[rows])


def nested(draws, values, points):
    """Expected variance by reweighted draws, with its Monte Carlo error over streams of noise."""
    found = []
    for seed in range(4):
        outcomes = Outcomes.of(draws, max_outcomes=200, seed=seed)
        for point in points:
            outcomes = outcomes.after(point)
        assert outcomes.effective_draws > 100
        found.append(outcomes.expected_variance(values)[0])
    return np.mean(found), np.std(found, ddof=1) / 2.0


def assert_near(expected, found, error):
    """Equal within five standard errors of the Monte Carlo and a tenth for the approximation."""
    assert abs(expected - found) < 5.0 * error + 0.1 * found


def mean_variance(covariance):
    return np.diag(covariance)[:N_PARTS].mean()


def test_levels_are_conditioned_as_a_conjugate_linear_model():
    belief, covariance = linear_belief()
    belief = replace(belief, told=np.zeros(N_CANDIDATES))
    chosen = [3, 8, 3, 2, 11]
    for count, j in enumerate(chosen):
        seen = chosen[:count]
        for candidate in range(N_CANDIDATES):
            rows = [N_PARTS + i for i in (*seen, candidate)]
            left = mean_variance(posterior(covariance, rows, belief.noise[[*seen, candidate]]))
            expected = belief.variance - belief.reductions[candidate]
            assert expected == pytest.approx(left, rel=1e-8)
        belief = belief.after(j)
        rows = [N_PARTS + i for i in chosen[: count + 1]]
        exact = mean_variance(posterior(covariance, rows, belief.noise[chosen[: count + 1]]))
        assert belief.variance == pytest.approx(exact, rel=1e-8)


def test_a_measurement_of_a_known_level_is_one_of_the_scale_too():
    belief, covariance = linear_belief(1)
    rows, variances = [], []
    for j in (4, 4, 7, 0):
        level = posterior(covariance, rows, variances) if rows else covariance
        unknown = level[N_PARTS + j, N_PARTS + j]
        told = belief.told[j] * (belief.noise[j] / (unknown + belief.noise[j])) ** 2
        rows += [N_PARTS + j, N_PARTS + N_CANDIDATES + j]
        variances += [belief.noise[j], 1.0 / told]
        exact = mean_variance(posterior(covariance, rows, variances))
        assert belief.variance - belief.reductions[j] == pytest.approx(exact, rel=1e-8)
        belief = belief.after(j)
        assert belief.variance == pytest.approx(exact, rel=1e-8)


def test_information_of_one_quantity_is_the_reduction_of_its_entropy():
    belief, covariance = linear_belief(2)
    own = replace(belief, parts=belief.parts[:, :1], factors=np.empty((0, 1 + 2 * N_CANDIDATES)))
    own = replace(own, told=np.zeros(N_CANDIDATES))
    entropy = 0.5 * np.log(2.0 * np.pi * np.e * covariance[0, 0])
    for j in (0, 5):
        left = posterior(covariance, [N_PARTS + j], own.noise[[j]])[0, 0]
        after = 0.5 * np.log(2.0 * np.pi * np.e * left)
        assert own.information[j] == pytest.approx(entropy - after, rel=1e-9)


def test_what_is_missed_does_not_average_out():
    belief, _ = linear_belief(3)
    missed = replace(belief, missing=np.full(N_CANDIDATES, 5.0), told=np.zeros(N_CANDIDATES))
    exact = replace(missed, missing=np.zeros(N_CANDIDATES))
    for _ in range(400):
        missed, exact = missed.after(6), exact.after(6)
    variance = np.cov(belief.level[:, 6])
    cross = np.array([np.cov(part, belief.level[:, 6])[0, 1] for part in belief.parts.T])
    # As if the level were measured once without noise but with what is missed.
    limit = belief.variance - np.mean(cross**2) / (variance + 5.0)
    assert missed.variance == pytest.approx(limit, rel=1e-3)
    assert exact.variance < limit


def test_scales_come_from_the_draws():
    draws = make_draws(300, family="student_t", nu=5.0, extended=True)
    points = Points(np.array([1.0, 8.0, 8.0]), np.array([1.0, 260.0, 260.0]), np.zeros(3),
                    np.array([1.0, 1.0, 10.0]))  # fmt: skip
    belief = Belief.of_draws(draws, np.log(draws.location(points)), points)
    mu, single = draws.location_and_scale(replace(points, n_averaged=1.0))
    _, mean = draws.location_and_scale(points)
    np.testing.assert_allclose(belief.level, np.log(mu) - np.log(mu).mean(axis=0))
    total = np.square(mean).mean(axis=0)
    efficiency = np.array([8.0 / 6.0, 8.0 / 6.0, 53.0 / 51.0])
    np.testing.assert_allclose(belief.noise / efficiency + belief.missing, total)
    np.testing.assert_allclose(belief.told, [10.0 / 8.0, 10.0 / 8.0, 100.0 / 53.0])
    assert belief.kind[1] == belief.kind[2] != belief.kind[0]
    assert np.square(single).mean(axis=0)[:2] == pytest.approx(total[:2])


def test_normal_noise_is_the_limit_of_many_degrees_of_freedom():
    point = Points(np.array([4.0]), np.array([100.0]), np.zeros(1))
    normal = make_draws(50, family="normal")
    heavy = make_draws(50, family="student_t", nu=1e9)
    values = np.log(normal.location(point))
    one, other = (Belief.of_draws(draws, values, point) for draws in (normal, heavy))
    assert one.noise == pytest.approx(other.noise, rel=1e-6)
    assert one.told == pytest.approx(2.0)
    assert one.information == pytest.approx(other.information, rel=1e-6)


@pytest.mark.parametrize("family", ["normal", "student_t", "lognormal"])
def test_expected_variance_is_that_of_nested_monte_carlo(family):
    """Draws reweighted with simulated outcomes, without any linear or Gaussian approximation."""
    nu = 6.0 if family == "student_t" else np.inf
    draws = make_draws(4_000, family=family, nu=nu, sigma=0.05, spread=0.1, extended=True)
    target = Points(np.array([2.0]), np.array([300.0]), np.array([600.0]))
    values = np.log(draws.location(target))
    candidates = Points(
        np.array([1.0, 2.0, 8.0, 16.0]),
        np.array([1.0, 256.0, 64.0, 600.0]),
        np.array([500.0, 256.0, 4_000.0, 600.0]),
        np.array([1.0, 1.0, 4.0, 1.0]),
    )
    belief = Belief.of_draws(draws, values, candidates)
    expected = belief.variance - belief.reductions
    for j in range(candidates.size):
        assert_near(expected[j], *nested(draws, values, [candidates[j : j + 1]]))
    first = int(np.argmax(belief.reductions))
    second = int(np.argmax(belief.after(first).reductions))
    both = [candidates[j : j + 1] for j in (first, second)]
    assert_near(belief.after(first).after(second).variance, *nested(draws, values, both))


def test_the_scale_of_the_noise_is_learnt_as_by_nested_monte_carlo():
    rng = np.random.default_rng(5)
    draws = make_draws(4_000, family="student_t", nu=5.0, spread=0.01)
    draws = replace(draws, sigma=0.05 * rng.lognormal(0.0, 0.25, draws.n_draws))
    values = np.log(draws.sigma)[:, None]
    point = Points(np.array([4.0]), np.array([200.0]), np.array([800.0]))
    belief = Belief.of_draws(draws, values, point)
    for _ in range(4):
        belief = belief.after(0)
    assert belief.variance < 0.9 * values.var()
    assert_near(belief.variance, *nested(draws, values, [point] * 4))
