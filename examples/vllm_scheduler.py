"""A gate inside a scheduler written like vLLM's: ``python examples/vllm_scheduler.py``.

An engine needs little to be guarded by a posterior. Before every step its scheduler knows which
requests decode, what they attend to and which prompts wait; `bayeslat.gate` wants no more.

* `ConstantBudget` is the loop of vLLM's V1 scheduler: a token budget, running requests first, then
  waiting ones, prompts in chunks.
* `GatedBudget` is the same loop; only the number of tokens comes from `TokenBudget`, asked before
  each step. This is a change of one line in an engine.
* `GatedStep` leaves the whole choice to `build_step`, which also decides which decodes wait where
  not all fit, and refuses prompts that no step within the risk can hold.

All serve the same requests. There is no engine here: how long a step takes is simulated, from one
draw of the posterior that the gate does not know and with the noise of a step. Nothing below
`main` imports the heavy packages.
"""

import argparse
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from bayeslat.gate import Decode, Gate, Prompt, StepGate, TokenBudget, build_step


@dataclass
class Request:
    """A request as an engine keeps it."""

    name: str
    arrival_ms: float
    prompt_tokens: int
    output_tokens: int
    computed_tokens: int = 0
    generated_tokens: int = 0
    steps_waited: int = 0
    token_times_ms: list[float] = field(default_factory=list)

    @property
    def decodes(self) -> bool:
        """Whether the prompt is computed."""
        return self.computed_tokens >= self.prompt_tokens

    @property
    def left(self) -> int:
        """Tokens of the prompt that are not computed."""
        return max(self.prompt_tokens - self.computed_tokens, 0)


class ConstantBudget:
    """Continuous batching with chunked prefill under a constant budget of tokens."""

    max_prompts_per_step: int | None = None

    def __init__(self, max_num_scheduled_tokens: int, max_num_seqs: int) -> None:
        self.max_num_scheduled_tokens = max_num_scheduled_tokens
        self.max_num_seqs = max_num_seqs
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []

    def token_budget(self) -> int:
        """Tokens of the next step."""
        return self.max_num_scheduled_tokens

    def schedule(self) -> dict[str, int]:
        """Tokens that each request computes in the next step."""
        budget, scheduled = self.token_budget(), {}
        prompts = sum(not one.decodes for one in self.running)
        for request in self.running:
            tokens = min(1 if request.decodes else request.left, budget)
            if tokens:
                scheduled[request.name] = tokens
                budget -= tokens
        while self.waiting and budget > 0 and len(self.running) < self.max_num_seqs:
            if prompts == self.max_prompts_per_step:
                break
            request = self.waiting.popleft()
            self.running.append(request)
            prompts += 1
            tokens = min(request.left, budget)
            scheduled[request.name] = tokens
            budget -= tokens
        return scheduled


class GatedBudget(ConstantBudget):
    """The same loop with a budget that a posterior gives.

    The budget is of a known number of prompts, so that no more of them may share a step.
    """

    max_prompts_per_step = 4
    least_chunk = 64

    def __init__(self, gate: StepGate, max_num_scheduled_tokens: int, max_num_seqs: int) -> None:
        super().__init__(max_num_scheduled_tokens, max_num_seqs)
        self.budget = TokenBudget(gate, max_num_scheduled_tokens)

    def token_budget(self) -> int:
        """Tokens of the next step, such that P(latency > SLA) stays within the risk."""
        decoding = [one for one in self.running if one.decodes]
        partial = [one.computed_tokens for one in self.running if not one.decodes]
        positions = sum(one.computed_tokens + 1 for one in decoding)
        room = self.max_num_seqs - len(self.running)
        new = min(len(self.waiting), self.max_prompts_per_step - len(partial), room)
        tokens = self.budget(
            len(decoding), positions, n_prompts=len(partial) + new, prompt_context=sum(partial)
        )
        # Where nothing decodes and no prompt fits, an idle engine computes some of it knowingly.
        return tokens or self.least_chunk


class GatedStep(ConstantBudget):
    """A scheduler that leaves the choice to `build_step`."""

    def __init__(self, gate: StepGate, max_num_scheduled_tokens: int, max_num_seqs: int) -> None:
        super().__init__(max_num_scheduled_tokens, max_num_seqs)
        self.gate = gate
        self.rejected: list[Request] = []

    def schedule(self) -> dict[str, int]:
        """Tokens that each request computes in the next step."""
        decoding = [one for one in self.running if one.decodes]
        prompts = [one for one in self.running if not one.decodes] + list(self.waiting)
        plan = build_step(
            self.gate,
            [Decode(one.name, one.computed_tokens + 1, one.steps_waited) for one in decoding],
            [Prompt(one.name, one.left, one.computed_tokens) for one in prompts[:32]],
            max_batch_size=self.max_num_seqs,
            max_total_tokens=self.max_num_scheduled_tokens,
        )
        never = set(plan.impossible) - {one.name for one in decoding}
        self.rejected += [one for one in prompts if one.name in never]
        self.running = [one for one in self.running if one.name not in never]
        begun = {name for name, _ in plan.chunks}
        self.running += [one for one in self.waiting if one.name in begun]
        self.waiting = deque(one for one in self.waiting if one.name not in begun | never)
        return dict.fromkeys(plan.decodes, 1) | dict(plan.chunks)


