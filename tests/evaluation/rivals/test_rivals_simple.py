"""Rivals without the formula, and what all of them share, against truths that are known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from small_rivals import SHEETS, halves, rows_where

import bayeslat as bl
from bayeslat.evaluation.rivals import all_rivals
from bayeslat.evaluation.rivals.datasheets import FEATURES, Datasheets, least_times, step_features
from bayeslat.evaluation.rivals.history import KNOWN, N_FOLDS, History, Novelty, folds
from bayeslat.evaluation.rivals.rooflines import KNEES
from bayeslat.evaluation.rivals.spread import Ratios, scaled_by_few
from bayeslat.evaluation.rivals.trees import TRAINED_LEVELS, LightGBM, XGBoost, between_levels
from bayeslat.observations import Observations
from bayeslat.roofline import step_flops, weight_bytes
from bayeslat.schema import Deployment

HALF = [0.5]


def following(steps: Observations, latency_ms: np.ndarray) -> Observations:
    return replace(steps, latency_ms=np.asarray(latency_ms, dtype=float))


def medians(slug: str, known: Observations, test: Observations, few=None) -> np.ndarray:
    [rival] = all_rivals([slug])
    return rival.fit(known, few).predict_quantiles(test, HALF)[:, 0]


def test_polynomials_reproduce_polynomials_beyond_what_was_measured(
    rival_fleet: Observations,
) -> None:
    b, s, c = rival_fleet.batch_size, rival_fleet.total_tokens, rival_fleet.context_tokens
    lines = 5 + 0.5 * b + 0.02 * s + 1e-5 * c
    largest = np.array([s[rival_fleet.slice_of(each)].max() for each in rival_fleet.deployments])
    inside = s < 0.8 * largest[rival_fleet.deployment_index]
    for slug, more in (("linear", 0.0), ("quadratic", 1e-4 * b**2 + 1e-6 * s**2)):
        steps = following(rival_fleet, lines + more)
        found = medians(slug, steps.select(inside), steps)
        assert found == pytest.approx(steps.latency_ms, rel=1e-4)


def test_a_knee_is_found(rival_fleet: Observations) -> None:
    sheets = Datasheets.of(rival_fleet.deployments, SHEETS)
    memory, compute, context = least_times(rival_fleet, sheets)
    steps = following(rival_fleet, 2 + 3 * np.maximum(KNEES[35] * memory, compute) + 1.5 * context)
    assert medians("roofline-knee", steps, steps) == pytest.approx(steps.latency_ms, rel=1e-6)


def test_efficiencies_of_an_engine_are_found(rival_fleet: Observations) -> None:
    sheets = Datasheets.of(rival_fleet.deployments, SHEETS)
    memory, compute, context = least_times(rival_fleet, sheets)
    mbu = np.where(rows_where(rival_fleet, lambda each: each.engine == "tgis"), 0.6, 0.8)
    steps = following(
        rival_fleet, np.maximum(compute * KNEES[28] / mbu, (memory + context) / mbu) * KNEES[32]
    )
    out = rows_where(steps, lambda each: each.gpu == "H100-80GB")
    found = medians("roofline-datasheet", steps.select(~out), steps.select(out))
    assert found == pytest.approx(steps.latency_ms[out], rel=1e-6)


def test_datasheet_times_are_those_of_the_roofline(rival_fleet: Observations) -> None:
    own = rival_fleet.for_deployment(Deployment("H100-80GB", "llama-7b", 1, "muxserve"))
    gpu, llm = SHEETS.gpu("H100-80GB"), SHEETS.llm("llama-7b")
    memory, compute, context = least_times(own, Datasheets.of(own.deployments, SHEETS))
    assert memory == pytest.approx(1e-9 * weight_bytes(llm.parameters_b) / gpu.bandwidth_tbs)
    flops = step_flops(llm.active_b, own.total_tokens)
    assert compute == pytest.approx(1e-9 * flops / gpu.peak_tflops)
    read = llm.kv_bytes_per_position() * own.context_tokens
    assert context == pytest.approx(1e-9 * read / gpu.bandwidth_tbs)


def test_what_no_datasheet_tells_is_the_median_of_the_known(rival_fleet: Observations) -> None:
    known = rival_fleet.deployments
    sheets = Datasheets.of(known, SHEETS)
    told = sheets.table(known)
    [filled] = sheets.table([Deployment("unheard-of", "llama-7b", 2, "muxserve")])
    assert filled[:2] == pytest.approx(np.median(told[:, :2], axis=0))
    assert filled[2] == told[[each.model for each in known].index("llama-7b"), 2]
    assert filled[5] == 2
    nobody = Datasheets.of([Deployment("unheard-of", "nobody's")], SHEETS)
    assert nobody.typical == pytest.approx(np.ones(6))


def test_features_have_the_columns_that_they_say(rival_fleet: Observations) -> None:
    sheets = Datasheets.of(rival_fleet.deployments, SHEETS)
    columns = dict(zip(FEATURES, step_features(rival_fleet, sheets).T, strict=True))
    assert np.exp(columns["log_batch_size"]) == pytest.approx(rival_fleet.batch_size)
    assert set(columns["engine"]) == {0, 1}
    stranger = replace(
        rival_fleet, deployments=tuple(d._replace(engine="new") for d in rival_fleet.deployments)
    )
    assert set(sheets.engine_codes(stranger)) == {-1}


def table_of(batch, tokens, context, latency_ms, phase="decode") -> Observations:
    frame = pd.DataFrame(
        {"gpu": "H100-80GB", "model": "llama-7b", "batch_size": batch, "total_tokens": tokens,
         "context_tokens": context, "latency_ms": latency_ms, "phase": phase}
    )  # fmt: skip
    return bl.validate_steps(frame, check_floor=False)


def test_a_table_gives_its_entries_and_straight_lines_between_them() -> None:
    batch = np.array([1.0, 4.0, 16.0])
    known = table_of(batch, batch, 100 * batch, [10.0, 20.0, 40.0])
    # Along these entries B, S and C move together: the table has one direction.
    asked = np.array([1.0, 2.0, 4.0, 16.0, 64.0])
    found = medians("table", known, table_of(asked, asked, 100 * asked, 5 * [9.0]))
    assert found == pytest.approx([10.0, 200**0.5, 20.0, 40.0, 40.0], rel=2e-3)


def test_a_table_in_three_directions_is_exact_for_powers_and_flat_beyond() -> None:
    b, length, c = (axis.ravel() for axis in np.meshgrid([1, 4, 16], [8, 64, 512], [600, 9000]))
    power = b**0.3 * (b * length) ** 0.5 * (1 + c) ** 0.1
    known = table_of(b, b * length, c, power, phase="mixed")
    inside = medians("table", known, table_of([2], [2 * 20], [3000], [9.0], phase="mixed"))
    assert inside == pytest.approx(2**0.3 * 40**0.5 * 3001**0.1, rel=1e-3)
    beyond = medians("table", known, table_of([16], [10**6], [9000], [9.0], phase="mixed"))
    assert beyond == pytest.approx(power.max(), rel=1e-3)


def test_a_new_deployment_gets_the_table_of_the_most_alike(rival_fleet: Observations) -> None:
    new = rows_where(rival_fleet, lambda each: each.gpu == "A100-80GB@80%")
    twin = tuple(
        each._replace(gpu="A100-80GB@80%") if each.gpu == "A100-80GB" else each
        for each in rival_fleet.deployments
    )
    known = rival_fleet.select(~new)
    whole = known.select(rows_where(known, lambda each: each.gpu == "A100-80GB"))
    asked = replace(whole, deployments=twin[: len(whole.deployments)])
    assert {each.gpu for each in asked.deployments} == {"A100-80GB@80%"}
    assert medians("table", known, asked) == pytest.approx(medians("table", known, whole))
    few = following(asked, 3 * medians("table", known, whole))
    # Thirty steps that are all three times as long, against one that would be as long as expected.
    factor = 3 ** (30 / 31)
    found = medians("table", known, asked, few)
    assert found == pytest.approx(factor * medians("table", known, whole))


def test_ratios_give_the_quantiles_of_the_deployment_or_of_its_engine(
    rival_fleet: Observations,
) -> None:
    ratio = np.where(rows_where(rival_fleet, lambda each: each.engine == "tgis"), 2.0, 1.0)
    ratios, point = Ratios(rival_fleet, ratio), np.full(len(rival_fleet), 10.0)
    new = replace(rival_fleet, deployments=tuple(d._replace(tp=8) for d in rival_fleet.deployments))
    for steps in (rival_fleet, new):
        assert (
            ratios.quantiles(steps, point, [0.1, 0.9], centred=False) == 10 * ratio[:, None]
        ).all()
    assert (ratios.quantiles(new, point, [0.1, 0.9], centred=True) == 10.0).all()


def test_ratios_of_a_deployment_are_its_empirical_quantiles(rival_fleet: Observations) -> None:
    own = rival_fleet.for_deployment(rival_fleet.deployments[0])
    ratio = np.linspace(0.5, 1.5, len(own))
    found = Ratios(own, ratio).quantiles(own, np.ones(len(own)), [0.25, 0.75], centred=False)
    assert found[0] == pytest.approx([0.75, 1.25])


def test_few_steps_scale_a_pooled_forecast(rival_fleet: Observations) -> None:
    known, new = halves(rival_fleet.for_deployment(rival_fleet.deployments[0]))
    few = following(new, np.full(len(new), 30.0)).select(np.arange(3))
    history = replace(History.of(known, None), few=few)
    found = scaled_by_few(lambda steps: np.full(len(steps), 10.0), history, new)
    assert found == pytest.approx(10.0 * 3 ** (3 / 4))


def test_contexts_are_filled_with_what_is_typical(rival_fleet: Observations) -> None:
    first, second = rival_fleet.deployments[:2]
    context = 50.0 * rival_fleet.batch_size
    context[rival_fleet.slice_of(first)] = np.nan
    context[rival_fleet.slice_of(first).start] = 7 * rival_fleet.batch_size[0]
    context[rival_fleet.slice_of(second)] = np.nan
    history = History.of(replace(rival_fleet, context_tokens=context), None)
    per_request = history.known.context_tokens / history.known.batch_size
    assert (per_request[rival_fleet.slice_of(first)] == 7).all()
    assert (per_request[rival_fleet.slice_of(second)] == 50).all()


def test_a_deployment_is_new_by_its_gpu_or_else_by_its_llm(rival_fleet: Observations) -> None:
    out = rows_where(rival_fleet, lambda each: each.gpu == "H100-80GB")
    new = rival_fleet.select(out)
    history = History.of(rival_fleet.select(~out), new.select(np.arange(13)))
    assert history.novelty(rival_fleet.deployments[0]) == KNOWN
    assert history.novelty(new.deployments[0]) == Novelty("gpu", 10)
    assert history.novelty(new.deployments[1]) == Novelty("gpu", 0)
    assert history.novelty(Deployment("A100-80GB@20%", "llama-7b")) == Novelty("gpu", 0)
    assert history.novelty(Deployment("A100-80GB", "llama-70b")) == Novelty("model", 0)


def test_repeats_of_a_design_point_stay_in_one_fold(rival_fleet: Observations) -> None:
    twice = rival_fleet.select(np.repeat(np.arange(len(rival_fleet)), 2))
    fold = folds(twice)
    assert (fold[::2] == fold[1::2]).all()
    assert np.bincount(fold).min() > len(twice) / N_FOLDS / 2


def test_levels_in_between_are_exact_for_a_normal() -> None:
    levels = [0.001, 0.025, 0.4, 0.5, 0.9, 0.999]
    found = between_levels(norm.ppf([TRAINED_LEVELS]), levels)
    assert found[0] == pytest.approx(norm.ppf(levels))


@pytest.fixture(scope="module")
def lognormal() -> tuple[Observations, Observations]:
    """Steps at eight design points with lognormal noise, to learn from and to predict."""
    n, rng = 8_000, np.random.default_rng(11)
    batch = 2.0 ** rng.integers(0, 8, n)
    latency_ms = (10 + batch**0.8) * np.exp(0.2 * rng.standard_normal(n))
    return halves(table_of(batch, batch, 200 * batch, latency_ms))


@pytest.mark.parametrize("slug", ["bayesian-ridge", "random-forest", "lightgbm", "xgboost"])
def test_quantiles_cover_what_they_say(
    slug: str, lognormal: tuple[Observations, Observations]
) -> None:
    quick = {"lightgbm": LightGBM(SHEETS, rounds=200), "xgboost": XGBoost(SHEETS, rounds=200)}
    rival = quick.get(slug) or all_rivals([slug])[0]
    known, test = lognormal
    levels = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
    found = rival.fit(known).predict_quantiles(test, levels)
    below = (test.latency_ms[:, None] <= found).mean(axis=0)
    # Binomial error of the steps learnt from and of those predicted, 4,000 each.
    error = np.sqrt(2 * levels * (1 - levels) / len(test))
    assert (np.abs(below - levels) < 4 * error).all()
