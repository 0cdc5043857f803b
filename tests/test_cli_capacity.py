"""The commands about what a step can deliver: frontier, allocate."""

import pytest
from cli_answers import answered, said

from bayeslat.cli import main
from bayeslat.decisions import (
    StepSpace,
    Tenant,
    allocate,
    compiled_frontier,
    pareto_front,
    shared_step,
)
from bayeslat.decisions.compiling import compile_gate

WHERE = ["--gpu", "H100-80GB", "--model", "llama-7b"]
SMALL = ["--max-batch", 12, "--max-tokens", 300, "--gate-draws", 20]
TENANTS = (Tenant("chat", 1, 400, 6, weight=2.0), Tenant("batch", 64, 64, 4, min_requests=1))


@pytest.fixture
def run(capfd):
    """Run a command; gives exit code, standard output and standard error, C code's included."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def draws(thin_fleet):
    """Draws of the deployment that the commands ask."""
    return thin_fleet.draws(thin_fleet.find("H100-80GB", "llama-7b"))


@pytest.fixture
def tenants_file(tmp_path):
    """The tenants, as a table."""
    path = tmp_path / "tenants.csv"
    path.write_text(
        "name,tokens_per_request,context_per_request,max_requests,weight,min_requests\n"
        "chat,1,400,6,2,\nbatch,64,64,4,,1\n",
        encoding="utf-8",
    )
    return path


def refused(answer: tuple[int, str, str], *, about: str) -> None:
    code, out, err = answer
    assert (code, out) == (2, "")
    assert "error: " in err
    assert err.rstrip("\n").count("\n") <= 1, "one line, after one that says what takes long"
    assert about in err


def test_the_frontier_agrees_with_the_library(run, thin_fleet, thin_file, draws):
    answer = answered(
        run("frontier", thin_file, *WHERE, *SMALL, "--sla-ms", "30,0.01,60", "--json")
    )
    typical = thin_fleet.typical_context(draws.deployment)
    space = StepSpace(max_batch_size=12, max_total_tokens=300, context_per_request=typical)
    found = compiled_frontier(draws, [0.01, 30.0, 60.0], risk=0.01, space=space, gate_draws=20)
    table = found.table()
    assert [row["sla_ms"] for row in answer["frontier"]] == list(table["sla_ms"])
    for name in ("batch_size", "total_tokens", "tokens_per_s", "p_exceeds_upper"):
        assert [row[name] for row in answer["frontier"]] == pytest.approx(list(table[name]))
    assert answer["infeasible_ms"] == list(found.infeasible_ms)
    assert 0.01 in answer["infeasible_ms"]
    assert answer["context_assumed"]
    assert answer["context_per_request"] == typical


def test_the_frontier_is_told_and_drawn(run, thin_file, tmp_path):
    ask = ["frontier", thin_file, *WHERE, *SMALL, "--context-per-request", 100]
    several, single = tmp_path / "several.png", tmp_path / "single.svg"
    text = said(run(*ask, "--sla-ms", "0.01,30,60", "--plot", several))
    assert "tokens/s [90 %]" in text
    assert "no step keeps 0.01 ms" in text
    assert "gate of 20" in text
    assert several.stat().st_size > 1000
    text = said(run(*ask, "--sla-ms", 40, "--plot", single))
    assert "C = 100 B" in text
    assert single.read_text(encoding="utf-8").startswith("<?xml")
    assert "no step keeps" in said(run(*ask, "--sla-ms", "0.01"))


def test_decode_steps_over_a_range_of_limits(run, thin_file):
    rows = answered(run("frontier", thin_file, *WHERE, *SMALL, "--decode-only", "--json"))[
        "frontier"
    ]
    assert rows
    assert all(row["batch_size"] == row["total_tokens"] for row in rows)
    rates = [row["tokens_per_s"] for row in rows]
    assert rates == sorted(rates)
    wanted = answered(
        run("frontier", thin_file, *WHERE, *SMALL, "--min-batch", 7, "--sla-ms", 60, "--json")
    )
    assert all(row["batch_size"] >= 7 for row in wanted["frontier"])


def gate_of(draws):
    return compile_gate(
        draws.thin(20), sla_ms=40.0, risk=0.01, max_batch_size=12, max_total_tokens=300
    )


def test_allocations_agree_with_the_library(run, thin_file, draws, tenants_file):
    ask = ["allocate", thin_file, *WHERE, *SMALL, "--tenants", tenants_file, "--sla-ms", 40]
    answer = answered(run(*ask, "--json"))
    gate = gate_of(draws)
    front = pareto_front(draws, gate, TENANTS)
    assert answer["n_found"] == front.n_found
    for found, step in zip(answer["allocations"], front.steps, strict=True):
        requests = dict(zip(("chat", "batch"), step.allocation.requests, strict=True))
        assert found["requests"] == requests
        assert found["jain"] == pytest.approx(step.allocation.jain)
        assert found["tokens_per_s"]["lower"] == pytest.approx(step.tokens_per_s.lower)
        assert found["p_exceeds_sla"]["value"] == pytest.approx(step.p_exceeds.value)
    alone = answered(run(*ask, "--alpha", 1, "--json"))["allocations"]
    best = shared_step(draws, gate, allocate(gate, TENANTS, alpha=1.0))
    assert len(alone) == 1
    assert alone[0]["tokens_per_s"]["value"] == pytest.approx(best.tokens_per_s.value)
    assert alone[0]["alpha"] == 1.0


def test_allocations_are_told_and_drawn(run, thin_file, tenants_file, tmp_path):
    ask = ["allocate", thin_file, *WHERE, *SMALL, "--tenants", tenants_file, "--sla-ms", 40]
    out = tmp_path / "front.png"
    text = said(run(*ask, "--plot", out))
    assert "Pareto front" in text
    assert "chat batch" in text
    assert out.stat().st_size > 1000
    assert "alpha = 2" in said(run(*ask, "--alpha", 2))


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        (["--sla-ms", "0"], "--sla-ms"),
        (["--sla-ms", "many"], "--sla-ms"),
        (["--sla-ms", "nan,3"], "--sla-ms"),
        (["--risk", 0], "risk"),
        (["--risk", 0.99999], "give the limits"),
        (["--credible", 1], "credible"),
        (["--min-batch", 40], "widen"),
        (["--context-per-request", -1], "context_per_request"),
        (["--gate-draws", 0], "--gate-draws"),
        (["--plot", "picture.txt"], ".png"),
        (["--tp", 64], "nearest"),
    ],
)
def test_bad_frontiers_are_one_line(run, thin_file, arguments, about):
    refused(run("frontier", thin_file, *WHERE, *SMALL, *arguments), about=about)


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        (["--sla-ms", 0], "--sla-ms"),
        (["--sla-ms", 0.01], "every decode step"),
        (["--risk", 1], "risk"),
        (["--alpha", -1], "alpha"),
        (["--max-batch", 10**8], "--max-batch"),
        (["--alpha", 1, "--plot", "front.png"], "one of them"),
        (["--credible", 0], "credible"),
        (["--plot", "nowhere/front.png"], "--plot"),
    ],
)
def test_bad_allocations_are_one_line(run, thin_file, tenants_file, arguments, about):
    ask = ["allocate", thin_file, *WHERE, *SMALL, "--tenants", tenants_file]
    refused(run(*ask, *arguments), about=about)


@pytest.mark.parametrize(
    ("content", "about"),
    [
        ("", "cannot be read"),
        ("name,tokens_per_request,context_per_request,max_requests\n", "no tenants"),
        ("name,tokens_per_request,context_per_request,max_requests\na,0,0,1\n", "at least 1"),
        (
            "name,tokens_per_request,context_per_request,max_requests,min_requests\na,300,0,9,9\n",
            "quotas of 9 of a",
        ),
    ],
)
def test_bad_tenants_are_one_line(run, thin_file, tmp_path, content, about):
    path = tmp_path / "tenants.csv"
    path.write_text(content, encoding="utf-8")
    ask = ["allocate", thin_file, *WHERE, *SMALL, "--sla-ms", 100, "--tenants"]
    refused(run(*ask, path), about=about)
    refused(run(*ask, tmp_path / "nowhere.json"), about="nowhere.json")
