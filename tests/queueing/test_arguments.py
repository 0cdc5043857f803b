import numpy as np
import pytest
from scipy import signal

from bayeslat.errors import InputError
from bayeslat.queueing import batch_means_error
from bayeslat.queueing.arguments import bisect, check_moments


def test_error_of_independent_values_is_that_of_the_mean():
    values = np.random.default_rng(0).normal(size=(64_000, 3)) * [1.0, 2.0, 3.0]
    error = batch_means_error(values, batches=1_000)
    # The relative error of a standard deviation from n values is 1 / sqrt(2 n).
    np.testing.assert_allclose(error, np.array([1.0, 2.0, 3.0]) / np.sqrt(64_000), rtol=0.1)


def test_error_of_correlated_values_is_larger():
    noise = np.random.default_rng(1).normal(size=640_000)
    series = signal.lfilter([1.0], [1.0, -0.9], noise)
    expected = 1.0 / (1.0 - 0.9) / np.sqrt(series.size)
    assert batch_means_error(series, batches=1_000) == pytest.approx(expected, rel=0.1)
    assert series.std() / np.sqrt(series.size) < 0.3 * expected


def test_the_beginning_is_left_out_where_batches_do_not_fit():
    values = np.r_[1e9, np.arange(6.0)]
    assert batch_means_error(values, batches=2) == pytest.approx(1.5)


@pytest.mark.parametrize(("n", "batches"), [(10, 11), (10, 1), (10, 2.5), (0, 2)])
def test_too_few_values_are_refused(n, batches):
    with pytest.raises(InputError, match="expected"):
        batch_means_error(np.zeros(n), batches=batches)


def test_bisection_is_elementwise():
    targets = np.array([0.1, 1.0, 7.3])
    found = bisect(lambda t: targets - t**2, np.zeros(3), np.full(3, 10.0))
    np.testing.assert_allclose(found, np.sqrt(targets), rtol=1e-14)


def test_moments_of_a_constant_pass_and_a_variance_in_their_place_does_not():
    mean = np.array([0.1, 1.0, 3.3e-3])
    check_moments(mean, mean**2, mean**3)
    with pytest.raises(InputError, match="not the variance"):
        check_moments(mean, 0.5 * mean**2)
    with pytest.raises(InputError, match="third_moment"):
        check_moments(mean, 2.0 * mean**2, 3.0 * mean**3)
