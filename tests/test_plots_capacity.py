import numpy as np

from bayeslat import plots
from bayeslat.decisions import (
    Allocation,
    BestStep,
    Frontier,
    SharedStep,
    StepContours,
    Tenant,
    TenantFront,
)
from bayeslat.predictive import Estimate


def around(value: float) -> Estimate:
    return Estimate(value, 0.9 * value, 1.1 * value)


def step(sla_ms: float, *, at_end: bool = False) -> BestStep:
    tokens = int(10 * sla_ms)
    return BestStep(
        4, tokens, 400.0, sla_ms, 0.01, around(100.0 * sla_ms), around(0.008), around(sla_ms / 2),
        at_end,
    )  # fmt: skip


def over_grid() -> StepContours:
    batch, tokens = np.geomspace(1, 64, 12), np.geomspace(1, 4096, 14)
    rows, columns = np.meshgrid(batch, tokens, indexing="ij")
    mean = np.where(columns >= rows, 5.0 + 0.05 * columns + 0.1 * rows, np.nan)
    return StepContours(
        batch, tokens, mean, 0.9 * mean, 1.4 * mean, 1.0 / (1.0 + (60.0 / mean) ** 6), 50.0, 0.99
    )


def front() -> TenantFront:
    tenants = Tenant("chat", 1, 500, 40), Tenant("batch", 100, 100, 5)
    steps = [
        SharedStep(Allocation(tenants, own), around(rate), around(20.0), around(0.004))
        for own, rate in (((2, 4), 9000.0), ((20, 2), 7000.0), ((40, 1), 4000.0))
    ]
    return TenantFront(tenants, tuple(steps), 3, 50.0, 0.01)


def legend_texts(figure) -> set[str]:
    return {text.get_text() for legend in figure.legends for text in legend.get_texts()}


def test_a_frontier_has_its_band_and_the_steps_behind_it():
    found = Frontier((step(20.0), step(40.0), step(80.0, at_end=True)))
    figure = plots.plot_frontier(found, label="H100/llama-7b/tp1/simulated")
    rate, best = figure.axes
    assert list(rate.lines[0].get_ydata()) == [2000.0, 4000.0, 8000.0]
    assert len(rate.collections) == 1, "the band"
    assert rate.get_xscale() == best.get_yscale() == "log"
    assert {"tokens S", "requests B", "end of the search"} < legend_texts(figure)
    assert "simulated data" in figure.get_suptitle()
    calm = plots.plot_frontier(Frontier((step(20.0), step(40.0))), label="a")
    assert "end of the search" not in legend_texts(calm)


def test_contours_show_times_probability_the_risk_and_the_best_step():
    figure = plots.plot_contours(over_grid(), risk=0.05, best=step(50.0), label="a")
    titles = [axes.get_title() for axes in figure.axes[:3]]
    assert titles == ["mean latency", "p99 latency", "P(T > 50 ms)"]
    assert legend_texts(figure) == {"P(T > 50 ms) = 5 %", "best step"}
    expected = over_grid().lines("p_exceeds", 0.05)
    for axes in figure.axes[:3]:
        star = axes.lines[-1]
        assert (star.get_xdata()[0], star.get_ydata()[0]) == (4, 500)
        np.testing.assert_array_equal(axes.lines[0].get_xydata(), expected[0])
    assert "best step" not in legend_texts(plots.plot_contours(over_grid()))


def test_contours_without_a_crossing_have_no_line():
    figure = plots.plot_contours(over_grid(), risk=1e-9)
    assert all(not axes.lines for axes in figure.axes[:3])


def test_a_front_has_intervals_and_bars_that_add_up():
    found = front()
    figure = plots.plot_tenant_front(found, label="a")
    curve, bars = figure.axes
    assert list(curve.containers[0].lines[0].get_ydata()) == [9000.0, 7000.0, 4000.0]
    assert [text.get_text() for text in curve.texts] == ["1", "2", "3"]
    assert {"chat", "batch"} < legend_texts(figure)
    assert "P(T > 50 ms) <= 0.01" in figure.get_suptitle()
    tops = [bar.get_y() + bar.get_height() for bar in bars.containers[1]]
    assert tops == [one.allocation.total_tokens for one in found.steps]


def test_pictures_can_be_written(tmp_path):
    for position, figure in enumerate(
        (
            plots.plot_frontier(Frontier((step(20.0),))),
            plots.plot_contours(over_grid(), best=step(50.0)),
            plots.plot_tenant_front(front()),
        )
    ):
        path = tmp_path / f"{position}.png"
        figure.savefig(path)
        assert path.stat().st_size > 1000
