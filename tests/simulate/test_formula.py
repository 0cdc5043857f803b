import numpy as np
import pytest
from scipy.stats import kstest, t

from bayeslat.errors import InputError
from bayeslat.saturation import latency
from bayeslat.schema import Deployment
from bayeslat.simulate import simulate_from_formula

PLAIN = {"P_max": 20.0, "k_S": 0.01, "w_1": 1.0, "tau_0": 2.0}
FULL = PLAIN | {"k_B": 0.5, "w_0": 5.0, "tau_B": 0.05, "tau_S": 1e-3, "tau_C": 1e-4}
FLEET = {Deployment("A", "m"): PLAIN, Deployment("B", "m", 2, "own"): FULL}


def test_residuals_are_student_t_around_the_formula():
    steps = simulate_from_formula(FLEET, rows_per_deployment=2000, sigma=0.05, nu=4.0, seed=2)
    for deployment, truth in FLEET.items():
        rows = steps[steps["gpu"] == deployment.gpu]
        typical = latency(
            truth, *(rows[c].to_numpy() for c in ("batch_size", "total_tokens", "context_tokens"))
        )
        scaled = (rows["latency_ms"] / typical - 1) / 0.05
        assert kstest(scaled, t(df=4).cdf).pvalue > 1e-3


def test_deployments_keep_their_names_and_an_unnamed_engine_is_simulated():
    steps = simulate_from_formula(FLEET, rows_per_deployment=3)
    assert set(zip(steps["gpu"], steps["tp"], steps["engine"], strict=True)) == {
        ("A", 1, "simulated"),
        ("B", 2, "own"),
    }


def test_latencies_stay_positive_under_absurd_noise():
    steps = simulate_from_formula(FLEET, sigma=2.0, nu=1.0)
    assert (steps["latency_ms"] > 0).all()
    assert np.isfinite(steps["latency_ms"]).all()


@pytest.mark.parametrize("wrong", [{"sigma": 0.0}, {"nu": -1.0}, {"rows_per_deployment": 0}])
def test_values_that_are_not_positive_are_input_errors(wrong):
    with pytest.raises(InputError, match="expected all of them positive"):
        simulate_from_formula(FLEET, **wrong)


def test_no_deployment_is_an_input_error():
    with pytest.raises(InputError, match="0 deployments"):
        simulate_from_formula({})
