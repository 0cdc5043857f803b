import numpy as np
import pytest

from bayeslat.engine import StepTimes


@pytest.fixture
def linear_times():
    """Step times that the table holds exactly: linear in B and S between any nodes."""

    def make(*, sigma=0.0, nu=np.inf, family="normal", batch=64, tokens=1024, context=1e-3):
        return StepTimes.from_function(
            lambda b, s: 2.0 + 0.5 * b + 0.01 * s,
            max_batch_size=batch,
            max_total_tokens=tokens,
            per_position_ms=context,
            sigma=sigma,
            nu=nu,
            family=family,
        )

    return make
