"""The commands about gates: compile, gate."""

import json

import pytest
from cli_answers import refused

from bayeslat.gate import Gate

WHERE = ["--gpu", "H100-80GB", "--model", "llama-7b"]
LIMITS = ["--sla-ms", 40, "--risk", "0.05", "--max-batch-size", 32, "--max-total-tokens", 512]
STEP = ["--batch-size", 8, "--total-tokens", 100, "--context-tokens", 4000]


@pytest.fixture(scope="session")
def saved(thin_fleet, tmp_path_factory):
    """A gate in a file."""
    path = tmp_path_factory.mktemp("gates") / "step.gate"
    thin_fleet.compile(
        "H100-80GB", "llama-7b", sla_ms=40.0, risk=0.05, max_batch_size=32, max_total_tokens=512
    ).save(path)
    return path


def test_compile_writes_the_gate_of_the_posterior(run, thin_file, thin_fleet, saved, tmp_path):
    out = tmp_path / "step.gate"
    code, text, _ = run("compile", thin_file, *WHERE, *LIMITS, "--out", out, "--json")
    assert code == 0
    answer, gate = json.loads(text), Gate.load(out)
    thin_fleet.check_gate(gate)
    assert answer["fingerprint"] == gate.fingerprint
    assert answer["accuracy"]["below"] == gate.accuracy.below
    assert (answer["sla_ms"], answer["risk"], answer["file"]) == (40.0, 0.05, str(out))
    assert gate.p_exceed(8, 100, 4000) == Gate.load(saved).p_exceed(8, 100, 4000)
    code, text, _ = run("compile", thin_file, *WHERE, *LIMITS, "--out", out)
    assert code == 0
    assert "random steps" in text
    assert "kB" in text
    assert list(tmp_path.iterdir()) == [out]


def test_gate_answers_as_the_gate_does(run, saved, thin_file):
    code, text, _ = run("gate", saved, *STEP, "--posterior", thin_file, "--json")
    assert code == 0
    answer, gate = json.loads(text), Gate.load(saved)
    assert answer["p_exceed"] == gate.p_exceed(8, 100, 4000)
    assert answer["fits"] == gate.fits(8, 100, 4000)
    assert answer["max_tokens"] == gate.max_tokens(8, 4000)
    assert answer["max_more_tokens"] == gate.max_more_tokens(8, 100, 4000)
    assert answer["max_batch"] == gate.max_batch(100, 4000)
    code, text, _ = run("gate", saved, *STEP)
    assert code == 0
    assert f"{gate.p_exceed(8, 100, 4000):.4f}" in text


def test_a_step_that_does_not_fit_is_said_to(run, saved):
    hopeless = ["--batch-size", 8, "--total-tokens", 100, "--context-tokens", 10**9]
    code, text, _ = run("gate", saved, *hopeless)
    assert code == 0
    assert "does not fit" in text
    assert "none" in text


def test_a_stale_gate_is_refused(run, saved, thin_fleet, tmp_path):
    """The same deployment, of a posterior with fewer draws."""
    from dataclasses import replace

    tree = thin_fleet.tree.copy()
    tree["posterior"] = tree["posterior"].to_dataset().isel(draw=slice(0, 20))
    other = tmp_path / "other.nc"
    replace(thin_fleet, tree=tree).save(other)
    refused(run("gate", saved, *STEP, "--posterior", other), about="the gate is stale")


@pytest.mark.parametrize(
    ("change", "about"),
    [
        (["--risk", "1.5"], "risk"),
        (["--risk", "0"], "risk"),
        (["--sla-ms", "-3"], "--sla-ms"),
        (["--sla-ms", "0.01"], "raise the SLA or the risk"),
        (["--model", "llama-8b"], "nearest: H100-80GB/llama-7b"),
        (["--max-total-tokens", "16"], "max_total_tokens=16"),
        (["--out", "gate.txt"], ".gate"),
        (["--out", "nowhere/step.gate"], "folder does not exist"),
    ],
)
def test_compile_refuses_in_one_line(run, thin_file, tmp_path, monkeypatch, change, about):
    monkeypatch.chdir(tmp_path)
    refused(run("compile", thin_file, *WHERE, *LIMITS, "--out", "step.gate", *change), about=about)
    assert list(tmp_path.iterdir()) == []


def test_gate_refuses_in_one_line(run, saved, tmp_path):
    refused(run("gate", tmp_path / "none.gate", *STEP), about="cannot be read")
    empty = tmp_path / "empty.gate"
    empty.write_bytes(b"")
    refused(run("gate", empty, *STEP), about="no compiled gate")
    wrong = ["--batch-size", 8, "--total-tokens", 4, "--context-tokens", 4000]
    refused(run("gate", saved, *wrong), about="total_tokens >= batch_size")
