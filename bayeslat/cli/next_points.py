"""The command about what to measure: next-points."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

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
    SeedOption,
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
    with_interval,
    working,
)
from bayeslat.errors import InputError

if TYPE_CHECKING:
    from bayeslat.decisions import LargestTokens, NextPoints
    from bayeslat.posterior import FleetPosterior
    from bayeslat.predictive import Estimate
    from bayeslat.predictive.draws import Points
    from bayeslat.schema import Deployment

__all__ = ["next_points"]


def next_points(
    posterior: PosteriorArgument,
    gpu: GpuOption,
    model: ModelOption,
    sla_ms: Annotated[float, typer.Option("--sla-ms", help="Limit in milliseconds.")] = 50.0,
    risk: RiskOption = 0.01,
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="B of the steps whose largest S is in question.")
    ] = 16,
    n: Annotated[int, typer.Option("--n", help="Points to choose.")] = 10,
    criterion: Annotated[
        str, typer.Option("--criterion", help="information (of S) or value (in tokens per ms).")
    ] = "information",
    candidates: Annotated[
        Path | None,
        typer.Option(
            "--candidates",
            help="CSV of steps that could be measured: batch_size, total_tokens, perhaps"
            " context_tokens and n_averaged. Without it a grid of decode, prefill and mixed steps.",
        ),
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option("--measured", help="CSV of steps measured since, unknown to POSTERIOR."),
    ] = None,
    n_averaged: Annotated[
        float | None, typer.Option("--n-averaged", help="Steps that a measurement averages.")
    ] = None,
    per_ms: Annotated[
        bool, typer.Option("--per-ms", help="Choose for what a point tells per millisecond.")
    ] = False,
    max_batch_size: Annotated[
        int, typer.Option("--max-batch-size", help="Largest B of the grid.")
    ] = 64,
    max_total_tokens: Annotated[
        int, typer.Option("--max-total-tokens", help="Largest S of the grid.")
    ] = 4096,
    context_tokens: Annotated[
        float | None,
        typer.Option("--context-tokens", help="KV positions of the steps in question."),
    ] = None,
    tp: TpOption = None,
    engine: EngineOption = None,
    precision: PrecisionOption = None,
    credible: CredibleOption = 0.9,
    seed: SeedOption = 0,
    plot: PlotOption = None,
    json: JsonOption = False,
) -> None:
    """Which steps to measure next, so that the largest S under an SLA becomes certain.

    [bold]Example:[/bold] bayeslat next-points new.nc --gpu H200 --model llama-70b --sla-ms 80
    --risk 0.01 --n 10
    """
    check_positive("--sla-ms", sla_ms)
    check_plot(plot)
    from bayeslat.decisions.measuring.targets import MAX_TOTAL_TOKENS

    if batch_size >= MAX_TOTAL_TOKENS:
        raise InputError(
            f"got --batch-size {batch_size}, expected fewer than {MAX_TOTAL_TOKENS} requests:"
            " larger steps are not looked at; correct the option"
        )
    if n < 1:
        raise InputError(f"got --n {n}, expected at least 1; correct the option")
    from bayeslat.decisions import LargestTokens, read_candidates
    from bayeslat.decisions import next_points as design
    from bayeslat.posterior import load
    from bayeslat.predictive.estimate import check_probability

    check_probability("risk", risk)
    check_probability("credible", credible)
    fleet = load(posterior)
    deployment = fleet.find(gpu, model, tp=tp, engine=engine, precision=precision)
    typical = fleet.typical_context(deployment)
    decision = LargestTokens(
        batch_size,
        sla_ms,
        risk,
        context_tokens=context_tokens or 0.0,
        context_per_request=typical if context_tokens is None else 0.0,
    )
    steps, known = (
        None if path is None else read_candidates(path, context_per_request=typical)
        for path in (candidates, measured)
    )
    if steps is None:
        steps = _grid(fleet, deployment, max_batch_size, max_total_tokens)
    with working("weighing the candidates"):
        found = design(
            fleet.draws(deployment),
            decision=decision,
            candidates=steps,
            n=n,
            measured=known,
            n_averaged=n_averaged,
            criterion=criterion,
            per_ms=per_ms,
            seed=seed,
        )
    if plot is not None:
        from bayeslat.plots import plot_next_points

        save_plot(plot_next_points(found, label=deployment.label), plot)
    now = decision.estimate(fleet.draws(deployment), credible=credible)
    weak = caveats(fleet, deployment, (math.nan,) * 3)
    if json:
        about = {"deployment": deployment.label, "credible": credible, "caveats": weak}
        about |= {"context_assumed": context_tokens is None, "verdict": verdict_dict(fleet)}
        as_json(about | _answer(found, decision, now))
        return
    assumed = " (assumed: typical of this deployment)" if context_tokens is None else ""
    say(
        f"[bold]{escape(deployment.label)}[/bold]  largest S at B = {batch_size} with"
        f" P(T > {sla_ms:g} ms) <= {risk:g}, C = {decision.steps.context_tokens[0]:.0f}{assumed}"
    )
    show_verdict(fleet)
    say_caveats(weak)
    say(
        f"S now: {with_interval(now)}, {100 * credible:g} % interval; sd of log S {found.sd[0]:.3g}"
    )
    _show(found, decision)
    if plot is not None:
        say(f"written to {plot}")


def _answer(found: "NextPoints", decision: "LargestTokens", now: "Estimate") -> dict[str, Any]:
    """The question, what is known, and what to measure, for JSON."""
    return {
        "batch_size": decision.batch_size,
        "sla_ms": decision.sla_ms,
        "risk": decision.risk,
        "context_tokens": float(decision.steps.context_tokens[0]),
        "criterion": found.criterion,
        "largest_total_tokens": estimate_dict(now),
        "sd_log_before": float(found.sd[0]),
        "n_candidates": found.candidates.size,
        "points": found.table().to_dict("records"),
    }


def _grid(
    fleet: "FleetPosterior", deployment: "Deployment", max_batch_size: int, max_total_tokens: int
) -> "Points":
    """The grid of steps that fit into the memory of a deployment, as far as datasheets tell."""
    from bayeslat.decisions import candidate_steps

    room = fleet.catalog.kv_capacity_tokens(
        deployment.gpu, deployment.model, tp=deployment.tp, precision=deployment.precision
    )
    return candidate_steps(
        max_batch_size=max_batch_size,
        max_total_tokens=max_total_tokens,
        # A datasheet that leaves no room is wrong about a deployment that is there.
        max_context_tokens=float(room) if room >= max_batch_size else math.inf,
    )


def _show(found: "NextPoints", decision: "LargestTokens") -> None:
    if not found.chosen.size:
        say(
            "[green]nothing to measure[/green]: the answer is certain within"
            f" S = {decision.batch_size} to {decision.max_total_tokens}"
        )
        return
    table = Table(
        title=f"measure in this order (chosen for {found.criterion} among"
        f" {found.candidates.size} candidates)",
        box=None,
        header_style="bold",
    )
    headings = ("", "B", "S", "C", "mean of", "latency, ms", "nats", "sd of log S then",
                "gain so far, tokens/ms")  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="right")
    for position, row in enumerate(found.table().to_dict("records"), start=1):
        table.add_row(str(position), *_cells(row))
    stdout.print(table)
    if any(math.isnan(value) for value in found.value):
        say("-: too few posterior draws agree with that many outcomes to tell the gain")


def _cells(row: Mapping[Any, Any]) -> tuple[str, ...]:
    gain = row["value_tokens_per_ms"]
    error = "" if math.isnan(gain) else f" ± {row['value_error']:.2g}"
    latency = tuple(row[f"latency_ms{end}"] for end in ("", "_lower", "_upper"))
    return (
        f"{row['batch_size']}",
        f"{row['total_tokens']}",
        f"{row['context_tokens']:.0f}",
        number(row["n_averaged"]),
        with_interval(latency),
        f"{row['information_nats']:.3f}",
        f"{row['sd_after']:.3f}",
        f"{number(gain)}{error}",
    )
