import numpy as np
import pytest

from bayeslat.engine import EngineSettings, Workload, kernel
from bayeslat.errors import InputError


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_num_seqs": 0},
        {"max_num_batched_tokens": 1.5},
        {"max_num_batched_tokens": 10, "max_num_seqs": 20},
        {"kv_capacity_tokens": 3},
        {"block_size": 0},
        {"long_prefill_token_threshold": -1},
        {"batching": "dynamic"},
        {"mixed_steps": False},
        {"patience_ms": -1.0},
        {"patience_ms": np.nan},
        {"prefill_order": "random"},
        {"prefill_order": "last"},
        {"waiting_served_ratio": -0.1},
        {"waiting_served_ratio": np.inf},
        {"max_waiting_steps": 0},
        {"max_waiting_steps": 2.5},
        {"sla_aware": True, "chunked_prefill": False},
        {"sla_aware": True, "batching": "static"},
        {"expected_output_tokens": 0.0},
        {"expected_output_tokens": np.nan},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        EngineSettings(**wrong)


def test_limits_are_what_the_loop_reads():
    limits = EngineSettings(
        max_num_seqs=4, max_num_batched_tokens=32, kv_capacity_tokens=100
    ).limits()
    assert limits[kernel.MAX_RUNNING] == 4
    assert limits[kernel.LARGEST_CHUNK] == limits[kernel.BUDGET] == 32
    assert limits[kernel.CAPACITY] == 6
    assert EngineSettings(chunked_prefill=False).limits()[kernel.LARGEST_CHUNK] == 0


def test_each_order_of_prefills_has_a_number_of_its_own():
    apart = {"mixed_steps": False, "chunked_prefill": False}
    orders = {
        order: EngineSettings(**apart, prefill_order=order).limits()[kernel.SEPARATE]
        for order in ("first", "last", "threshold")
    }
    assert orders == {
        "first": kernel.PROMPTS_FIRST,
        "last": kernel.DECODES_FIRST,
        "threshold": kernel.THRESHOLD,
    }
    assert EngineSettings().limits()[kernel.SEPARATE] == kernel.TOGETHER
    assert EngineSettings(sla_aware=True).limits()[kernel.GATED]
    assert EngineSettings(**apart, max_waiting_steps=7).limits()[kernel.MAX_WAITING_STEPS] == 7


def test_scales_hold_what_is_no_whole_number():
    scales = EngineSettings(waiting_served_ratio=0.3, expected_output_tokens=90.5).scales(20.0)
    assert scales[kernel.WAITING_RATIO] == 0.3
    assert scales[kernel.EXPECTED_OUTPUT] == 90.5
    assert scales[kernel.SLA] == 20.0
    nothing = EngineSettings().scales(None)
    assert nothing[kernel.EXPECTED_OUTPUT] == 0.0
    assert nothing[kernel.SLA] == np.inf


def test_whole_prompts_need_larger_steps():
    served = Workload([0.0], [10_000], [5])
    assert EngineSettings().most_tokens(served) == 8192
    assert EngineSettings(chunked_prefill=False).most_tokens(served) == 10_005
