"""Splits leave out what they say, and nothing comes back by another way."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from contest.splits import DESIGN_POINT, FEW, SPLITS, Task, make_tasks

POINT = ["deployment", *DESIGN_POINT]


def rows_of(frame: pd.DataFrame, columns: list[str]) -> set[tuple]:
    return set(frame[columns].fillna(-1.0).itertuples(index=False, name=None))


@pytest.fixture(params=sorted(SPLITS))
def tasks(request: pytest.FixtureRequest, frame: pd.DataFrame) -> list[Task]:
    return make_tasks(request.param, frame)


def test_every_row_is_used_once_at_most(tasks: list[Task], frame: pd.DataFrame) -> None:
    everything = [*POINT, "latency_ms", "replicate"]
    assert tasks
    for task in tasks:
        parts = [rows_of(part, everything) for part in (task.train, task.few, task.test)]
        assert len(set.union(*parts)) == sum(map(len, parts))
        assert set.union(*parts) <= rows_of(frame, everything)


def test_a_split_is_the_same_every_time(tasks: list[Task], frame: pd.DataFrame) -> None:
    for task, again in zip(tasks, make_tasks(tasks[0].split, frame), strict=True):
        pd.testing.assert_frame_equal(task.test, again.test)
        pd.testing.assert_frame_equal(task.few, again.few)


def test_interpolation_holds_out_whole_design_points(frame: pd.DataFrame) -> None:
    twice = pd.concat([frame, frame.assign(replicate=1, latency_ms=frame["latency_ms"] * 1.1)])
    [task] = make_tasks("interpolation", twice.reset_index(drop=True))
    train, test = rows_of(task.train, POINT), rows_of(task.test, POINT)
    assert not train & test
    assert len(test) / len(train | test) == pytest.approx(0.3, abs=0.02)


def test_extrapolation_is_beyond_a_quarter_in_either_direction(frame: pd.DataFrame) -> None:
    [task] = make_tasks("extrapolation", frame)
    for label, own in frame.groupby("deployment"):
        limits = own["batch_size"].max() / 4, own["total_tokens"].max() / 4
        for part, inside in ((task.train, True), (task.test, False)):
            steps = part[part["deployment"] == label]
            within = (steps["batch_size"] <= limits[0]) & (steps["total_tokens"] <= limits[1])
            assert (within == inside).all()


@pytest.mark.parametrize(("split", "column"), [("gpu_left_out", "gpu"), ("llm_left_out", "model")])
def test_a_left_out_name_is_only_in_few_and_test(
    frame: pd.DataFrame, split: str, column: str
) -> None:
    for task in make_tasks(split, frame):
        name = task.name.rsplit(" k=", 1)[0]
        assert task.is_new
        assert name not in set(task.train[column])
        assert set(task.test[column]) == {name}
        assert (task.few.groupby("deployment").size() == task.k).all()


def test_more_known_steps_contain_the_fewer_and_leave_the_test_alone(frame: pd.DataFrame) -> None:
    tasks = [task for task in make_tasks("gpu_left_out", frame) if task.name.startswith("H100")]
    assert [task.k for task in tasks] == list(FEW)
    columns = [*POINT, "latency_ms"]
    for fewer, more in pairwise(tasks):
        assert rows_of(fewer.few, columns) < rows_of(more.few, columns)
        pd.testing.assert_frame_equal(fewer.test, more.test)


def test_a_physical_gpu_goes_with_all_its_shares(frame: pd.DataFrame) -> None:
    tasks = make_tasks("physical_gpu_left_out", frame)
    assert [task.k for task in tasks] == list(FEW)
    for task in tasks:
        assert not task.train["gpu"].str.startswith("A100-80GB").any()


def test_shares_of_a_gpu_are_left_out_one_by_one(frame: pd.DataFrame) -> None:
    tasks = make_tasks("device_setting", frame)
    assert [task.name for task in tasks] == ["A100-80GB@60%", "A100-80GB@80%"]
    for task in tasks:
        assert set(task.test["gpu"]) == {task.name}
        assert "A100-80GB" in set(task.train["gpu"])


def test_the_tail_is_half_of_the_decode_steps_of_production_like_logs(frame: pd.DataFrame) -> None:
    [task] = make_tasks("tail", frame)
    decode = frame[(frame["engine"] == "tgis") & (frame["phase"] == "decode")]
    assert set(task.test["engine"]) == {"tgis"}
    assert set(task.test["phase"]) == {"decode"}
    expected = (decode.groupby("deployment").size() // 2).to_numpy()
    assert np.array_equal(task.test.groupby("deployment").size().to_numpy(), expected)
