import numpy as np
import pytest
from stand_in_contenders import Lognormal

import bayeslat as bl
from bayeslat.evaluation.backtesting import backtest
from bayeslat.evaluation.splits import SplitSettings
from bayeslat.plots import plot_backtest


@pytest.fixture(scope="module")
def found():
    log = bl.validate_steps(bl.simulate_fleet(rows_per_deployment=40).steps)
    contenders = [Lognormal("bayeslat"), Lognormal("another")]
    return backtest(log, ["points", "new-gpu"], contenders, settings=SplitSettings(few=(0, 5)))


def test_every_contender_has_a_row_and_every_deployment_a_point(found):
    figure = plot_backtest(found, "new-gpu")
    assert len(figure.axes) == 4
    errors = figure.axes[0]
    assert [text.get_text() for text in errors.get_yticklabels()] == ["bayeslat", "another"]
    assert [text.get_fontweight() for text in errors.get_yticklabels()] == ["bold", "normal"]
    assert [points.get_offsets().shape[0] for points in errors.collections] == [9, 9]
    median = found.medians("new-gpu").set_index(["contender", "k"])["mape"]
    bar = errors.lines[0].get_xdata()
    np.testing.assert_allclose(bar, median["another", 0.0])
    assert "simulated data" in figure.get_suptitle()


def test_a_split_without_known_steps_is_one_row(found):
    assert len(plot_backtest(found, "points").axes) == 2
