import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_answers import refused

import bayeslat as bl
from bayeslat.observations import write_steps

WHERE = ["--gpu", "H100-80GB", "--model", "llama-7b"]
POINT = ["--batch-size", "16", "--total-tokens", "128"]


@pytest.fixture
def steps_file(tiny_steps, tmp_path) -> Path:
    path = tmp_path / "steps.csv"
    write_steps(tiny_steps, path)
    return path


@pytest.mark.parametrize(
    "command",
    [
        "demo",
        "profile",
        "simulate",
        "fit",
        "query",
        "invert",
        "frontier",
        "allocate",
        "compile",
        "gate",
        "phases",
        "queue",
        "goodput",
        "schedule",
        "watch",
        "cold-start",
        "next-points",
        "backtest",
        "check",
        "report",
    ],
)
def test_every_command_explains_itself_with_an_example(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "Example" in out
    assert f"bayeslat {command}" in " ".join(out.split())
    assert "--json" in out


def test_help_waits_for_no_sampler():
    program = (
        "import sys; from bayeslat.cli import app\n"
        "print([name for name in ('jax', 'pymc', 'numba', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_simulate_writes_steps(run, tmp_path):
    out = tmp_path / "steps.csv"
    code, text, _ = run(
        "simulate", "--out", out, "--rows", 5, "--gpu", "H100-80GB", "--model", "llama-7b", "--json"
    )
    assert code == 0
    assert json.loads(text)["n_rows"] == 5
    assert set(bl.read_steps(out).to_frame()["engine"]) == {"simulated"}


def test_fit_saves_an_unconverged_posterior_only_when_allowed(run, steps_file, tmp_path):
    # Twelve draws cannot pass: the failed verdict is certain.
    out = tmp_path / "fleet.nc"
    code, text, _ = run(
        "fit", steps_file, "--out", out, "--draws", 12, "--tune", 20, "--allow-unconverged",
        "--no-retry", "--json",
    )  # fmt: skip
    answer = json.loads(text)
    assert code == 0
    assert answer["verdict"]["passed"] is False
    assert [item["n_rows"] for item in answer["deployments"]] == [60, 60]
    saved = bl.load(out)
    assert len(saved.deployments) == 2
    assert saved.posterior.sizes["draw"] == 12


@pytest.mark.parametrize("json_wanted", [False, True])
def test_failed_verdict_saves_nothing_and_exits_one(
    run, steps_file, tmp_path, tiny_fleet, monkeypatch, json_wanted
):
    tree = tiny_fleet.tree.copy()
    failed = dataclasses.replace(tiny_fleet.verdict, max_rhat=1.7)
    tree.attrs["verdict"] = json.dumps(failed.to_dict())
    asked = {}

    def fit(steps, spec, **settings):
        asked.update(settings, spec=spec)
        return bl.FleetPosterior(tree)

    monkeypatch.setattr("bayeslat.posterior.fit", fit)
    out = tmp_path / "fleet.nc"
    wanted = ["--json"] if json_wanted else ["--strays", "--no-retry"]
    code, text, err = run("fit", steps_file, "--out", out, *wanted)
    assert code == 1
    # Without wishes the model is left to fit, which looks at what the log can tell.
    assert (asked["spec"] is None) if json_wanted else asked["spec"].strays
    assert asked["retry"] is json_wanted
    assert not out.exists()
    assert "did not converge" in err
    if json_wanted:
        assert json.loads(text)["saved"] is None
    else:
        assert "NOT converged" in text
        assert "not saved" in text


def test_fit_prints_quarantine_verdict_and_deployments(
    run, steps_file, tmp_path, tiny_fleet, monkeypatch
):
    passed = dataclasses.replace(
        tiny_fleet.verdict, max_rhat=1.0, min_ess_bulk=1e4, min_ess_tail=1e4, divergences=0
    )
    tree = tiny_fleet.tree.copy()
    tree.attrs["verdict"] = json.dumps(passed.to_dict())
    monkeypatch.setattr("bayeslat.posterior.fit", lambda *_, **__: bl.FleetPosterior(tree))
    out = tmp_path / "fleet.nc"
    code, text, _ = run("fit", steps_file, "--out", out)
    assert code == 0
    assert "120 rows read, 120 kept" in text
    assert "converged: R-hat" in text
    assert "H100-80GB/llama-7b/tp1/simulated" in text
    assert out.exists()


def test_query_agrees_with_the_posterior(run, tiny_file, tiny_fleet):
    code, text, _ = run("query", tiny_file, *WHERE, *POINT, "--context-tokens", 4096, "--json")
    answer = json.loads(text)
    latency = tiny_fleet.latency(
        "H100-80GB", "llama-7b", batch_size=16, total_tokens=128, context_tokens=4096
    )
    assert code == 0
    assert answer["p_exceeds_sla"]["value"] == pytest.approx(latency.sf(50.0))
    assert answer["latency_ms"]["p99"]["value"] == pytest.approx(latency.ppf(0.99))
    assert set(answer["latency_ms"]) == {"mean", "p50", "p90", "p95", "p99", "p99.9"}
    assert not answer["context_assumed"]


def test_query_states_verdict_context_and_range(run, tiny_file):
    code, text, _ = run(
        "query", tiny_file, *WHERE, "--batch-size", 1000, "--total-tokens", 9000, "--sla-ms", 80
    )
    assert code == 0
    assert "converged" in text
    assert "assumed: typical" in text
    assert "outside the measured range: batch size 1000" in text
    assert "P(T > 80 ms)" in text


def test_invert_for_a_batch_for_tokens_and_for_both(run, tiny_file, tiny_fleet):
    tokens = json.loads(run("invert", tiny_file, *WHERE, "--batch-size", 16, "--json")[1])
    largest = tiny_fleet.max_tokens("H100-80GB", "llama-7b", batch_size=16, sla_ms=50.0)
    assert tokens["total_tokens"]["largest"] == largest
    batches = json.loads(run("invert", tiny_file, *WHERE, "--total-tokens", 64, "--json")[1])
    assert batches["batch_size"]["largest"] >= 1
    region = json.loads(run("invert", tiny_file, *WHERE, "--json")[1])
    assert len(region["probability"]) == len(region["batch_size"])
    assert region["probability"][-1][0] is None, "no step computes less than a token a request"


def test_invert_says_when_nothing_fits(run, tiny_file):
    code, text, _ = run("invert", tiny_file, *WHERE, "--batch-size", 16, "--sla-ms", 0.001)
    assert code == 0
    assert "nothing fits" in text


def test_confidence_never_enlarges_what_fits(run, tiny_file):
    plain, sure = (
        json.loads(run("invert", tiny_file, *WHERE, "--batch-size", 16, "--json", *more)[1])
        for more in ([], ["--confident", "0.99"])
    )
    assert sure["total_tokens"]["largest"] <= plain["total_tokens"]["largest"]


def test_cold_start_from_a_datasheet_alone(run, tiny_file, tmp_path):
    out = tmp_path / "new.nc"
    code, text, _ = run(
        "cold-start", tiny_file, "--name", "Z9", "--peak-tflops", 989, "--bandwidth-tbs", 4.8,
        "--memory-gb", 141, "--out", out,
    )  # fmt: skip
    assert code == 0
    assert "nothing sampled" in text
    assert bl.load(out).gpus == ("Z9",)
    code, text, _ = run("query", out, "--gpu", "Z9", "--model", "llama-7b", *POINT)
    assert code == 0
    assert "never measured" in text


def test_cold_start_with_a_few_steps(run, tiny_file, tmp_path):
    steps = bl.simulate_fleet(gpus=("H200",), models=("llama-7b",), rows_per_deployment=10).steps
    write_steps(steps, tmp_path / "few.csv")
    out = tmp_path / "new.nc"
    code, text, _ = run(
        "cold-start", tiny_file, "--steps", tmp_path / "few.csv", "--out", out,
        "--allow-unconverged", "--json",
    )  # fmt: skip
    answer = json.loads(text)
    assert code == 0
    assert answer["n_steps"] == 10
    assert answer["deployments"] == ["H200/llama-7b/tp1/simulated"]
    assert bl.load(out).verdict is not None


def test_report_writes_a_page(run, tiny_file, steps_file, tmp_path):
    out = tmp_path / "report.html"
    code, text, _ = run("report", tiny_file, "--steps", steps_file, "--out", out)
    assert code == 0
    assert "converged" in text
    assert "base64" in out.read_text(encoding="utf-8")


def test_profile_measures_and_writes_datasheets(run, tmp_path):
    out, sheet = tmp_path / "steps.csv", tmp_path / "device.toml"
    code, text, _ = run("profile", "--seconds", 0.5, "--out", out, "--datasheet", sheet, "--json")
    answer = json.loads(text)
    assert code == 0
    assert answer["n_rows"] == len(bl.read_steps(out, catalog=bl.load_catalog(sheet)))
    catalog = bl.load_catalog(sheet)
    assert catalog.gpu(answer["gpu"]["name"]).peak_tflops == answer["gpu"]["peak_tflops"]
    assert {llm["name"] for llm in answer["llms"]} <= set(catalog.llms)


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        (["--total-tokens", "0", "--batch-size", "1"], "total_tokens"),
        (["--total-tokens", "8", "--batch-size", "16"], "total_tokens >= batch_size"),
        (["--total-tokens", "8", "--batch-size", "x"], "--batch-size"),
        (["--total-tokens", "8", "--batch-size", "1", "--credible", "1.5"], "credible"),
        (["--total-tokens", "8", "--batch-size", "1", "--sla-ms", "-3"], "--sla-ms"),
        (["--total-tokens", "8", "--batch-size", "1", "--sla-ms", "nan"], "--sla-ms"),
        (["--total-tokens", "8", "--batch-size", "1", "--tp", "64"], "nearest"),
        (["--total-tokens", "8", "--batch-size", "1", "--colour"], "--colour"),
        (["--total-tokens", "8"], "--batch-size"),
    ],
)
def test_bad_queries_are_one_line(run, tiny_file, arguments, about):
    refused(run("query", tiny_file, *WHERE, *arguments), about=about)


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        (["--risk", "0"], "risk"),
        (["--risk", "1.2"], "risk"),
        (["--confident", "1"], "confident"),
        (["--batch-size", "0"], "batch_size"),
        (["--batch-size", "1", "--total-tokens", "1"], "one or neither"),
    ],
)
def test_bad_inversions_are_one_line(run, tiny_file, arguments, about):
    refused(run("invert", tiny_file, *WHERE, *arguments), about=about)


