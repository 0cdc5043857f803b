"""The picture of a calibration holds what its places say, without a look at pixels."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from bayeslat.evaluation.calibration import CalibrationResult
from bayeslat.plots.calibration import plot_calibration
from bayeslat.plots.style import ACCENT

NAMES = ("quantities[floor, x]", "quantities[floor, y]", "quantities[slope, x]", "nu_excess")
N = 60


@pytest.fixture(scope="module")
def result() -> CalibrationResult:
    place = np.random.default_rng(0).random((N, len(NAMES)))
    place[:, 1] **= 4
    ones = np.ones(N)
    draws = np.full(place.shape, 100)
    return CalibrationResult(NAMES, place, draws, ones > 0, ones, ones.astype(int), ones)


@pytest.fixture(scope="module")
def figure(result):
    return plot_calibration(result, title="Truths")


def test_each_variable_has_a_panel_and_each_member_a_line(figure):
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["floor (2)", "slope", "nu_excess"]
    assert [len(axes.lines) - 1 for axes in figure.axes] == [2, 1, 1]  # less the zero line


def test_lines_are_the_distribution_less_the_uniform_one(figure, result):
    at, found = figure.axes[2].lines[1].get_data()
    expected = [(result.place[:, 3] <= point).mean() - point for point in at]
    np.testing.assert_allclose(found, expected)


def test_what_leaves_the_band_is_marked(figure):
    colours = [to_hex(line.get_color()).upper() for line in figure.axes[0].lines[1:]]
    assert [colour == ACCENT.upper() for colour in colours] == [False, True]
    assert "Truths" in figure.get_suptitle() and "1 of 4 lines refused" in figure.get_suptitle()
