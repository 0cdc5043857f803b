"""How the fleet's posterior is asked; what it answers is tested elsewhere."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

import bayeslat as bl
from contest.ours import Bayeslat
from contest.scores import LEVELS
from contest.splits import make_tasks


class Answer:
    """A latency distribution that only tells what was asked for."""

    def __init__(self, location: np.ndarray):
        self.location = location

    def ppf(self, level: float) -> np.ndarray:
        return self.location + norm.ppf(level)


class Fleet:
    """A posterior whose median latency encodes the step."""

    verdict = SimpleNamespace(max_rhat=1.02)

    def __init__(self, deployments):
        self.gpus = {each.gpu for each in deployments}
        self.models = {each.model for each in deployments}
        self.asked: list[dict] = []

    def latency(self, gpu, model, *, batch_size, total_tokens, n_averaged, **_):
        return Answer(100.0 * batch_size + total_tokens + 1000.0 * n_averaged)

    def cold_start(self, entries, **arguments):
        self.asked.append({"entries": [each.name for each in entries], **arguments})
        return self

    def save(self, path: Path) -> None:
        path.write_text("saved")


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[Fleet]:
    """Fleets that were fitted during the test."""
    made: list[Fleet] = []

    def fit(observations, *_, **__) -> Fleet:
        made.append(Fleet(observations.deployments))
        return made[-1]

    monkeypatch.setattr(bl, "fit", fit)
    monkeypatch.setattr(bl, "load", lambda path: made[-1])
    return made


def test_repeated_steps_get_their_own_rows_back(
    frame: pd.DataFrame, fits: list[Fleet], tmp_path: Path
) -> None:
    twice = pd.concat([frame, frame.assign(replicate=1, n_averaged=10.0)], ignore_index=True)
    [task] = make_tasks("extrapolation", twice)
    ours = Bayeslat(tmp_path)
    forecast = ours.forecast(task)
    assert ours.max_rhat == 1.02
    steps = task.test
    location = 100.0 * steps["batch_size"] + steps["total_tokens"] + 1000.0 * steps["n_averaged"]
    assert forecast[:, LEVELS.index(0.5)] == pytest.approx(location.to_numpy())


def test_one_fit_serves_all_numbers_of_known_steps(
    frame: pd.DataFrame, fits: list[Fleet], tmp_path: Path
) -> None:
    ours = Bayeslat(tmp_path)
    tasks = [task for task in make_tasks("gpu_left_out", frame) if task.name.startswith("H100")]
    for task in tasks:
        ours.forecast(task)
    Bayeslat(tmp_path).forecast(tasks[0])
    [fleet] = fits
    assert fleet.asked[0]["entries"] == ["H100-80GB"]
    assert fleet.asked[0]["steps"] is None
    assert [len(each["steps"]) for each in fleet.asked[1:4]] == [len(t.few) for t in tasks[1:]]


def test_other_settings_are_another_version(tmp_path: Path) -> None:
    versions = {Bayeslat(tmp_path, draws=draws).version for draws in (500, 1000, 1000)}
    assert len(versions) == 2