def test_unknown_deployment_names_the_nearest(run, tiny_file):
    answer = run("query", tiny_file, "--gpu", "H100", "--model", "llama-7b", *POINT)
    refused(answer, about="H100-80GB/llama-7b")


def test_missing_damaged_and_foreign_posteriors(run, tmp_path, steps_file):
    refused(run("query", tmp_path / "no.nc", *WHERE, *POINT), about="no such file")
    refused(run("query", steps_file, *WHERE, *POINT), about="damaged")


def test_missing_empty_and_misnamed_logs(run, tmp_path):
    refused(run("fit", tmp_path / "no.csv", "--out", tmp_path / "a.nc"), about="does not exist")
    (tmp_path / "empty.csv").touch()
    refused(run("fit", tmp_path / "empty.csv", "--out", tmp_path / "a.nc"), about="empty file")


def test_fit_refuses_before_it_starts(run, steps_file, tmp_path):
    out = ["--out", tmp_path / "fleet.nc"]
    refused(run("fit", steps_file, "--out", tmp_path / "no" / "a.nc"), about="folder")
    refused(run("fit", steps_file, "--out", tmp_path / "fleet.txt"), about=".nc")
    refused(run("fit", steps_file, *out, "--columns", "latency_ms"), about="OUR_NAME=FILE_NAME")
    refused(run("fit", steps_file, *out, "--sampler", "gibbs"), about="numpyro")
    refused(run("fit", steps_file, *out, "--terms", "k_B,zz"), about="zz")
    refused(run("fit", steps_file, *out, "--likelihood", "cauchy"), about="student_t")
    refused(run("fit", steps_file, *out, "--chains", 1), about="2 chains")
    refused(run("fit", steps_file, *out, "--format", "xml"), about="csv")


def test_cold_start_refuses_nobody_and_wrong_numbers(run, tiny_file, tmp_path):
    out = ["--out", tmp_path / "new.nc"]
    refused(run("cold-start", tiny_file, *out), about="no newcomer")
    refused(run("cold-start", tiny_file, *out, "--peak-tflops", 5), about="--name")
    refused(
        run("cold-start", tiny_file, *out, "--name", "Z9", "--peak-tflops", -5), about="TFLOP/s"
    )


def test_a_negative_seed_is_one_line(run, tmp_path):
    refused(run("simulate", "--out", tmp_path / "a.csv", "--seed", -1), about="--seed")


def test_other_bad_input(run, tiny_file, tmp_path):
    refused(run("simulate", "--out", tmp_path / "a.csv", "--rows", 0), about="rows")
    refused(run("simulate", "--out", tmp_path / "a.txt"), about=".csv")
    refused(run("profile", "--out", tmp_path / "a.csv", "--seconds", 0), about="seconds")
    refused(run("report", tiny_file, "--out", tmp_path / "a.html", "--risk", 3), about="risk")
    refused(run("juggle"), about="juggle")
    refused(run(), about="Missing command")
