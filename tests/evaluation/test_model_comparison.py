"""Comparison by leave-one-out: what is better wins clearly, what is equal does not."""

import json

import numpy as np
import pandas as pd
import pytest
from made_posteriors import FLEET, SIGMA, SPEC, posterior_of, simulated

import bayeslat as bl
from bayeslat.checks import leave_one_out
from bayeslat.evaluation import comparison
from bayeslat.evaluation.comparison import (
    TERM_NAMES,
    compare_families,
    compare_models,
    compare_posteriors,
    compare_terms,
)
from bayeslat.evaluation.left_out import RowChecks
from bayeslat.inference.convergence import ConvergenceVerdict
from bayeslat.schema import OPTIONAL_PARAMETERS


@pytest.fixture(scope="module")
def steps() -> bl.Observations:
    return simulated(rows=150, seed=41, deployments=FLEET[:2])


@pytest.fixture(scope="module")
def right(steps) -> bl.FleetPosterior:
    return posterior_of(steps)


@pytest.mark.filterwarnings("ignore:Estimated shape parameter")  # of the wrong model
def test_a_difference_has_the_standard_error_of_paired_rows(steps, right):
    blind = posterior_of(steps, spec=SPEC.without("tau_C"))
    found = compare_posteriors(steps, {"without": blind, "with": right})
    [difference] = found.differences
    one, other = leave_one_out(right, steps), leave_one_out(blind, steps)
    each = np.asarray(one.elpd_i) - np.asarray(other.elpd_i)
    assert difference.elpd == pytest.approx(each.sum())
    assert difference.se == pytest.approx(np.sqrt(each.size) * each.std(ddof=1))
    assert difference.clear
    assert difference.elpd > 0
    assert "better with it" in str(found)
    assert list(found.models["model"]) == ["with", "without"]


def test_a_wrong_likelihood_loses_and_an_equal_model_does_not():
    steps = simulated(rows=200, seed=43, deployments=FLEET[:2], nu=2.5)
    spec = bl.ModelSpec(terms=SPEC.terms, discrepancy=False, likelihood="normal")
    posteriors = {
        "t": posterior_of(steps, nu=2.5),
        "normal": posterior_of(steps, spec=spec, sigma=2.0 * SIGMA),
        "twin": posterior_of(steps, nu=2.5, seed=1),
    }
    worse, same = compare_posteriors(steps, posteriors).differences
    assert worse.clear
    assert worse.elpd < 0
    assert not same.clear
    assert "no clear difference" in str(same)


def test_rows_of_one_design_point_are_taken_together(right):
    frame = simulated(rows=12, seed=42, deployments=FLEET[:1]).to_frame()
    rng = np.random.default_rng(1)
    repeated = pd.concat([frame] * 10, ignore_index=True)
    # What the model misses at a point is missed by all ten rows there.
    repeated["latency_ms"] *= 1.0 + 0.002 * rng.standard_normal(len(repeated))
    steps = bl.validate_steps(repeated, check_floor=False)
    pair = {"one": posterior_of(steps), "other": posterior_of(steps, altered={"tau_0": 1.02})}
    [found] = compare_posteriors(steps, pair).differences
    assert found.se_points > 2.0 * found.se
    assert found.error == found.se_points


def test_fits_that_did_not_converge_and_wild_weights_are_marked(steps, right):
    bad = ConvergenceVerdict(
        max_rhat=1.5, min_ess_bulk=10.0, min_ess_tail=10.0, worst="k_S", divergences=0,
        min_bfmi=0.9, deep_share=0.0, leapfrogs=15.0, chains=2, draws=200,
    )  # fmt: skip
    doubtful = posterior_of(steps, seed=2, verdict=json.dumps(bad.to_dict()))
    found = compare_posteriors(steps, {"right": right, "doubtful": doubtful})
    [difference] = found.differences
    assert difference.notes == ("doubtful: not converged",)
    assert not difference.reliable
    assert "not converged" in str(difference)
    assert list(found.models.sort_values("model")["converged"]) == [False, True]
    wild = posterior_of(steps, spread=0.3, sigma=0.3 * SIGMA)
    [difference] = compare_posteriors(steps, {"right": right, "wild": wild}).differences
    assert "k-hat above 1" in difference.notes[0]


def test_every_term_is_dropped_or_added(steps, monkeypatch):
    fitted = []

    def fit(observations, spec, **options):
        fitted.append(spec)
        return posterior_of(observations, spec=spec)

    monkeypatch.setattr(comparison, "fit", fit)
    told = []
    base = bl.ModelSpec(terms=("tau_B", "tau_C", "r_C"), discrepancy=False)
    monkeypatch.setattr(comparison, "check_rows", lambda fleet, *_, **__: rows_of(fleet))
    found = compare_terms(steps, ("tau_C", "k_B"), base=base, progress=told.append)
    assert [spec.terms for spec in fitted] == [
        base.terms, ("tau_B",), ("tau_B", "tau_C", "r_C", "k_B"),
    ]  # fmt: skip
    context, saturation = found.differences
    assert context.name == "context (tau_C)"
    assert context.elpd == pytest.approx(2.0 * N_ROWS), "three terms against one"
    assert saturation.name == "saturation in B (k_B)"
    assert saturation.elpd == pytest.approx(N_ROWS), "four terms against three"
    assert len(told) == 3
    fitted.clear()
    found = compare_families(steps, ("student_t", "normal"), base=base)
    assert [spec.likelihood for spec in fitted] == ["student_t", "normal"]
    fitted.clear()
    compare_models(steps, {"a": base, "again": base})
    assert len(fitted) == 1


N_ROWS = 20


def rows_of(fleet: bl.FleetPosterior):
    """Rows whose expected log density is the number of terms of the model."""
    rows = pd.DataFrame({"deployment": "one", "batch_size": 1.0, "total_tokens": range(N_ROWS)})
    elpd = float(len(fleet.spec.terms)) * np.ones(N_ROWS)
    return RowChecks(rows.assign(elpd=elpd, pareto_k=0.1), 1000)


def test_every_term_has_a_name():
    assert set(TERM_NAMES) == set(OPTIONAL_PARAMETERS)


def test_what_cannot_be_compared_is_refused(steps, right):
    with pytest.raises(bl.InputError, match="at least two"):
        compare_posteriors(steps, {"only": right})
    with pytest.raises(bl.InputError, match="got no terms"):
        compare_terms(steps, ())
    half = posterior_of(steps.for_deployment(FLEET[0]))
    with pytest.raises(bl.InputError, match="different deployments"):
        compare_posteriors(steps, {"all": right, "half": half})
    others = simulated(seed=99)
    with pytest.raises(bl.InputError, match="got posterior 'one' of other steps than these"):
        compare_posteriors(others, {"one": right, "two": right})
