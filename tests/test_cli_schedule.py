"""The command about ways of scheduling: schedule."""

from dataclasses import replace

import numpy as np
import pytest
from cli_answers import answered, refused, said

from bayeslat.decisions import SCHEDULERS, ServiceObjective, compare_schedulers
from bayeslat.engine import EngineSettings, Workload

WHERE = ["--gpu", "H100-80GB", "--model", "llama-7b"]
LIMIT = ["--sla-ms", 30]
STREAM = ["--prompt-tokens", 256, "--output-tokens", 16, "--arrivals-per-s", 10]
SMALL = ["--max-num-seqs", 8, "--max-num-batched-tokens", 300]
FEW = ["--n-requests", 40, "--runs", 6, *SMALL]
QUICK = [*STREAM, "--n-requests", 4, "--runs", 2, *SMALL]


@pytest.fixture(scope="session")
def served(tiny_fleet):
    """The deployment that the command asks."""
    return tiny_fleet.serving("H100-80GB", "llama-7b")


@pytest.fixture
def trace(tmp_path):
    """Recorded requests of two lengths."""
    arrival = np.cumsum(np.random.default_rng(1).exponential(0.1, 40))
    lines = [f"{t},{600 if i % 2 else 100},{8}" for i, t in enumerate(arrival)]
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(["arrival_s,input_tokens,output_tokens", *lines]), encoding="utf-8")
    return path


def asked(served, workload, **options):
    """The comparison that the command makes."""
    settings = replace(
        served.settings, max_num_seqs=8, max_num_batched_tokens=300, **options.pop("engine", {})
    )
    question = {"sla_ms": 30.0, "risk": 0.01, "objective": ServiceObjective(2000.0, 30.0)}
    return compare_schedulers(
        served.draws, workload, settings, overhead=served.overhead, n_runs=6,
        **(question | options),
    )  # fmt: skip


def test_schedule_agrees_with_the_posterior(run, tiny_file, served, tmp_path):
    out = tmp_path / "schedulers.png"
    answer = answered(
        run("schedule", tiny_file, *WHERE, *LIMIT, *STREAM, *FEW, "--plot", out, "--json")
    )
    workload = Workload.poisson(10.0, n=40, prompt_tokens=256, output_tokens=16)
    table = asked(served, workload).table()
    assert [row["scheduler"] for row in answer["schedulers"]] == list(table["scheduler"])
    for column in ("over_sla_chosen", "goodput_ratio_lower", "tpot_p99_ms", "fairness_upper"):
        found = [row[column] for row in answer["schedulers"]]
        assert found == pytest.approx(list(table[column]))
    assert (answer["sla_ms"], answer["risk"], answer["n_runs"]) == (30.0, 0.01, 6)
    assert answer["objective_ms"] == {"ttft": 2000.0, "tpot": 30.0}
    assert answer["requests"]["arrivals_per_s"] == pytest.approx(workload.arrivals_per_s)
    assert answer["kv_capacity_tokens"] == served.settings.kv_capacity_tokens
    assert out.stat().st_size > 1000


def test_a_trace_at_its_rate_or_another_by_some_schedulers(run, tiny_file, served, trace):
    ask = ["schedule", tiny_file, *WHERE, *LIMIT, "--trace", trace, "--runs", 6]
    ask += [*SMALL, "--policies", "chunked-prefill, risk", "--json"]
    some = [one for one in SCHEDULERS if one.name in ("chunked-prefill", "risk")]
    whole = Workload.from_trace(trace)
    for extra, workload in (
        ([], whole),
        (["--arrivals-per-s", 30, "--n-requests", 20], whole.select(slice(20)).at_rate(30.0)),
    ):
        answer = answered(run(*ask, *extra))
        table = asked(served, workload, schedulers=some).table()
        for column in ("ttft_p99_ms", "over_sla"):
            found = [row[column] for row in answer["schedulers"]]
            assert found == pytest.approx(list(table[column]))
        assert "goodput_ratio" not in answer["schedulers"][0]


def test_schedule_speaks_to_people(run, tiny_file):
    text = said(run("schedule", tiny_file, *WHERE, *LIMIT, *STREAM, *FEW, "--risk", 0.05))
    assert "limit of a step 30 ms, risk 0.05" in text
    assert "of 5 % admitted" in text
    assert "of oracle's" in text
    assert "forced" not in text
    tight = said(
        run(
            "schedule",
            tiny_file,
            *WHERE,
            "--sla-ms",
            1,
            *QUICK,
            "--policies",
            "chunked-prefill,risk",
        )
    )
    assert "risk: 100 % of the steps were forced" in tight
    assert "chunked-prefill: " not in tight
    assert "of oracle's" not in tight


