"""The commands about served deployments: phases, queue, goodput."""

import math

import numpy as np
import pytest
from cli_answers import answered, refused, said

from bayeslat.decisions import Fallback, ServiceObjective, StepOverhead, standard_policies
from bayeslat.engine import Workload

WHERE = ["--gpu", "H100-80GB", "--model", "llama-7b"]
LENGTHS = ["--prompt-tokens", "256", "--output-tokens", "32"]
REQUEST = {"prompt_tokens": 256, "output_tokens": 32}
FEW = ["--n-requests", "60", "--runs", "8"]


@pytest.fixture(scope="session")
def served(tiny_fleet):
    """The deployment that the commands ask."""
    return tiny_fleet.serving("H100-80GB", "llama-7b")


@pytest.fixture
def trace(tmp_path):
    """Recorded requests of two lengths."""
    rng = np.random.default_rng(1)
    arrival = np.cumsum(rng.exponential(0.5, 60))
    lines = [f"{t},{600 if i % 2 else 100},{16}" for i, t in enumerate(arrival)]
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(["arrival_s,input_tokens,output_tokens", *lines]), encoding="utf-8")
    return path


def agrees(found: dict, estimate) -> None:
    assert (found["value"], found["lower"], found["upper"]) == pytest.approx(tuple(estimate))


def test_phases_agree_with_the_posterior(run, tiny_file, served):
    answer = answered(run("phases", tiny_file, *WHERE, *LENGTHS, "--running", 8, "--json"))
    found = served.request_phases(**REQUEST, running=8)
    for name in ("prefill", "ttft", "tpot", "e2e"):
        phase = getattr(found, name)
        agrees(answer["phases_ms"][name]["mean"], phase.mean(credible=0.9))
        agrees(answer["phases_ms"][name]["p99"], phase.ppf(0.99, credible=0.9))
    assert answer["running"] == 8
    assert answer["overhead_ms"] == {"median": 0.7, "spread": 1.0, "source": "prior"}
    assert answer["roofline"]["prefill"]["bound"] in ("compute", "memory")
    assert answer["load"] is answer["best_chunk"] is None


def test_a_load_decides_how_many_run(run, tiny_file, served):
    answer = answered(run("phases", tiny_file, *WHERE, *LENGTHS, "--arrivals-per-s", 4, "--json"))
    load = served.steady_load(arrivals_per_s=4.0, **REQUEST)
    assert answer["running"] == max(1, round(float(np.median(load.running))))
    assert answer["load"]["capacity_per_s"]["value"] == pytest.approx(
        np.median(load.capacity_per_s)
    )
    assert answer["load"]["p_unstable"] == load.probability_unstable
    text = said(run("phases", tiny_file, *WHERE, *LENGTHS, "--arrivals-per-s", 4))
    assert "their median" in text
    assert "not measured" in text


def test_overhead_lengthens_every_step(run, tiny_file):
    none, much = (
        answered(run("phases", tiny_file, *WHERE, *LENGTHS, "--overhead-ms", ms, "--json"))
        for ms in (0, 5)
    )
    assert none["phases_ms"]["tpot"]["mean"]["value"] < much["phases_ms"]["tpot"]["mean"]["value"]
    text = said(run("phases", tiny_file, *WHERE, *LENGTHS, "--overhead-ms", 0))
    assert "time between steps" not in text


def test_best_chunk_agrees_and_says_where_none_fits(run, tiny_file, served, tmp_path):
    ask = ["phases", tiny_file, *WHERE, *LENGTHS, "--running", 8, "--risk", "0.05"]
    plot = tmp_path / "chunks.png"
    answer = answered(run(*ask, "--tpot-limit-ms", 60, "--plot", plot, "--json"))
    choice = served.best_chunk(
        prompt_tokens=256, running=7, running_context=272.0, tpot_limit_ms=60.0, risk=0.05
    )
    assert answer["best_chunk"]["chunk_tokens"] == choice.chunk_tokens
    agrees(answer["best_chunk"]["floor_ms"], choice.floor_ms)
    assert answer["p_exceeds_limit"]["tpot"]["limit_ms"] == 60
    assert plot.stat().st_size > 1000
    text = said(run(*ask, "--tpot-limit-ms", "0.01"))
    assert "no chunk meets it" in text
    assert "the floor is" in text


