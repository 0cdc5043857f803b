"""The examples run, and show what they say."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def scheduler():
    """The example of a scheduler as a module."""
    path = EXAMPLES / "vllm_scheduler.py"
    spec = importlib.util.spec_from_file_location("vllm_scheduler", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["vllm_scheduler"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["vllm_scheduler"]


class Within:
    """A gate that knows the latency of `step_ms` below, and admits what takes at most 30 ms."""

    sla_ms, risk, max_batch_size, max_total_tokens = 30.0, 0.05, 64, 4096

    def fits(self, batch, tokens, context):
        return step_ms(batch, tokens, context) <= self.sla_ms

    def p_exceed(self, batch, tokens, context):
        return 1.0 - self.fits(batch, tokens, context)

    def max_more_tokens(self, batch, tokens, context):
        more = np.arange(4096 - tokens + 1)
        fitting = more[self.fits(batch, tokens + more, context + more)]
        return int(fitting[-1]) if fitting.size else None


def step_ms(batch, tokens, context):
    return 8.0 + 0.05 * batch + 0.04 * tokens + 5e-5 * context


def test_every_scheduler_serves_every_request(scheduler):
    gate = Within()
    for made in (
        scheduler.ConstantBudget(4096, 64),
        scheduler.GatedBudget(gate, 4096, 64),
        scheduler.GatedStep(gate, 4096, 64),
    ):
        requests = scheduler.some_requests(40, 10.0, seed=2)
        scheduler.serve(made, requests, step_ms)
        for one in requests:
            assert one.computed_tokens == one.prompt_tokens + one.output_tokens - 1
            assert len(one.token_times_ms) == one.output_tokens
            assert one.token_times_ms[0] > one.arrival_ms
            assert (np.diff(one.token_times_ms) > 0).all()


def test_a_gate_keeps_steps_within_the_limit_where_a_constant_does_not(scheduler):
    found = {
        name: over
        for name, over, *_ in scheduler.compare(
            Within(), lambda: step_ms, n=60, arrivals_per_s=10.0, max_tokens=4096
        )
    }
    assert found["constant budget of 4096"] > 0.02
    assert found["budget from the gate"] == 0.0
    assert found["step from the gate"] == 0.0


def test_prompts_that_never_fit_are_rejected_and_not_looped_on(scheduler):
    """A context of half a million takes 25 ms: with a floor of 8 ms no step holds its end."""
    made = scheduler.GatedStep(Within(), 4096, 64)
    long = scheduler.Request("long", 0.0, 500_000, 5)
    requests = [long, scheduler.Request("short", 0.0, 100, 5)]
    scheduler.serve(made, requests, step_ms)
    assert [one.name for one in made.rejected] == ["long"]
    assert len(requests[1].token_times_ms) == 5


def test_an_engine_that_can_keep_no_limit_goes_on(scheduler):
    """Contexts that fit nowhere: budgets are exceeded knowingly, and the loop ends."""
    made = scheduler.GatedBudget(Within(), 4096, 64)
    requests = [scheduler.Request("long", 0.0, 600_000, 2)]
    requests[0].computed_tokens = 599_900
    scheduler.serve(made, requests, step_ms)
    assert len(requests[0].token_times_ms) == 2


@pytest.mark.slow
def test_the_example_runs_from_its_command_line(scheduler, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vllm_scheduler.py", "--requests", "60"])
    scheduler.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Gate(H100-80GB/llama-13b")
    assert [line[:28].strip() for line in lines[-4:]] == [
        "constant budget of 8192",
        "constant budget of 512",
        "budget from the gate",
        "step from the gate",
    ]
