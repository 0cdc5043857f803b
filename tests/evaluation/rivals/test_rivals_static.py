"""The static model against parameters that are known, repeated data and refits."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from bayeslat.errors import InputError
from bayeslat.evaluation.rivals import SaturationFit, ThroughputSaturationModel
from bayeslat.evaluation.rivals.static_problem import (
    LOSSES,
    PARAMETERS,
    Problem,
    gradient,
    latency,
)
from bayeslat.observations import Observations
from bayeslat.saturation import latency as formula

TRUTH = {
    "P_max": 40.0, "k_B": 0.15, "k_S": 0.008, "w_0": 20.0, "w_1": 0.6, "tau_0": 4.0,
    "tau_B": 0.05, "tau_S": 0.002,
}  # fmt: skip
THETA = np.array([TRUTH[name] for name in PARAMETERS])
REPORTED = {**TRUTH, "w_0/P_max": 0.5, "w_1/P_max": 0.015}
DECIDED = ("k_B", "k_S", "tau_0", "tau_B", "tau_S", "w_0/P_max", "w_1/P_max")
"""What the data decide whatever the scale of P_max, w_0 and w_1."""


def make_steps(n: int = 400, noise_ms: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Steps that follow the formula, with normal noise of one size; all below 300 ms."""
    design = np.random.default_rng(0)
    batch = design.integers(1, 65, n)
    tokens = batch + design.integers(0, 2000, n)
    exact = formula(TRUTH, batch, tokens)
    noise = noise_ms * np.random.default_rng(seed).standard_normal(n)
    return pd.DataFrame({"batch_size": batch, "total_tokens": tokens, "latency_ms": exact + noise})


@pytest.fixture(scope="module")
def noisy() -> SaturationFit:
    return ThroughputSaturationModel().fit(make_steps(noise_ms=0.3))


@pytest.mark.parametrize("loss", LOSSES)
def test_parameters_of_exact_steps_are_found_up_to_their_common_scale(loss) -> None:
    fit = ThroughputSaturationModel(loss=loss).fit(make_steps())
    table = fit.intervals()
    for name in DECIDED:
        assert table.loc[name, "estimate"] == pytest.approx(REPORTED[name], rel=1e-4)
    assert fit.scores["R2"] == pytest.approx(1.0)
    assert fit.predict(batch_size=16, total_tokens=512) == pytest.approx(formula(TRUTH, 16, 512))


def test_derivatives_are_right() -> None:
    batch, tokens = np.array([1.0, 8.0, 64.0]), np.array([1.0, 500.0, 64.0])
    slopes = gradient(THETA, batch, tokens)
    for position, value in enumerate(THETA):
        bump = 1e-4 * value * np.eye(THETA.size)[position]
        above, below = (latency(THETA + sign * bump, batch, tokens) for sign in (1, -1))
        assert slopes[:, position] == pytest.approx((above - below) / (2e-4 * value), rel=1e-5)


def test_the_search_starts_where_the_source_starts() -> None:
    steps = make_steps()
    b, s, t = steps.to_numpy(dtype=float).T
    start = dict(
        zip(PARAMETERS, Problem(np.column_stack([b, s, t, t]), "linear", 1.0).start(), strict=True)
    )
    slope = np.cov(s, t)[0, 1] / np.var(s, ddof=1)
    assert start == pytest.approx(
        {
            "P_max": np.percentile(s / t, 95), "k_B": 0.1, "k_S": 0.01,
            "w_0": 0.1 * slope * np.median(s), "w_1": slope, "tau_0": t.min() / 2, "tau_B": 1e-3,
            "tau_S": 1e-3,
        }
    )  # fmt: skip


def test_rows_are_dropped_with_their_first_reason() -> None:
    good = make_steps(50)
    bad = pd.DataFrame(
        {
            "batch_size": [0, 4, 4, 4, 4, 4, np.nan, 0],
            "total_tokens": [8, 0, 3, 8, 8, 8, 8, 0],
            "latency_ms": [9.0, 9.0, 9.0, -1.0, 0.5, 301.0, 9.0, "text"],
        }
    )
    fit = ThroughputSaturationModel().fit(pd.concat([good, bad], ignore_index=True))
    assert fit.n_rows == 50
    assert fit.dropped == {
        "missing value": 2,
        "batch_size not positive": 1,
        "total_tokens not positive": 1,
        "total_tokens below batch_size": 1,
        "latency_ms not positive": 1,
        "latency_ms below 1": 1,
        "latency_ms above 300": 1,
    }
    wide = ThroughputSaturationModel(min_latency_ms=0.1, max_latency_ms=1000.0)
    assert wide.fit(pd.concat([good, bad], ignore_index=True)).n_rows == 52


