"""Commands about what a step can deliver under an SLA: frontier, allocate."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from bayeslat.cli.output import (
    CredibleOption,
    EngineOption,
    GpuOption,
    JsonOption,
    ModelOption,
    PlotOption,
    PosteriorArgument,
    PrecisionOption,
    RiskOption,
    TpOption,
    as_json,
    caveats,
    check_plot,
    check_positive,
    estimate_dict,
    number,
    save_plot,
    say,
    say_caveats,
    show_verdict,
    stdout,
    verdict_dict,
    working,
)
from bayeslat.cli.served import cells, headed, records
from bayeslat.errors import InputError

if TYPE_CHECKING:
    from bayeslat.decisions import Allocation, BestStep, Frontier, SharedStep, StepSpace
    from bayeslat.posterior import FleetPosterior
    from bayeslat.predictive import DeploymentDraws
    from bayeslat.schema import Deployment

__all__ = ["allocate", "frontier"]

MaxBatchOption = Annotated[
    int, typer.Option("--max-batch", help="Most requests B.", min=1, max=4096)
]
MaxTokensOption = Annotated[
    int, typer.Option("--max-tokens", help="Most tokens S.", min=1, max=2**20)
]
GateDrawsOption = Annotated[
    int,
    typer.Option("--gate-draws", help="Most draws that the SLA gate is compiled from.", min=1),
]


def frontier(
    posterior: PosteriorArgument,
    gpu: GpuOption,
    model: ModelOption,
    sla_ms: Annotated[
        str | None,
        typer.Option("--sla-ms", help="Limits of a step in ms, with commas: 20,50; else a range."),
    ] = None,
    risk: RiskOption = 0.01,
    max_batch: MaxBatchOption = 256,
    max_tokens: MaxTokensOption = 8192,
    min_batch: Annotated[
        int, typer.Option("--min-batch", help="Fewest requests B that are wanted.", min=1)
    ] = 1,
    decode_only: Annotated[
        bool, typer.Option("--decode-only", help="One token a request, S = B.")
    ] = False,
    context_per_request: Annotated[
        float | None,
        typer.Option("--context-per-request", help="KV positions of each request."),
    ] = None,
    gate_draws: GateDrawsOption = 1000,
    tp: TpOption = None,
    engine: EngineOption = None,
    precision: PrecisionOption = None,
    credible: CredibleOption = 0.9,
    plot: PlotOption = None,
    json: JsonOption = False,
) -> None:
    """Most tokens a second under an SLA: the best step for each limit, and what a looser one buys.

    Searches every integer B and S. Throughput is the mean over draws of S over expected latency.
    The picture shows the frontier, or for a single limit contours over B and S.

    [bold]Example:[/bold] bayeslat frontier fleet.nc --gpu H100-80GB --model llama-7b --sla-ms
    20,50,100 --decode-only --plot frontier.png
    """
    limits = None if sla_ms is None else _parse_limits(sla_ms)
    check_plot(plot)
    from bayeslat.decisions import StepSpace, compiled_frontier
    from bayeslat.decisions.throughput import sla_range
    from bayeslat.posterior import load
    from bayeslat.predictive.estimate import check_probability

    check_probability("credible", credible)
    check_probability("risk", risk)
    fleet = load(posterior)
    deployment = fleet.find(gpu, model, tp=tp, engine=engine, precision=precision)
    draws = fleet.draws(deployment)
    typical = fleet.typical_context(deployment)
    space = StepSpace(
        max_batch_size=max_batch,
        max_total_tokens=max_tokens,
        min_batch_size=min_batch,
        decode_only=decode_only,
        context_per_request=typical if context_per_request is None else context_per_request,
    )
    asked = limits or sla_range(draws, space, risk=risk)
    with working("compiling the gates and searching"):
        found = compiled_frontier(
            draws, asked, risk=risk, space=space, gate_draws=gate_draws, credible=credible
        )
    weak = _weak(fleet, deployment, found.steps)
    if plot is not None and found.steps:
        _plot_frontier(found, draws, space, deployment.label, plot)
        say(escape(f"written to {plot}"), quiet=json)
    rows = records(found.table())
    if json:
        as_json(
            {
                "deployment": deployment.label,
                "risk": risk,
                "credible": credible,
                "context_per_request": space.context_per_request,
                "context_assumed": context_per_request is None,
                "decode_only": decode_only,
                "gate_draws": min(gate_draws, draws.n_draws),
                "frontier": rows,
                "infeasible_ms": list(found.infeasible_ms),
                "dominated_ms": list(found.dominated_ms),
                "caveats": weak,
                "verdict": verdict_dict(fleet),
            }
        )
        return
    assumed = " (assumed: typical of this deployment)" if context_per_request is None else ""
    say(
        f"[bold]{escape(deployment.label)}[/bold]  P(T > SLA) <= {risk:g},"
        f" C = {space.context_per_request:.0f} B{assumed}"
    )
    show_verdict(fleet)
    say_caveats(weak)
    _say_gate(draws, gate_draws)
    _show_frontier(rows, found, credible)


def allocate(
    posterior: PosteriorArgument,
    gpu: GpuOption,
    model: ModelOption,
    tenants: Annotated[
        Path,
        typer.Option(
            "--tenants",
            help="CSV or JSON: name, tokens_per_request, context_per_request, max_requests; and"
            " weight, priority, min_requests, max_share where wanted.",
        ),
    ],
    sla_ms: Annotated[float, typer.Option("--sla-ms", help="Limit of a step in ms.")] = 50.0,
    risk: RiskOption = 0.01,
    alpha: Annotated[
        float | None,
        typer.Option("--alpha", help="One allocation: 0 throughput, 1 proportional, 16 max-min."),
    ] = None,
    max_batch: MaxBatchOption = 256,
    max_tokens: MaxTokensOption = 8192,
    gate_draws: GateDrawsOption = 1000,
    tp: TpOption = None,
    engine: EngineOption = None,
    precision: PrecisionOption = None,
    credible: CredibleOption = 0.9,
    plot: PlotOption = None,
    json: JsonOption = False,
) -> None:
    """Tenants that share a step under an SLA: who has how many requests in it.

    Shows the Pareto front of throughput against fairness (Jain's index of tokens over weight), or
    with --alpha the one alpha-fair allocation. Quotas and priorities are kept.

    [bold]Example:[/bold] bayeslat allocate fleet.nc --gpu H100-80GB --model llama-7b --tenants
    tenants.csv --sla-ms 50 --plot front.png
    """
    check_positive("--sla-ms", sla_ms)
    check_plot(plot)
    if plot is not None and alpha is not None:
        raise InputError(
            "got --plot and --alpha, expected one of them: the picture is of the whole front; leave"
            " one out"
        )
    from bayeslat import decisions
    from bayeslat.decisions.compiling import compile_gate
    from bayeslat.decisions.tenancy.alpha_fair import check_alpha
    from bayeslat.posterior import load
    from bayeslat.predictive.estimate import check_probability

    check_probability("credible", credible)
    if alpha is not None:
        check_alpha(alpha)
    who = decisions.read_tenants(tenants)
    fleet = load(posterior)
    deployment = fleet.find(gpu, model, tp=tp, engine=engine, precision=precision)
    draws = fleet.draws(deployment)
    with working("compiling the gate and sharing the step"):
        gate = compile_gate(
            draws.thin(gate_draws),
            sla_ms=sla_ms,
            risk=risk,
            max_batch_size=min(max_batch, max_tokens),
            max_total_tokens=max(max_tokens, 2),
        )
        front = None
        if alpha is None:
            front = decisions.pareto_front(draws, gate, who, credible=credible)
            steps = front.steps
        else:
            found = decisions.allocate(gate, who, alpha=alpha)
            steps = (decisions.shared_step(draws, gate, found, credible=credible),)
    weak = _weak(fleet, deployment, [step.allocation for step in steps])
    if plot is not None and front is not None:
        from bayeslat import plots

        save_plot(plots.plot_tenant_front(front, label=deployment.label), plot)
        say(escape(f"written to {plot}"), quiet=json)
    if json:
        as_json(
            {
                "deployment": deployment.label,
                "sla_ms": sla_ms,
                "risk": risk,
                "credible": credible,
                "alpha": alpha,
                "gate_draws": min(gate_draws, draws.n_draws),
                "n_found": 1 if front is None else front.n_found,
                "allocations": [_step_dict(step) for step in steps],
                "caveats": weak,
                "verdict": verdict_dict(fleet),
            }
        )
        return
    kind = "Pareto front" if alpha is None else f"alpha = {alpha:g}"
    say(
        f"[bold]{escape(deployment.label)}[/bold]  {len(who)} tenants, P(T > {sla_ms:g} ms) <="
        f" {risk:g}, {kind}"
    )
    show_verdict(fleet)
    say_caveats(weak)
    _say_gate(draws, gate_draws)
    _show_allocations(steps, credible)


def _parse_limits(text: str) -> list[float]:
    """Limits of --sla-ms."""
    try:
        limits = [float(part) for part in text.split(",")]
    except ValueError:
        limits = []
    if not (limits and all(math.isfinite(limit) and limit > 0.0 for limit in limits)):
        raise InputError(
            f"got --sla-ms {text!r}, expected positive milliseconds, with commas, such as 20,50;"
            " correct the limits"
        )
    return limits


def _weak(
    fleet: "FleetPosterior", deployment: "Deployment", steps: "Sequence[BestStep | Allocation]"
) -> list[str]:
    """What weakens an answer about several steps: told of the largest along each axis."""
    names = ("batch_size", "total_tokens", "context_tokens")
    largest = [max((getattr(step, name) for step in steps), default=math.nan) for name in names]
    return caveats(fleet, deployment, tuple(largest))


def _say_gate(draws: "DeploymentDraws", gate_draws: int) -> None:
    if gate_draws < draws.n_draws:
        say(
            f"searched with a gate of {gate_draws:,} of {draws.n_draws:,} draws; numbers below are"
            " from all (--gate-draws)"
        )


def _plot_frontier(
    found: "Frontier", draws: "DeploymentDraws", space: "StepSpace", label: str, path: Path
) -> None:
    from bayeslat import plots

    if len(found.steps) > 1 or space.decode_only:
        save_plot(plots.plot_frontier(found, label=label), path)
        return
    from bayeslat.decisions.step_contours import contours_of

    step = found.steps[0]
    over = contours_of(draws, space, sla_ms=step.sla_ms)
    save_plot(plots.plot_contours(over, risk=step.risk, best=step, label=label), path)


def _show_frontier(rows: list[dict[str, Any]], found: "Frontier", credible: float) -> None:
    share = f"[{100 * credible:g} %]"
    table = headed(
        ["SLA, ms", "B", "S", f"tokens/s {share}", f"E(T), ms {share}", f"P(T > SLA) {share}", ""]
    )
    for row in rows:
        step = f"{row['sla_ms']:g}", str(row["batch_size"]), str(row["total_tokens"])
        shown = cells(row, ("tokens_per_s", "latency_ms", "p_exceeds"))
        table.add_row(*step, *shown, "end of the search" if row["at_end"] else "")
    if rows:
        stdout.print(table)
    if found.infeasible_ms:
        limits = ", ".join(f"{limit:g}" for limit in found.infeasible_ms)
        say(f"[bold]no step keeps[/bold] {limits} ms")
    if found.dominated_ms:
        limits = ", ".join(f"{limit:g}" for limit in found.dominated_ms)
        say(f"no more throughput than with a tighter limit: {limits} ms")


def _show_allocations(steps: "tuple[SharedStep, ...]", credible: float) -> None:
    share = f"[{100 * credible:g} %]"
    names = [tenant.name for tenant in steps[0].allocation.tenants]
    table = headed(["", f"tokens/s {share}", "Jain", f"P(T > SLA) {share}", "B", "S", *names])
    for position, step in enumerate(steps, start=1):
        own = step.allocation
        row = {
            f"{name}{suffix}": value
            for name in ("tokens_per_s", "p_exceeds")
            for suffix, value in zip(("", "_lower", "_upper"), getattr(step, name), strict=True)
        }
        rate, chance = cells(row, ("tokens_per_s", "p_exceeds"))
        table.add_row(
            str(position),
            rate,
            number(own.jain),
            chance,
            str(own.batch_size),
            str(own.total_tokens),
            *map(str, own.requests),
        )
    stdout.print(table)
    say("columns of tenants: requests in the step")
    gap = steps[0].allocation.gap
    if len(steps) == 1 and gap > 0.0:
        say(f"not proved to be the best: utility may be up to {100 * gap:.2g} % better")


def _step_dict(step: "SharedStep") -> dict[str, Any]:
    own = step.allocation
    return {
        "tokens_per_s": estimate_dict(step.tokens_per_s),
        "latency_ms": estimate_dict(step.latency_ms),
        "p_exceeds_sla": estimate_dict(step.p_exceeds),
        "jain": own.jain,
        "batch_size": own.batch_size,
        "total_tokens": own.total_tokens,
        "context_tokens": own.context_tokens,
        "alpha": own.alpha,
        "gap": own.gap,
        "requests": {t.name: n for t, n in zip(own.tenants, own.requests, strict=True)},
        "tokens": {t.name: n for t, n in zip(own.tenants, own.tokens, strict=True)},
    }
