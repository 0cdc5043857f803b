"""Fits of the saturation formula, and what is pooled of them for new deployments."""

from dataclasses import replace

import numpy as np
import pytest

import bayeslat as bl
from bayeslat import saturation
from bayeslat.evaluation.rivals.datasheets import Datasheets
from bayeslat.evaluation.rivals.formula import PARAMETERS, Fitter, _columns, _terms, predict
from bayeslat.evaluation.rivals.history import History
from bayeslat.evaluation.rivals.pooled import Pooled, likeness
from bayeslat.observations import Observations, concat
from bayeslat.schema import Deployment

THETA = np.log([20.0, 0.5, 0.02, 5.0, 3.0, 0.05, 1e-3, 1e-5])
CATALOG = bl.load_catalog()


@pytest.fixture(scope="module")
def exact(rival_fleet: Observations) -> Observations:
    """Steps of one deployment that follow the formula exactly."""
    own = rival_fleet.for_deployment(Deployment("H100-80GB", "llama-7b", 1, "muxserve"))
    return replace(own, latency_ms=predict(THETA, own))


def test_the_formula_is_that_of_the_package(exact: Observations) -> None:
    named = dict(zip(("P_max", *PARAMETERS[1:]), np.exp(THETA), strict=True))
    expected = saturation.latency(
        {**named, "w_1": 1.0}, exact.batch_size, exact.total_tokens, exact.context_tokens
    )
    assert exact.latency_ms == pytest.approx(expected)


def test_the_derivatives_of_the_formula_are_right(exact: Observations) -> None:
    slopes = _terms(THETA, _columns(exact))[1]
    for position in range(THETA.size):
        bump = 1e-5 * np.eye(THETA.size)[position]
        numeric = (predict(THETA + bump, exact) - predict(THETA - bump, exact)) / 2e-5
        assert slopes[:, position] == pytest.approx(numeric, rel=1e-5, abs=1e-7)


def test_exact_steps_are_reproduced(exact: Observations) -> None:
    fitter = Fitter(with_context=True, starts=2)
    fitted = fitter.fit(exact)
    assert predict(fitted, exact) == pytest.approx(exact.latency_ms, rel=1e-3)
    assert fitter.fit(exact) is fitted


def test_a_few_stalls_change_little(exact: Observations) -> None:
    stalled = exact.latency_ms.copy()
    stalled[::15] *= 5.0
    theta = Fitter(with_context=True, starts=2).fit(replace(exact, latency_ms=stalled))
    # Soft L1 at 0.1: one stall in 15 moves the rest by about a fifteenth of 0.1 / sqrt(1 - 1/15^2).
    assert np.median(np.abs(predict(theta, exact) / exact.latency_ms - 1.0)) < 0.02


def on_share(steps: Observations, gpu: str, scale: float) -> Observations:
    deployments = tuple(each._replace(gpu=gpu) for each in steps.deployments)
    return replace(steps, deployments=deployments, latency_ms=scale * steps.latency_ms)


def test_shares_are_interpolated_between_their_neighbours(exact: Observations) -> None:
    known = concat(on_share(exact, "A100-80GB", 1.0), on_share(exact, "A100-80GB@64%", 4.0))
    new = on_share(exact, "A100-80GB@80%", np.nan)
    pooled = Pooled(known, Fitter(with_context=True, starts=2), "gpu", CATALOG)
    [found] = pooled.newcomers(History.of(known, None), new)
    # 0.8 is the geometric mean of 0.64 and 1, and so is 2 of 4 and 1.
    assert np.exp(found.log_rest) == pytest.approx(2.0 * exact.latency_ms, rel=0.02)
    assert sorted(found.shares.values()) == pytest.approx([0.5, 0.5])


def test_two_deployments_that_are_no_shares_are_not_taken_for_shares(exact: Observations) -> None:
    known = concat(on_share(exact, "A100-80GB", 1.0), on_share(exact, "H100-80GB", 0.5))
    pooled = Pooled(known, Fitter(with_context=True, starts=1), "gpu", CATALOG)
    [found] = pooled.newcomers(History.of(known, None), on_share(exact, "L4-24GB", np.nan))
    assert found.shares == {}


def test_a_deployment_is_most_like_itself(rival_fleet: Observations) -> None:
    deployments = rival_fleet.deployments
    kernel = likeness(deployments, deployments, Datasheets.of(deployments, CATALOG))
    distance = kernel.diagonal()[None, :] - 2 * kernel
    assert (distance.argmin(axis=1) == np.arange(len(deployments))).all()
    assert (np.linalg.eigvalsh(kernel) > -1e-9).all()
