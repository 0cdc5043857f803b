import numpy as np
import pytest
from scipy import integrate, stats

from bayeslat.noise import FAMILIES, NOISE_FEATURES, noise_features, standardise

SHAPES = {"student_t": [1.2, 2.5, 4.0, 50.0], "normal": [np.inf], "lognormal": [np.inf]}
CASES = [(name, nu) for name, values in SHAPES.items() for nu in values]


def standard(name, nu):
    return stats.t(nu) if name == "student_t" else stats.norm()


def test_family_is_known_by_its_name():
    assert set(FAMILIES) == set(SHAPES)
    assert all(family.name == name for name, family in FAMILIES.items())
    assert FAMILIES["student_t"].has_shape and not FAMILIES["normal"].has_shape
    assert FAMILIES["lognormal"].log_scale and not FAMILIES["student_t"].log_scale


@pytest.mark.parametrize(("name", "nu"), CASES)
def test_standard_variate_is_scipys(name, nu):
    family, reference = FAMILIES[name], standard(name, nu)
    z = np.linspace(-8.0, 8.0, 33)
    q = np.linspace(0.001, 0.999, 33)
    np.testing.assert_allclose(family.standard_sf(z, nu), reference.sf(z), rtol=1e-10)
    np.testing.assert_allclose(family.standard_pdf(z, nu), reference.pdf(z), rtol=1e-10)
    far = 100.0 * z  # where a normal density is zero in double precision
    np.testing.assert_allclose(family.standard_logpdf(far, nu), reference.logpdf(far), rtol=1e-10)
    np.testing.assert_allclose(family.standard_ppf(q, nu), reference.ppf(q), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("name", "nu"), CASES)
def test_variates_follow_the_distribution(name, nu):
    shape = np.full((4_000, 1), nu)
    z = FAMILIES[name].standard_rvs(shape, (4_000, 2), np.random.default_rng(5))
    assert z.shape == (4_000, 2)
    assert stats.kstest(z.ravel(), standard(name, nu).cdf).pvalue > 1e-4


@pytest.mark.parametrize(("name", "nu"), CASES)
@pytest.mark.parametrize("sigma", [0.05, 0.4, 2.0])
def test_moments_are_those_of_the_clipped_latency(name, nu, sigma):
    family, reference = FAMILIES[name], standard(name, nu)
    first, second = family.moments(np.array(sigma), np.array(nu))
    if name == "lognormal":
        for order, moment in ((1, first), (2, second)):
            assert moment == pytest.approx(stats.lognorm(sigma).moment(order), rel=1e-9)
        return
    for order, moment in ((1, first), (2, second)):
        if nu <= order:
            assert moment == np.inf
            continue

        def integrand(z, order=order):
            return (1.0 + sigma * z) ** order * reference.pdf(z)

        def far(u, integrand=integrand):
            return integrand(np.exp(u)) * np.exp(u)

        # The tail is integrated over log z: on z itself the quadrature does not converge.
        exact = integrate.quad(far, np.log(20.0), 200.0, limit=400)[0]
        for piece in ((-1.0 / sigma, 0.0), (0.0, 20.0)):
            exact += integrate.quad(integrand, *piece, limit=400)[0]
        assert moment == pytest.approx(exact, rel=1e-7)


def test_standardise_undoes_the_scale():
    for family, t in ((FAMILIES["normal"], 12.0), (FAMILIES["lognormal"], 10.0 * np.exp(0.2))):
        assert standardise(family, t, 10.0, 0.1) == pytest.approx(2.0)


def test_log_noise_follows_the_phase_and_the_tokens_of_each_phase():
    features = noise_features([16, 64, 1, 1, 256], [16, 64, 512, 4096, 512])
    expected = np.zeros((5, len(NOISE_FEATURES)))
    expected[1, 1] = np.log(4.0)  # a decode step of four times as many tokens
    expected[2:, 0] = 1.0  # a prompt is computed, be it the whole step or half of it
    expected[2:, 1] = [np.log(32) / 512, np.log(256) / 4096, 0.5 * np.log(32)]
    expected[3, 2] = 4095 / 4096 * np.log(8)  # a prefill of eight times as many
    np.testing.assert_allclose(features, expected, rtol=1e-12)
