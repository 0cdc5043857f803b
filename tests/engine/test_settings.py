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


def test_whole_prompts_need_larger_steps():
    served = Workload([0.0], [10_000], [5])
    assert EngineSettings().most_tokens(served) == 8192
    assert EngineSettings(chunked_prefill=False).most_tokens(served) == 10_005