def serve(
    scheduler: ConstantBudget,
    requests: list[Request],
    step_ms: Callable[[int, int, int], float],
) -> list[float]:
    """Run the loop until all requests have ended; the latencies of its steps."""
    now, coming, latencies = 0.0, deque(requests), []
    while coming or scheduler.waiting or scheduler.running:
        if not scheduler.waiting and not scheduler.running:
            now = max(now, coming[0].arrival_ms)
        while coming and coming[0].arrival_ms <= now:
            scheduler.waiting.append(coming.popleft())
        scheduled = scheduler.schedule()
        if not scheduled:
            if scheduler.waiting or scheduler.running:
                raise RuntimeError("nothing was scheduled, though requests are there")
            continue
        computing = [one for one in scheduler.running if one.name in scheduled]
        tokens = sum(scheduled.values())
        positions = sum(one.computed_tokens + scheduled[one.name] for one in computing)
        latencies.append(step_ms(len(computing), tokens, positions))
        now += latencies[-1]
        for one in scheduler.running:
            one.steps_waited += 1
        for one in computing:
            one.steps_waited = 0
            one.computed_tokens += scheduled[one.name]
            if one.decodes:
                one.generated_tokens += 1
                one.token_times_ms.append(now)
        scheduler.running = [
            one for one in scheduler.running if one.generated_tokens < one.output_tokens
        ]
    return latencies


def some_requests(n: int, arrivals_per_s: float, seed: int) -> list[Request]:
    """Requests with prompts of 50 to 3,000 tokens, at random times."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1e3 / arrivals_per_s, n))
    prompts = np.exp(rng.uniform(np.log(50), np.log(3_000), n)).astype(int)
    outputs = rng.integers(20, 200, n)
    return [
        Request(str(i), float(t), int(prompt), int(output))
        for i, (t, prompt, output) in enumerate(zip(arrivals, prompts, outputs, strict=True))
    ]


def compare(
    gate: Gate,
    step_ms: Callable[[], Callable[[int, int, int], float]],
    *,
    n: int,
    arrivals_per_s: float,
    max_tokens: int,
) -> Iterator[tuple[str, float, float, float, float]]:
    """Scheduler, share of steps over the SLA, p99 gap between tokens, median TTFT, seconds."""
    for name, scheduler in (
        (f"constant budget of {max_tokens}", ConstantBudget(max_tokens, gate.max_batch_size)),
        ("constant budget of 512", ConstantBudget(512, gate.max_batch_size)),
        ("budget from the gate", GatedBudget(gate, max_tokens, gate.max_batch_size)),
        ("step from the gate", GatedStep(gate, max_tokens, gate.max_batch_size)),
    ):
        requests = some_requests(n, arrivals_per_s, seed=1)
        latencies = np.array(serve(scheduler, requests, step_ms()))
        served = [one for one in requests if one.token_times_ms]
        gaps = np.concatenate([np.diff(one.token_times_ms) for one in served])
        ttft = [one.token_times_ms[0] - one.arrival_ms for one in served]
        yield (
            name,
            float((latencies > gate.sla_ms).mean()),
            float(np.quantile(gaps, 0.99)),
            float(np.median(ttft)),
            max(one.token_times_ms[-1] for one in served) / 1e3,
        )


def main() -> None:
    """Compare the schedulers on a released posterior."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gpu", default="H100-80GB")
    parser.add_argument("--model", default="llama-13b")
    parser.add_argument("--sla-ms", type=float, default=40.0)
    parser.add_argument("--risk", type=float, default=0.02)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--arrivals-per-s", type=float, default=8.0)
    chosen = parser.parse_args()

    import bayeslat as bl

    fleet = bl.load_released("reference-fleet")
    deployment = fleet.find(chosen.gpu, chosen.model)
    gate = fleet.compile(chosen.gpu, chosen.model, sla_ms=chosen.sla_ms, risk=chosen.risk)
    draws = fleet.draws(deployment)

    def simulated() -> Callable[[int, int, int], float]:
        """Latencies of one draw of the posterior, with noise; the same for every scheduler."""
        truth, rng = draws.take([draws.n_draws // 3]), np.random.default_rng(7)

        def step_ms(batch: int, tokens: int, context: int) -> float:
            latency = bl.LatencyDistribution(
                truth, np.array(batch), np.array(tokens), np.array(context)
            )
            return float(latency.ppf(rng.uniform(1e-6, 1.0 - 1e-6)))

        return step_ms

    print(
        f"{gate}\nsimulated steps, {chosen.requests} requests, {chosen.arrivals_per_s:g} a second\n"
    )
    print(
        f"{'scheduler':28s} {'over SLA':>9s} {'p99 gap, ms':>12s} {'TTFT, ms':>9s} {'done, s':>8s}"
    )
    for name, over, gap, ttft, done in compare(
        gate,
        simulated,
        n=chosen.requests,
        arrivals_per_s=chosen.arrivals_per_s,
        max_tokens=gate.max_total_tokens,
    ):
        print(f"{name:28s} {over:9.2%} {gap:12.1f} {ttft:9.0f} {done:8.1f}")


if __name__ == "__main__":
    main()
