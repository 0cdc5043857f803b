import numpy as np
import pandas as pd
import pytest

from bayeslat.checks import leave_one_out, predict_rows, prior_predictive, score_predictions
from bayeslat.predictive import LatencyDistribution
from bayeslat.schema import Deployment


def test_rows_are_predicted_as_the_distribution_itself_says(tiny_fleet, tiny_steps):
    table = predict_rows(tiny_fleet, tiny_steps)
    assert len(table) == len(tiny_steps)
    row = table.iloc[7]
    deployment = tiny_fleet.deployments[0]
    latency = tiny_fleet.latency(
        **deployment._asdict(),
        batch_size=row["batch_size"],
        total_tokens=row["total_tokens"],
        context_tokens=row["context_tokens"],
    )
    # The table keeps at most 1,000 of the draws.
    assert row["median"] == pytest.approx(latency.median(), rel=0.01)
    assert row["upper_90"] == pytest.approx(latency.ppf(0.95), rel=0.01)
    assert row["pit"] == pytest.approx(latency.cdf(row["observed"]), abs=0.02)


def test_at_most_so_many_rows_of_each_deployment(tiny_fleet, tiny_steps):
    table = predict_rows(tiny_fleet, tiny_steps, max_rows=10)
    assert table["deployment"].value_counts().tolist() == [10, 10]


def test_missing_context_is_replaced_by_the_typical_one(tiny_fleet, tiny_steps):
    import bayeslat as bl

    frame = tiny_steps.to_frame().assign(context_tokens=np.nan)
    table = predict_rows(tiny_fleet, bl.validate_steps(frame))
    typical = tiny_fleet.typical_context(tiny_fleet.deployments[0])
    assert table["context_tokens"][0] == typical * table["batch_size"][0]


def test_leave_one_out_is_the_harmonic_mean_of_densities(tiny_fleet, tiny_steps):
    """Of rows whose importance weights need no smoothing (Gelfand, Dey and Chang, 1992)."""
    found = leave_one_out(tiny_fleet, tiny_steps, max_rows=20)
    assert found.n_data_points == 20 * len(tiny_fleet.deployments)
    assert (found.pareto_k < found.good_k).all()
    deployment = tiny_fleet.deployments[0]
    rows = tiny_steps.slice_of(deployment)
    chosen = np.sort(np.random.default_rng(0).choice(np.arange(rows.start, rows.stop), 20, False))
    for position, row in enumerate(chosen):
        step = {
            "batch_size": tiny_steps.batch_size[row],
            "total_tokens": tiny_steps.total_tokens[row],
            "context_tokens": tiny_steps.context_tokens[row],
        }
        draws = tiny_fleet.draws(deployment).thin(1000)
        densities = np.array(
            [
                LatencyDistribution(draws.take([i]), **step).pdf(tiny_steps.latency_ms[row])
                for i in range(draws.n_draws)
            ]
        )
        # What smoothing changes is small where the tail index is small.
        expected = -np.log(np.mean(1.0 / densities))
        assert float(found.elpd_i[position]) == pytest.approx(expected, abs=0.05)


def test_scores_of_a_table_by_hand():
    table = pd.DataFrame(
        {
            "observed": [10.0, 20.0, 40.0, 80.0],
            "median": [11.0, 20.0, 30.0, 80.0],
            "lower_50": [9.0, 19.0, 29.0, 81.0],
            "upper_50": [12.0, 21.0, 31.0, 82.0],
            "lower_90": [8.0, 18.0, 28.0, 70.0],
            "upper_90": [13.0, 22.0, 32.0, 90.0],
        }
    )
    scores = score_predictions(table)
    assert scores.mape == pytest.approx((0.1 + 0 + 0.25 + 0) / 4)
    assert (scores.coverage_50, scores.coverage_90) == (0.5, 0.75)
    assert "75 %" in str(scores)


def test_prior_predictive_is_wider_for_an_unknown_gpu():
    points = {"batch_size": 8, "total_tokens": 512, "context_tokens": 4096}
    known = prior_predictive(Deployment("H100-80GB", "llama-7b"), **points)
    unknown = prior_predictive(Deployment("nobody's accelerator", "llama-7b"), **points)
    width = [np.log(t["upper_90"][0] / t["lower_90"][0]) for t in (known, unknown)]
    assert width[1] > width[0]
