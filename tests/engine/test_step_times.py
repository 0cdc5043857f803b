import numpy as np
import pytest

from bayeslat.engine import StepTimes, nodes
from bayeslat.errors import InputError


@pytest.mark.parametrize(("low", "high"), [(1, 1), (1, 5), (0, 40), (1, 256), (0, 16_384)])
def test_nodes_cover_the_range_every_number_first_and_then_five_per_cent_apart(low, high):
    found = nodes(low, high)
    assert found[0] == low and found[-1] >= high and found.size >= 2
    steps = np.diff(found)
    assert (steps >= 1).all()
    near = found[:-1] - low <= 19
    assert (steps[near] == 1).all()
    far = found[:-1][~near]
    assert (steps[~near] <= np.ceil(0.06 * (far - low)) + 1).all()


def test_places_interpolate_linearly():
    times = StepTimes.from_function(
        lambda b, s: 1.0 + 2.0 * b + 0.5 * s, max_batch_size=300, max_total_tokens=5_000
    )
    rows, columns = times.places()
    batch, extra = np.arange(1, 301), np.arange(5_001)
    for places, values, at in (
        (rows, batch, times.batch_nodes),
        (columns, extra, times.extra_nodes),
    ):
        below, weight = places[0, values].astype(int), places[1, values]
        assert (weight >= 0.0).all() and (weight <= 1.0).all()
        np.testing.assert_allclose(at[below] * (1 - weight) + at[below + 1] * weight, values)


@pytest.mark.parametrize(
    "change",
    [
        {"family": "cauchy"},
        {"sigma": -0.1},
        {"per_position_ms": np.nan},
    ],
)
def test_wrong_tables_are_refused(change):
    with pytest.raises(InputError, match="expected"):
        StepTimes.from_function(lambda b, s: b + s, max_batch_size=4, max_total_tokens=4, **change)