def test_phases_write_a_picture(run, tiny_file, tmp_path):
    out = tmp_path / "phases.png"
    text = said(run("phases", tiny_file, *WHERE, *LENGTHS, "--ttft-limit-ms", 50, "--plot", out))
    assert "P(TTFT > 50)" in text
    assert out.stat().st_size > 1000
    assert list(tmp_path.iterdir()) == [out]


def test_queue_agrees_with_the_posterior(run, tiny_file, served):
    answer = answered(
        run("queue", tiny_file, *WHERE, "--prompt-tokens", 256, "--loads", "5,10", "--max-batch",
            4, "--cut-ms", 100, "--fallback-ms", 20, "--sla-ms", 150, "--json")
    )  # fmt: skip
    policies = standard_policies(4, max_wait_ms=50.0, fallback=Fallback(100.0, 20.0))
    table = served.compare_policies(policies, arrivals_per_s=[5.0, 10.0], prompt_tokens=256).table()
    assert [row["policy"] for row in answer["policies"]] == list(table["policy"])
    assert [row["p99_ms"] for row in answer["policies"]] == pytest.approx(
        [value if math.isfinite(value) else None for value in table["p99_ms"]]
    )
    line = served.queue(arrivals_per_s=5.0, prompt_tokens=256)
    agrees(answer["one_at_a_time"][0]["mean_wait_ms"], line.mean_wait_ms())
    agrees(answer["one_at_a_time"][0]["p_wait_exceeds_t"], line.wait_sf(150.0))
    service = served.batch_service(prompt_tokens=256, max_batch=4)
    agrees(answer["floor_ms"], service.floor_ms())
    assert set(answer["sustained"]) == {policy.name for policy in policies}
    surely = answer["within_sla"]["one at a time"]["surely"]
    assert set(surely) <= set(answer["within_sla"]["one at a time"]["likely"])


def test_queue_says_what_keeps_the_limit_and_what_cannot(run, tiny_file, tmp_path):
    out = tmp_path / "queue.svg"
    ask = ["queue", tiny_file, *WHERE, "--prompt-tokens", 256, "--max-batch", 4]
    text = said(run(*ask, "--sla-ms", 1e4, "--plot", out))
    assert "one at a time" in text
    assert "fixed batch of 4" in text
    assert "largest of these loads" in text
    assert "with confidence at" in text
    assert out.read_text(encoding="utf-8").startswith("<?xml")
    text = said(run(*ask, "--sla-ms", 0.01, "--loads", 5))
    assert "no configuration meets it" in text
    assert "the floor is" in text


def test_queue_takes_the_arrivals_of_a_trace(run, tiny_file, trace):
    answer = answered(
        run("queue", tiny_file, *WHERE, "--prompt-tokens", 256, "--loads", 5, "--max-batch", 2,
            "--trace", trace, "--json")
    )  # fmt: skip
    assert answer["arrivals"] == str(trace)
    assert answer["one_at_a_time"] == [], "M/G/1 is about a Poisson stream"


def test_goodput_agrees_with_the_posterior(run, tiny_file, served):
    answer = answered(
        run("goodput", tiny_file, *WHERE, *LENGTHS, *FEW, "--loads", "2,6", "--tpot-ms", 60,
            "--json")
    )  # fmt: skip
    curve = served.load_curve(
        Workload.poisson(1.0, n=60, **REQUEST),
        arrivals_per_s=[2.0, 6.0],
        objective=ServiceObjective(2000.0, 60.0),
        n_runs=8,
    )
    table = curve.table()
    for column in ("ttft_p99_ms", "attainment", "goodput_per_s_lower", "p_behind"):
        found = [row[column] for row in answer["loads"]]
        assert found == pytest.approx(list(table[column]))
    assert answer["sustained_per_s"] == curve.sustained()
    agrees(answer["max_goodput_per_s"], curve.max_goodput())
    assert answer["by_length"]["rows"][0]["n"] == 60
    assert answer["disaggregation"] is None


