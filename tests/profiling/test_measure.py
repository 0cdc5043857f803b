import gc

import numpy as np
import pytest

from bayeslat.catalog import GPU
from bayeslat.errors import InputError
from bayeslat.profiling import SIZES, profile_device
from bayeslat.schema import OPTIONAL_COLUMNS, PHASES, REQUIRED_COLUMNS


@pytest.fixture(scope="module")
def messages():
    return []


@pytest.fixture(scope="module")
def profile(messages):
    return profile_device(
        seconds=12.0, sizes=("tiny",), progress=lambda *report: messages.append(report)
    )


def test_table_is_canonical(profile):
    steps = profile.steps
    assert set(REQUIRED_COLUMNS) <= set(steps) <= {*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS}
    assert not steps.isna().any(axis=None)
    assert set(steps["phase"]) <= set(PHASES)
    assert (steps["total_tokens"] >= steps["batch_size"]).all()
    assert (steps["context_tokens"] >= steps["total_tokens"]).all()
    assert (steps["latency_ms"] > 0).all()
    assert (steps["n_averaged"] == 1).all()
    assert not steps.duplicated(["phase", "batch_size", "context_tokens", "replicate"]).any()


def test_decode_computes_one_token_a_request_and_prefill_attends_to_itself(profile):
    for phase, of, equals in (
        ("decode", "total_tokens", "batch_size"),
        ("prefill", "context_tokens", "total_tokens"),
    ):
        rows = profile.steps[profile.steps["phase"] == phase]
        assert len(rows)
        assert (rows[of] == rows[equals]).all()


def test_datasheets_carry_measured_numbers_and_true_counts(profile):
    assert isinstance(profile.gpu, GPU)
    assert profile.gpu.is_known
    assert profile.gpu.memory_gb is None
    assert profile.gpu.source == "measured on this machine"
    assert set(profile.steps["gpu"]) == {profile.gpu.name}
    (llm,) = profile.llms
    assert llm.parameters_b == SIZES["tiny"].parameters / 1e9
    assert set(profile.steps["model"]) == {llm.name} == {"toy-4M"}


def test_progress_goes_forward_and_ends_with_the_counts(profile, messages):
    shares = [share for share, _ in messages]
    assert np.all(np.diff(shares) >= 0)
    assert 0 <= shares[0] and shares[-1] <= 1
    assert str(len(profile.steps)) in messages[-1][1]


def test_a_budget_too_short_still_measures_one_point_and_leaves_the_collector_on():
    steps = profile_device(seconds=1e-3, sizes=("tiny",)).steps
    assert len(steps.drop_duplicates(["phase", "batch_size", "context_tokens"])) == 1
    assert gc.isenabled()


@pytest.mark.parametrize("arguments", [{"seconds": 0.0}, {"seconds": np.nan}, {"sizes": ()}])
def test_bad_budget_or_no_size_is_an_input_error(arguments):
    with pytest.raises(InputError, match=r"got .*expected"):
        profile_device(**arguments)


def test_unknown_size_is_an_input_error_that_lists_the_sizes():
    with pytest.raises(InputError, match="tiny, small, base"):
        profile_device(sizes=("huge",))
