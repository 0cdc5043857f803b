import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bayeslat.checks import leave_one_out, predict_rows, prior_predictive, score_predictions
from bayeslat.model.likelihood import STRAY_SPREAD
from bayeslat.predictive import LatencyDistribution
from bayeslat.predictive.draws import Points
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
    found = leave_one_out(tiny_fleet, tiny_steps, max_rows=12)
    assert found.n_data_points == 12 * len(tiny_fleet.deployments)
    assert (found.pareto_k < found.good_k).all()
    deployment = tiny_fleet.deployments[0]
    rows = tiny_steps.slice_of(deployment)
    chosen = np.sort(np.random.default_rng(0).choice(np.arange(rows.start, rows.stop), 12, False))
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


@pytest.fixture(scope="module")
def with_strays(tiny_steps):
    """A short fit of steps that may be strays."""
    import bayeslat as bl

    return bl.fit(tiny_steps, bl.ModelSpec(strays=True), draws=150, tune=100, retry=False)


@pytest.mark.filterwarnings("ignore:Estimated shape parameter")  # of few draws
def test_densities_of_logged_rows_have_the_strays_in_them(with_strays, tiny_steps):
    found = leave_one_out(with_strays, tiny_steps)
    deployment, row = with_strays.deployments[1], tiny_steps.slice_of(with_strays.deployments[1])
    draws = with_strays.draws(deployment)
    points = Points(
        *(column[row].astype(float) for column in (
            tiny_steps.batch_size, tiny_steps.total_tokens, tiny_steps.context_tokens,
            tiny_steps.n_averaged,
        ))
    )  # fmt: skip
    mu, sigma = draws.location_and_scale(points)
    t_ms = tiny_steps.latency_ms[row]
    share = with_strays.posterior["stray_share"].to_numpy()[..., 1].reshape(-1, 1)
    density = (1.0 - share) * stats.t.pdf(t_ms, draws.nu[:, None], mu, sigma * mu)
    density += share * stats.lognorm.pdf(t_ms, STRAY_SPREAD, scale=mu)
    easy = found.pareto_k.to_numpy()[60:] < 0.3
    assert easy.any()
    expected = -np.log(np.mean(1.0 / density, axis=0))
    np.testing.assert_allclose(found.elpd_i.to_numpy()[60:][easy], expected[easy], atol=0.1)


def test_newcomers_of_a_fleet_with_strays_are_told_from_few_steps(with_strays, tiny_steps):
    few = tiny_steps.to_frame().query("gpu == 'H100-80GB'").head(8).assign(gpu="L40S")
    few["latency_ms"] *= 3.0
    few.loc[few.index[0], "latency_ms"] *= 20.0  # a stray
    new = with_strays.cold_start([], steps=few, draws=50, retry=False)
    [deployment] = new.deployments
    assert deployment.gpu == "L40S"
    assert "stray_share" not in new.posterior
    row = few.iloc[1]
    step = {name: row[name] for name in ("batch_size", "total_tokens", "context_tokens")}
    assert new.latency("L40S", "llama-7b", **step).median() < 2.0 * row["latency_ms"]


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
