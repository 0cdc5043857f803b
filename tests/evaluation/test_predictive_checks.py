"""PIT, LOO-PIT, replications and the prior: right models pass, models wrong on purpose fail."""

import numpy as np
import pandas as pd
import pytest
from made_posteriors import FLEET, SIGMA, SPEC, posterior_of, simulated

import bayeslat as bl
from bayeslat.checks import leave_one_out, predict_rows
from bayeslat.evaluation.findings import LEVEL
from bayeslat.evaluation.left_out import RowChecks, check_rows
from bayeslat.evaluation.predictive_checks import (
    STATISTICS,
    Replicated,
    pit_curves,
    pit_tests,
    prior_check,
    replicate,
)
from bayeslat.model.priors import Prior


@pytest.fixture(scope="module")
def steps() -> bl.Observations:
    return simulated(rows=250, seed=31)


@pytest.fixture(scope="module")
def right(steps) -> bl.FleetPosterior:
    return posterior_of(steps)


@pytest.fixture(scope="module")
def checked(right, steps) -> RowChecks:
    return check_rows(right, steps)


def rows_with(pit: np.ndarray, *, label: str = "one") -> pd.DataFrame:
    return pd.DataFrame({"deployment": label, "pit": pit, "loo_pit": pit})


def test_left_out_rows_agree_with_arviz(right, steps, checked):
    loo = leave_one_out(right, steps)
    np.testing.assert_allclose(checked.rows["elpd"], loo.elpd_i, rtol=1e-9)
    np.testing.assert_allclose(checked.rows["pareto_k"], loo.pareto_k, rtol=1e-9)
    assert checked.elpd == pytest.approx((loo.elpd, loo.se), rel=2e-3)
    assert checked.good_k == pytest.approx(loo.good_k)


def test_pit_is_that_of_the_predicted_distribution(right, steps, checked):
    table = predict_rows(right, steps)
    np.testing.assert_allclose(checked.rows["pit"], table["pit"], atol=1e-6)
    np.testing.assert_allclose(checked.rows["fitted"], table["median"], rtol=1e-6)
    # Without its own row a posterior is further from it, on whichever side.
    away = np.abs(checked.rows["loo_pit"] - 0.5) - np.abs(checked.rows["pit"] - 0.5)
    assert away.mean() > 0.0


def test_a_row_that_pulls_hard_has_a_large_k_and_is_named():
    steps = simulated(rows=40, seed=32, deployments=FLEET[:1])
    frame = steps.to_frame()
    frame.loc[7, "latency_ms"] *= 1.8
    outlier = bl.validate_steps(frame, check_floor=False)
    spec = bl.ModelSpec(terms=SPEC.terms, discrepancy=False, likelihood="normal")
    found = check_rows(posterior_of(outlier, spec=spec, spread=0.05), outlier)
    [line] = found.k_table().to_dict("records")
    assert line["good"] + line["bad"] + line["very bad"] == 40
    assert line["very bad"] >= 1
    worst = found.worst(1).iloc[0]
    assert worst["observed"] == pytest.approx(frame.loc[7, "latency_ms"])
    assert f"B = {worst['batch_size']:.0f}, S = {worst['total_tokens']:.0f}" in line["worst"]


def test_steps_of_other_deployments_are_refused(right):
    strangers = simulated(rows=5, deployments=(FLEET[0]._replace(tp=2),))
    for look in (check_rows, replicate):
        with pytest.raises(bl.InputError, match="none of which this posterior holds"):
            look(right, strangers)


def test_a_right_posterior_is_calibrated(checked):
    found = pit_tests(checked)
    assert len(found) == len(FLEET)
    assert found.failures == ()
    curves = pit_curves(checked)
    inside = (curves["lower"] <= curves["difference"]) & (curves["difference"] <= curves["upper"])
    assert inside.mean() > 0.9