def test_engine_settings_reach_the_engine(run, tiny_file, served):
    ask = ["schedule", tiny_file, *WHERE, *LIMIT, *STREAM, *FEW, "--json"]
    ask += ["--policies", "chunked-prefill,mean"]
    plain = answered(run(*ask))["schedulers"]
    small = answered(run(*ask, "--max-num-batched-tokens", 64))["schedulers"]
    assert small[0]["gap_p99_ms"] < plain[0]["gap_p99_ms"]
    bursts = answered(run(*ask, "--variability", 20))["schedulers"]
    assert bursts[0]["ttft_p99_ms"] > plain[0]["ttft_p99_ms"]
    room = answered(run(*ask, "--kv-capacity-tokens", 4096))
    assert room["kv_capacity_tokens"] == 4096
    workload = Workload.poisson(10.0, n=40, prompt_tokens=256, output_tokens=16)
    some = [one for one in SCHEDULERS if one.name in ("chunked-prefill", "mean")]
    expected = asked(
        served, workload, schedulers=some, engine={"expected_output_tokens": 900.0}
    ).table()
    found = answered(run(*ask, "--expected-output-tokens", 900))["schedulers"]
    assert [row["ttft_p99_ms"] for row in found] == pytest.approx(list(expected["ttft_p99_ms"]))
    assert EngineSettings().expected_output_tokens is None


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        ([], "--trace"),
        (["--prompt-tokens", 8, "--output-tokens", 8], "--arrivals-per-s"),
        ([*STREAM, "--trace", "t.csv"], "one of them"),
        (["--variability", 2, "--trace", "t.csv"], "one of them"),
        (["--trace", "nowhere.csv"], "nowhere.csv"),
        ([*QUICK, "--variability", -1], "variability"),
        ([*QUICK, "--arrivals-per-s", 0], "--arrivals-per-s"),
        ([*QUICK, "--prompt-tokens", 0], "--prompt-tokens"),
        ([*QUICK, "--n-requests", 1], "--n-requests"),
        ([*QUICK, "--sla-ms", 0], "--sla-ms"),
        ([*QUICK, "--sla-ms", "nan"], "--sla-ms"),
        ([*QUICK, "--risk", 0], "risk"),
        ([*QUICK, "--risk", 1], "risk"),
        ([*QUICK, "--policies", "random"], "'random'"),
        ([*QUICK, "--policies", "risk,risk"], "risk"),
        ([*QUICK, "--policies", ""], "scheduler ''"),
        ([*QUICK, "--ttft-ms", -1], "--ttft-ms"),
        ([*QUICK, "--tpot-ms", 0], "--tpot-ms"),
        ([*QUICK, "--expected-output-tokens", 0], "--expected-output-tokens"),
        ([*QUICK, "--credible", 1], "credible"),
        ([*QUICK, "--runs", 0], "--runs"),
        ([*QUICK, "--kv-capacity-tokens", 64], "KV cache holds"),
        ([*QUICK, "--max-num-seqs", 0], "max_num_seqs"),
        ([*QUICK, "--overhead-ms", -1], "overhead"),
        ([*QUICK, "--plot", "picture.txt"], ".png"),
        ([*QUICK, "--tp", 64], "nearest"),
        ([*QUICK, "--seed", -1], "--seed"),
    ],
)
def test_bad_schedules_are_one_line(run, tiny_file, arguments, about):
    refused(run("schedule", tiny_file, *WHERE, *LIMIT, *arguments), about=about)


@pytest.mark.parametrize("content", ["", "arrival_s,prompt_tokens,output_tokens\n"])
def test_an_empty_trace_is_one_line(run, tiny_file, tmp_path, content):
    path = tmp_path / "trace.csv"
    path.write_text(content, encoding="utf-8")
    refused(run("schedule", tiny_file, *WHERE, *LIMIT, "--trace", path), about="trace")


def test_a_limit_has_to_be_given(run, tiny_file, tmp_path):
    refused(run("schedule", tiny_file, *WHERE, *STREAM), about="--sla-ms")
    refused(run("schedule", tmp_path / "no.nc", *WHERE, *LIMIT, *STREAM), about="no such file")
