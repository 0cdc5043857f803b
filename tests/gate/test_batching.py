from dataclasses import dataclass

import numpy as np
import pytest

from bayeslat.errors import InputError
from bayeslat.gate import Gate
from bayeslat.gate.batching import Decode, Prompt, TokenBudget, build_step, exhaustive_step


@dataclass(frozen=True)
class Linear:
    """A gate that admits 10 B + S + C / 100 <= limit."""

    limit: float
    sla_ms: float = 1.0
    risk: float = 0.05
    max_batch_size: int = 16
    max_total_tokens: int = 512

    def fits(self, batch, tokens, context):
        inside = (np.asarray(batch) <= 16) & (np.asarray(tokens) <= 512)
        return inside & (10.0 * batch + tokens + context / 100.0 <= self.limit)

    def p_exceed(self, batch, tokens, context):
        return np.where(self.fits(batch, tokens, context), 0.01, 0.9)

    def max_more_tokens(self, batch, tokens, context):
        more = np.arange(512 - tokens + 1)
        fitting = more[self.fits(batch, tokens + more, context + more)]
        return int(fitting[-1]) if fitting.size else None


def decodes(n, context=100):
    return [Decode(f"d{i}", context) for i in range(n)]


def test_decodes_come_first_and_prompts_take_what_is_left():
    """Three decodes take 33 + 3; a chunk of n takes 10 + n (1 + 1 / 100) more."""
    plan = build_step(Linear(100.0), decodes(3), [Prompt("p", 500)])
    assert plan.decodes == ("d0", "d1", "d2")
    n = int((100.0 - 3 * 12.0 - 10.0) / 1.01)
    assert plan.chunks == (("p", n),)
    assert (plan.batch_size, plan.total_tokens, plan.context_tokens) == (4, 3 + n, 300 + n)
    assert (plan.postponed, plan.impossible, plan.within_risk) == ((), (), True)
    assert plan.p_exceed == 0.01


def test_tokens_accumulate_over_the_requests_chosen():
    """Each prompt would fit alone; all together would not."""
    prompts = [Prompt(f"p{i}", 60) for i in range(4)]
    gate = Linear(200.0)
    plan = build_step(gate, [], prompts)
    assert all(build_step(gate, [], [one]).chunks == ((one.name, 60),) for one in prompts)
    assert [tokens for _, tokens in plan.chunks][:2] == [60, 60]
    assert sum(tokens for _, tokens in plan.chunks) < 4 * 60
    assert gate.fits(plan.batch_size, plan.total_tokens, plan.context_tokens)


def test_priority_comes_before_arrival():
    prompts = [Prompt("early", 100), Prompt("urgent", 100, priority=2), Prompt("late", 100)]
    plan = build_step(Linear(180.0), [], prompts)
    assert [name for name, _ in plan.chunks] == ["urgent", "early"]
    assert plan.chunks[0][1] == 100


def test_no_decode_starves():
    """Only three of ten fit into a step: none waits longer than it takes to serve all others."""
    gate = Linear(36.0)
    waited, served = dict.fromkeys(range(10), 0), dict.fromkeys(range(10), 0)
    for _ in range(40):
        running = [Decode(str(i), 100, waited[i]) for i in range(10)]
        plan = build_step(gate, running, [Prompt("p", 5)])
        assert len(plan.decodes) == 3
        assert plan.chunks == ()
        assert len(plan.postponed) == 7
        for i in range(10):
            waited[i] = 0 if str(i) in plan.decodes else waited[i] + 1
            served[i] += waited[i] == 0
        assert max(waited.values()) <= 4
    assert min(served.values()) >= 40 // 5


def test_a_decode_that_never_fits_runs_and_is_reported():
    plan = build_step(Linear(36.0), [Decode("long", 10_000, 1), *decodes(2)], [Prompt("p", 5)])
    assert plan.decodes == ("long",)
    assert plan.impossible == ("long",)
    assert not plan.within_risk
    assert plan.chunks == ()
    assert plan.p_exceed == 0.9