def test_observations_are_steps_too(rival_fleet: Observations) -> None:
    own = rival_fleet.for_deployment(rival_fleet.deployments[0])
    fits = [ThroughputSaturationModel().fit(steps) for steps in (own, own.to_frame())]
    assert np.array_equal(fits[0].theta, fits[1].theta)


@pytest.mark.parametrize("loss", ["soft_l1", "huber", "cauchy"])
def test_robust_losses_shrug_off_stalls(loss) -> None:
    steps = make_steps(noise_ms=0.3)
    steps.loc[::15, "latency_ms"] *= 4.0
    errors = []
    for chosen in ("linear", loss):
        fit = ThroughputSaturationModel(loss=chosen).fit(steps)
        exact = formula(TRUTH, steps["batch_size"], steps["total_tokens"])
        predicted = fit.predict(steps["batch_size"], steps["total_tokens"])
        errors.append(np.median(np.abs(predicted - exact)))
    assert errors[1] < 0.3 * errors[0]


def test_a_row_without_weight_has_no_say_and_two_count_as_two() -> None:
    steps = make_steps(noise_ms=0.3)
    weights = np.arange(len(steps)) % 3
    repeated = steps.loc[steps.index.repeat(weights)]
    ours = ThroughputSaturationModel().fit(steps, weights=weights)
    other = ThroughputSaturationModel().fit(repeated)
    at = steps["batch_size"], steps["total_tokens"]
    # The start values are taken from all rows: both searches end close together.
    assert ours.predict(*at) == pytest.approx(other.predict(*at), rel=1e-3)


def test_the_common_scale_is_said_to_be_undecided(noisy: SaturationFit) -> None:
    errors = noisy.standard_errors
    assert noisy.covariance_is_singular
    assert all(np.isinf(errors[name]) for name in ("P_max", "w_0", "w_1"))
    assert all(np.isfinite(errors[name]) for name in DECIDED)


def test_what_steps_do_not_tell_is_undecided() -> None:
    steps = make_steps(noise_ms=0.1)
    alike = steps.assign(batch_size=1)
    alike["latency_ms"] = formula(TRUTH, 1, steps["total_tokens"])
    fit = ThroughputSaturationModel().fit(alike)
    assert not any(np.isfinite(fit.standard_errors[name]) for name in ("k_B", "tau_B", "tau_0"))
    assert np.isfinite(fit.predict_interval(1, 512)[1]) and np.isinf(
        fit.predict_interval(32, 512)[1]
    )


def test_a_parameter_at_its_bound_has_no_error() -> None:
    batch = np.arange(1.0, 41.0)
    steps = pd.DataFrame({"batch_size": batch, "total_tokens": 40.0, "latency_ms": 50.0 - batch})
    fit = ThroughputSaturationModel().fit(steps)
    assert "tau_B" in fit.at_bound
    assert np.isnan(fit.standard_errors["tau_B"]) and fit.intervals().loc["tau_B", "at_bound"]


def test_errors_from_the_covariance_are_those_of_repeated_data(noisy: SaturationFit) -> None:
    n = 60
    estimates = [
        ThroughputSaturationModel().fit(make_steps(noise_ms=0.3, seed=seed)).intervals()["estimate"]
        for seed in range(1, n + 1)
    ]
    spread = pd.DataFrame(estimates).std()
    for name in DECIDED:
        # The standard deviation of a standard deviation is its 1 / sqrt(2 n) th; a tenth more for
        # what the error of one data set differs from that of another.
        allowed = 4 * spread[name] / np.sqrt(2 * n) + 0.1 * spread[name]
        assert noisy.standard_errors[name] == pytest.approx(spread[name], abs=allowed)


@pytest.mark.parametrize("loss", ["linear", "soft_l1"])
def test_errors_from_the_covariance_are_those_of_the_bootstrap(loss) -> None:
    n, steps = 100, make_steps(1500, noise_ms=0.3)
    # Noise that grows with the latency: plain least-squares errors would be wrong.
    growing = 0.005 * steps["latency_ms"] * np.random.default_rng(7).standard_normal(len(steps))
    steps["latency_ms"] += growing
    fit = ThroughputSaturationModel(loss=loss).fit(steps)
    bootstrap = fit.bootstrap(n, seed=1)
    table = bootstrap.intervals(0.6827)
    for name in DECIDED:
        half = (table.loc[name, "high"] - table.loc[name, "low"]) / 2
        error = fit.standard_errors[name]
        # A normal quantile at 16 % has a Monte Carlo error of 1.5 spreads / sqrt(n), half a sum of
        # two 1.07; the covariance is a first-order one.
        assert half == pytest.approx(error, abs=4 * 1.07 * error / np.sqrt(n) + 0.15 * error)


