import numpy as np
import pytest

from bayeslat.decisions import candidate_steps, read_candidates
from bayeslat.decisions.measuring.candidates import checked_points
from bayeslat.errors import InputError


def test_the_grid_has_every_phase_within_its_bounds():
    points = candidate_steps(max_batch_size=20, max_total_tokens=600, max_context_tokens=9_000)
    b, s, c = points.batch_size, points.total_tokens, points.context_tokens
    assert (s >= b).all() and (c >= s).all()
    assert (b.max(), s.max()) == (17.0, 536.0)  # two prompts of 268 tokens
    assert c.max() <= 9_000.0
    decode, prefill = s == b, (s > b) & (c == s)
    assert {1.0, 2.0, 4.0, 8.0, 16.0} == set(b[decode])
    assert decode.sum() == 9  # 16 requests of 1,024 positions do not fit
    assert {1.0, 2.0, 4.0, 8.0} == set(b[prefill])
    assert (~decode & ~prefill).sum() > 5
    assert len(set(zip(b, s, c, strict=True))) == points.size


@pytest.mark.parametrize(
    ("bounds", "about"),
    [
        ({"max_batch_size": 0}, "max_batch_size=0"),
        ({"max_total_tokens": 0.5}, "max_total_tokens=0.5"),
        ({"lengths": ()}, "no lengths"),
        ({"lengths": (0,)}, "lengths=0"),
        ({"max_context_tokens": 1.0}, "no candidate steps"),
    ],
)
def test_impossible_grids_are_refused(bounds, about):
    with pytest.raises(InputError, match=about):
        candidate_steps(**bounds)


def test_a_file_of_steps_is_read(tmp_path):
    path = tmp_path / "steps.csv"
    path.write_text(
        "batch_size,total_tokens,context_tokens,n_averaged,note\n4,4,100,2,a\n1,512,,1,b\n"
    )
    points = read_candidates(path, context_per_request=300.0)
    np.testing.assert_array_equal(points.context_tokens, [100.0, 512.0])
    np.testing.assert_array_equal(points.n_averaged, [2.0, 1.0])
    path.write_text("batch_size,total_tokens\n4,4\n")
    points = read_candidates(path, context_per_request=300.0)
    assert (points.context_tokens[0], points.n_averaged[0]) == (1_200.0, 1.0)


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("", "cannot be read"),
        ("batch_size,latency_ms\n1,2\n", "expected batch_size and total_tokens"),
        ("batch_size,total_tokens\n", "no candidate steps"),
        ("batch_size,total_tokens\n1,many\n", "'many' as total_tokens in row 1"),
        ("batch_size,total_tokens\n8,4\n", "B = 8, S = 4"),
        ("batch_size,total_tokens\n8,\n", "S = nan"),
    ],
)
def test_bad_files_are_refused_in_a_line(tmp_path, text, about):
    path = tmp_path / "steps.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=about) as refusal:
        read_candidates(path, context_per_request=0.0)
    assert "\n" not in str(refusal.value).strip()
    with pytest.raises(InputError, match="cannot be read"):
        read_candidates(tmp_path / "nowhere.csv", context_per_request=0.0)


@pytest.mark.parametrize(
    "step",
    [
        (0, 4, 0),
        (8, 4, 0),
        (1, 1, -1),
        (1, np.inf, 0),
        (1, 1, 0, 0),
        (1, 1, np.nan),
        (1.5, 2, 2),
        (1, 1e300, 0),
        (1, 1, 0, 0.1),
    ],
)
def test_impossible_steps_are_refused(step):
    with pytest.raises(InputError, match="expected whole S >= B >= 1"):
        checked_points(*step)
