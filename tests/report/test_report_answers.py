"""The answers of a report are those of the questions it stands for."""

import numpy as np
import pytest

from bayeslat.report import answers
from bayeslat.report.formats import number, percent

SLA_MS, RISK = 30.0, 0.05


@pytest.fixture(scope="module")
def few(tiny_fleet):
    """The draws that answer."""
    return tiny_fleet.thin(answers.MAX_DRAWS)


@pytest.fixture(scope="module")
def found(tiny_fleet):
    return answers.answer(tiny_fleet, sla_ms=SLA_MS, risk=RISK)


def test_typical_steps_are_those_of_the_posterior(found, few):
    for item, each in zip(few.deployments, found.deployments, strict=True):
        assert each.label == item.label
        decode = few.latency(**item._asdict(), batch_size=16, total_tokens=16)
        assert each.decode.p_exceeds == pytest.approx(tuple(decode.sf(SLA_MS, credible=0.9)))
        assert each.decode.p99_ms == pytest.approx(tuple(decode.ppf(0.99, credible=0.9)))
        assert each.decode.keeps == (decode.sf(SLA_MS) <= RISK)
        prefill = few.latency(
            **item._asdict(), batch_size=1, total_tokens=1024, context_tokens=1024
        )
        assert each.prefill.median_ms == pytest.approx(tuple(prefill.median(credible=0.9)))


def test_budgets_are_those_of_an_inversion(found, few):
    for item, each in zip(few.deployments, found.deployments, strict=True):
        assert [budget.batch_size for budget in each.budgets] == [1, 8, 32, 128]
        for budget in each.budgets:
            largest = few.max_tokens(
                **item._asdict(), batch_size=budget.batch_size, sla_ms=SLA_MS, risk=RISK
            )
            assert budget.total_tokens == largest


def test_decodes_are_the_most_that_keep_the_risk(found, few):
    for item, each in zip(few.deployments, found.deployments, strict=True):
        sizes = np.arange(1, 257)
        risks = few.latency(**item._asdict(), batch_size=sizes, total_tokens=sizes)
        keeping = sizes[risks.sf(SLA_MS) <= RISK]
        assert each.decodes.total_tokens == keeping.max()
        assert each.decodes.limited == (keeping.max() == 256)


def test_the_best_step_is_one_of_the_largest_and_the_fastest_of_them(found, few):
    for item, each in zip(few.deployments, found.deployments, strict=True):
        rates = {}
        for budget in (*each.budgets, each.decodes):
            if budget.total_tokens is not None:
                step = (budget.batch_size, budget.total_tokens)
                mean = few.latency(
                    **item._asdict(), batch_size=step[0], total_tokens=step[1]
                ).mean()
                rates[step] = 1e3 * step[1] / mean
        best = (each.best.batch_size, each.best.total_tokens)
        assert rates[best] > 0.99 * max(rates.values())
        # The mean of S / T is above S over the mean of T, by little where T is known well.
        assert each.best.tokens_per_s.value == pytest.approx(rates[best], rel=0.05)


def test_steps_outside_the_measured_range_are_marked(tiny_fleet):
    item = tiny_fleet.deployments[0]
    high = tiny_fleet.constant_data["measured_range"].isel(deployment=0).sel(bound="high")
    batch, tokens = high.to_numpy()[:2]
    assert not answers._beyond(tiny_fleet, item, batch, tokens)
    assert answers._beyond(tiny_fleet, item, batch + 1, tokens)
    assert answers._beyond(tiny_fleet, item, batch, tokens + 1)


def test_nothing_fits(tiny_fleet):
    found = answers.answer(tiny_fleet, sla_ms=0.01, risk=RISK)
    assert found.decodes_kept == found.prefills_kept == 0
    for each in found.deployments:
        assert each.best is None
        assert {budget.total_tokens for budget in (*each.budgets, each.decodes)} == {None}


def test_everything_fits(tiny_fleet):
    found = answers.answer(tiny_fleet, sla_ms=1e6, risk=RISK)
    assert found.decodes_kept == len(found.deployments)
    assert all(budget.limited for each in found.deployments for budget in each.budgets)
    assert found.beyond


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0"), (1e-6, "< 0.01"), (1e-4, "0.01"), (0.0042, "0.42"), (0.05, "5.0"),
        (0.999, "99.9"), (0.9999, "> 99.9"), (1.0, "100"), (float("nan"), "nan"),
    ],
)  # fmt: skip
def test_shares_as_text(share, text):
    assert percent(share) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00"), (22.0, "22.0"), (123.4, "123"), (1234.5, "1,234"), (999.7, "1,000"),
        (3.2e-5, "3.20e-05"), (float("inf"), "∞"), (float("nan"), "–"),
    ],
)  # fmt: skip
def test_numbers_as_text(value, text):
    assert number(value) == text
