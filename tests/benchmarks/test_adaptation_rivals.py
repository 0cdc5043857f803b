"""Rivals do what their textbooks say: held against closed forms and brute force."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest

import bayeslat as bl
from adaptation.rivals.base import Each, Forecast, from_quantiles
from adaptation.rivals.features import Features
from adaptation.rivals.fixed import Fixed, forecast_of
from adaptation.rivals.formula import (
    MomentumSettings,
    fit_formula,
    slopes,
    start_momentum,
    start_window,
)
from adaptation.rivals.kalman import START_SD, KalmanSettings, start_kalman
from adaptation.rivals.oracle import Oracle
from adaptation.rivals.refit import SD_LEVEL, SD_SLOPE, shift_of, start_refit
from adaptation.scenarios import SCENARIOS, simulated_stream
from adaptation.streams import of_deployment
from bayeslat.evaluation.rivals.formula import predict
from bayeslat.simulate import SimulatedFleet

NOISE = 0.04


@dataclass(frozen=True)
class Truth:
    """A base posterior that knows the typical latency exactly."""

    fleet: SimulatedFleet

    def median(self, deployment: bl.Deployment, steps: pd.DataFrame) -> np.ndarray:
        return self.fleet.truth[deployment].mechanism.typical_ms(
            steps["batch_size"], steps["total_tokens"], steps["context_tokens"]
        )

    def predict(self, deployment: bl.Deployment, steps: pd.DataFrame) -> Forecast:
        return from_quantiles(self.median(deployment, steps), np.linspace(0.9, 1.1, 101))


@pytest.fixture(scope="module")
def fleet() -> SimulatedFleet:
    return bl.simulate_fleet(gpus=("A100-80GB",), models=("llama-7b",), rows_per_deployment=900)


@pytest.fixture(scope="module")
def base(fleet: SimulatedFleet) -> Truth:
    return Truth(fleet)


@pytest.fixture(scope="module")
def deployment(fleet: SimulatedFleet) -> bl.Deployment:
    return next(iter(fleet.truth))


@pytest.fixture(scope="module")
def steps(fleet: SimulatedFleet, base: Truth, deployment: bl.Deployment) -> pd.DataFrame:
    """Steps with lognormal noise around the base's own median."""
    noise = np.exp(NOISE * np.random.default_rng(0).standard_normal(len(fleet.steps)))
    return fleet.steps.assign(latency_ms=base.median(deployment, fleet.steps) * noise)


@pytest.fixture(scope="module")
def formula_steps(steps: pd.DataFrame) -> pd.DataFrame:
    """The same steps with latencies that the formula tells without noise."""
    return steps.assign(latency_ms=predict(fit_formula(steps.head(300)), steps))


def test_the_kalman_filter_of_a_still_state_is_ridge_regression(
    steps: pd.DataFrame, base: Truth, deployment: bl.Deployment
) -> None:
    known, rows = (
        steps.head(300),
        steps.iloc[300:700].assign(latency_ms=lambda frame: 1.05 * frame["latency_ms"]),
    )
    still = KalmanSettings(level_sd=0.0, slope_sd=0.0, clip=np.inf, forget=0.0)
    start = start_kalman(deployment, base, known, still)
    found = start.observe(rows.head(150)).observe(rows.iloc[150:])
    x = Features.of(known)(rows)
    y = np.log(rows["latency_ms"] / base.median(deployment, rows)).to_numpy()
    precision = x.T @ x / start.noise + np.eye(x.shape[1]) / START_SD**2
    assert found.covariance == pytest.approx(np.linalg.inv(precision), rel=1e-6, abs=1e-12)
    assert found.mean == pytest.approx(np.linalg.solve(precision, x.T @ y / start.noise), rel=1e-6)


def test_the_kalman_filter_follows_a_slow_down_and_shrugs_off_an_outlier(
    steps: pd.DataFrame, base: Truth, deployment: bl.Deployment
) -> None:
    start = start_kalman(deployment, base, steps.head(300))
    calm = start.observe(steps.iloc[300:400])
    hit = steps.iloc[300:400].copy()
    hit.iloc[99, hit.columns.get_loc("latency_ms")] *= 100.0
    assert abs(start.observe(hit).mean[0] - calm.mean[0]) < 0.5 * NOISE
    slow = steps.iloc[400:].assign(latency_ms=1.15 * steps.iloc[400:]["latency_ms"])
    after = calm.observe(slow)
    probe = steps.head(300)
    ratio = after.predict(probe).median / base.median(deployment, probe)
    # Level and slopes are random walks: their spread is what the filter itself says.
    sd = np.sqrt(np.diag(after.covariance).sum())
    assert ratio.mean() == pytest.approx(1.15, abs=4 * sd)
    forecast = after.predict(probe)
    inside = (forecast.lower < 1.15 * probe["latency_ms"]) & (
        1.15 * probe["latency_ms"] < forecast.upper
    )
    assert 0.84 < inside.mean() < 0.96
    assert (forecast.p99 > forecast.upper).all()


