"""Residual tests: they pass right models at the stated level, and each finds what it is for."""

import numpy as np
import pandas as pd
import pytest
from made_posteriors import FLEET, SPEC, posterior_of, simulated
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.stattools import durbin_watson

import bayeslat as bl
from bayeslat.evaluation.findings import LEVEL
from bayeslat.evaluation.left_out import check_rows
from bayeslat.evaluation.residuals import quantile_residuals, relative_residuals, residual_tests

CHECKS = (
    "normality",
    "spread",
    "independence",
    "trend along time",
    "trend along the predicted latency",
    "trend along batch size B",
    "trend along tokens S",
    "trend along context C",
)


def table_of(z: np.ndarray, rng: np.random.Generator, *, label: str = "one") -> pd.DataFrame:
    """Residuals at random design points, in the order of time."""
    n = z.size
    batch = rng.integers(1, 65, n).astype(float)
    tokens = batch * rng.integers(1, 20, n)
    fitted = 5.0 + 0.05 * tokens
    return pd.DataFrame(
        {
            "deployment": label,
            "batch_size": batch,
            "total_tokens": tokens,
            "context_tokens": tokens * rng.uniform(1.0, 50.0, n),
            "timestamp": np.arange(n, dtype=float),
            "observed": fitted * (1.0 + 0.05 * z),
            "fitted": fitted,
            "relative": 0.05 * z,
            "z": z,
        }
    )


def failed(table: pd.DataFrame) -> set[str]:
    return {finding.check for finding in residual_tests(table).failures}


def test_right_models_pass_at_the_stated_level():
    """Of fleets of two right deployments no test fails more than its level says."""
    n_fleets, rng = 60, np.random.default_rng(1)
    rejected = {check: 0 for check in CHECKS}
    small = {check: 0 for check in CHECKS}
    for _ in range(n_fleets):
        parts = [table_of(rng.standard_normal(120), rng, label=name) for name in "ab"]
        found = residual_tests(pd.concat(parts, ignore_index=True))
        assert [finding.check for finding in found.of("a")] == list(CHECKS)
        for finding in found:
            rejected[finding.check] += finding.adjusted_p < LEVEL
            small[finding.check] += finding.p_value < 0.1
    for check in CHECKS:
        expected, error = n_fleets * LEVEL, np.sqrt(n_fleets * LEVEL * (1.0 - LEVEL))
        assert rejected[check] < expected + 4.0 * error, check
        # The p-values themselves are uniform, not only rare below the level.
        n = 2 * n_fleets
        assert abs(small[check] - 0.1 * n) < 4.0 * np.sqrt(0.09 * n), check


def heavy_tails(rng, table):
    return rng.standard_t(3, len(table)) / np.sqrt(3.0)


def growing_spread(rng, table):
    return rng.standard_normal(len(table)) * (table["total_tokens"].to_numpy() / 100.0) ** 0.4


def autocorrelated(rng, table):
    noise, z = rng.standard_normal(len(table)), np.zeros(len(table))
    for i in range(1, len(table)):
        z[i] = 0.5 * z[i - 1] + np.sqrt(0.75) * noise[i]
    return z


def drift(rng, table):
    return rng.standard_normal(len(table)) + 0.004 * table["timestamp"].to_numpy() - 0.8


def by_context(rng, table):
    logs = np.log(table["context_tokens"].to_numpy())
    return rng.standard_normal(len(table)) + 0.5 * (logs - logs.mean())


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        (heavy_tails, "normality"),
        (growing_spread, "spread"),
        (autocorrelated, "independence"),
        (drift, "trend along time"),
        (by_context, "trend along context C"),
    ],
)
def test_each_test_finds_what_it_is_for(wrong, check):
    rng = np.random.default_rng(5)
    table = table_of(np.zeros(400), rng)
    table["z"] = rng.standard_normal(400)
    assert failed(table) == set()
    table["z"] = wrong(rng, table)
    table["relative"] = 0.05 * table["z"]
    assert check in failed(table)


def test_a_curve_that_is_missed_shows_without_time_stamps():
    rng = np.random.default_rng(6)
    table = table_of(rng.standard_normal(400), rng).assign(timestamp=np.nan)
    [before] = [f for f in residual_tests(table) if f.check == "independence"]
    assert not before.failed
    assert "no time stamps" in before.sentence
    table["z"] += 2.0 * np.sin(4.0 * np.log(table["fitted"]))
    assert "independence" in failed(table)


def test_durbin_watson_is_in_the_order_of_time():
    rng = np.random.default_rng(7)
    table = table_of(rng.standard_normal(60), rng)
    shuffled = table.sample(frac=1.0, random_state=1)
    z = table["z"] - table["z"].mean()
    for given in (table, shuffled):
        [found] = [f for f in residual_tests(given) if f.check == "independence"]
        assert found.statistic == pytest.approx(durbin_watson(z))
        assert found.effect == pytest.approx(1.0 - durbin_watson(z) / 2.0)


