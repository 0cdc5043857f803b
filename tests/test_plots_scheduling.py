"""Pictures of schedulers hold what their tables say, without a look at pixels."""

from dataclasses import replace

import numpy as np
import pytest

from bayeslat import plots
from bayeslat.decisions import SCHEDULERS, SchedulerComparison, ServiceObjective
from bayeslat.engine import EngineSettings, StepTimes, Workload, simulate_engine

RISK = 0.02


def comparison(*, step_ms: float = 5.0, sla_ms: float = 6.5) -> SchedulerComparison:
    """Two schedulers before one engine, by hand."""
    times = StepTimes.from_function(
        lambda b, s: step_ms + 0.02 * s, max_batch_size=8, max_total_tokens=256
    )
    served = Workload.poisson(20.0, n=40, prompt_tokens=[50, 300], output_tokens=12)
    settings = EngineSettings(max_num_seqs=8, max_num_batched_tokens=128)
    chosen = tuple(one for one in SCHEDULERS if one.name == "chunked-prefill")
    chosen = (*chosen, replace(chosen[0], name="small chunks", changes={}))
    records = tuple(
        (simulate_engine(served, replace(settings, **own), times, sla_ms=sla_ms),)
        for own in ({}, {"long_prefill_token_threshold": 16})
    )
    return SchedulerComparison(
        chosen, records, (np.ones((1, 40)),), (20.0,), ServiceObjective(500.0, 12.0), sla_ms, RISK
    )


def dots(axes) -> list[float]:
    """Abscissas of the dots in a panel."""
    return next(line.get_xdata() for line in axes.lines if line.get_marker() == "o").tolist()


def test_each_panel_has_a_dot_for_each_scheduler():
    found = comparison()
    figure = plots.plot_schedulers(found, label="H100/llama-7b/tp1/simulated")
    over, kept, ttft, tpot = figure.axes
    table = found.table()
    assert [text.get_text() for text in over.get_yticklabels()] == list(table["scheduler"])
    shares = np.maximum(100.0 * table["over_sla_chosen"], RISK)
    assert dots(over) == pytest.approx(list(shares))
    assert shares[0] > shares[1]
    assert dots(kept) == pytest.approx(list(100.0 * table["attainment"]))
    assert dots(ttft) == pytest.approx(list(table["ttft_p99_ms"]))
    assert dots(tpot) == pytest.approx(list(table["tpot_p99_ms"]))
    lines = {axes: [line.get_xdata()[0] for line in axes.lines] for axes in figure.axes}
    assert 100.0 * RISK in lines[over]
    assert 500.0 in lines[ttft] and 12.0 in lines[tpot]
    title = figure.get_suptitle()
    assert "simulated data" in title and "6.5 ms" in title and "TTFT <= 500 ms" in title


def test_what_is_not_known_has_no_dot_and_no_objective_no_line():
    found = comparison()
    unjudged = tuple(
        tuple(replace(one, totals=np.full_like(one.totals, np.nan)) for one in own)
        for own in found.records
    )
    figure = plots.plot_schedulers(replace(found, records=unjudged, objective=ServiceObjective()))
    assert dots(figure.axes[0]) == []
    assert len(figure.axes[2].lines) == 1
    assert "simulated data" not in figure.get_suptitle()


def test_pictures_can_be_written(tmp_path):
    for suffix in ("png", "svg", "pdf"):
        out = tmp_path / f"schedulers.{suffix}"
        plots.plot_schedulers(comparison(sla_ms=1e3)).savefig(out)
        assert out.stat().st_size > 1000
