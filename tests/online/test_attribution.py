"""Attribution against dense Gaussian evidences, and on changes whose cause is known."""

from dataclasses import replace

import numpy as np
import pytest
from one_deployment import one_of
from scipy import stats

from bayeslat.online.attribution import (
    NOTHING,
    OWN_SPREAD,
    Evidence,
    _common_factor,
    attribute,
    evidence,
)
from bayeslat.online.changes import EVERYTHING, FACTOR_SPREADS, KINDS, along, prior_of_change


def dense(one, n, rng):
    """A linear model of its own: slopes, variances, residuals and what is left of them."""
    dim = one.layout.dim
    slopes = rng.standard_normal((n, dim)) * 0.3
    variances = rng.uniform(0.001, 0.004, n)
    covariance = one.base.covariance
    residual = rng.multivariate_normal(
        np.zeros(n), slopes @ covariance @ slopes.T + np.diag(variances)
    )
    weighted = slopes / variances[:, None]
    information, score = weighted.T @ slopes, weighted.T @ residual
    explained = information @ np.linalg.inv(np.linalg.inv(covariance) + information)
    found = Evidence(
        one.layout,
        score - explained @ score,
        information - explained @ information,
        0.0025,
        (0.5, 0.0),
        n,
    )
    return slopes, variances, residual, found


def log_evidence(slopes, variances, residual, covariance):
    total = slopes @ covariance @ slopes.T + np.diag(variances)
    return stats.multivariate_normal.logpdf(residual, np.zeros(len(residual)), total)


def test_evidence_of_everything_is_that_of_the_dense_gaussian(one):
    slopes, variances, residual, found = dense(one, 25, np.random.default_rng(0))
    prior = prior_of_change(one.layout, (EVERYTHING,), discrepancy_variance=0.0025)
    base = one.base.covariance
    wanted = log_evidence(slopes, variances, residual, base + prior)
    wanted -= log_evidence(slopes, variances, residual, base)
    assert found.log_bayes_factor() == pytest.approx(wanted, abs=1e-5)


def test_evidence_of_one_factor_in_two_deployments_is_that_of_the_dense_gaussian(one):
    rng = np.random.default_rng(1)
    parts = [dense(one, 20, rng), dense(one, 15, rng)]
    terms, base = KINDS["memory"], one.base.covariance
    direction = along(one.layout, terms)
    found, _ = _common_factor([part[3].along(terms) for part in parts])
    residual = np.concatenate([part[2] for part in parts])
    loading = np.concatenate([part[0] @ direction for part in parts])
    own = np.zeros((35, 35))
    edge = 0
    for slopes, variances, *_ in parts:
        where = slice(edge, edge + len(variances))
        spread = slopes @ (base + OWN_SPREAD**2 * np.outer(direction, direction)) @ slopes.T
        own[where, where] = spread + np.diag(variances)
        edge = where.stop

    def density(covariance):
        return stats.multivariate_normal.logpdf(residual, np.zeros(35), covariance)

    none = sum(log_evidence(s, v, r, base) for s, v, r, _ in parts)
    shared = np.outer(loading, loading)
    wanted = np.logaddexp(*(density(own + s**2 * shared) for s in FACTOR_SPREADS)) - np.log(2.0)
    assert found == pytest.approx(wanted - none, abs=1e-6)


def scaled(rows, factor):
    return replace(rows, latency_ms=factor * rows.latency_ms)


def explained(fleet, steps, change, n=60):
    """Attribution for the first deployment, `change` being a factor of rows by deployment."""
    found = {}
    for position, deployment in enumerate(fleet.deployments):
        one = one_of(fleet, steps, position)
        rows = one.rows[:n]
        rows = scaled(rows, change(one, rows))
        found[deployment] = evidence(one.base, one.layout, one.draws, rows)
    own = fleet.deployments[0]
    groups = {
        ("deployment", own.label): [found[own]],
        ("gpu", own.gpu): [each for key, each in found.items() if key.gpu == own.gpu],
        ("model", own.model): [each for key, each in found.items() if key.model == own.model],
        ("fleet", ""): list(found.values()),
    }
    return attribute(own.label, groups, found[own])


