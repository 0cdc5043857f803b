import numpy as np
import pytest
from exact_gate import random_draws

from bayeslat.decisions import StepSpace, contours
from bayeslat.decisions.step_contours import contours_of, level_lines
from bayeslat.errors import InputError
from bayeslat.predictive import LatencyDistribution


def test_a_line_lies_where_a_plane_has_the_level():
    x, y = np.array([0.0, 1.0, 3.0]), np.array([0.0, 2.0, 5.0])
    (line,) = level_lines(x, y, 2.0 * x[:, None] + y, 4.0)
    np.testing.assert_allclose(2.0 * line[:, 0] + line[:, 1], 4.0)
    assert level_lines(x, y, 2.0 * x[:, None] + y, 100.0) == []


def test_cells_with_a_missing_corner_hold_no_line():
    x = y = np.arange(4.0)
    values = np.add.outer(x, y)
    values[0, 3] = np.nan
    (line,) = level_lines(x, y, values, 2.5)
    assert line[:, 1].max() <= 2.0
    assert level_lines(x, y, np.full((4, 4), np.nan), 2.5) == []


def test_grids_are_those_of_the_predictive_distribution():
    draws = random_draws(1)
    found = contours(
        draws, batch_sizes=[8, 2], total_tokens=[4, 50], sla_ms=20.0, context_per_request=30.0
    )
    assert list(found.batch_size) == [2.0, 8.0]
    assert np.isnan(found.mean_ms[1, 0]), "S < B"
    latency = LatencyDistribution(draws, np.array(2), np.array(50), np.array(60))
    assert found.mean_ms[0, 1] == pytest.approx(latency.mean())
    assert found.median_ms[0, 1] == pytest.approx(latency.median())
    assert found.quantile_ms[0, 1] == pytest.approx(latency.ppf(0.99))
    assert found.p_exceeds[0, 1] == pytest.approx(latency.sf(20.0))


def test_lines_of_a_quantity_have_its_level():
    draws, space = random_draws(1), StepSpace(32, 500)
    found = contours_of(draws, space, sla_ms=20.0, n=20)
    (line,) = found.lines("mean_ms", 15.0)
    mean = LatencyDistribution(draws, line[:, 0], line[:, 1], 0.0 * line[:, 0]).mean()
    np.testing.assert_allclose(mean, 15.0, rtol=0.02)  # the grid is coarse
    with pytest.raises(InputError, match="quantity"):
        found.lines("max_ms", 15.0)


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        ({"sla_ms": 0.0}, "sla_ms"),
        ({"sla_ms": np.inf}, "sla_ms"),
        ({"quantile": 1.0}, "quantile"),
        ({"total_tokens": [1]}, "S >= B"),
        ({"batch_sizes": [0, 8]}, "batch_size"),
    ],
)
def test_bad_grids_are_one_line(arguments, about):
    question = {"batch_sizes": [2, 8], "total_tokens": [10, 20], "sla_ms": 20.0} | arguments
    with pytest.raises(InputError, match=about):
        contours(random_draws(1), **question)