def test_what_is_significant_and_too_small_to_matter_passes():
    rng = np.random.default_rng(8)
    table = table_of(rng.standard_normal(20_000), rng)
    table["z"] += 0.06 * (table["timestamp"] / 10_000.0 - 1.0) * np.sqrt(3.0)
    [found] = [f for f in residual_tests(table) if f.check == "trend along time"]
    assert found.adjusted_p < LEVEL
    assert not found.failed


def test_p_values_are_corrected_over_the_deployments():
    rng = np.random.default_rng(9)
    names = "abcd"
    parts = [table_of(rng.standard_normal(50), rng, label=name) for name in names]
    found = residual_tests(pd.concat(parts, ignore_index=True))
    own = sorted((f for f in found if f.check == "spread"), key=lambda f: f.p_value)
    library = multipletests([f.p_value for f in own], method="holm")[1]
    assert [f.adjusted_p for f in own] == pytest.approx(library)
    counts = found.counts().set_index("check")
    assert counts.loc["spread", "done"] == 4
    assert len(found.table()) == len(names) * len(CHECKS)


def test_predicted_tails_are_no_fault_and_those_of_a_point_predictor_are():
    steps = simulated(seed=3)
    checked = check_rows(posterior_of(steps), steps)
    right = quantile_residuals(checked)
    assert failed(right) == set()
    relative = relative_residuals(steps, checked.rows["fitted"].to_numpy())
    assert "normality" in failed(relative)
    groups = relative.groupby("deployment")["z"]
    assert groups.mean().abs().max() < 1e-12
    assert groups.std(ddof=0).to_numpy() == pytest.approx(1.0)


def test_posteriors_that_are_wrong_on_purpose_fail():
    steps = simulated(seed=4)
    blind = posterior_of(steps, altered={"tau_C": 1e-6})
    assert "trend along context C" in failed(quantile_residuals(check_rows(blind, steps)))
    spec = bl.ModelSpec(terms=SPEC.terms, discrepancy=False, likelihood="normal")
    normal = posterior_of(steps, spec=spec, sigma=0.055)
    assert "normality" in failed(quantile_residuals(check_rows(normal, steps)))


def test_too_few_rows_are_said_and_no_verdict():
    rng = np.random.default_rng(10)
    found = residual_tests(table_of(rng.standard_normal(2), rng))
    assert all(finding.verdict == "not done" for finding in found)
    assert "got 2 rows, expected at least 3" in found.findings[0].sentence
    found = residual_tests(table_of(rng.standard_normal(5), rng))
    assert found.findings[0].done
    assert "expected at least 20" in found.findings[1].sentence


def test_constant_columns_are_dropped_and_it_is_said():
    rng = np.random.default_rng(11)
    table = table_of(rng.standard_normal(60), rng)
    decodes = table.assign(total_tokens=table["batch_size"])
    [found] = [f for f in residual_tests(decodes) if f.check == "spread"]
    assert found.done
    assert "log S dropped" in found.sentence
    one = table.assign(batch_size=4.0, total_tokens=64.0, context_tokens=64.0)
    found = {f.check: f for f in residual_tests(one)}
    assert "constant" in found["spread"].sentence
    assert "batch size B is constant" in found["trend along batch size B"].sentence
    assert not found["spread"].done


def test_identical_latencies_are_refused_in_one_line():
    rng = np.random.default_rng(12)
    table = table_of(rng.standard_normal(30), rng)
    still = table.assign(observed=12.0, deployment="still")
    with pytest.raises(bl.InputError, match=r"all 12 ms.*check the clock"):
        residual_tests(still)
    found = residual_tests(pd.concat([table, still], ignore_index=True))
    assert {finding.verdict for finding in found.of("still")} == {"not done"}
    assert found.of("one")[0].done


def test_predictions_of_a_point_predictor_must_fit_the_rows():
    steps = simulated(rows=5, deployments=FLEET[:1])
    with pytest.raises(bl.InputError, match="one for each of 5 rows"):
        relative_residuals(steps, [1.0])
    with pytest.raises(bl.InputError, match="not positive"):
        relative_residuals(steps, [1.0, 2.0, 0.0, 1.0, np.nan])


def test_neighbours_that_were_picked_at_random_are_not_tested():
    """Of an autocorrelated log, rows at random look independent: better not to say so."""
    rng = np.random.default_rng(8)
    table = table_of(rng.standard_normal(400), rng)
    found = {each.check: each for each in residual_tests(table, picked=["one"])}
    assert found["independence"].verdict == "not done"
    assert "picked at random" in found["independence"].sentence
    assert found["normality"].verdict == "passed"


def test_spread_is_found_where_most_steps_are_alike():
    """Four of five steps at B = 1, and half as much spread again at B = 64."""
    rng = np.random.default_rng(9)
    table = table_of(rng.standard_normal(2000), rng)
    large = rng.uniform(size=2000) < 0.2
    table = table.assign(
        batch_size=np.where(large, 64.0, 1.0),
        total_tokens=np.where(large, 64.0, 1.0),
        z=table["z"] * np.where(large, 1.5, 1.0),
    )
    assert "spread" in failed(table)