def test_intervals_for_steps_cover_new_steps(noisy: SaturationFit) -> None:
    new = make_steps(noise_ms=0.3, seed=99)
    at = new["batch_size"].to_numpy(), new["total_tokens"].to_numpy()
    for intervals in (noisy.predict_interval(*at), noisy.bootstrap(60).predict_interval(*at)):
        inside = (intervals[0] <= new["latency_ms"]) & (new["latency_ms"] <= intervals[1])
        # Binomial error of 400 new steps, and of the spread learnt from 400.
        assert inside.mean() == pytest.approx(0.9, abs=4 * 0.3 / np.sqrt(400) * np.sqrt(2))


def test_weights_make_intervals_grow_with_the_level() -> None:
    steps = make_steps(noise_ms=0.0)
    noise = 1 + 0.05 * np.random.default_rng(3).standard_normal(len(steps))
    steps["latency_ms"] *= noise
    fit = ThroughputSaturationModel().fit(steps, weights=steps["latency_ms"] ** -2)
    for tokens in (64, 2000):
        centre = fit.predict(16, tokens)
        low, high = fit.predict_interval(16, tokens, level=0.6827, weight=centre**-2)
        assert (high - low) / 2 / centre == pytest.approx(
            0.05, rel=4 / np.sqrt(2 * len(steps)) + 0.05
        )


def test_scalars_give_numbers_and_arrays_arrays(noisy: SaturationFit) -> None:
    assert isinstance(noisy.predict(16, 512), float)
    many = noisy.predict([1, 16], [[512], [1024]])
    assert many.shape == (2, 2) and many[0, 1] == noisy.predict(16, 512)
    assert [
        bound.shape for bound in noisy.bootstrap(3).predict_interval([1, 16], [[512], [1024]])
    ] == [
        (2, 2),
        (2, 2),
    ]


def test_the_model_remembers_its_fit() -> None:
    model = ThroughputSaturationModel()
    with pytest.raises(InputError, match="got a model without a fit"):
        model.predict(16, 512)
    fit = model.fit(make_steps())
    assert model.fitted is fit
    assert model.predict(16, 512) == fit.predict(batch_size=16, total_tokens=512)


def test_the_picture_shows_the_ranges() -> None:
    model = ThroughputSaturationModel()
    model.fit(make_steps())
    figure = model.plot_contour(batch_range=(1, 64), token_range=(1, 2048))
    assert isinstance(figure, Figure)
    axes = figure.axes[0]
    assert axes.get_xlim() == pytest.approx((1, 64)) and axes.get_ylim() == pytest.approx((1, 2048))
    assert "ms" in figure.axes[1].get_ylabel()
    figure.canvas.draw()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ThroughputSaturationModel(loss="l2"), "got loss 'l2'"),
        (lambda: ThroughputSaturationModel(max_latency_ms=0.5), "expected a positive scale"),
        (lambda: fit_with(weights=np.ones(3)), "got weights of shape"),
        (lambda: fit_with(weights=-np.ones(400)), "none negative"),
        (lambda: fit_with(weights=np.zeros(400)), "not all zero"),
        (lambda: ThroughputSaturationModel().fit(make_steps().iloc[:0]), "got no step to fit"),
        (
            lambda: ThroughputSaturationModel().fit(make_steps().drop(columns="batch_size")),
            "got no column batch_size",
        ),
        (lambda: fit_with().predict(16, 8), "got batch_size 16 with total_tokens 8"),
        (lambda: fit_with().predict_interval(16, 32, level=1.0), "got level 1.0"),
        (lambda: fit_with().bootstrap(0), "got n 0"),
        (lambda: fit_with().plot_contour(batch_range=(64, 1)), "got batch_range"),
        (lambda: fit_with().plot_contour((32, 64), (1, 16)), "raise token_range"),
    ],
)
def test_bad_input_is_one_clear_line(call, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def fit_with(**settings) -> SaturationFit:
    return ThroughputSaturationModel().fit(make_steps(), **settings)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_few_steps_are_enough_for_a_fit_that_says_it_knows_nothing(n: int) -> None:
    fit = ThroughputSaturationModel().fit(make_steps(n))
    assert np.isfinite(fit.predict(16, 512))
    assert not any(np.isfinite(error) for error in fit.standard_errors.values())