def test_a_shift_of_gaussian_noise_is_near_ridge_regression(
    steps: pd.DataFrame, base: Truth, deployment: bl.Deployment
) -> None:
    features = Features.of(steps, degree=2)
    x = features(steps)
    assert x.shape[1] == 1 + 4 + 10
    rng = np.random.default_rng(1)
    y = 0.1 + 0.05 * x[:, 2] + NOISE * rng.standard_normal(len(x))
    found = shift_of(y, steps, features, np.zeros(0))
    prior = np.diag([1 / SD_LEVEL**2, *np.full(14, 1 / SD_SLOPE**2)])
    precision = x.T @ x / NOISE**2 + prior
    ridge = np.linalg.solve(precision, x.T @ y / NOISE**2)
    sd = np.sqrt(np.diag(np.linalg.inv(precision)))
    assert (np.abs(found.weights - ridge) < 2 * sd).all()
    assert np.std(np.log(found.ratios)) == pytest.approx(NOISE, rel=4 / np.sqrt(2 * len(x)))


def test_a_shift_ignores_a_tenth_of_rows_at_five_times(steps: pd.DataFrame) -> None:
    rng = np.random.default_rng(1)
    y = 0.1 + NOISE * rng.standard_normal(len(steps))
    y[rng.random(y.size) < 0.1] += np.log(5.0)
    found = shift_of(y, steps, Features.of(steps), np.zeros(0))
    assert found.weights[0] == pytest.approx(0.1, abs=0.3 * NOISE)
    assert np.mean(y) > 0.1 + 2 * NOISE


def test_a_refit_starts_as_the_base_and_ends_at_the_new_law(
    steps: pd.DataFrame, base: Truth, deployment: bl.Deployment
) -> None:
    probe = steps.head(50)
    refit = start_refit(deployment, base, steps.head(300), window=200)
    believed = base.median(deployment, probe)
    assert refit.predict(probe).median == pytest.approx(believed, rel=0.02)
    slow = steps.iloc[300:600].assign(latency_ms=lambda frame: 1.15 * frame["latency_ms"])
    waiting = refit.observe(slow.head(99))
    assert np.array_equal(waiting.predict(probe).median, refit.predict(probe).median)
    for block in (slow.iloc[99:200], slow.iloc[200:]):
        waiting = waiting.observe(block)
    error = NOISE * np.sqrt(5 / 200)
    assert waiting.predict(probe).median / believed == pytest.approx(
        np.full(50, 1.15), rel=5 * error
    )


def test_least_squares_forget_what_left_the_window(formula_steps: pd.DataFrame) -> None:
    known, later = formula_steps.head(300), formula_steps.iloc[300:600]
    slow = later.assign(latency_ms=1.2 * later["latency_ms"])
    start = start_window(fit_formula(known), known, window=200)
    assert start.predict(later).median == pytest.approx(later["latency_ms"], rel=1e-3)
    half = start.observe(slow.head(100)).predict(later).median / later["latency_ms"]
    assert 1.01 < half.mean() < 1.19
    full = start.observe(slow.head(150)).observe(slow.iloc[150:])
    assert len(full.rows) == 200
    assert full.predict(later).median == pytest.approx(slow["latency_ms"], rel=5e-3)


def test_slopes_and_gradient_are_those_of_the_loss(formula_steps: pd.DataFrame) -> None:
    known = formula_steps.head(300)
    theta = fit_formula(known) + 0.05
    own = replace(start_momentum(theta, known), theta=theta)
    rows = known.head(200)
    weights = own.settings.decay ** np.arange(200)[::-1]
    weights /= weights.sum()

    def loss(at: np.ndarray) -> float:
        return 0.5 * float(weights @ np.log(predict(at, rows) / rows["latency_ms"]) ** 2)

    step = 1e-4
    numeric = [
        (loss(theta + step * one) - loss(theta - step * one)) / (2 * step)
        for one in np.eye(theta.size)
    ]
    assert own._gradient(rows) == pytest.approx(numeric, rel=1e-3, abs=1e-9)
    assert slopes(theta, rows)[:, 4] == pytest.approx(
        np.exp(theta[4]) / predict(theta, rows), rel=1e-5
    )


