"""Rivals find what there is to find, on tiny data whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from contest.rivals.formula import Fitter, _steps, _terms, predict
from contest.rivals.least_squares import FormulaRival, PooledMemory
from contest.rivals.pooled import Pooled
from contest.rivals.residual import BoostedResidual
from contest.rivals.residuals import Ratios
from contest.rivals.simple import Knee, Polynomial
from contest.rivals.trees import TRAINED_LEVELS, Forest, LightGBM, XGBoost, between_levels
from contest.scores import LEVELS, score_forecast
from contest.splits import Task, make_tasks

MEMORY = PooledMemory(Fitter(with_context=True, starts=2))
"""One for all, so that the tests fit every deployment once."""

RIVALS = (
    FormulaRival("formula+context LSQ", MEMORY),
    Polynomial(1),
    Polynomial(2),
    Knee(),
    Forest(trees=20),
    LightGBM(rounds=20),
    XGBoost(rounds=20),
    BoostedResidual(MEMORY, rounds=20),
)


@pytest.fixture(scope="module")
def exact(frame: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Log-parameters, and steps of one deployment that follow them exactly."""
    theta = np.log([20.0, 0.5, 0.02, 5.0, 3.0, 0.05, 1e-3, 1e-5])
    own = frame[frame["deployment"].str.startswith("H100-80GB/llama-7b")]
    return theta, own.assign(latency_ms=predict(theta, own))


@pytest.fixture(scope="module")
def tasks(frame: pd.DataFrame) -> dict[str, Task]:
    new = {task.name: task for task in make_tasks("gpu_left_out", frame)}
    [known] = make_tasks("interpolation", frame)
    return {"known": known, "new": new["A100-80GB@60% k=0"], "few": new["A100-80GB@60% k=10"]}


@pytest.mark.parametrize("kind", ["known", "new", "few"])
@pytest.mark.parametrize("rival", RIVALS, ids=lambda rival: rival.name)
def test_forecasts_are_ordered_quantiles_of_about_the_right_size(
    rival, tasks: dict[str, Task], kind: str
) -> None:
    task = tasks[kind]
    forecast = rival.forecast(task)
    assert forecast.shape == (len(task.test), len(LEVELS))
    assert np.isfinite(forecast).all() and (forecast > 0.0).all()
    assert (np.diff(forecast, axis=1) >= 0.0).all()
    scores = score_forecast(task.test["latency_ms"].to_numpy(), forecast)
    assert scores["mape"] < 80.0


@pytest.mark.parametrize("rival", RIVALS, ids=lambda rival: rival.name)
def test_no_forecast_looks_at_the_latencies_to_forecast(rival, tasks: dict[str, Task]) -> None:
    task = tasks["few"]
    blind = Task(
        task.split, task.name, task.train, task.few, task.test.assign(latency_ms=np.nan), task.k
    )
    assert np.array_equal(rival.forecast(task), rival.forecast(blind))


def test_least_squares_reproduces_steps_that_follow_the_formula(exact) -> None:
    _, own = exact
    fitted = predict(Fitter(with_context=True).fit(own), own)
    assert fitted == pytest.approx(own["latency_ms"].to_numpy(), rel=1e-3)


def test_least_squares_shrugs_off_a_few_stalls(exact) -> None:
    _, own = exact
    stalled = own["latency_ms"].to_numpy().copy()
    stalled[::15] *= 5.0
    fitted = predict(Fitter(with_context=True).fit(own.assign(latency_ms=stalled)), own)
    # Soft L1 at 0.1: one stall in 15 moves the rest by about a fifteenth of 0.1 / sqrt(1 - 1/15^2).
    assert np.median(np.abs(fitted / own["latency_ms"] - 1.0)) < 0.02


def test_the_derivatives_of_the_formula_are_right(exact) -> None:
    theta, own = exact
    slopes = _terms(theta, _steps(own))[1]
    for position in range(theta.size):
        bump = 1e-5 * np.eye(theta.size)[position]
        numeric = (predict(theta + bump, own) - predict(theta - bump, own)) / 2e-5
        assert slopes[:, position] == pytest.approx(numeric, rel=1e-5, abs=1e-7)


def test_known_steps_bring_a_new_deployment_nearer(tasks: dict[str, Task]) -> None:
    far = tasks["few"].few.assign(latency_ms=lambda steps: 3.0 * steps["latency_ms"])
    truth = tasks["few"].test.assign(latency_ms=lambda steps: 3.0 * steps["latency_ms"])
    slow = Task("gpu_left_out", "slow", tasks["few"].train, far, truth, 10)
    rival = FormulaRival("formula", MEMORY)
    errors = [
        score_forecast(truth["latency_ms"].to_numpy(), rival.forecast(task))["mape"]
        for task in (tasks["new"], slow)
    ]
    assert errors[1] < errors[0] / 2


def test_shares_are_interpolated_between_their_neighbours(exact) -> None:
    _, own = exact
    parts = []
    for gpu, scale in (("A100-80GB", 1.0), ("A100-80GB@64%", 4.0), ("A100-80GB@80%", np.nan)):
        label = f"{gpu}/llama-7b/tp1/muxserve"
        steps = own.assign(gpu=gpu, deployment=label, latency_ms=scale * own["latency_ms"])
        parts.append(steps.reset_index(drop=True))
    train = pd.concat(parts[:2], ignore_index=True)
    pooled = Pooled(train, Fitter(with_context=True), "gpu")
    [found] = pooled.newcomers(parts[2].iloc[:0], parts[2]).values()
    # 0.8 is the geometric mean of 0.64 and 1, and so is 2 of 4 and 1.
    assert np.exp(found.log_rest) == pytest.approx(2.0 * own["latency_ms"].to_numpy(), rel=0.02)


def test_ratios_give_the_quantiles_of_the_deployment_or_of_its_engine(frame: pd.DataFrame) -> None:
    ratio = np.where(frame["engine"] == "tgis", 2.0, 1.0)
    ratios = Ratios(frame, ratio)
    point = np.full(len(frame), 10.0)
    assert (ratios.spread(frame, point, centred=False) == 10.0 * ratio[:, None]).all()
    new = frame.assign(deployment="new")
    assert (ratios.spread(new, point, centred=False) == 10.0 * ratio[:, None]).all()
    assert (ratios.spread(new, point, centred=True) == 10.0).all()


def test_levels_in_between_are_exact_for_a_normal() -> None:
    assert between_levels(norm.ppf([TRAINED_LEVELS]))[0] == pytest.approx(norm.ppf(LEVELS))
