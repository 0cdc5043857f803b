import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from bayeslat import plots
from bayeslat.decisions import FeasibleRegion


def prediction_table(labels: list[str], rows: int = 20) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    median = np.exp(rng.uniform(1, 5, len(labels) * rows))
    factors = {"lower_90": 0.8, "lower_50": 0.9, "median": 1.0, "upper_50": 1.1, "upper_90": 1.2}
    return pd.DataFrame(
        {
            "deployment": np.repeat(labels, rows),
            "observed": median * np.exp(0.1 * rng.standard_normal(median.size)),
            **{name: factor * median for name, factor in factors.items()},
            "pit": rng.uniform(size=median.size),
        }
    )


def parameter_table(labels: list[str]) -> pd.DataFrame:
    rows = [
        {
            "deployment": label,
            "quantity": quantity,
            "median": 2.0,
            "lower": 1.0,
            "upper": 4.0,
            "contraction": 0.1 if quantity == "k_B" else 0.9,
            "informed": quantity != "k_B",
        }
        for label in labels
        for quantity in ("P_max", "k_B", "slope")
    ]
    return pd.DataFrame(rows)


def region() -> FeasibleRegion:
    batch, tokens = np.geomspace(1, 64, 8), np.geomspace(1, 4096, 10)
    rows, columns = np.meshgrid(batch, tokens, indexing="ij")
    probability = np.where(columns >= rows, 1 / (1 + (400 / columns) ** 3), np.nan)
    return FeasibleRegion(batch, tokens, probability, probability <= 0.01)


def legend_texts(figure) -> set[str]:
    return {text.get_text() for legend in figure.legends for text in legend.get_texts()}


def test_fit_has_one_panel_with_units_for_each_deployment():
    figure = plots.plot_fit(prediction_table(["a", "b", "c", "d"]))
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "c", "d"]
    assert figure.axes[0].get_ylabel() == "measured latency (ms)"
    assert figure.axes[3].get_xlabel() == "predicted latency (ms)"
    assert legend_texts(figure) == {"90 % interval", "measured, inside", "measured, outside"}
    assert all(axes.get_xscale() == axes.get_yscale() == "log" for axes in figure.axes)


def test_fit_shows_every_row_once_inside_or_outside():
    table = prediction_table(["a"])
    figure = plots.plot_fit(table)
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "."]
    assert sum(len(line.get_xdata()) for line in dots) == len(table)


@pytest.mark.parametrize("draw", [plots.plot_fit, plots.plot_pit])
def test_at_most_twelve_panels_and_the_title_says_how_many_are_missing(draw):
    figure = draw(prediction_table([f"gpu{i}" for i in range(15)]))
    assert len(figure.axes) == plots.MAX_PANELS
    assert "3 more deployments are not shown" in figure.get_suptitle()


def test_titles_tell_simulated_from_measured():
    simulated = plots.plot_fit(prediction_table(["H100/llama-7b/tp1/simulated"]))
    measured = plots.plot_fit(prediction_table(["H100/llama-7b/tp1/vllm"]))
    assert "simulated" in simulated.get_suptitle()
    assert "simulated" not in measured.get_suptitle()


def test_pit_curves_end_at_one():
    figure = plots.plot_pit(prediction_table(["a", "b"]))
    for axes in figure.axes:
        assert axes.lines[-1].get_ydata()[-1] == 1.0
        assert axes.collections, "the band of what is expected"


def test_uninformed_parameters_are_hollow_and_named():
    figure = plots.plot_parameters(parameter_table(["a", "b"]))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["P_max (work units/ms)", "k_B (1/request)", "slope (ms/token)"]
    faces = [axes.lines[0].get_markerfacecolor() for axes in figure.axes]
    assert faces[1] == "white"
    assert "white" not in (faces[0], faces[2])
    assert any("UNINFORMED" in text for text in legend_texts(figure))


def test_exceedance_draws_the_line_of_the_risk_and_a_labelled_bar():
    figure = plots.plot_exceedance({"a": region(), "b": region()}, sla_ms=50.0, risk=0.01)
    *panels, bar = figure.axes
    assert [axes.get_title() for axes in panels] == ["a", "b"]
    assert all(len(axes.collections) == 2 for axes in panels), "filled contours and the line"
    assert "P(T > 50 ms)" in bar.get_ylabel()
    assert "1 %" in bar.get_ylabel()


def test_exceedance_without_any_crossing_has_no_line():
    safe = region()
    flat = FeasibleRegion(
        safe.batch_size, safe.total_tokens, 0 * safe.probability, safe.probability < 2
    )
    figure = plots.plot_exceedance({"a": flat}, sla_ms=50.0)
    assert len(figure.axes[0].collections) == 1


def test_cold_start_puts_both_predictions_side_by_side():
    table = prediction_table(["cpu/toy/tp1/jax"])
    figure = plots.plot_cold_start({"before": table, "after": table})
    assert [axes.get_title() for axes in figure.axes] == ["before", "after"]
    assert figure.axes[0].get_ylabel() == "measured latency (ms)"


def test_prior_predictive_has_two_bands_and_a_median():
    table = prediction_table(["a"]).assign(total_tokens=np.arange(1, 21))
    figure = plots.plot_prior_predictive({"decode": table})
    assert len(figure.axes[0].collections) == 2
    assert legend_texts(figure) == {"90 % of steps", "50 % of steps", "median"}


def test_drawing_leaves_the_callers_style_alone():
    before = dict(mpl.rcParams)
    plots.plot_fit(prediction_table(["a"]))
    assert dict(mpl.rcParams) == before


def test_figures_can_be_written(tmp_path):
    plots.plot_parameters(parameter_table(["a"])).savefig(tmp_path / "forest.png")
    assert (tmp_path / "forest.png").stat().st_size > 1000
