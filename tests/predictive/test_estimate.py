import numpy as np
import pytest

from bayeslat.errors import InputError
from bayeslat.predictive import Estimate
from bayeslat.predictive.estimate import check_probability, estimate


def test_interval_is_equal_tailed():
    answer = estimate(0.4, np.linspace(0.0, 1.0, 101), 0.9)
    assert answer == pytest.approx((0.4, 0.05, 0.95))
    assert all(type(field) is float for field in answer)


def test_arrays_keep_their_shape():
    answer = estimate(np.zeros((2, 3)), np.random.default_rng(0).random((50, 2, 3)), 0.5)
    assert all(field.shape == (2, 3) for field in answer)


def test_interval_covers_the_mass_it_names():
    rng = np.random.default_rng(1)
    sample = rng.standard_normal(200_000)
    _, low, high = estimate(0.0, sample, 0.8)
    fresh = rng.standard_normal(200_000)
    # Both the bounds and the count are random: twice the variance of the count alone.
    error = np.sqrt(2 * 0.8 * 0.2 / 200_000)
    assert np.mean((fresh > low) & (fresh < high)) == pytest.approx(0.8, abs=4.5 * error)


def test_format_shows_value_and_interval():
    assert f"{Estimate(1.234, 1.0, 1.5):.2f}" == "1.23 [1.00, 1.50]"


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 90, float("nan")])
def test_probability_is_strictly_inside(value):
    with pytest.raises(InputError, match=f"risk={value}"):
        check_probability("risk", value)