@pytest.mark.parametrize(
    ("prompt", "chunked"),
    [
        (Prompt("p", 3_000), True),  # its last positions alone take 30
        (Prompt("p", 10, 3_000), True),
        (Prompt("p", 40), False),
        (Prompt("p", 600), False),
    ],
)
def test_prompts_that_can_never_fit_are_reported_and_not_begun(prompt, chunked):
    plan = build_step(Linear(40.0), [], [prompt, Prompt("q", 5)], chunked=chunked)
    assert plan.impossible == ("p",)
    assert plan.chunks == (("q", 5),)


def test_whole_prompts_wait_where_there_is_no_room_yet():
    gate = Linear(100.0)
    plan = build_step(gate, decodes(4), [Prompt("p", 60), Prompt("q", 20)], chunked=False)
    assert plan.chunks == (("q", 20),)
    assert plan.impossible == ()


def test_bounds_of_the_engine_hold():
    plan = build_step(
        Linear(400.0), decodes(3), [Prompt("p", 100), Prompt("q", 9)], max_total_tokens=20
    )
    assert plan.total_tokens == 20
    plan = build_step(Linear(400.0), decodes(9), [Prompt("p", 9)], max_batch_size=5)
    assert plan.batch_size == 5
    assert len(plan.postponed) == 4


def test_nothing_to_do_is_an_empty_step():
    plan = build_step(Linear(100.0), [])
    assert (plan.batch_size, plan.chunks, plan.p_exceed, plan.within_risk) == (0, (), 0.0, True)


def dipping(batch, tokens):
    """Latency that is too long for 4 to 8 tokens."""
    return (tokens < 4) | (tokens > 8)


class Dipping(Linear):
    def fits(self, batch, tokens, context):
        return super().fits(batch, tokens, context) & dipping(batch, np.asarray(tokens))


def test_a_latency_that_is_not_monotone_is_no_obstacle():
    """Six tokens do not fit, though more would: three are the most of these six."""
    plan = build_step(Dipping(400.0), [], [Prompt("p", 6)])
    assert plan.chunks == (("p", 3),)
    assert build_step(Dipping(400.0), [], [Prompt("p", 9)]).chunks == (("p", 9),)


@pytest.mark.parametrize("seed", range(30))
def test_greedy_against_all_combinations(seed):
    """Prompts of one context: greedy computes as many tokens of each class as is possible."""
    rng = np.random.default_rng(seed)
    prompts = [
        Prompt(f"p{i}", int(rng.integers(1, 12)), 40, int(rng.integers(0, 2))) for i in range(3)
    ]
    running = decodes(int(rng.integers(0, 3)))
    gate = Linear(float(rng.uniform(20.0, 90.0)) + 12.0 * len(running))
    best = exhaustive_step(gate, running, prompts)
    found = dict.fromkeys(best, 0) | dict(build_step(gate, running, prompts).chunks)
    urgent = [one.name for one in prompts if one.priority == 1]
    assert sum(found[name] for name in urgent) >= 0.5 * sum(best[name] for name in urgent)
    assert sum(found.values()) >= 0.5 * sum(best.values())


