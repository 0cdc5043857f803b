"""States in files: the same bits, or one clear line."""

import numpy as np
import pytest

import bayeslat as bl
from bayeslat import online
from bayeslat.online.files import save_value


def test_a_state_survives_its_file_bit_for_bit(fleet, steps, tmp_path):
    state = online.observe(online.start(fleet), steps.iloc[:100])
    online.save(state, tmp_path / "a.state", extra={"offset": 7})
    again = online.load(tmp_path / "a.state")
    online.save(again, tmp_path / "b.state", extra={"offset": 7})
    assert (tmp_path / "a.state").read_bytes() == (tmp_path / "b.state").read_bytes()
    assert online.load_extra(tmp_path / "a.state") == {"offset": 7}
    assert again.settings == state.settings
    for one, other in zip(state.members, again.members, strict=True):
        assert one.deployment == other.deployment
        np.testing.assert_array_equal(one.belief.log_weights, other.belief.log_weights)
    query = {"batch_size": 8, "total_tokens": 64}
    before, after = (
        each.fleet.latency("H100-80GB", "llama-7b", **query).ppf(0.99) for each in (state, again)
    )
    assert before == after


def test_a_file_of_something_else_gets_one_line(tmp_path):
    save_value((1, 2), tmp_path / "x.state")
    with pytest.raises(bl.BayeslatError, match=r"online\.save"):
        online.load(tmp_path / "x.state")


def test_a_missing_file_gets_one_line(tmp_path):
    with pytest.raises(bl.BayeslatError):
        online.load(tmp_path / "none.state")
