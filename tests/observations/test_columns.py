import numpy as np
import pandas as pd
import pytest

from bayeslat.errors import InputError
from bayeslat.observations.columns import FileColumn, find_columns, scaled, to_number


@pytest.mark.parametrize(
    ("unit", "factor"), [("s", 1e3), ("ms", 1.0), ("us", 1e-3), ("µs", 1e-3), ("ns", 1e-6)]
)
def test_latency_units_become_milliseconds(unit, factor):
    found = find_columns(["t"], {"latency_ms": f"t [{unit}]"})
    assert found["latency_ms"].name == "t"
    assert found["latency_ms"].factor == pytest.approx(factor)


def test_timestamps_become_seconds():
    found = find_columns(["when"], {"timestamp": "when [ms]"})
    assert found["timestamp"] == FileColumn("when", 1e-3)


def test_a_header_that_carries_the_unit_is_found():
    found = find_columns(["step time [s]"], {"latency_ms": "step time [s]"})
    assert found["latency_ms"] == FileColumn("step time [s]", 1e3)


def test_columns_without_unit_need_none_and_canonical_names_need_no_map():
    found = find_columns(["reqs", "latency_ms", "extra"], {"batch_size": "reqs"})
    assert found == {"batch_size": FileColumn("reqs"), "latency_ms": FileColumn("latency_ms")}
    assert find_columns(["latency_ms"], {"latency_ms": "latency_ms"})["latency_ms"].factor == 1.0


def test_the_canonical_column_may_hold_another_unit_when_the_map_says_so():
    assert (
        find_columns(["latency_ms"], {"latency_ms": "latency_ms [s]"})["latency_ms"].factor == 1e3
    )


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"latency_ms": "t"}, r"write it as 't \[s\]'"),
        ({"latency_ms": "t [min]"}, "unit 'min', expected a unit among s, ms, us, ns"),
        ({"latency_ms": "absent [s]"}, "'absent', expected one of the file's columns"),
        ({"latency": "t [s]"}, "expected keys among"),
    ],
)
def test_a_wrong_map_tells_what_to_do(columns, message):
    with pytest.raises(InputError, match=message):
        find_columns(["t"], columns)


def test_text_survives_scaling_for_the_quarantine_to_name():
    values = scaled(pd.Series([1.0, "slow", None], dtype=object), 1e3)
    numbers, not_number = to_number(values)
    assert numbers[0] == 1000.0
    assert not_number.tolist() == [False, True, False]
    assert values[1] == "slow"
    assert np.isnan(numbers[1:]).all()
