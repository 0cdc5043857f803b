"""Commands that ask a posterior: query, invert."""

import math
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
    PosteriorArgument,
    PrecisionOption,
    TpOption,
    as_json,
    caveats,
    check_positive,
    estimate_dict,
    say,
    say_caveats,
    show_verdict,
    stdout,
    verdict_dict,
)
from bayeslat.errors import InputError

if TYPE_CHECKING:
    from bayeslat.decisions import FeasibleRegion, FeasibleSet
    from bayeslat.posterior import FleetPosterior
    from bayeslat.schema import Deployment

__all__ = ["invert", "query"]

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
REGION_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
REGION_TOKENS = (1, 16, 64, 256, 512, 1024, 2048, 4096, 8192)

ContextOption = Annotated[
    float | None,
    typer.Option("--context-tokens", help="KV positions attended to, over all requests."),
]
SlaOption = Annotated[float, typer.Option("--sla-ms", help="Limit in milliseconds.")]


def query(
    posterior: PosteriorArgument,
    gpu: GpuOption,
    model: ModelOption,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Requests in the step, B.")],
    total_tokens: Annotated[int, typer.Option("--total-tokens", help="Tokens computed, S.")],
    context_tokens: ContextOption = None,
    tp: TpOption = None,
    engine: EngineOption = None,
    precision: PrecisionOption = None,
    sla_ms: SlaOption = 50.0,
    credible: CredibleOption = 0.9,
    json: JsonOption = False,
) -> None:
    """P(T > SLA), mean and quantiles of a step, each with its credible interval.

    [bold]Example:[/bold] bayeslat query fleet.nc --gpu H100-80GB --model llama-70b --batch-size 32
    --total-tokens 2048 --sla-ms 50
    """
    check_positive("--sla-ms", sla_ms)
    from bayeslat.posterior import load
    from bayeslat.predictive.estimate import check_probability

    check_probability("credible", credible)
    fleet = load(posterior)
    deployment = fleet.find(gpu, model, tp=tp, engine=engine, precision=precision)
    latency = fleet.latency(
        **deployment._asdict(),
        batch_size=batch_size,
        total_tokens=total_tokens,
        context_tokens=context_tokens,
    )
    context = float(latency.context_tokens)
    exceeds = latency.sf(sla_ms, credible=credible)
    values = {"mean": latency.mean(credible=credible)}
    values |= {name: latency.ppf(q, credible=credible) for name, q in QUANTILES.items()}
    weak = caveats(fleet, deployment, (batch_size, total_tokens, context))
    if json:
        as_json(
            {
                "deployment": deployment.label,
                "batch_size": batch_size,
                "total_tokens": total_tokens,
                "context_tokens": context,
                "context_assumed": context_tokens is None,
                "sla_ms": sla_ms,
                "credible": credible,
                "p_exceeds_sla": estimate_dict(exceeds),
                "latency_ms": {name: estimate_dict(value) for name, value in values.items()},
                "caveats": weak,
                "verdict": verdict_dict(fleet),
            }
        )
        return
    assumed = " (assumed: typical of this deployment)" if context_tokens is None else ""
    say(
        f"[bold]{escape(deployment.label)}[/bold]  B = {batch_size}, S = {total_tokens},"
        f" C = {context:.0f}{assumed}"
    )
    show_verdict(fleet)
    say_caveats(weak)
    table = Table(box=None, header_style="bold")
    for heading in ("", "value", f"{100 * credible:g} % interval"):
        table.add_column(heading, justify="left" if not heading else "right")
    probability = [f"{value:.3g}" for value in exceeds]
    table.add_row(f"P(T > {sla_ms:g} ms)", probability[0], " to ".join(probability[1:]))
    for name, value in values.items():
        table.add_row(f"{name}, ms", f"{value[0]:.2f}", f"{value[1]:.2f} to {value[2]:.2f}")
    stdout.print(table)


