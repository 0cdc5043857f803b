import numpy as np
import pytest
from scipy import stats

from bayeslat import discrepancy
from bayeslat.discrepancy import (
    GRID,
    LENGTH_SCALES,
    MAX_CENTRES,
    MAX_MISSING,
    POWER_SPREAD,
    Basis,
    Discrepancy,
    basis_for,
    unknown_powers,
)


def steps(n=300, *, seed=0, most=16_384):
    """Decode steps and prefills, log-uniform in size."""
    rng = np.random.default_rng(seed)
    batch = np.round(np.exp(rng.uniform(0.0, np.log(256.0), n)))
    tokens = np.round(
        batch * np.exp(rng.uniform(0.0, np.log(most / batch)) * (rng.random(n) < 0.5))
    )
    return batch, tokens


def slow_kernel(left, right):
    """Correlation of two steps, each (B, S), written down again."""
    share = (1.0 - left[0] / left[1]) - (1.0 - right[0] / right[1])
    size = np.log(left[1]) - np.log(right[1])
    return np.exp(-0.5 * ((size / LENGTH_SCALES[0]) ** 2 + (share / LENGTH_SCALES[1]) ** 2))


def slow_matrix(left, right):
    return np.array([[slow_kernel(a, b) for b in right] for a in left])


def centres_of(batch, tokens):
    return np.stack([np.log(tokens), 1.0 - batch / tokens], axis=1)


CENTRES = [(1.0, 1.0), (32.0, 32.0), (256.0, 256.0), (1.0, 100.0), (2.0, 2_000.0), (30.0, 80.0)]


def test_features_reproduce_the_kernel_at_the_centres():
    batch, tokens = np.array(CENTRES).T
    features = Basis(centres_of(batch, tokens)).features(batch, tokens)
    np.testing.assert_allclose(
        features @ features.T, slow_matrix(CENTRES, CENTRES), rtol=0.0, atol=1e-7
    )


def test_features_are_the_projection_on_the_centres_elsewhere():
    batch, tokens = steps(40)
    basis = Basis(centres_of(*np.array(CENTRES).T))
    features = basis.features(batch, tokens)
    cross = slow_matrix(np.stack([batch, tokens], axis=1), CENTRES)
    inside = slow_matrix(CENTRES, CENTRES)
    projected = cross @ np.linalg.solve(inside, cross.T)
    np.testing.assert_allclose(features @ features.T, projected, rtol=0.0, atol=1e-6)
    missing = basis.missing(features)
    np.testing.assert_allclose(missing, 1.0 - np.diag(projected), rtol=0.0, atol=1e-6)


def test_missing_is_a_share_from_none_at_the_centres_to_all_far_away():
    batch, tokens = steps()
    basis = basis_for(batch, tokens)
    missing = basis.missing(basis.features(batch, tokens))
    assert (missing >= 0.0).all() and (missing <= 1.0).all()
    at_centres = 1.0 - np.square(
        Basis(basis.centres).features(
            (1.0 - basis.centres[:, 1]) * np.exp(basis.centres[:, 0]), np.exp(basis.centres[:, 0])
        )
    ).sum(axis=1)
    np.testing.assert_allclose(at_centres, 0.0, atol=1e-6)
    far = basis.features(np.array([1.0]), np.array([1e9]))
    np.testing.assert_allclose(far, 0.0, atol=1e-12)
    assert basis.missing(far)[0] == 1.0


def test_missing_grows_beyond_the_data():
    basis = basis_for(*steps(most=2_000))
    tokens = np.geomspace(4_000.0, 1e6, 40)
    missing = basis.missing(basis.features(np.ones(40), tokens))
    assert (np.diff(missing) >= 0.0).all() and missing[-1] > 0.999
    # The first point is a factor of two, one length scale, beyond the last step: with a centre
    # there the correlation is exp(-1/2).
    assert missing[0] < 1.0 - np.exp(-1.0) + 0.01


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n", [1, 2, 10, 3_000])
def test_centres_cover_the_measured_steps(n, seed):
    batch, tokens = steps(n, seed=seed)
    basis = basis_for(batch, tokens)
    assert 1 <= basis.size <= min(n, MAX_CENTRES)
    missing = basis.missing(basis.features(batch, tokens))
    # In the process's own metric a step lies at most so far from its neighbour on the grid,
    # and the square root of what is missing is a distance.
    half = 0.5 * GRID / np.array(LENGTH_SCALES)
    apart = np.sqrt(2.0 * (1.0 - np.exp(-0.5 * np.square(half).sum())))
    if basis.size < MAX_CENTRES:
        assert np.sqrt(missing.max()) <= np.sqrt(MAX_MISSING) + apart
    rounded = np.round(centres_of(batch, tokens) / GRID) * GRID
    inside = {tuple(point) for point in np.round(rounded, 9)}
    assert {tuple(point) for point in np.round(basis.centres, 9)} <= inside