def test_greedy_is_optimal_in_the_order_of_service():
    """No plan gives the first more, nor the second more without taking from the first."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        gate = Linear(float(rng.uniform(30.0, 80.0)))
        lengths = rng.integers(1, 15, 3)
        prompts = [Prompt(f"p{i}", int(n), priority=-i) for i, n in enumerate(lengths)]
        best = exhaustive_step(gate, [], prompts)
        found = dict.fromkeys(best, 0) | dict(build_step(gate, [], prompts).chunks)
        assert found == best


def test_too_many_combinations_are_refused():
    with pytest.raises(InputError, match="expected at most 200000"):
        exhaustive_step(Linear(1.0), [], [Prompt(f"p{i}", 999) for i in range(3)])


# The budget of an engine's own scheduler


def test_a_budget_is_what_still_fits():
    budget = TokenBudget(Linear(100.0), most=512)
    assert budget(3, 300) == 3 + int((100.0 - 3 * 12.0 - 10.0) / 1.01)
    assert budget(3, 300, prompt_context=2_000) == 3 + int((100.0 - 3 * 12.0 - 30.0) / 1.01)
    assert budget(8, 800) == 8
    assert budget(20, 800) == 20
    assert TokenBudget(Linear(100.0), most=20)(3, 300) == 20
    assert budget(0, 0) == int(90.0 / 1.01)


def test_a_compiled_gate_builds_steps(gate: Gate):
    """The same with a posterior behind it; every step it builds is within the risk."""
    rng = np.random.default_rng(2)
    for _ in range(50):
        running = [
            Decode(str(i), int(c))
            for i, c in enumerate(rng.integers(1, 6_000, rng.integers(0, 40)))
        ]
        prompts = [
            Prompt(f"p{i}", int(n), int(c)) for i, (n, c) in enumerate(rng.integers(1, 900, (3, 2)))
        ]
        plan = build_step(gate, running, prompts)
        assert plan.within_risk
        assert plan.p_exceed <= gate.risk + 1e-5
        if len(plan.decodes) == len(running) and plan.batch_size < gate.max_batch_size:
            left = [one for one in prompts if one.name not in dict(plan.chunks)]
            for one in left:
                assert not gate.fits(
                    plan.batch_size + 1, plan.total_tokens + 1,
                    plan.context_tokens + one.computed_tokens + 1,
                )  # fmt: skip


class Falling:
    """A gate that admits batches from eight requests on, whatever they compute."""

    sla_ms, risk, max_batch_size, max_total_tokens = 1.0, 0.05, 16, 512

    def fits(self, batch, tokens, context):
        return (np.asarray(batch) >= 8) & (np.asarray(tokens) >= 8)

    def p_exceed(self, batch, tokens, context):
        return np.where(self.fits(batch, tokens, context), 0.01, 0.9)

    def max_more_tokens(self, batch, tokens, context):
        return 512 - tokens if batch >= 8 else None


def test_what_fits_beside_others_is_not_impossible():
    plan = build_step(Falling(), decodes(9), [Prompt("p", 20)])
    assert plan.impossible == ()
    assert plan.within_risk
    assert len(plan.decodes) == 9
    assert plan.chunks == (("p", 20),)


class Uneven(Linear):
    """A gate to which few prompts are dearer than many."""

    def fits(self, batch, tokens, context):
        dear = np.where(np.asarray(batch) < 5, 40.0, 0.0)
        return super().fits(batch, tokens + dear, context)


def test_a_budget_holds_however_many_prompts_share_it():
    gate = Uneven(200.0)
    for n_decodes, n_prompts in ((0, 6), (3, 4), (1, 1), (4, 8), (6, 2)):
        context = 100 * n_decodes
        tokens = TokenBudget(gate, 512)(n_decodes, context, n_prompts=n_prompts)
        for joining in range(1, n_prompts + 1):
            batch = n_decodes + joining
            if batch <= tokens:
                assert gate.fits(batch, tokens, context + tokens - n_decodes)
    assert TokenBudget(gate, 512)(5, 500, n_prompts=0) == 5
    assert TokenBudget(Linear(5.0), 512)(0, 0, n_prompts=2) == 0


# Wrong requests


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: build_step(Linear(9.0), decodes(1), [Prompt("d0", 1)]), "two requests named 'd0'"),
        (lambda: build_step(Linear(9.0), [Decode("d", 0)]), "context_tokens=0"),
        (lambda: build_step(Linear(9.0), [], [Prompt("p", 0)]), "tokens=0"),
        (lambda: build_step(Linear(9.0), [], [Prompt("p", 1, -1)]), "computed_tokens=-1"),
        (lambda: build_step(Linear(9.0), [], max_batch_size=0), "max_batch_size=0"),
        (lambda: build_step(Linear(9.0), [], max_total_tokens=0), "max_total_tokens=0"),
    ],
)
def test_wrong_requests_are_refused(ask, message):
    with pytest.raises(InputError, match=message):
        ask()