def invert(
    posterior: PosteriorArgument,
    gpu: GpuOption,
    model: ModelOption,
    sla_ms: SlaOption = 50.0,
    risk: Annotated[
        float, typer.Option("--risk", help="Admitted probability of breaking the limit.")
    ] = 0.01,
    confident: Annotated[
        float | None,
        typer.Option("--confident", help="Posterior probability with which the risk must hold."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Ask which S fit this B.")
    ] = None,
    total_tokens: Annotated[
        int | None, typer.Option("--total-tokens", help="Ask which B fit this S.")
    ] = None,
    context_tokens: ContextOption = None,
    tp: TpOption = None,
    engine: EngineOption = None,
    precision: PrecisionOption = None,
    json: JsonOption = False,
) -> None:
    """What fits: every S for a B, every B for an S, or a table over both.

    [bold]Examples:[/bold]

    bayeslat invert fleet.nc --gpu H100-80GB --model llama-7b --batch-size 32 --sla-ms 50

    bayeslat invert fleet.nc --gpu H100-80GB --model llama-7b --risk 0.001 --confident 0.95
    """
    check_positive("--sla-ms", sla_ms)
    if batch_size is not None and total_tokens is not None:
        raise InputError(
            "got --batch-size and --total-tokens, expected one or neither; `bayeslat query` answers"
            " for both"
        )
    from bayeslat.posterior import load
    from bayeslat.predictive.estimate import check_probability

    check_probability("risk", risk)
    if confident is not None:
        check_probability("confident", confident)
    fleet = load(posterior)
    deployment = fleet.find(gpu, model, tp=tp, engine=engine, precision=precision)
    question: dict[str, Any] = {
        **deployment._asdict(),
        "context_tokens": context_tokens,
        "sla_ms": sla_ms,
        "risk": risk,
        "confident": confident,
    }
    answer: dict[str, Any] = {"deployment": deployment.label, "sla_ms": sla_ms, "risk": risk}
    answer |= {
        "confident": confident,
        "context_tokens": context_tokens,
        "context_per_request": fleet.typical_context(deployment),
    }
    found, shown, largest = _fits(fleet, question, batch_size, total_tokens)
    weak = caveats(fleet, deployment, (math.nan,) * 3)
    for name, value in largest.items():
        weak += _beyond(fleet, deployment, name, value)
    if json:
        as_json({**answer, **found, "caveats": weak, "verdict": verdict_dict(fleet)})
        return
    _introduce(fleet, answer, weak)
    stdout.print(shown)


def _fits(
    fleet: "FleetPosterior",
    question: dict[str, Any],
    batch_size: int | None,
    total_tokens: int | None,
) -> tuple[dict[str, Any], str | Table, dict[str, int | None]]:
    """What fits: for a machine, for a person, and the largest of what was asked for."""
    if batch_size is not None:
        tokens = fleet.feasible_tokens(**question, batch_size=batch_size)
        found = {"batch_size": batch_size, "total_tokens": _set_dict(tokens)}
        sentence = _sentence(tokens, "total tokens S", f"B = {batch_size}")
        return found, sentence, {"total_tokens": tokens.largest}
    if total_tokens is not None:
        batches = fleet.feasible_batches(**question, total_tokens=total_tokens)
        found = {"total_tokens": total_tokens, "batch_size": _set_dict(batches)}
        sentence = _sentence(batches, "batch sizes B", f"S = {total_tokens}")
        return found, sentence, {"batch_size": batches.largest}
    region = fleet.feasible_region(
        **question, batch_sizes=REGION_BATCHES, total_tokens=REGION_TOKENS
    )
    found = {
        "batch_size": region.batch_size.tolist(),
        "total_tokens": region.total_tokens.tolist(),
        "probability": region.probability.tolist(),
        "feasible": region.feasible.tolist(),
    }
    return found, _region_table(region), {}


def _introduce(fleet: "FleetPosterior", answer: dict[str, Any], weak: list[str]) -> None:
    context = answer["context_tokens"]
    assumed = (
        f"C = {context:g}"
        if context is not None
        else f"C = {answer['context_per_request']:.0f} B (assumed: typical of this deployment)"
    )
    bound = "" if answer["confident"] is None else f" with confidence {answer['confident']:g}"
    say(
        f"[bold]{escape(answer['deployment'])}[/bold]  P(T > {answer['sla_ms']:g} ms) <="
        f" {answer['risk']:g}{bound}, {assumed}"
    )
    show_verdict(fleet)
    say_caveats(weak)


def _beyond(
    fleet: "FleetPosterior", deployment: "Deployment", axis: str, largest: int | None
) -> list[str]:
    position = fleet.deployments.index(deployment)
    highest = fleet.constant_data["measured_range"].sel(design_axis=axis, bound="high")
    measured = float(highest.to_numpy()[position])
    if largest is None or not largest > measured:
        return []
    name = axis.replace("_", " ")
    return [f"the answer extrapolates: {name} {largest}, measured up to {measured:.0f}"]


def _set_dict(found: "FeasibleSet") -> dict[str, Any]:
    return {
        "largest": found.largest,
        "smallest": found.smallest,
        "intervals": [list(pair) for pair in found.intervals],
        "limited_by_search": found.limited,
        "searched": list(found.searched),
    }


def _sentence(found: "FeasibleSet", what: str, given: str) -> str:
    if found.empty:
        return f"[bold]nothing fits[/bold] at {given}: no {what} keeps the risk"
    spans = ", ".join(f"{low} to {high}" for low, high in found.intervals)
    more = " (the search ended there, more may fit)" if found.limited else ""
    return f"at {given}: {what} {spans}; largest [bold]{found.largest}[/bold]{more}"


def _region_table(region: "FeasibleRegion") -> Table:
    table = Table(
        title="P(T > SLA) over batch size and total tokens; green fits",
        box=None,
        header_style="bold",
    )
    table.add_column("B \\ S", justify="right")
    for tokens in region.total_tokens:
        table.add_column(f"{tokens:.0f}", justify="right")
    for row, batch in enumerate(region.batch_size):
        cells = []
        for probability, fits in zip(region.probability[row], region.feasible[row], strict=True):
            if math.isnan(probability):
                cells.append("-")
            else:
                colour = "green" if fits else "red"
                cells.append(f"[{colour}]{probability:.2g}[/{colour}]")
        table.add_row(f"{batch:.0f}", *cells)
    return table
