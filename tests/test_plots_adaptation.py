"""The picture of a drift holds what its history says, without a look at pixels."""

import numpy as np
import pandas as pd
import pytest

from bayeslat.errors import InputError
from bayeslat.plots.adaptation import EVENT_MARKS, HISTORY_COLUMNS, plot_adaptation

N = 40


def history(**changes: object) -> pd.DataFrame:
    """Forty rows with a change, a drift and an update."""
    events = [""] * N
    events[9], events[19], events[29] = "change", "drift settled", "accepted"
    table = pd.DataFrame(
        {
            "rows_seen": np.arange(1, N + 1),
            "ratio": np.linspace(0.9, 1.3, N),
            "rolling_ratio": np.linspace(1.0, 1.15, N),
            "lower": 0.9,
            "upper": 1.1,
            "coverage": np.linspace(0.9, 0.3, N),
            "evidence": np.linspace(0.0, 2.0, N),
            "version": 0,
            "events": events,
        }
    )
    return table.assign(**changes)


def upright(axes) -> list[float]:
    """Where vertical lines stand."""
    return sorted(line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1)


def test_all_panels_mark_what_happened_and_name_it_once():
    figure = plot_adaptation(history(), label="H100/llama-7b/tp1/simulated", title="Slower")
    assert len(figure.axes) == 3
    for axes in figure.axes:
        assert upright(axes) == [10, 20, 30]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    marked = [EVENT_MARKS[kind][0] for kind in ("drift", "accepted", "change")]
    assert [text for text in texts if text in marked] == marked
    assert "warning" not in texts and len(texts) == len(set(texts))
    assert "simulated data" in figure.get_suptitle() and "Slower" in figure.get_suptitle()


def test_the_panels_show_the_columns():
    told = history()
    ratio, coverage, evidence = plot_adaptation(told).axes
    points = ratio.collections[-1].get_offsets()
    assert np.asarray(points) == pytest.approx(told[["rows_seen", "ratio"]].to_numpy())
    assert ratio.lines[0].get_ydata() == pytest.approx(told["rolling_ratio"])
    assert coverage.lines[0].get_ydata() == pytest.approx(100.0 * told["coverage"])
    assert evidence.lines[0].get_ydata() == pytest.approx(told["evidence"])
    low, high = ratio.get_ylim()
    assert low < 0.9 and high > 1.25
    assert coverage.get_ylim()[0] < 30.0 and evidence.get_ylim()[1] > 2.0


def test_without_evidence_there_is_no_panel_of_it():
    figure = plot_adaptation(history(evidence=np.nan))
    assert len(figure.axes) == 2
    assert figure.axes[-1].get_xlabel() == "rows of this deployment"


@pytest.mark.parametrize("bad", [history().drop(columns="coverage"), history().head(0)])
def test_a_history_that_is_none_is_refused(bad):
    with pytest.raises(InputError, match=r"history: got .*, expected at least one row") as told:
        plot_adaptation(bad)
    assert all(name in str(told.value) for name in HISTORY_COLUMNS)