def test_momentum_steps_come_every_hundred_rows_and_go_downhill(
    formula_steps: pd.DataFrame,
) -> None:
    known = formula_steps.head(300)
    slow = formula_steps.assign(latency_ms=1.15 * formula_steps["latency_ms"])
    start = start_momentum(fit_formula(known), known, MomentumSettings(rate=0.3, pull=0.0))
    waiting = start.observe(slow.iloc[300:399])
    assert np.array_equal(waiting.theta, start.theta)
    errors, belief = [], start
    for first in range(300, 900, 100):
        belief = belief.observe(slow.iloc[first : first + 100])
        measured = slow["latency_ms"]
        errors.append(float(np.mean(np.abs(np.log(belief.predict(slow).median / measured)))))
    assert errors[0] == pytest.approx(np.log(1.15), rel=0.5)
    assert errors[-1] < 0.5 * errors[0]


def test_the_pull_of_a_momentum_step_is_toward_the_base(formula_steps: pd.DataFrame) -> None:
    known = formula_steps.head(300)
    away = 0.01
    moved = {}
    for pull in (0.0, 1.0):
        settings = MomentumSettings(rate=0.3, momentum=0.0, pull=pull)
        start = start_momentum(fit_formula(known), known, settings)
        start = replace(start, theta=start.base + away)
        moved[pull] = start.observe(known.head(100)).theta - start.theta
    # The pull adds rate * pull * distance to every coordinate's step.
    assert moved[1.0] - moved[0.0] == pytest.approx(np.full(len(moved[0.0]), -0.3 * away))


def test_hindsight_tells_a_moving_law_at_any_time(fleet: SimulatedFleet, base: Truth) -> None:
    thermal = next(one for one in SCENARIOS if one.name == "thermal")
    stream = simulated_stream(replace(thermal, before=100, after=1500), fleet, seed=0)
    (deployment,) = stream.tracked
    oracle = Oracle.of(stream, deployment, base, of_deployment(fleet.steps, deployment))
    for seen in (50, 900, 1500):
        probe = stream.world.probe(deployment, seen)
        true = 1.0 + 0.2 * max(0.0, (seen - 100 + 1) / 5000)
        # Fifteen weights from 1,500 rows with a spread of about 0.05.
        ratio = oracle.predict(probe, seen).median / base.median(deployment, probe) / true
        assert np.sqrt(np.mean((ratio - 1.0) ** 2)) < 3 * 0.05 * np.sqrt(15 / 1500)


def test_each_keeps_deployments_apart(steps: pd.DataFrame, base: Truth) -> None:
    twin = steps.assign(engine="other")
    contest = Each("counting", lambda one: Counting())
    after = contest.observe(
        pd.concat([steps.head(30), twin.head(20)]).sample(frac=1.0, random_state=0)
    )
    counts = {label: tracker.n for label, tracker in after.trackers.items()}
    assert sorted(counts.values()) == [20, 30] and len(counts) == 2
    assert not contest.trackers


@dataclass(frozen=True)
class Counting:
    """A tracker that counts."""

    n: int = 0

    def observe(self, rows: pd.DataFrame) -> "Counting":
        return Counting(self.n + len(rows))

    def predict(self, steps: pd.DataFrame) -> Forecast:
        return from_quantiles(np.full(len(steps), float(self.n)), np.ones(2))


def test_the_fixed_posterior_answers_as_the_fleet_does() -> None:
    fleet = bl.load_released("reference-fleet").thin(100)
    deployment = fleet.deployments[0]
    columns = ["batch_size", "total_tokens", "context_tokens", "n_averaged"]
    rows = pd.DataFrame([(4, 4, 900.0, 1), (1, 512, 512.0, 1), (4, 4, 900.0, 1)], columns=columns)
    fixed = Fixed(fleet)
    latency = fleet.latency(
        *deployment[:2], tp=deployment.tp, batch_size=rows["batch_size"],
        total_tokens=rows["total_tokens"], context_tokens=rows["context_tokens"],
    )  # fmt: skip
    found = fixed.observe(rows).predict(deployment, rows)
    for level, part in zip((0.5, 0.05, 0.95, 0.99), found, strict=True):
        assert part == pytest.approx(latency.ppf(level))
    assert fixed.median(deployment, rows) == pytest.approx(found.median)
    assert forecast_of(fleet, deployment, rows).p99 == pytest.approx(found.p99)
