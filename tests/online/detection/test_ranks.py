"""Ranks against brute force, and uniform ones from a model that is far from right."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from bayeslat.errors import InputError
from bayeslat.online.detection.ranks import BINS, WIDTH, Ranked, Ranks, binned, checked, uniforms
from bayeslat.online.scores import Scores
from detection import WRONG, World

NONE = {"tolerance": 0.0, "spreads": 0.0, "seed": 3}


def ranked(scores: Scores, block: int = 10_000, **settings: float) -> tuple[Ranks, Ranked]:
    memory, parts = Ranks.empty(), []
    for start in range(0, len(scores), block):
        memory, part = memory.ranked(scores[start : start + block], **{**NONE, **settings})
        parts.append(part)
    return memory, Ranked(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def test_ranks_are_those_among_all_earlier_rows_of_the_level() -> None:
    scores = WRONG.rows(400, 1)
    scores = replace(scores, stratum=np.where(scores.stratum > 5, 70, -scores.stratum))
    _, found = ranked(scores)
    bins, u = np.floor(scores.log_error / WIDTH), uniforms(3, 0, 400)
    for i in range(400):
        earlier = bins[:i][scores.stratum[:i] == scores.stratum[i]]
        below, ties = (earlier < bins[i]).sum(), (earlier == bins[i]).sum()
        assert found.pit[i] == pytest.approx((below + u[i] * (ties + 1)) / (earlier.size + 1))


@pytest.mark.parametrize("shift", [3, 7])
def test_an_admitted_shift_ranks_a_row_nearer_to_the_middle(shift: int) -> None:
    scores = WRONG.rows(400, 2)
    _, found = ranked(scores, tolerance=shift * WIDTH)
    bins, u = np.floor(scores.log_error / WIDTH), uniforms(3, 0, 400)
    for i in range(400):
        earlier = bins[:i][scores.stratum[:i] == scores.stratum[i]]
        down, up = bins[i] - shift, bins[i] + shift
        over, under = (earlier > down).sum(), (earlier < up).sum()
        slower = (over + (1.0 - u[i]) * ((earlier == down).sum() + 1)) / (earlier.size + 1)
        faster = (under + u[i] * ((earlier == up).sum() + 1)) / (earlier.size + 1)
        assert found.slower[i] == pytest.approx(slower)
        assert found.faster[i] == pytest.approx(faster)


def test_p_values_that_admit_a_shift_are_never_below_exact_ones() -> None:
    scores = World(tails=2.0, sd=0.8).rows(3000, 3)
    _, found = ranked(scores, tolerance=0.025, spreads=0.25)
    for slower, faster in ((found.slower, found.faster), (found.above, found.below)):
        assert (slower >= 1.0 - found.pit - 1e-12).all()
        assert (faster >= found.pit - 1e-12).all()
    assert (found.slower >= found.above).all()


def test_without_tolerance_p_values_are_exact() -> None:
    _, found = ranked(WRONG.rows(1000, 4))
    np.testing.assert_allclose(found.slower, 1.0 - found.pit, atol=1e-12)
    np.testing.assert_allclose(found.below, found.pit, atol=1e-12)


def test_spreads_are_standard_deviations_of_the_level() -> None:
    scores = World(sd=0.1).rows(20_000, 5)
    level = replace(scores, stratum=np.zeros(20_000, np.int64))
    shifted, plain = (ranked(level, spreads=spreads)[1] for spreads in (1.0, 0.0))
    # A normal quantile function turns the shift into one of z; stalls widen the upper side a bit.
    moved = stats.norm.ppf(shifted.slower[5_000:]) - stats.norm.ppf(plain.slower[5_000:])
    body = np.abs(plain.pit[5_000:] - 0.5) < 0.3
    assert np.median(moved[body]) == pytest.approx(1.0, abs=0.1)


def test_ranks_of_a_wrong_model_are_uniform_and_independent_while_the_traffic_moves() -> None:
    scores = replace(WRONG, moving=True, bias=0.0).rows(20_000, 6)
    scores = replace(scores, latency_ms=scores.latency_ms * (1.0 + 0.03 * scores.stratum))
    _, found = ranked(scores)
    assert stats.kstest(found.pit, "uniform").pvalue > 1e-3
    lags = [np.corrcoef(found.pit[lag:], found.pit[:-lag])[0, 1] for lag in (1, 2, 10)]
    assert np.abs(lags).max() < 4.0 / np.sqrt(20_000)
    assert stats.kstest(scores.pit, "uniform").pvalue < 1e-10


@pytest.mark.parametrize("block", [1, 7, 100])
def test_blocks_do_not_matter(block: int) -> None:
    scores = WRONG.rows(2500, 7)
    settings = {"tolerance": 0.02, "spreads": 0.25}
    (whole, once), (cut, again) = ranked(scores, **settings), ranked(scores, block, **settings)
    for left, right in zip((*once, whole.counts), (*again, cut.counts), strict=True):
        np.testing.assert_array_equal(left, right)
    assert cut.n_seen == whole.n_seen == 2500


def test_memory_is_bounded_and_not_changed() -> None:
    scores = WRONG.rows(3000, 8)
    memory, _ = ranked(scores)
    kept = memory.counts.copy()
    after, _ = memory.ranked(scores, **NONE)
    np.testing.assert_array_equal(memory.counts, kept)
    assert after.counts.shape == memory.counts.shape == (10, BINS)
    assert after.counts.sum() == after.n_seen == 6000


def test_errors_beyond_the_bins_are_in_the_outermost() -> None:
    np.testing.assert_array_equal(
        binned(np.array([-50.0, -1e-9, 0.0, 50.0])), [0, BINS // 2 - 1, BINS // 2, BINS - 1]
    )


def test_numbers_that_break_ties_are_the_same_however_they_are_cut() -> None:
    whole = uniforms(5, 0, 5000)
    np.testing.assert_array_equal(whole[1000:1050], uniforms(5, 1000, 50))
    np.testing.assert_array_equal(whole[1023:4097], uniforms(5, 1023, 3074))
    assert uniforms(5, 2048, 0).size == 0
    assert (whole != uniforms(6, 0, 5000)).all()
    assert stats.kstest(whole, "uniform").pvalue > 1e-3


@pytest.mark.parametrize(
    ("name", "value"),
    [("pit", np.nan), ("p_slower", 1.01), ("p_faster", -0.1), ("latency_ms", 0.0),
     ("latency_ms", np.inf), ("predicted_ms", np.nan)],
)  # fmt: skip
def test_what_is_no_number_is_refused(name: str, value: float) -> None:
    scores = WRONG.rows(5, 9)
    wrong = getattr(scores, name).copy()
    wrong[3] = value
    with pytest.raises(InputError, match=f"got {name}={value} at row 3, expected"):
        checked(replace(scores, **{name: wrong}))
