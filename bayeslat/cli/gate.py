"""The commands about gates for schedulers: compile, gate."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from bayeslat.cli.output import (
    EngineOption,
    GpuOption,
    JsonOption,
    ModelOption,
    PosteriorArgument,
    PrecisionOption,
    RiskOption,
    TpOption,
    as_json,
    caveats,
    check_output,
    check_positive,
    say,
    say_caveats,
    show_verdict,
    verdict_dict,
    working,
)

if TYPE_CHECKING:
    from bayeslat.gate import Gate

__all__ = ["compile_", "gate"]


def compile_(
    posterior: PosteriorArgument,
    gpu: GpuOption,
    model: ModelOption,
    sla_ms: Annotated[float, typer.Option("--sla-ms", help="Limit of a step's latency.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Gate to write (.gate).")],
    risk: RiskOption = 0.01,
    max_batch_size: Annotated[
        int, typer.Option("--max-batch-size", help="Most requests of a step.", min=1, max=4096)
    ] = 256,
    max_total_tokens: Annotated[
        int, typer.Option("--max-total-tokens", help="Most tokens of a step.", min=2, max=2**20)
    ] = 8192,
    tp: TpOption = None,
    engine: EngineOption = None,
    precision: PrecisionOption = None,
    json: JsonOption = False,
) -> None:
    """Compile P(T > SLA) <= risk into a gate that a scheduler asks before every step.

    The gate is a file of some kilobytes. It opens with numpy alone, and answers in microseconds.

    [bold]Example:[/bold] bayeslat compile fleet.nc --gpu H100-80GB --model llama-70b --sla-ms 50
    --risk 0.01 --out step.gate
    """
    check_positive("--sla-ms", sla_ms)
    check_output(out, ".gate")
    from bayeslat.posterior import load

    fleet = load(posterior)
    deployment = fleet.find(gpu, model, tp=tp, engine=engine, precision=precision)
    with working("compiling the gate"):
        made = fleet.compile(
            **deployment._asdict(),
            sla_ms=sla_ms,
            risk=risk,
            max_batch_size=max_batch_size,
            max_total_tokens=max_total_tokens,
        )
    made.save(out)
    # Which contexts will be asked about is not known here.
    weak = caveats(fleet, deployment, (max_batch_size, max_total_tokens, math.nan))
    if json:
        as_json(
            _described(made) | {"file": str(out), "caveats": weak, "verdict": verdict_dict(fleet)}
        )
        return
    show_verdict(fleet)
    say_caveats(weak)
    say(f"{escape(repr(made))}: {escape(str(out))}, {out.stat().st_size / 1e3:.0f} kB")
    _say_accuracy(made)


def gate(
    path: Annotated[Path, typer.Argument(metavar="GATE", help="Gate made by compile (.gate).")],
    batch_size: Annotated[int, typer.Option("--batch-size", help="Requests in the step, B.")],
    total_tokens: Annotated[int, typer.Option("--total-tokens", help="Tokens computed, S.")],
    context_tokens: Annotated[
        int, typer.Option("--context-tokens", help="KV positions attended to, over all requests.")
    ],
    posterior: Annotated[
        Path | None,
        typer.Option("--posterior", help="Refuse the gate unless it stands for this posterior."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Ask a compiled gate about a step: whether it may run, and how much more would fit.

    [bold]Example:[/bold] bayeslat gate step.gate --batch-size 32 --total-tokens 512
    --context-tokens 65536
    """
    from bayeslat.gate import Gate

    found = Gate.load(path)
    if posterior is not None:
        from bayeslat.posterior import load

        load(posterior).check_gate(found)
    answer = {
        "batch_size": batch_size,
        "total_tokens": total_tokens,
        "context_tokens": context_tokens,
        "p_exceed": found.p_exceed(batch_size, total_tokens, context_tokens),
        "fits": found.fits(batch_size, total_tokens, context_tokens),
        "max_tokens": found.max_tokens(batch_size, context_tokens),
        "max_more_tokens": found.max_more_tokens(batch_size, total_tokens, context_tokens),
        "max_batch": found.max_batch(total_tokens, context_tokens),
    }
    if json:
        as_json(_described(found) | answer)
        return
    say(escape(repr(found)))
    say(
        f"B = {batch_size}, S = {total_tokens}, C = {context_tokens}:"
        f" P(T > {found.sla_ms:g} ms) = {answer['p_exceed']:.4f},"
        f" {'fits' if answer['fits'] else '[red]does not fit[/red]'}"
    )
    say(f"  most tokens with these requests and this context  {_or_none(answer['max_tokens'])}")
    say(
        f"  further tokens, each attending to itself          {_or_none(answer['max_more_tokens'])}"
    )
    say(f"  most requests with these tokens and this context  {_or_none(answer['max_batch'])}")
    _say_accuracy(found)


def _described(made: "Gate") -> dict[str, Any]:
    accuracy = made.accuracy
    return {
        "deployment": made.deployment,
        "sla_ms": made.sla_ms,
        "risk": made.risk,
        "max_batch_size": made.max_batch_size,
        "max_total_tokens": made.max_total_tokens,
        "fingerprint": made.fingerprint,
        "accuracy": {
            "n_checked": accuracy.n_checked,
            "below": accuracy.below,
            "above": accuracy.above,
            "margin": accuracy.margin,
            "pad": accuracy.pad,
        },
    }


def _say_accuracy(made: "Gate") -> None:
    accuracy = made.accuracy
    say(
        f"against the posterior at {accuracy.n_checked} random steps: at most"
        f" {accuracy.below:.1e} below it and {accuracy.above:.1e} above"
    )


def _or_none(count: int | None) -> str:
    return "none" if count is None else str(count)
