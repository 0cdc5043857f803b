import numpy as np
import pytest

from bayeslat.errors import InputError
from bayeslat.simulate.workload import draw_workload


def draw(mix, capacity=np.inf):
    return draw_workload(np.random.default_rng(3), 2000, mix=mix, capacity=capacity)


def test_every_step_is_possible():
    work = draw({"decode": 1, "mixed": 1, "prefill": 1}, capacity=8192)
    assert (work.batch_size >= 1).all()
    assert (work.total_tokens >= work.batch_size).all()
    assert (work.context_tokens >= work.total_tokens).all()
    assert work.context_tokens.max() <= 8192
    assert set(work.phase) == {"decode", "mixed", "prefill"}


def test_phases_follow_the_conventions_of_the_table():
    decode, prefill = draw({"decode": 1}), draw({"prefill": 2})
    assert (decode.total_tokens == decode.batch_size).all()
    assert (prefill.context_tokens == prefill.total_tokens).all()
    assert (prefill.total_tokens > prefill.batch_size).all()
    mixed = draw({"mixed": 1})
    assert (mixed.total_tokens > mixed.batch_size).all()
    assert (mixed.batch_size >= 2).all()


def test_shares_follow_the_mix():
    phase = draw({"decode": 3, "prefill": 1}).phase
    share = np.mean(phase == "decode")
    assert abs(share - 0.75) < 4 * np.sqrt(0.75 * 0.25 / phase.size)
    assert "mixed" not in phase


@pytest.mark.parametrize("mix", [{"other": 1}, {}, {"decode": -1, "mixed": 2}, {"decode": np.nan}])
def test_wrong_mix_is_an_input_error(mix):
    with pytest.raises(InputError, match="expected non-negative weights of decode, mixed, prefill"):
        draw(mix)