def test_centres_stop_at_their_greatest_number():
    batch = np.repeat(np.exp(np.arange(0.0, 40.0)), 2)
    tokens = batch * np.tile([1.0, 1e3], 40)
    assert basis_for(batch, tokens).size == MAX_CENTRES


def test_repeated_steps_need_one_centre():
    basis = basis_for(np.full(50, 8.0), np.full(50, 512.0))
    assert basis.size == 1
    features = basis.features(np.array([8.0]), np.array([512.0]))
    assert abs(features[0, 0]) == pytest.approx(1.0, abs=2e-3)


def test_no_steps_have_no_features():
    basis = basis_for(np.empty(0), np.empty(0))
    features = basis.features(np.array([4.0, 4.0]), np.array([4.0, 64.0]))
    assert basis.size == 0 and features.shape == (2, 0)
    np.testing.assert_array_equal(basis.missing(features), 1.0)
    assert Basis.from_json(basis.to_json()).centres.shape == (0, 2)


def test_no_points_give_no_rows():
    assert basis_for(*steps()).features(np.empty(0), np.empty(0)).shape[0] == 0


def test_json_keeps_the_basis():
    batch, tokens = steps()
    basis = basis_for(batch, tokens, length_scales=(0.5, 0.25))
    again = Basis.from_json(basis.to_json())
    np.testing.assert_array_equal(again.centres, basis.centres)
    assert again.length_scales == basis.length_scales == (0.5, 0.25)
    np.testing.assert_array_equal(again.features(batch, tokens), basis.features(batch, tokens))


def test_many_points_have_the_features_of_each(monkeypatch):
    batch, tokens = steps(1_000)
    basis = basis_for(batch, tokens)
    whole = basis.features(batch, tokens)
    monkeypatch.setattr(discrepancy, "CHUNK", 64)
    np.testing.assert_allclose(basis.features(batch, tokens), whole, rtol=0.0, atol=1e-12)


def test_draws_of_the_discrepancy_are_taken_together():
    rng = np.random.default_rng(0)
    basis = basis_for(*steps())
    weights, power = rng.normal(size=(10, basis.size)), rng.normal(size=10)
    whole = Discrepancy(basis, weights, rng.random(10), power, (4.0, 512.0))
    part = whole.take(np.array([7, 7, 0]))
    assert part.basis is basis and part.reach == whole.reach
    np.testing.assert_array_equal(part.power, power[[7, 7, 0]])
    np.testing.assert_array_equal(part.weights, whole.weights[[7, 7, 0]])
    np.testing.assert_array_equal(part.scale, whole.scale[[7, 7, 0]])


def test_prior_draws_have_the_kernel_as_their_covariance():
    """delta = phi . w plus the missing share, w standard normal: variance one everywhere."""
    batch, tokens = np.array([(1.0, 1.0), (8.0, 8.0), (1.0, 64.0), (4.0, 4_096.0)]).T
    basis = basis_for(*steps())
    features = basis.features(batch, tokens)
    n = 200_000
    rng = np.random.default_rng(5)
    delta = rng.standard_normal((n, basis.size)) @ features.T
    delta += rng.standard_normal((n, 4)) * np.sqrt(basis.missing(features))
    exact = slow_matrix(*(2 * [list(zip(batch, tokens, strict=True))]))
    # Entries of a sample covariance of unit variances have standard errors up to sqrt(2 / n);
    # what is missing also takes its share of the correlations.
    room = 4.5 * np.sqrt(2.0 / n) + basis.missing(features).max()
    np.testing.assert_allclose(np.cov(delta.T), exact, rtol=0.0, atol=room)


def test_beyond_what_was_measured_a_power_is_unknown():
    basis = basis_for(*steps())
    weights, power = 0.05 * np.ones((4, basis.size)), np.array([-0.2, 0.0, 0.1, 0.3])
    plain = Discrepancy(basis, weights, np.ones(4))
    wide = Discrepancy(basis, weights, np.ones(4), power, reach=(8.0, 1_024.0))
    tokens = np.array([1.0, 4.0, 8.0, 100.0, 1_024.0, 2_048.0, 8_192.0])
    batch = np.ones(tokens.size)
    delta, more = (each.loadings @ each.features(batch, tokens).T for each in (plain, wide))
    beyond = np.array([-np.log(8.0), -np.log(2.0), 0.0, 0.0, 0.0, np.log(2.0), np.log(8.0)])
    np.testing.assert_allclose(more - delta, power[:, None] * beyond, atol=1e-14)
    np.testing.assert_array_equal(
        wide.missing(wide.features(batch, tokens)), plain.missing(plain.features(batch, tokens))
    )


def test_unknown_powers_are_quantiles_of_their_normal():
    powers = unknown_powers(999, seed=3)
    levels = stats.norm.cdf(np.sort(powers), scale=POWER_SPREAD)
    np.testing.assert_allclose(levels, (np.arange(999) + 0.5) / 999, atol=1e-12)
    assert abs(np.corrcoef(powers, np.arange(999))[0, 1]) < 0.13  # four standard errors
    np.testing.assert_array_equal(powers, unknown_powers(999, seed=3))
