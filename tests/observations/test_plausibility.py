import warnings

import numpy as np
import pandas as pd
import pytest

from bayeslat.observations import ObservationWarning, UnitWarning, validate_steps


def steps_frame(latency, *, batch=8, tokens=8, **columns):
    frame = pd.DataFrame({"latency_ms": latency, "gpu": "g", "model": "m"})
    return frame.assign(batch_size=batch, total_tokens=tokens, **columns)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
@pytest.mark.parametrize("share", [0.05, 0.5])
def test_two_units_in_one_deployment_warn_and_drop_nothing(factor, share):
    rng = np.random.default_rng(5)
    latency = rng.lognormal(3.0, 0.2, 200)
    latency[: int(share * 200)] *= factor
    with pytest.warns(UnitWarning, match="two units .* g/m/tp1"):
        steps = validate_steps(steps_frame(latency))
    assert len(steps) == 200
    assert len(steps.quarantine.warnings) == 1


def test_one_warning_for_a_deployment_with_many_mixed_bins():
    latency = np.tile([10.0, 10_000.0], 40)
    tokens = np.repeat(2 ** np.arange(4, 14), 8)
    with pytest.warns(UnitWarning) as caught:
        validate_steps(steps_frame(latency, tokens=tokens))
    assert len(caught) == 1


def test_long_prefills_beside_short_decodes_do_not_warn():
    tokens = np.repeat([8, 65_536], 50)
    latency = np.repeat([5.0, 20_000.0], 50)
    assert validate_steps(steps_frame(latency, tokens=tokens)).quarantine.warnings == ()


def test_one_slow_first_step_does_not_warn():
    latency = np.r_[30_000.0, np.full(300, 8.0)]
    assert validate_steps(steps_frame(latency)).quarantine.warnings == ()


def test_a_wide_but_unbroken_spread_does_not_warn():
    latency = np.geomspace(1.0, 5_000.0, 60)
    assert validate_steps(steps_frame(latency)).quarantine.warnings == ()


def test_units_of_two_deployments_are_not_compared():
    frame = steps_frame(np.repeat([5.0, 6_000.0], 20), tp=np.repeat([1, 2], 20))
    assert validate_steps(frame).quarantine.warnings == ()


def test_partly_recorded_context_warns():
    frame = steps_frame(np.full(4, 5.0), context_tokens=[1.0, np.nan, 3.0, 4.0])
    with pytest.warns(ObservationWarning, match="3 of 4 rows of g/m/tp1"):
        steps = validate_steps(frame)
    assert len(steps) == 4


def test_context_in_one_deployment_and_not_in_another_is_fine():
    frame = steps_frame(np.full(2, 5.0), context_tokens=[1.0, np.nan], tp=[1, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        validate_steps(frame)
