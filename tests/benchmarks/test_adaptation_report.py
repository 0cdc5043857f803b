"""The benchmark's report holds every run, and says what was left out and why."""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import online
from adaptation.follow import Followed
from adaptation.lineup import OURS, RIVALS
from adaptation.runs import Finished

LABEL = "A100-80GB/llama-7b/tp1/simulated"


def finished(scenario: str, seed: int, *, error: float = 0.05) -> Finished:
    """A run in which ours is back after 100 rows, and nobody else."""
    records = []
    for name in (OURS, *RIVALS):
        for seen in range(0, 600, 50):
            off = seen >= 200 and (name != OURS or seen < 300)
            records.append(
                {"contestant": name, "deployment": LABEL, "seen": seen, "since": seen - 200.0,
                 "error": error * (3.0 if off else 1.0), "coverage": 0.4 if off else 0.9,
                 "exceedance": 0.01, "oracle_error": error, "oracle_coverage": 0.9,
                 "oracle_exceedance": 0.01, "reference_0": 1.0, "evidence": 0.1, "row_s": 0.01}
            )  # fmt: skip
    judged = pd.DataFrame(records).assign(scenario=scenario, seed=seed)
    said = pd.DataFrame(
        [(OURS, "drift", LABEL, 250, 0), (OURS, "accepted", LABEL, 300, 1)],
        columns=["contestant", "kind", "deployment", "n_seen", "version"],
    )
    n = 600
    rows = pd.DataFrame(
        {"contestant": OURS, "deployment": LABEL, "timestamp": np.arange(n) / 10.0,
         "latency_ms": 10.0 + np.arange(n) % 3, "median": 11.0, "lower": 9.5, "upper": 12.5,
         "p99": 13.0, "evidence": 0.2}
    )  # fmt: skip
    followed = Followed(judged, said, rows if seed == 0 else rows.head(0))
    return Finished(scenario, "all", seed, followed, 200, (50.0,), 1, 0, 5000)


def test_the_text_has_targets_detection_and_every_contestant() -> None:
    runs = [finished("slow-down", seed) for seed in range(3)]
    text = online.text(runs, ["replay-file: left out, no data"], "python benchmarks/online.py")
    assert text.endswith("replay-file: left out, no data")
    met = [line for line in text.splitlines() if line.startswith("| error within")]
    assert met and met[0].endswith("| yes |") and "100; in time 100 %" in met[0]
    for name in RIVALS:
        row = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
        assert row.split("|")[2].strip() == "never"
    assert "| 50 (90 %: 50, most 50) | 0 of 3 | 3 | 0 | 15,000 | 0.00 |" in text
    assert "3 runs" in text


def test_pictures_are_of_the_first_run_of_a_scenario(tmp_path: Path) -> None:
    runs = [finished("slow-down", seed) for seed in range(2)] + [finished("stationary", 0)]
    (path,) = online.pictures(runs, tmp_path)
    assert path.name == "online_slow_down.png" and path.stat().st_size > 10_000


@pytest.mark.parametrize("smoke", [False, True])
def test_what_is_left_out_is_said(tmp_path: Path, smoke: bool) -> None:
    chosen = argparse.Namespace(
        scenarios=["stationary", "slow-down", "thermal", "replay-file"], smoke=smoke, seeds=5,
        alarm_runs=4, full_fits=True, data=tmp_path / "none.csv", cache=tmp_path,
    )  # fmt: skip
    jobs, left_out = online.jobs_of(chosen)
    assert len(left_out) == 1 and left_out[0].startswith("replay-file: left out, ")
    kinds = pd.Series([(job.scenario, job.kind) for job in jobs]).value_counts()
    if smoke:
        assert kinds.to_dict() == {
            (name, "all"): 1 for name in ("stationary", "slow-down", "thermal")
        }
        return
    assert kinds[("stationary", "all")] == 5 and kinds[("stationary", "alarms")] == 4
    assert kinds[("slow-down", "all")] == 5 and kinds[("slow-down", "full")] == 1
    assert kinds[("thermal", "all")] == online.FEWER["thermal"]
    seeds = [job.seed for job in jobs if job.scenario == "stationary"]
    assert len(set(seeds)) == len(seeds)
