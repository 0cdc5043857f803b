"""Pictures of the diagnostics, by what is in them and not by their pixels."""

import numpy as np
import pandas as pd
import pytest

from bayeslat.evaluation.comparison import Comparison, Difference
from bayeslat.evaluation.predictive_checks import STATISTICS, Replicated
from bayeslat.evaluation.sensitivity import AXES, SensitivityGrid
from bayeslat.plots.diagnostics import (
    plot_comparison,
    plot_pit_bands,
    plot_replicated,
    plot_residuals,
    plot_sensitivity,
)
from bayeslat.predictive import Estimate


def legend_texts(figure) -> set[str]:
    return {text.get_text() for legend in figure.legends for text in legend.get_texts()}


def curves(difference: float) -> pd.DataFrame:
    at = np.linspace(0.01, 0.99, 99)
    half = 0.1 * np.sqrt(at * (1 - at))
    return pd.DataFrame(
        {"deployment": "a/b/tp1/simulated", "at": at, "difference": difference * at * (1 - at),
         "lower": -half, "upper": half}
    )  # fmt: skip


def test_a_curve_is_marked_where_it_leaves_its_band():
    def outside(figure) -> int:
        [axes] = figure.axes
        [line] = [line for line in axes.lines if line.get_label() == "outside"]
        return int(np.isfinite(np.asarray(line.get_ydata(), dtype=float)).sum())

    assert outside(plot_pit_bands(curves(0.01))) == 0
    wrong = plot_pit_bands(curves(0.5))
    assert outside(wrong) > 0
    assert "simulated data" in wrong.get_suptitle()
    assert any("band" in text for text in legend_texts(wrong))


def residuals(*, timed: bool) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    batch = np.repeat([1.0, 8.0, 64.0], 20)
    tokens = np.where(np.arange(60) % 2, batch, 4.0 * batch)
    return pd.DataFrame(
        {
            "deployment": "a/b/tp1",
            "batch_size": batch,
            "total_tokens": tokens,
            "context_tokens": 10.0 * tokens,
            "timestamp": 1e9 + np.arange(60) if timed else np.nan,
            "fitted": 5.0 + tokens,
            "z": rng.standard_normal(60),
        }
    )


@pytest.mark.parametrize(("timed", "panels"), [(False, 4), (True, 5)])
def test_residuals_are_drawn_against_time_where_there_is_one(timed, panels):
    figure = plot_residuals(residuals(timed=timed))
    assert len(figure.axes) == panels
    assert ("time (s)" in {axes.get_xlabel() for axes in figure.axes}) == timed
    assert {"decode step", "step with a prompt"} < legend_texts(figure)
    assert figure.axes[-1].get_title() == "against a normal"


def test_replications_show_what_lies_outside():
    rng = np.random.default_rng(1)
    replicated = np.exp(rng.standard_normal((2, len(STATISTICS), 200)))
    observed = np.ones((2, len(STATISTICS)))
    calm = plot_replicated(Replicated(("a", "b"), (10, 10), observed, replicated))
    assert [axes.get_title() for axes in calm.axes] == ["mean (ms)", *STATISTICS[1:]]
    assert "measured, outside" not in legend_texts(calm)
    observed[1, 3] = 100.0
    wild = plot_replicated(Replicated(("a", "b"), (10, 10), observed, replicated))
    assert "measured, outside" in legend_texts(wild)


def test_a_comparison_tells_clear_from_unclear_and_doubtful():
    differences = (
        Difference("context (tau_C)", 812.0, 40.0, 30.0, True),
        Difference("floor of prefills (r_F)", 1.0, 3.0, 2.0, True),
        Difference("saturation in B (k_B)", 90.0, 3.0, 2.0, False, ("base: not converged",)),
    )
    figure = plot_comparison(Comparison(differences, pd.DataFrame(), 2700))
    [axes] = figure.axes
    texts = [label.get_text() for label in axes.get_yticklabels()]
    assert texts[0] == "context (tau_C)"
    assert texts[2].endswith("(doubtful)")
    assert legend_texts(figure) == {"clear", "no clear difference"}
    assert "2,700 steps" in axes.get_xlabel()


def sensitivity_grid(sign_changes: bool) -> SensitivityGrid:
    batch, tokens = np.geomspace(1, 64, 7), np.geomspace(1, 4096, 13)
    rows, columns = np.meshgrid(batch, tokens, indexing="ij")
    slope = np.where(columns >= rows, 0.1 * np.log(columns / 30.0), np.nan)
    if not sign_changes:
        slope = np.abs(slope) + 0.1
    slopes = {name: Estimate(slope, slope - 0.05, slope + 0.05) for name in AXES}
    negative = {name: np.where(np.isnan(slope), np.nan, 1.0 * (slope < 0)) for name in AXES}
    return SensitivityGrid("a/b/tp1", batch, tokens, 10.0 * rows, slopes, negative, 0.9)


@pytest.mark.parametrize("sign_changes", [True, False])
def test_sensitivity_has_a_line_where_its_sign_changes(sign_changes):
    figure = plot_sensitivity(sensitivity_grid(sign_changes))
    maps = [axes for axes in figure.axes if axes.get_xlabel() == "tokens S"]
    assert [axes.get_title() for axes in maps] == ["dT/dB, posterior mean", "dT/dS, posterior mean"]
    for axes in maps:
        assert len(axes.collections) == 1 + sign_changes
    assert {AXES["batch_size"], AXES["total_tokens"]} <= {axes.get_ylabel() for axes in figure.axes}
