import numpy as np
import pandas as pd
import pytest

from bayeslat.catalog import GPU, LLM, load_catalog
from bayeslat.errors import InputError
from bayeslat.observations import validate_steps
from bayeslat.observations.table import EXAMPLES_PER_REASON
from bayeslat.schema import Deployment

GOOD = {
    "gpu": "g",
    "model": "m",
    "batch_size": 4,
    "total_tokens": 8,
    "latency_ms": 10.0,
    "context_tokens": 100.0,
    "n_averaged": 1,
    "tp": 1,
    "replicate": 0,
    "timestamp": 0.0,
}


def with_bad_row(**values):
    frame = pd.DataFrame([GOOD] * 3).astype(object)
    for name, value in values.items():
        frame.at[1, name] = value
    return frame


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"gpu": " "}, "blank gpu"),
        ({"model": None}, "blank model"),
        ({"latency_ms": "fast"}, "not a number in latency_ms"),
        ({"batch_size": "many"}, "not a number in batch_size"),
        ({"tp": "two"}, "not a number in tp"),
        ({"timestamp": "yesterday"}, "not a number in timestamp"),
        ({"latency_ms": None}, "missing latency_ms"),
        ({"batch_size": np.nan}, "missing batch_size"),
        ({"total_tokens": ""}, "missing total_tokens"),
        ({"latency_ms": np.inf}, "non-finite latency_ms"),
        ({"context_tokens": -np.inf}, "non-finite context_tokens"),
        ({"latency_ms": 0.0}, "latency_ms not positive"),
        ({"latency_ms": -3.0}, "latency_ms not positive"),
        ({"batch_size": 0}, "batch_size not positive"),
        ({"batch_size": 2.5}, "batch_size not a whole number"),
        ({"total_tokens": 8.5}, "total_tokens not a whole number"),
        ({"total_tokens": 3}, "total_tokens below batch_size"),
        ({"context_tokens": -1}, "negative context_tokens"),
        ({"n_averaged": 0}, "n_averaged below 1"),
        ({"tp": 0}, "tp below 1"),
        ({"tp": 1.5}, "tp not a whole number"),
        ({"tp": 1e30}, "tp not a whole number"),
        ({"replicate": 0.5}, "replicate not a whole number"),
        ({"latency_ms": -3.0, "total_tokens": 3, "tp": 0}, "latency_ms not positive"),
    ],
)
def test_a_bad_row_is_counted_once_under_its_first_reason(values, reason):
    steps = validate_steps(with_bad_row(**values))
    assert steps.quarantine.counts == {reason: 1}
    assert len(steps) == 2
    assert steps.quarantine.n_read == 3
    assert steps.quarantine.rows[["reason", "row"]].values.tolist() == [[reason, 1]]


def test_examples_are_few_and_counts_complete():
    frame = pd.DataFrame([GOOD] * 100)
    frame.loc[10:, "latency_ms"] = -1.0
    quarantine = validate_steps(frame).quarantine
    assert quarantine.counts == {"latency_ms not positive": 90}
    assert quarantine.rows["row"].tolist() == list(range(10, 10 + EXAMPLES_PER_REASON))


def test_optional_columns_have_their_defaults():
    steps = validate_steps(pd.DataFrame([GOOD])[["gpu", "model", *list(GOOD)[2:5]]])
    assert steps.deployments == (Deployment("g", "m", 1, "", ""),)
    assert steps.n_averaged.tolist() == [1.0]
    assert steps.replicate.tolist() == [0]
    assert steps.phase.tolist() == [""]
    assert np.isnan(steps.timestamp).all()


def test_blank_optional_values_have_their_defaults():
    steps = validate_steps(with_bad_row(tp=None, n_averaged="", replicate=None, timestamp=None))
    assert len(steps) == 3
    assert steps.deployments == (Deployment("g", "m"),)


def test_numbers_written_as_text_are_read():
    frame = pd.DataFrame([GOOD]).astype(str)
    assert validate_steps(frame).latency_ms.tolist() == [10.0]


def test_names_are_stripped_and_categories_work():
    frame = pd.DataFrame([GOOD] * 2).assign(gpu=pd.Categorical([" g", "g "]))
    assert validate_steps(frame).deployments == (Deployment("g", "m"),)