def test_goodput_chooses_loads_around_the_capacity(run, tiny_file, tmp_path):
    out = tmp_path / "curve.png"
    code, text, _ = run("goodput", tiny_file, *WHERE, *LENGTHS, *FEW, "--plot", out)
    assert code == 0
    assert "attainment" in text
    assert "90 % of requests keep the objective" in text
    assert out.stat().st_size > 1000


def test_goodput_of_a_trace_by_length_and_apart(run, tiny_file, trace, served, tmp_path):
    ask = ["goodput", tiny_file, *WHERE, "--trace", trace, "--runs", 6, "--loads", "2,5"]
    ask += ["--disaggregate", "1:1", "--link-gbs", 25]
    answer = answered(run(*ask, "--plot", tmp_path / "apart.png", "--json"))
    found = served.compare_disaggregation(
        Workload.from_trace(trace),
        bandwidth_gbs=25.0,
        arrivals_per_s=[2.0, 5.0],
        objective=ServiceObjective(2000.0, 50.0),
        n_runs=6,
    ).table()
    wins = [row["p_disaggregated_wins"] for row in answer["disaggregation"]["loads"]]
    assert wins == list(found["p_disaggregated_wins"])
    assert answer["n_engines"] == 2
    text = said(run(*ask))
    assert "P(apart wins)" in text
    assert "512 to 4095" in text