def slower_than_said(sentence: str) -> float:
    """Steps that took longer than the predicted median, per cent."""
    return float(sentence.removesuffix(" % slower than the predicted median").split()[-1])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"sigma": 0.5 * SIGMA}, "too narrow"),
        ({"sigma": 2.0 * SIGMA}, "too wide"),
        ({"altered": {"tau_0": 1.1, "P_max": 1 / 1.1}}, "too slow"),
    ],
)
def test_wrong_posteriors_are_not(steps, wrong, says):
    found = pit_tests(check_rows(posterior_of(steps, **wrong), steps))
    assert len(found.failures) == len(FLEET), says
    inside = float(found.findings[0].sentence.partition("50 % intervals, ")[2].split()[0])
    if says == "too narrow":
        assert inside < 80
    if says == "too wide":
        assert inside > 95
    if says == "too slow":
        assert all(slower_than_said(found.sentence) < 40 for found in found.failures)


def test_calibration_passes_at_the_stated_level():
    rng, n_fleets = np.random.default_rng(34), 200
    rejected = 0
    for _ in range(n_fleets):
        rows = pd.concat([rows_with(rng.uniform(size=80), label=name) for name in "ab"])
        rejected += any(f.adjusted_p < LEVEL for f in pit_tests(RowChecks(rows, 1000)))
    assert rejected < n_fleets * LEVEL + 4.0 * np.sqrt(n_fleets * LEVEL)


def test_too_few_rows_for_a_band_are_said():
    [found] = pit_tests(RowChecks(rows_with(np.array([0.1, 0.9])), 1000))
    assert found.verdict == "not done"
    assert "got 2 rows, expected at least 10" in found.sentence


def test_replications_of_a_right_posterior_hold_the_measured_steps(right, steps):
    found = replicate(right, steps)
    assert found.replicated.shape == (len(FLEET), len(STATISTICS), 1000)
    assert found.findings().failures == ()
    row = found.table().iloc[0]
    own = steps.latency_ms[steps.slice_of(FLEET[0])]
    assert row["observed"] == pytest.approx(own.mean())


def test_replications_of_wrong_posteriors_do_not(steps):
    slow = replicate(posterior_of(steps, altered={"tau_0": 1.1, "P_max": 1 / 1.1}), steps)
    means = [f for f in slow.findings().failures if f.check == "replicated mean"]
    # Replicated steps take longer than the measured ones.
    assert means and all(f.effect < -0.02 for f in means)
    heavy = simulated(rows=400, seed=35, nu=2.2)
    spec = bl.ModelSpec(terms=SPEC.terms, discrepancy=False, likelihood="normal")
    normal = replicate(posterior_of(heavy, spec=spec, sigma=1.5 * SIGMA), heavy)
    assert {f.check for f in normal.findings().failures} >= {"replicated largest / fitted"}


def test_a_departure_that_is_certain_and_small_does_not_fail():
    spread = 1.0 + 1e-6 * np.random.default_rng(0).standard_normal((1, len(STATISTICS), 3000))
    for factor, failing in ((1.015, []), (1.025, ["replicated mean", "replicated beyond twice"])):
        observed = np.full((1, len(STATISTICS)), factor)
        observed[0, -1] = 1.0 + (0.006 if failing else 0.004)
        found = Replicated(("one",), (10,), observed, spread).findings()
        assert all(f.adjusted_p < LEVEL for f in found)
        assert [f.check.removesuffix(" fitted") for f in found.failures] == failing


def test_p_values_of_replications_by_hand():
    replicated = np.arange(99.0)[None, None, :] * np.ones((1, len(STATISTICS), 1))
    observed = np.array([[49.0, 1000.0, -1.0, 97.0, 0.0]])
    p = Replicated(("one",), (10,), observed, replicated).p_values[0]
    assert p == pytest.approx([1.0, 0.01, 0.01, 0.04, 0.02])
    same = Replicated(("one",), (10,), np.zeros((1, 5)), np.zeros((1, 5, 99)))
    assert same.p_values[0] == pytest.approx(1.0)


def test_a_sane_prior_holds_the_measured_steps(steps):
    table = prior_check(steps, SPEC, n_draws=400)
    assert list(table["deployment"]) == [item.label for item in FLEET]
    assert not table["failed"].any()


def test_an_absurd_prior_does_not(steps):
    far = bl.ModelSpec(
        terms=SPEC.terms, discrepancy=False, priors={"floor": Prior(median=1e9, spread=0.1)}
    )
    table = prior_check(steps, far, n_draws=400)
    assert table["failed"].all()
    # Long prefills follow the slope and not the floor.
    assert (table["inside_99"] < 0.5).all()
    assert (table["sane"] < 0.9).all()
