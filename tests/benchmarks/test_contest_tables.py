"""What runs apart comes together in one table, and only forecasts of the very same task."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from contest.pictures import split_picture
from contest.scores import LEVELS
from contest.splits import SPLITS, Task, make_tasks
from contest.store import Kept, Store
from contest.tables import OURS, groups_of, score_records, split_table


def off_by(task: Task, factor: float) -> np.ndarray:
    """A forecast whose median is the measured latency times a factor."""
    spread = np.linspace(0.9, 1.1, len(LEVELS)) * factor
    return task.test["latency_ms"].to_numpy()[:, None] * spread


def records_of(tasks: list[Task], **factors: float) -> pd.DataFrame:
    """Scores; those of ours come with an R-hat."""
    records = []
    for name, factor in factors.items():
        rhat = 1.0 + factor / 100 if name == OURS else np.nan
        for task in tasks:
            records += score_records(task, name, Kept(off_by(task, factor), 1.0, rhat))
    return pd.DataFrame(records)


def test_a_forecast_comes_back_for_its_task_and_version_alone(
    frame: pd.DataFrame, tmp_path: Path
) -> None:
    one, other = make_tasks("device_setting", frame)
    store = Store(tmp_path)
    store.write(one, "rival+1", off_by(one, 1.0), 2.0, version="a", max_rhat=1.02)
    assert store.read(other, "rival+1") is None
    assert store.read(one, "rival+1", version="b") is None
    found = store.read(one, "rival+1", version="a")
    assert found is not None
    assert found.forecast == pytest.approx(off_by(one, 1.0), rel=1e-6)
    assert (found.seconds, found.max_rhat) == (2.0, 1.02)
    changed = Task(one.split, one.name, one.train.iloc[1:], one.few, one.test, one.k)
    assert store.read(changed, "rival+1") is None


def test_the_table_shows_medians_and_the_best_rival_as_target(frame: pd.DataFrame) -> None:
    tasks = make_tasks("interpolation", frame)
    text = split_table("interpolation", records_of(tasks, near=1.2, far=1.5, bayeslat=1.1))
    rows = [line.split(" | ")[:2] for line in text.splitlines() if line.startswith("| ")]
    shown = dict(row for row in rows[:5])
    assert shown["| near"] == "20.0"
    assert shown["| **bayeslat**"] == "10.0"
    assert shown["| target"] == "20.0"
    assert "bayeslat's forecasts: 1.011." in text


def test_known_steps_share_a_cell(frame: pd.DataFrame) -> None:
    text = split_table("llm_left_out", records_of(make_tasks("llm_left_out", frame), near=1.2))
    assert "cells: k = 0 / k = 5 / k = 10 / k = 20." in text
    assert "| near | 20.0 / 20.0 / 20.0 / 20.0 |" in text


@pytest.mark.parametrize("split", sorted(SPLITS))
def test_every_split_has_groups_and_a_picture(frame: pd.DataFrame, split: str) -> None:
    records = records_of(make_tasks(split, frame), near=1.2, bayeslat=1.1)
    groups = groups_of(split, records)
    assert set().union(*(set(group.index) for group in groups.values())) == set(records.index)
    conditions = records["condition"].nunique()
    assert len(split_picture(split, records).axes) == 2 * conditions


def test_an_engine_that_nobody_has_seen_is_a_group_of_its_own(frame: pd.DataFrame) -> None:
    [task] = [each for each in make_tasks("gpu_left_out", frame) if each.name == "T4-16GB k=0"]
    groups = groups_of("gpu_left_out", records_of([task], near=1.2))
    assert set(groups) == {"no other deployment with this engine"}
