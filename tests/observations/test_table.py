import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from bayeslat.errors import InputError, UnknownDeploymentError
from bayeslat.observations import Quarantine, concat, validate_steps
from bayeslat.schema import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, Deployment


def steps_frame(n=6, **columns):
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "gpu": np.resize(["g2", "g1"], n),
            "model": "m",
            "batch_size": rng.integers(1, 8, n),
            "total_tokens": rng.integers(8, 64, n),
            "latency_ms": rng.uniform(5.0, 9.0, n),
        }
    )
    return frame.assign(**columns)


def test_rows_of_a_deployment_are_one_slice_in_the_order_of_the_log():
    frame = steps_frame(7)
    steps = validate_steps(frame)
    assert steps.deployments == (Deployment("g1", "m"), Deployment("g2", "m"))
    assert (np.diff(steps.deployment_index) >= 0).all()
    for deployment in steps.deployments:
        logged = frame.loc[frame.gpu == deployment.gpu, "latency_ms"]
        np.testing.assert_array_equal(steps.latency_ms[steps.slice_of(deployment)], logged)
        np.testing.assert_array_equal(steps.for_deployment(deployment).latency_ms, logged)


def test_selection_keeps_only_deployments_that_still_have_rows():
    steps = validate_steps(steps_frame())
    chosen = steps.select(steps.deployment_index == 1)
    assert chosen.deployments == (Deployment("g2", "m"),)
    assert set(chosen.deployment_index) == {0}
    assert len(chosen) == chosen.n_rows == 3
    assert len(steps.select([])) == 0
    assert len(steps.select(np.array([0, 0, 5]))) == 3


def test_selection_by_position_keeps_rows_sorted_by_deployment():
    steps = validate_steps(steps_frame())
    shuffled = steps.select([5, 0, 4, 1])
    assert (np.diff(shuffled.deployment_index) >= 0).all()
    np.testing.assert_array_equal(shuffled.latency_ms, steps.latency_ms[[0, 1, 5, 4]])


def test_unknown_deployment_names_those_that_are_there():
    steps = validate_steps(steps_frame())
    with pytest.raises(UnknownDeploymentError, match="g9/m/tp1, expected one of g1/m/tp1"):
        steps.for_deployment(Deployment("g9", "m"))


def test_arrays_cannot_be_changed():
    steps = validate_steps(steps_frame())
    with pytest.raises(ValueError, match="read-only"):
        steps.latency_ms[0] = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        steps.source = "other"


def test_arrays_of_different_length_are_refused():
    steps = validate_steps(steps_frame())
    with pytest.raises(InputError, match="expected one shape"):
        dataclasses.replace(steps, latency_ms=np.ones(2))


def test_frame_has_all_columns_and_reads_back_to_the_same_content():
    steps = validate_steps(steps_frame(context_tokens=[1, 2, 3, 4, 5, 6], phase="decode"))
    frame = steps.to_frame()
    assert set(frame.columns) == {*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS}
    assert validate_steps(frame).fingerprint == steps.fingerprint
    assert steps.select([]).to_frame().empty


def test_context_is_there_when_any_row_records_it():
    assert not validate_steps(steps_frame()).has_context
    assert validate_steps(steps_frame(context_tokens=5.0)).has_context


def test_fingerprint_depends_on_content_and_not_on_order():
    frame = steps_frame(20, phase=np.resize(["decode", "mixed", ""], 20))
    steps = validate_steps(frame)
    shuffled = validate_steps(frame.sample(frac=1.0, random_state=3))
    changed = validate_steps(frame.assign(latency_ms=frame.latency_ms + np.eye(1, 20)[0] * 1e-9))
    renamed = validate_steps(frame.assign(model="other"))
    scoped = validate_steps(frame, timing_scope="cycle")
    assert shuffled.fingerprint == steps.fingerprint
    assert len({s.fingerprint for s in (steps, changed, renamed, scoped)}) == 4


def test_concat_merges_deployments_rows_and_quarantines():
    good, other = steps_frame(), steps_frame(5, model="n")
    other.loc[0, "latency_ms"] = -1.0
    joined = concat(validate_steps(good, source="a"), validate_steps(other, source="b"))
    together = validate_steps(pd.concat([good, other]))
    assert joined.fingerprint == together.fingerprint
    assert joined.quarantine.counts == {"latency_ms not positive": 1}
    assert joined.quarantine.n_read == 11
    assert joined.source == "a + b"


def test_concat_refuses_two_timing_scopes_and_nothing():
    frame = steps_frame()
    parts = [validate_steps(frame, timing_scope=scope) for scope in ("cycle", "gpu_forward")]
    with pytest.raises(InputError, match=r"'cycle', 'gpu_forward'"):
        concat(*parts)
    with pytest.raises(InputError, match="expected one"):
        concat()


def test_quarantine_survives_json_and_reads_as_one_paragraph():
    quarantine = Quarantine(
        counts={"blank gpu": 2}, n_read=10, dropped={"dummy step": 1}, warnings=("odd",)
    )
    back = Quarantine.from_dict(json.loads(json.dumps(quarantine.to_dict())))
    assert back.to_dict() == quarantine.to_dict()
    assert quarantine.summary() == (
        "10 rows read, 7 kept, 2 quarantined (2 blank gpu), 1 dropped (1 dummy step). Warning: odd"
    )
