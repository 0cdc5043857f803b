import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from bayeslat import plots
from bayeslat.decisions import (
    ChunkTradeoff,
    Disaggregation,
    Fallback,
    FeasibleRegion,
    LoadCurve,
    PolicyComparison,
    RequestPhases,
    ServiceObjective,
    standard_policies,
)
from bayeslat.engine import EngineSettings, StepTimes, Workload, simulate_engine
from bayeslat.predictive import Estimate, SampledDistribution


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


def request_phases() -> RequestPhases:
    rng = np.random.default_rng(0)
    times = [SampledDistribution(rng.gamma(50.0, scale, (5, 200))) for scale in (1, 1.2, 0.3, 40)]
    return RequestPhases(*times)


def chunk_tradeoff() -> ChunkTradeoff:
    sizes = np.array([16, 64, 256, 1024])

    def around(values) -> Estimate:
        return Estimate(values, 0.9 * values, 1.1 * values)

    return ChunkTradeoff(
        sizes,
        1024 // sizes,
        around(2e4 / sizes),
        around(sizes / 20.0),
        around(10.0 + 0.1 * sizes),
        Estimate(9.0, 8.0, 10.0),
    )


def load_curve(step_ms: float = 5.0, loads: tuple[float, ...] = (2.0, 4.0, 200.0)) -> LoadCurve:
    times = StepTimes.from_function(
        lambda b, s: step_ms + 0.05 * s, max_batch_size=8, max_total_tokens=512, sigma=0.05
    )
    settings = EngineSettings(max_num_seqs=8, max_num_batched_tokens=512)
    workload = Workload.poisson(1.0, n=80, prompt_tokens=100, output_tokens=20)
    records = [simulate_engine(workload.at_rate(load), settings, times) for load in loads]
    objective = ServiceObjective(ttft_ms=100.0, tpot_ms=20.0)
    return LoadCurve(np.array(loads), 1, objective, tuple(records))


def policies(n_draws: int = 4) -> PolicyComparison:
    """One at a time is unstable at the second of three loads in every draw."""
    which = standard_policies(4, max_wait_ms=10.0, fallback=Fallback(50.0, 20.0))
    times = np.random.default_rng(0).uniform(10, 20, (len(which), 3, n_draws, 2)).cumsum(axis=-1)
    unstable = np.zeros(times.shape[:3], bool)
    unstable[0, 1:] = True
    times[unstable] = np.inf
    share = np.zeros(times.shape[:3])
    loads = np.array([5.0, 10.0, 20.0])
    return PolicyComparison(which, loads, times, 1.0 + share, share, unstable, np.nan + share)


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


def test_phases_draw_a_distribution_with_its_quantiles_and_the_limit():
    figure = plots.plot_phases(request_phases(), label="a", ttft_limit_ms=70.0)
    assert [axes.get_title() for axes in figure.axes] == ["TTFT", "TPOT"]
    first, second = figure.axes
    assert first.get_xlabel() == "time (ms)"
    marks = {"one posterior draw", "all draws", "p50, 90 % interval", "p99, 90 % interval"}
    assert legend_texts(figure) == {*marks, "limit"}
    assert 70.0 in [line.get_xdata()[0] for line in first.lines if line.get_linestyle() == ":"]
    assert all(line.get_linestyle() != ":" for line in second.lines)
    quantiles = [line for line in first.lines if line.get_marker() in ("o", "s")]
    assert [line.get_ydata()[0] for line in quantiles] == [0.5, 0.99]


def test_chunks_show_both_sides_and_the_choice():
    figure = plots.plot_chunks(chunk_tradeoff(), quantile=0.95, limit_ms=40.0, chosen=256)
    step, prefill = figure.axes
    assert "p95" in step.get_title()
    assert "prefill" in prefill.get_title()
    assert {"limit, 40 ms", "best chunk, 256 tokens"} < legend_texts(figure)
    assert step.get_xscale() == step.get_yscale() == "log"
    assert len(step.collections) == 2, "bands with and without a chunk"
    assert "best chunk" not in " ".join(legend_texts(plots.plot_chunks(chunk_tradeoff())))


def test_load_curve_has_percentiles_goodput_and_the_objective():
    figure = plots.plot_load_curve(load_curve(), label="H100/llama-7b/tp1/simulated")
    assert [axes.get_title() for axes in figure.axes] == ["TTFT", "TPOT", "goodput"]
    assert "simulated data" in figure.get_suptitle()
    assert "TTFT <= 100 ms" in figure.get_suptitle()
    expected = {"p50", "p99", "goodput", "offered", "limit", "requests pile up"}
    assert legend_texts(figure) == expected
    for axes, limit in zip(figure.axes, (100.0, 20.0), strict=False):
        dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
        assert [line.get_ydata()[0] for line in dotted] == [limit]
    calm = plots.plot_load_curve(load_curve(loads=(1.0, 2.0)))
    assert "requests pile up" not in legend_texts(calm)


def test_policies_end_where_they_are_unstable():
    figure = plots.plot_policies(policies(), sla_ms=25.0)
    _, tail = figure.axes
    curves = {line.get_label(): line for line in tail.lines}
    assert list(curves["one at a time"].get_xdata()) == [5.0]
    assert list(curves["dynamic batch"].get_xdata()) == [5.0, 10.0, 20.0]
    assert curves["unstable beyond"].get_xdata()[0] == 5.0
    assert "limit" in legend_texts(figure)
    assert np.isfinite(tail.get_ylim()).all()


def test_a_policy_that_is_never_stable_has_no_curve_and_no_cross():
    compared = policies()
    compared.percentiles[0] = np.inf
    tail = plots.plot_policies(compared).axes[1]
    lengths = {line.get_label(): len(line.get_xdata()) for line in tail.lines}
    assert lengths["one at a time"] == 0
    assert "unstable beyond" not in lengths


def test_disaggregation_shows_both_ways_and_who_wins():
    both = Disaggregation(load_curve(), load_curve(step_ms=8.0))
    figure = plots.plot_disaggregation(both, label="a")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [
        "goodput a device", "P(apart has the larger goodput)", "TTFT p99", "TPOT p99"
    ]  # fmt: skip
    assert legend_texts(figure) == {"together", "apart", "limit"}
    wins = figure.axes[1].lines[-1].get_ydata()
    assert list(wins) == list(both.table()["p_disaggregated_wins"])


def test_drawing_leaves_the_callers_style_alone():
    before = dict(mpl.rcParams)
    plots.plot_fit(prediction_table(["a"]))
    assert dict(mpl.rcParams) == before


def test_figures_can_be_written(tmp_path):
    plots.plot_parameters(parameter_table(["a"])).savefig(tmp_path / "forest.png")
    assert (tmp_path / "forest.png").stat().st_size > 1000
