"""What statistical assertions about queues share."""

from collections.abc import Callable

import numpy as np
import pytest

from bayeslat.queueing import batch_means_error


@pytest.fixture
def assert_mean() -> Callable[..., None]:
    """Two gates: the Monte Carlo error is small enough to tell, and the mean is within 4 of it."""

    def check(values, expected, *, precision=0.03):
        values = np.asarray(values, dtype=float)
        error = batch_means_error(values)
        assert 0.0 < error < precision * expected, f"error {error}; simulate longer"
        assert abs(values.mean() - expected) < 4.0 * error

    return check
