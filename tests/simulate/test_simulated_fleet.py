import numpy as np
import pandas as pd
import pytest

from bayeslat.errors import InputError, UnknownDeploymentError
from bayeslat.schema import DEPLOYMENT_COLUMNS, OPTIONAL_COLUMNS, REQUIRED_COLUMNS
from bayeslat.simulate import simulate_fleet

SMALL = {"gpus": ("A100-80GB", "H100-80GB"), "models": ("llama-7b",), "rows_per_deployment": 50}
STEP = {"batch_size": 16, "total_tokens": 16, "context_tokens": 8192}


@pytest.fixture(scope="module")
def fleet():
    return simulate_fleet(**SMALL)


def test_default_fleet_is_a_canonical_table_marked_as_simulated():
    steps = simulate_fleet().steps
    assert set(REQUIRED_COLUMNS) <= set(steps) <= {*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS}
    assert set(steps["engine"]) == {"simulated"}
    assert (steps.groupby(list(DEPLOYMENT_COLUMNS)).size() == 300).all()
    assert steps.groupby(list(DEPLOYMENT_COLUMNS)).ngroups == 9
    assert not steps.isna().any(axis=None)
    assert (steps["latency_ms"] > 0).all()


def test_sf_matches_draws_of_the_same_deployment(fleet):
    draws = fleet.latency("A100-80GB", "llama-7b", **STEP, size=1_000_000, seed=7)
    for q in (0.5, 0.95, 0.99, 0.999):
        t = fleet.ppf(q, "A100-80GB", "llama-7b", **STEP)
        assert fleet.sf(t, "A100-80GB", "llama-7b", **STEP) == pytest.approx(1 - q, rel=1e-9)
        assert abs(np.mean(draws > t) - (1 - q)) < 4 * np.sqrt(q * (1 - q) / draws.size)
    mean = fleet.mean("A100-80GB", "llama-7b", **STEP)
    assert abs(draws.mean() - mean) < 4 * draws.std() / np.sqrt(draws.size)


def test_steps_come_from_the_truth(fleet):
    for (gpu, model), rows in fleet.steps.groupby(["gpu", "model"]):
        design = {name: rows[name].to_numpy() for name in STEP}
        pit = fleet.sf(rows["latency_ms"].to_numpy(), gpu, model, **design)
        assert abs(pit.mean() - 0.5) < 4 * np.sqrt(1 / 12 / len(rows))


def test_arguments_broadcast(fleet):
    sf = fleet.sf(
        np.array([[10.0], [50.0]]),
        "H100-80GB",
        "llama-7b",
        batch_size=np.array([1, 8, 64]),
        total_tokens=np.array([1, 8, 64]),
    )
    assert sf.shape == (2, 3)
    assert np.all(sf[0] >= sf[1])
    draws = fleet.latency("H100-80GB", "llama-7b", batch_size=[1, 2], total_tokens=[1, 2], size=5)
    assert draws.shape == (5, 2)


def test_a_deployment_does_not_depend_on_the_rest_of_the_fleet(fleet):
    alone = simulate_fleet(**(SMALL | {"gpus": ("H100-80GB",)})).steps
    among = fleet.steps[fleet.steps["gpu"] == "H100-80GB"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, among)
    other = simulate_fleet(**SMALL, seed=1).steps
    assert not np.allclose(other["latency_ms"], fleet.steps["latency_ms"])


def test_context_may_go_unrecorded_without_changing_the_latencies(fleet):
    steps = simulate_fleet(**SMALL, context=False).steps
    assert steps["context_tokens"].isna().all()
    np.testing.assert_array_equal(steps["latency_ms"], fleet.steps["latency_ms"])


def test_large_models_get_enough_devices():
    fleet = simulate_fleet(models=("llama-7b", "llama-70b"), rows_per_deployment=1)
    degrees = {deployment[:2]: deployment.tp for deployment in fleet.truth}
    assert degrees["A100-80GB", "llama-7b"] == 1
    assert degrees["A100-80GB", "llama-70b"] == 4
    assert degrees["A100-40GB", "llama-70b"] == 8


def test_unknown_deployment_names_those_of_the_fleet(fleet):
    with pytest.raises(UnknownDeploymentError, match="A100-80GB/llama-7b/tp1/simulated"):
        fleet.sf(10.0, "A100-80GB", "llama-7b", **STEP, tp=2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"gpus": ("no-such-gpu",)},
        {"models": ("no-such",)},
        {"rows_per_deployment": 0},
        {"gpus": ()},
    ],
)
def test_what_cannot_be_simulated_is_an_input_error(wrong):
    with pytest.raises(InputError, match="expected"):
        simulate_fleet(**(SMALL | wrong))


def test_a_model_too_large_for_the_devices_asks_for_more():
    with pytest.raises(InputError, match="raise tp"):
        simulate_fleet(**(SMALL | {"models": ("llama-70b",)}), tp=1)


@pytest.mark.parametrize("q", [0.0, 1.0, np.nan])
def test_quantile_of_no_probability_is_an_input_error(fleet, q):
    with pytest.raises(InputError, match="probabilities between 0 and 1"):
        fleet.ppf(q, "A100-80GB", "llama-7b", **STEP)
