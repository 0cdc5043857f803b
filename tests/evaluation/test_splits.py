from dataclasses import replace

import numpy as np
import pytest

import bayeslat as bl
from bayeslat.errors import InputError
from bayeslat.evaluation.regimes import REGIMES, regimes_of
from bayeslat.evaluation.splits import SPLITS, SplitSettings, make_folds, thinned
from bayeslat.observations import Observations

ROWS = 60


@pytest.fixture(scope="module")
def log() -> Observations:
    """Eight deployments, two of them shares of one GPU, with times in no order."""
    table = bl.simulate_fleet(
        gpus=("A100-80GB", "A100-80GB@60%", "H100-80GB", "A100-40GB"),
        models=("llama-7b", "llama-13b"),
        rows_per_deployment=ROWS,
    ).steps
    rng = np.random.default_rng(0)
    return bl.validate_steps(table.assign(timestamp=rng.permutation(len(table)) + 1.7e9))


def rows_of(part: Observations | None) -> set[tuple]:
    if part is None:
        return set()
    labels = [part.deployments[i].label for i in part.deployment_index]
    return set(zip(labels, part.latency_ms, part.timestamp, strict=True))


@pytest.mark.parametrize("split", SPLITS)
def test_no_step_is_both_seen_and_asked(log, split):
    for fold in make_folds(log, split):
        known, few, test = map(rows_of, (fold.known, fold.few, fold.test))
        assert not known & test
        assert not few & (known | test)
        assert (known | few | test) <= rows_of(log)
        assert np.isnan(fold.questions.latency_ms).all()
        np.testing.assert_array_equal(fold.questions.batch_size, fold.test.batch_size)


@pytest.mark.parametrize("split", SPLITS)
def test_folds_follow_from_the_seed(log, split):
    def made(seed):
        return [fold.fingerprint for fold in make_folds(log, split, SplitSettings(seed=seed))]

    assert made(1) == made(1)
    if split not in ("time", "extrapolation"):
        assert made(1) != made(2)


def test_repeats_of_a_design_point_stay_together(log):
    twice = log.select(np.repeat(np.arange(len(log)), 2))
    [fold] = make_folds(twice, "points")
    for name in ("batch_size", "total_tokens", "context_tokens"):
        assert getattr(fold.known, name).size + getattr(fold.test, name).size == len(twice)

    def design(part):
        keys = (part.batch_size, part.total_tokens, part.context_tokens)
        labels = [part.deployments[i].label for i in part.deployment_index]
        return set(zip(labels, *keys, strict=True))

    assert not design(fold.known) & design(fold.test)
    assert len(fold.test) == pytest.approx(0.3 * len(twice), rel=0.1)


def test_time_only_ever_predicts_what_comes_later(log):
    folds = make_folds(log, "time", SplitSettings(min_train_size=200, test_window=50))
    assert len(folds) == (len(log) - 200) // 50
    asked = 0
    for number, fold in enumerate(folds):
        assert fold.known.timestamp.max() < fold.test.timestamp.min()
        assert len(fold.known) == 200 + 50 * number
        asked += len(fold.test)
    assert [len(fold.test) for fold in folds] == [50, 50, 50, 50, 80]
    assert asked == len(log) - 200


def test_steps_of_one_time_are_not_known_before_each_other(log):
    tied = replace(log, timestamp=np.floor(np.argsort(np.argsort(log.timestamp)) / 40.0))
    folds = make_folds(tied, "time", SplitSettings(min_train_size=220, test_window=100))
    assert [len(fold.known) for fold in folds] == [200, 320]
    for fold in folds:
        assert fold.known.timestamp.max() < fold.test.timestamp.min()


def test_time_needs_times(log):
    some = log.timestamp.copy()
    some[:3] = np.nan
    with pytest.raises(InputError, match="got 3 of 480 steps without a timestamp"):
        make_folds(replace(log, timestamp=some), "time")
    with pytest.raises(InputError, match="expected at least 10,100"):
        make_folds(log, "time", SplitSettings(min_train_size=10_000, test_window=100))


def test_extrapolation_asks_beyond_what_is_known(log):
    [fold] = make_folds(log, "extrapolation", SplitSettings(factor=3.0))
    for deployment in fold.test.deployments:
        whole, known = log.for_deployment(deployment), fold.known.for_deployment(deployment)
        for name in ("batch_size", "total_tokens"):
            assert getattr(known, name).max() <= getattr(whole, name).max() / 3.0


def test_what_never_changes_has_no_beyond(log):
    decode = log.select(log.total_tokens == log.batch_size)
    constant = replace(decode, batch_size=np.ones(len(decode)))
    [fold] = make_folds(constant, "extrapolation")
    assert set(fold.known.batch_size) == {1.0}


def test_a_gpu_is_left_out_with_its_shares_and_few_steps_grow(log):
    folds = make_folds(log, "new-gpu", SplitSettings(few=(5, 0, 10)))
    assert {fold.name for fold in folds} == {"A100-80GB", "H100-80GB", "A100-40GB"}
    assert [fold.k for fold in folds[:3]] == [0, 5, 10]
    own = [fold for fold in folds if fold.name == "A100-80GB"]
    assert own[0].few is None
    assert len(own[0].test.deployments) == 4
    assert not set(own[0].known.deployments) & set(own[0].test.deployments)
    few = [rows_of(fold.few) for fold in own]
    assert few[0] < few[1] < few[2]
    assert len({len(fold.test) for fold in own}) == 1
    assert len(own[2].few) == 4 * 10


def test_one_of_a_kind_cannot_be_left_out(log):
    one = log.select([log.deployments[i].gpu == "H100-80GB" for i in log.deployment_index])
    with pytest.raises(InputError, match=r"got steps of one GPU only \(H100-80GB\)"):
        make_folds(one, "new-gpu")
    assert len(make_folds(one, "new-llm", SplitSettings(few=(0,)))) == 2


def test_too_few_rows_and_wrong_settings_are_refused(log):
    with pytest.raises(InputError, match="got 9 steps to predict in fold 'all' of split 'points'"):
        make_folds(log.select(np.arange(30)), "points")
    with pytest.raises(InputError, match="got split 'no-such', expected one of points, time"):
        make_folds(log, "no-such")
    for wrong in ({"held_out": 1.0}, {"factor": 1.0}, {"few": (-1,)}, {"few": (5, 5)},
                  {"test_window": 3}):  # fmt: skip
        with pytest.raises(InputError, match="got "):
            SplitSettings(**wrong)


def test_thinning_keeps_so_many_of_each(log):
    some = thinned(log, 7, seed=3)
    assert np.bincount(some.deployment_index).tolist() == [7] * len(log.deployments)
    assert rows_of(some) <= rows_of(log)
    assert rows_of(thinned(log, 10**6)) == rows_of(log)
    with pytest.raises(InputError, match="at most 0 rows"):
        thinned(log, 0)


def test_regimes(log):
    steps = log.select(np.arange(5))
    steps = replace(
        steps,
        batch_size=np.array([8.0, 1.0, 2.0, 2.0, 30.0]),
        total_tokens=np.array([8.0, 1.0, 1024.0, 1023.0, 2000.0]),
    )
    decode, mixed, long = REGIMES
    assert regimes_of(steps).tolist() == [decode, decode, long, mixed, mixed]
