"""The command that judges a posterior: check."""

import pytest
from cli_answers import answered, said

import bayeslat as bl

POSTERIOR = "reference-fleet"
LABEL = "H100-80GB/llama-7b/tp1/simulated"
DIAGNOSTICS = {
    "calibration", "normality", "spread", "independence", "left-out rows", "prior predictive",
    "prior sensitivity", "replicated mean", "trend along context C",
}  # fmt: skip


@pytest.fixture(scope="module")
def own_steps(tmp_path_factory):
    """The steps that the released posterior was fitted to, made anew."""
    path = tmp_path_factory.mktemp("steps") / "own.csv"
    bl.simulate_fleet().steps.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def new_steps(tmp_path_factory):
    """Other steps of one of its deployments, all twice as slow."""
    table = bl.simulate_fleet(
        gpus=("H100-80GB",), models=("llama-7b",), rows_per_deployment=80, seed=5
    ).steps
    path = tmp_path_factory.mktemp("steps") / "new.csv"
    table.assign(latency_ms=2.0 * table["latency_ms"]).to_csv(path, index=False)
    return path


def refused(answer, about: str) -> None:
    code, out, err = answer
    assert (code, out) == (2, "")
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert about in last


def test_steps_of_the_fit_are_left_out_one_by_one(run, own_steps, tmp_path):
    picture = tmp_path / "check.png"
    answer = answered(
        run("check", POSTERIOR, "--steps", own_steps, "--deployment", LABEL, "--max-rows", 60,
            "--plot", picture, "--json")
    )  # fmt: skip
    assert answer["steps_of_the_fit"]
    [found] = answer["deployments"]
    assert (found["deployment"], found["n_rows"], found["n_rows_not_looked_at"]) == (LABEL, 60, 240)
    verdicts = {item["name"]: item["verdict"] for item in found["diagnostics"]}
    assert set(verdicts) > DIAGNOSTICS
    assert verdicts["calibration"] == "passed"
    assert verdicts["prior sensitivity"] == "passed"
    assert verdicts["trend along time"] == "not done"
    assert picture.stat().st_size > 10_000


def test_steps_that_have_changed_fail_and_it_is_said_in_plain_lines(run, new_steps):
    text = said(run("check", POSTERIOR, "--steps", new_steps, "--max-rows", 50))
    assert "steps that this posterior was not fitted to" in text
    assert f"{LABEL} 50 steps, chosen at random from 80" in text
    assert "calibration: failed" in text
    assert "replicated mean: failed" in text
    assert "prior sensitivity: not done, these are not the steps of the fit" in text
    assert "1 of 1 deployments fail a check" in text


def test_bad_input_is_one_line(run, own_steps, new_steps, tmp_path):
    ask = ["check", POSTERIOR, "--steps"]
    refused(run(*ask, tmp_path / "none.csv"), "none.csv")
    refused(run(*ask, own_steps, "--deployment", "H100/llama-7b"), "nearest: ")
    refused(run(*ask, own_steps, "--max-rows", 0), "--max-rows 0")
    refused(run(*ask, own_steps, "--plot", tmp_path / "check.txt"), "check.txt")
    other = tmp_path / "other.csv"
    table = bl.simulate_fleet(gpus=("H100-80GB",), models=("llama-7b",), rows_per_deployment=20)
    table.steps.assign(gpu="L40S").to_csv(other, index=False)
    refused(run(*ask, other), "none of which this posterior holds")
    still = tmp_path / "still.csv"
    table.steps.assign(latency_ms=40.0).to_csv(still, index=False)
    refused(run(*ask, still), "all 40 ms")
