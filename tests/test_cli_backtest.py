import json
from dataclasses import dataclass

import pytest
from cli_answers import refused
from stand_in_contenders import Lognormal

import bayeslat as bl
from bayeslat.evaluation import ours
from bayeslat.observations import write_steps


@dataclass(frozen=True)
class QuickOurs(ours.Bayeslat):
    """Has our name and settings, and fits in no time."""

    def fit(self, known, few=None):
        return Lognormal().fit(known, few)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(ours, "Bayeslat", QuickOurs)


@pytest.fixture
def log(tmp_path):
    table = bl.simulate_fleet(models=("llama-7b", "llama-13b"), rows_per_deployment=40).steps
    write_steps(bl.validate_steps(table), tmp_path / "steps.csv")
    return tmp_path / "steps.csv"


def test_tables_pictures_and_scores_are_written(run, log, tmp_path, quick):
    out = tmp_path / "found"
    code, said, _ = run("backtest", log, "--split", "points", "--split", "new-gpu", "--rivals",
                        "linear", "--few", "0,5", "--out", out)  # fmt: skip
    assert code == 0
    assert {path.name for path in out.iterdir()} >= {
        "backtest.json", "backtest.md", "points.png", "new-gpu.png", "predictions"
    }  # fmt: skip
    assert "Design points" in said
    assert "bayeslat" in said
    assert "linear" in said
    scores = json.loads((out / "backtest.json").read_text())["scores"]
    assert {row["contender"] for row in scores} == {"bayeslat", "linear"}
    assert (out / "backtest.md").read_text().count("| **bayeslat** |") >= 2


def test_json_alone_on_standard_output(run, log, tmp_path, quick):
    code, out, _ = run("backtest", log, "--rivals", "none", "--json", "--out", tmp_path / "found",
                       "--max-rows", 30)  # fmt: skip
    assert code == 0
    read = json.loads(out)
    assert read["source"]["rows"] == 6 * 30
    assert read["source"]["settings"]["held_out"] == 0.3
    assert {row["split"] for row in read["scores"]} == {"points"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "time"], "without a timestamp"),
        (["--split", "no-such"], "expected one of points, time, extrapolation, new-gpu, new-llm"),
        (["--rivals", "crystal-ball"], "got --rivals 'crystal-ball', expected all, none or some"),
        (["--few", "0,x"], "got --few '0,x', expected whole numbers"),
        (["--held-out", "2"], "got held_out 2.0"),
        (["--workers", "0"], "got 0 workers"),
        (["--draws", "0"], "draws"),
        (["--max-rows", "2"], "expected at least 20"),
    ],
)
def test_wrong_options_are_one_line(run, log, tmp_path, quick, arguments, message):
    found = run("backtest", log, "--rivals", "none", "--out", tmp_path / "found", *arguments)
    refused(found, about=message)


def test_an_empty_log_is_one_line(run, tmp_path):
    (tmp_path / "empty.csv").write_text("")
    refused(run("backtest", tmp_path / "empty.csv", "--out", tmp_path / "found"), about="empty")
    assert not (tmp_path / "found").exists()