def test_dates_become_seconds():
    frame = pd.DataFrame([GOOD] * 2)
    texts = validate_steps(frame.assign(timestamp=["1970-01-01T00:01:00Z", "1970-01-01 00:00:30"]))
    assert texts.timestamp.tolist() == [60.0, 30.0]
    dates = pd.to_datetime(["1970-01-01 00:01", "1970-01-02 00:00"])
    assert validate_steps(frame.assign(timestamp=dates)).timestamp.tolist() == [60.0, 86400.0]


def test_unknown_phases_are_taken_as_not_stated_and_said():
    steps = validate_steps(pd.DataFrame([GOOD] * 3).assign(phase=["Decode", "warm", None]))
    assert steps.phase.tolist() == ["decode", "", ""]
    assert "phases ['warm']" in steps.quarantine.warnings[0]


def test_a_misspelt_column_is_said():
    steps = validate_steps(pd.DataFrame([GOOD]).rename(columns={"context_tokens": "context_token"}))
    assert steps.quarantine.warnings == (
        "the column 'context_token' is ignored; if it is context_tokens, map it",
    )


def test_missing_columns_are_named_with_what_to_do():
    with pytest.raises(InputError, match=r"without \['latency_ms'\].*map them") as caught:
        validate_steps(pd.DataFrame([GOOD]).drop(columns="latency_ms"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("n_rows", [0, 5])
def test_no_good_row_is_an_error_with_the_counts(n_rows):
    frame = pd.DataFrame([GOOD] * n_rows, columns=list(GOOD)).assign(latency_ms=-1.0)
    with pytest.raises(InputError, match=f"{n_rows} rows read, 0 kept") as caught:
        validate_steps(frame)
    assert "\n" not in str(caught.value)


def test_a_column_that_stands_twice_is_refused():
    frame = pd.DataFrame([GOOD])
    with pytest.raises(InputError, match="more than once"):
        validate_steps(pd.concat([frame, frame[["gpu"]]], axis="columns"))


def test_durations_without_a_named_unit_are_no_latency():
    frame = pd.DataFrame([GOOD]).assign(latency_ms=pd.to_timedelta([10], unit="ms"))
    with pytest.raises(InputError, match="1 not a number in latency_ms"):
        validate_steps(frame)


def test_unknown_timing_scope_is_refused():
    with pytest.raises(InputError, match="expected one of"):
        validate_steps(pd.DataFrame([GOOD]), timing_scope="wall")


def test_rows_below_half_the_roofline_floor_are_put_aside():
    # 7 billion parameters of 2 bytes over 2 TB/s: no step takes less than 7 ms.
    catalog = load_catalog().with_entries(
        GPU("g", peak_tflops=312.0, bandwidth_tbs=2.0), LLM("m", parameters_b=7.0)
    )
    frame = pd.DataFrame([GOOD] * 4).assign(
        latency_ms=[3.49, 3.51, 7.0, 1.0], gpu=["g", "g", "g", "unknown-gpu"]
    )
    steps = validate_steps(frame, catalog=catalog)
    assert steps.quarantine.counts == {"latency_ms below half the roofline floor": 1}
    assert steps.quarantine.rows["row"].tolist() == [0]
    assert sorted(steps.latency_ms) == [1.0, 3.51, 7.0]
    assert len(validate_steps(frame, catalog=catalog, check_floor=False)) == 4


def test_every_row_is_accounted_for():
    rng = np.random.default_rng(4)
    frame = pd.DataFrame(
        {
            "gpu": rng.choice(["A100-80GB", "x", ""], 500),
            "model": rng.choice(["llama-70b", "y"], 500),
            "batch_size": rng.integers(-1, 20, 500),
            "total_tokens": rng.integers(0, 400, 500),
            "latency_ms": rng.normal(20.0, 20.0, 500),
        }
    )
    steps = validate_steps(frame)
    assert steps.quarantine.n_read == 500 == len(steps) + steps.quarantine.n_quarantined


def test_one_bad_row_among_a_million_is_found():
    n_rows = 1_000_000
    frame = pd.DataFrame({name: np.full(n_rows, GOOD[name]) for name in list(GOOD)[:5]})
    frame.loc[777_777, "latency_ms"] = -1.0
    steps = validate_steps(frame)
    assert steps.quarantine.rows["row"].tolist() == [777_777]
    assert len(steps) == n_rows - 1
