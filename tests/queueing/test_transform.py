import numpy as np
import pytest

from bayeslat.errors import InputError
from bayeslat.queueing import (
    mg1_sojourn_tail_by_inversion,
    mg1_wait_tail_by_inversion,
    mmc_sojourn_tail,
    mmc_wait_tail,
)

T = np.array([0.0, 0.01, 0.5, 2.0, 10.0, 50.0])
ERROR = 5e-8
WEIGHTS, RATES = np.array([0.7, 0.3]), np.array([2.0, 0.5])


def hyperexponential_wait(t, arrival):
    """Closed form: two exponentials, from the zeros and residues of a rational transform."""
    idle = 1.0 - arrival * (WEIGHTS / RATES).sum()
    a, b = RATES
    numerator = np.poly1d([1.0, a]) * np.poly1d([1.0, b])
    transform = np.poly1d([WEIGHTS @ RATES, a * b])
    whole = np.poly1d([1.0, -arrival]) * numerator + arrival * transform
    # The transform of the wait is idle * s * numerator / whole, and zero is a root of `whole`.
    denominator = np.poly1d(whole.coeffs[:-1])
    tail = np.zeros_like(t)
    for root in denominator.roots:
        residue = idle * numerator(root) / denominator.deriv()(root)
        tail += residue / -root * np.exp(root * t)
    return tail


@pytest.mark.parametrize("rho", [0.1, 0.8, 0.99])
def test_exponential_service_is_m_m_1(rho):
    def transform(s):
        return 1.0 / (1.0 + s)

    wait = mg1_wait_tail_by_inversion(T, rho, 1.0, transform)
    np.testing.assert_allclose(wait, mmc_wait_tail(T, rho, 1.0), rtol=0, atol=ERROR)
    sojourn = mg1_sojourn_tail_by_inversion(T, rho, 1.0, transform)
    np.testing.assert_allclose(sojourn, mmc_sojourn_tail(T, rho, 1.0), rtol=0, atol=ERROR)


@pytest.mark.parametrize("rho", [0.3, 0.9])
def test_hyperexponential_service_has_its_closed_form(rho):
    mean = (WEIGHTS / RATES).sum()
    wait = mg1_wait_tail_by_inversion(
        T, rho / mean, mean, lambda s: (WEIGHTS * RATES / (RATES + s[..., None])).sum(axis=-1)
    )
    np.testing.assert_allclose(wait, hyperexponential_wait(T, rho / mean), rtol=0, atol=ERROR)


def test_draws_broadcast_through_the_transform():
    rates, arrival = np.array([1.0, 2.0, 3.0]), np.array([0.5, 1.0, 2.9])
    t = np.array([0.0, 1.0])[:, None]
    tail = mg1_wait_tail_by_inversion(t, arrival, 1.0 / rates, lambda s: rates / (rates + s))
    assert tail.shape == (2, 3)
    np.testing.assert_allclose(tail, mmc_wait_tail(t, arrival, rates), rtol=0, atol=ERROR)


def test_unstable_elements_are_one():
    tail = mg1_wait_tail_by_inversion(2.0, [0.5, 1.0, 2.0], 1.0, lambda s: 1.0 / (1.0 + s))
    np.testing.assert_array_equal(tail[1:], 1.0)
    assert tail[0] == pytest.approx(mmc_wait_tail(2.0, 0.5, 1.0), abs=ERROR)
    assert type(mg1_wait_tail_by_inversion(2.0, 0.5, 1.0, lambda s: 1.0 / (1.0 + s))) is float


def test_impossible_arguments_are_refused():
    with pytest.raises(InputError, match="t=-1"):
        mg1_wait_tail_by_inversion(-1.0, 0.5, 1.0, np.exp)
    with pytest.raises(InputError, match="mean_service=0"):
        mg1_sojourn_tail_by_inversion(1.0, 0.5, 0.0, np.exp)