@pytest.mark.parametrize("level", ["deployment", "gpu", "model", "fleet", NOTHING])
def test_who_has_slowed_down_is_named(fleet, steps, level):
    own = fleet.deployments[0]
    concerned = {
        "deployment": lambda each: each == own,
        "gpu": lambda each: each.gpu == own.gpu,
        "model": lambda each: each.model == own.model,
        "fleet": lambda each: True,
        NOTHING: lambda each: False,
    }[level]
    found = explained(fleet, steps, lambda one, _: 1.15 if concerned(one.deployment) else 1.0)
    best = found.suspects[0]
    assert best.level == level
    assert sum(each.probability for each in found.suspects) == pytest.approx(1.0)
    if level == NOTHING:
        assert set(found.likely_kinds(0.5)) == set()
        return
    assert best.kind == "speed"
    assert best.lower < 1.15 < best.upper
    assert found.kinds["speed"] > 0.9
    assert min(found.terms.values()) > 0.9


def test_a_dearer_context_is_told_from_a_slower_clock(fleet, steps):
    def change(one, rows):
        if one.deployment != fleet.deployments[0]:
            return 1.0
        own = one.draws.take(np.arange(0, one.draws.n_draws, 10))
        before = own.location(rows.points).mean(axis=0)
        cost = own.parameters["tau_C"].mean() * rows.context_tokens
        return (before + 0.4 * cost) / before

    found = explained(fleet, steps, change, n=150)
    assert found.terms["context"] > 0.9
    assert found.terms["compute"] < 0.5


def test_a_louder_noise_moves_no_term(fleet, steps):
    rng = np.random.default_rng(8)

    def change(one, rows):
        louder = one.deployment == fleet.deployments[0]
        return np.exp(0.1 * rng.standard_normal(len(rows))) if louder else 1.0

    found = explained(fleet, steps, change, n=120)
    assert found.noise_probability > 0.95
    assert found.noise_factor > 1.4
    assert found.kinds[NOTHING] > 0.3
    assert "noise x" in str(found)


def test_another_llm_behind_the_name_is_more_than_a_factor(fleet, steps):
    """Rows of the 13B under the name of the 7B: the terms do not grow by the same factor."""
    small = next(i for i, each in enumerate(fleet.deployments) if each.model == "llama-7b")
    gpu = fleet.deployments[small].gpu
    large = next(i for i, each in enumerate(fleet.deployments) if each[:2] == (gpu, "llama-13b"))
    seen, other = one_of(fleet, steps, small), one_of(fleet, steps, large)
    own = evidence(seen.base, seen.layout, seen.draws, other.rows[:300])
    found = attribute("x", {("deployment", "x"): [own]}, own)
    assert found.kinds[NOTHING] < 1e-6
    assert found.suspects[0].kind == EVERYTHING


def test_what_no_row_has_is_no_explanation(fleet, steps):
    """A log without contexts cannot blame them, nor tell the memory from the floor."""
    one = one_of(fleet, steps, 0)
    rows = replace(one.rows[:60], context_tokens=np.zeros(60))
    own = evidence(one.base, one.layout, one.draws, rows)
    found = attribute("x", {("deployment", "x"): [own]}, own)
    assert not {"context", "memory"} & set(found.kinds)
    assert "floor" in found.kinds


def test_an_attribution_is_plain_values_in_json(fleet, steps):
    found = explained(fleet, steps, lambda one, _: 1.0, n=20)
    content = found.to_dict()
    assert sum(content["levels"].values()) == pytest.approx(1.0)
    assert sum(content["kinds"].values()) == pytest.approx(1.0)
    assert all(isinstance(each["probability"], float) for each in content["suspects"])