def test_engine_settings_reach_the_engine(run, tiny_file):
    ask = ["goodput", tiny_file, *WHERE, *LENGTHS, *FEW, "--loads", 6, "--json"]
    plain = answered(run(*ask))["loads"][0]
    one = answered(run(*ask, "--max-num-seqs", 1))["loads"][0]
    static = answered(run(*ask, "--static", "--no-chunked-prefill"))["loads"][0]
    assert one["ttft_p99_ms"] > plain["ttft_p99_ms"]
    assert static["ttft_p99_ms"] > plain["ttft_p99_ms"]
    assert answered(run(*ask, "--kv-capacity-tokens", 4096))["kv_capacity_tokens"] == 4096
    assert answered(run(*ask, "--replicas", 2))["n_engines"] == 2


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        ([*LENGTHS, "--running", 2, "--arrivals-per-s", 1], "one of them"),
        ([*LENGTHS, "--running", 0], "--running"),
        ([*LENGTHS, "--arrivals-per-s", -1], "--arrivals-per-s"),
        ([*LENGTHS, "--arrivals-per-s", 1e5], "no posterior draw"),
        ([*LENGTHS, "--tpot-limit-ms", 0], "--tpot-limit-ms"),
        ([*LENGTHS, "--ttft-limit-ms", "nan"], "--ttft-limit-ms"),
        ([*LENGTHS, "--tpot-limit-ms", 9, "--risk", 1], "risk"),
        ([*LENGTHS, "--credible", 0], "credible"),
        ([*LENGTHS, "--overhead-ms", -1], "overhead"),
        ([*LENGTHS, "--chunk-tokens", 0], "--chunk-tokens"),
        ([*LENGTHS, "--plot", "picture.txt"], ".png"),
        ([*LENGTHS, "--plot", "nowhere/picture.png"], "--plot"),
        ([*LENGTHS, "--tp", 64], "nearest"),
        (["--prompt-tokens", 8, "--output-tokens", 0], "--output-tokens"),
        (["--prompt-tokens", 8, "--output-tokens", 1], "output_tokens"),
        (["--prompt-tokens", 8], "--output-tokens"),
    ],
)
def test_bad_phases_are_one_line(run, tiny_file, arguments, about):
    refused(run("phases", tiny_file, *WHERE, *arguments), about=about)


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        (["--loads", "0,1"], "--loads"),
        (["--loads", "2,1"], "ascending"),
        (["--loads", "many"], "--loads"),
        (["--loads", "nan"], "--loads"),
        (["--loads", "1e6"], "pile up in every draw"),
        (["--sla-ms", 0], "--sla-ms"),
        (["--sla-ms", -5], "--sla-ms"),
        (["--cut-ms", 5], "--fallback-ms"),
        (["--cut-ms", 1, "--fallback-ms", 0], "service_ms"),
        (["--cut-ms", 0, "--fallback-ms", 1e6, "--loads", 10], "keeps up"),
        (["--max-batch", 0], "--max-batch"),
        (["--max-wait-ms", -1], "--max-wait-ms"),
        (["--output-tokens", 0], "--output-tokens"),
        (["--trace", "nowhere.csv"], "nowhere.csv"),
        (["--plot", "picture.bmp"], ".png"),
    ],
)
def test_bad_queues_are_one_line(run, tiny_file, arguments, about):
    ask = ["queue", tiny_file, *WHERE, "--prompt-tokens", 256, "--max-batch", 2]
    refused(run(*ask, *arguments), about=about)


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        ([], "--trace"),
        (["--prompt-tokens", 8], "--output-tokens"),
        (["--prompt-tokens", 8, "--output-tokens", 0], "--output-tokens"),
        ([*LENGTHS, "--trace", "t.csv"], "one of them"),
        (["--trace", "nowhere.csv"], "nowhere.csv"),
        ([*LENGTHS, "--loads", "-1"], "--loads"),
        ([*LENGTHS, "--ttft-ms", 0], "--ttft-ms"),
        ([*LENGTHS, "--e2e-ms", -1], "--e2e-ms"),
        ([*LENGTHS, "--attainment", 1], "attainment"),
        ([*LENGTHS, "--disaggregate", "0:1"], "0:1"),
        ([*LENGTHS, "--disaggregate", "1"], "PREFILL:DECODE"),
        ([*LENGTHS, "--disaggregate", "1:1", "--replicas", 2], "--replicas"),
        ([*LENGTHS, "--disaggregate", "1:1", "--link-gbs", 0], "--link-gbs"),
        ([*LENGTHS, "--runs", 0], "--runs"),
        ([*LENGTHS, "--n-requests", 1], "--n-requests"),
        ([*LENGTHS, "--max-num-seqs", 0], "max_num_seqs"),
        ([*LENGTHS, "--kv-capacity-tokens", 64], "KV cache holds"),
        ([*LENGTHS, "--seed", -1], "--seed"),
        ([*LENGTHS, "--tp", 64], "nearest"),
    ],
)
def test_bad_goodput_is_one_line(run, tiny_file, arguments, about):
    refused(run("goodput", tiny_file, *WHERE, *arguments), about=about)


@pytest.mark.parametrize("content", ["", "arrival_s,prompt_tokens,output_tokens\n"])
@pytest.mark.parametrize("command", ["queue", "goodput"])
def test_an_empty_trace_is_one_line(run, tiny_file, tmp_path, command, content):
    path = tmp_path / "trace.csv"
    path.write_text(content, encoding="utf-8")
    lengths = ["--prompt-tokens", 8] if command == "queue" else []
    refused(run(command, tiny_file, *WHERE, *lengths, "--trace", path), about="trace")


def test_a_posterior_that_is_not_there_is_one_line(run, tmp_path):
    for command in ("phases", "queue", "goodput"):
        refused(run(command, tmp_path / "no.nc", *WHERE, *LENGTHS), about="no such file")


def test_the_overhead_of_the_options_is_a_prior(tiny_fleet, tiny_file):
    from bayeslat.cli.served import open_served

    for given, expected in ((None, StepOverhead()), (0.0, StepOverhead(0.0))):
        found = open_served(tiny_file, "H100-80GB", "llama-7b", overhead_ms=given)
        assert found.engine.overhead == expected
    assert found.deployment in tiny_fleet.deployments
