"""The command about one request: phases."""

import math
from collections.abc import Iterator
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
    TpOption,
    as_json,
    check_plot,
    check_positive,
    estimate_dict,
    in_ms,
    number,
    save_plot,
    say,
    stdout,
    with_interval,
)
from bayeslat.cli.served import (
    OutputTokensOption,
    OverheadOption,
    PromptTokensOption,
    Served,
    open_served,
)
from bayeslat.errors import InputError

if TYPE_CHECKING:
    from bayeslat.decisions import ChunkChoice, RequestPhases, SteadyLoad
    from bayeslat.predictive import Estimate

__all__ = ["phases"]

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
PHASES = {"prefill": "prefill", "ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E"}
CHUNKS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
"""Chunk sizes of the picture."""


def phases(
    posterior: PosteriorArgument,
    gpu: GpuOption,
    model: ModelOption,
    prompt_tokens: PromptTokensOption,
    output_tokens: OutputTokensOption,
    running: Annotated[
        int | None,
        typer.Option("--running", help="Requests in each decode step, this one too.", min=1),
    ] = None,
    arrivals_per_s: Annotated[
        float | None,
        typer.Option("--arrivals-per-s", help="Load that decides how many run, instead."),
    ] = None,
    chunk_tokens: Annotated[
        int | None,
        typer.Option("--chunk-tokens", help="Most tokens of the prompt in one step.", min=1),
    ] = None,
    context_per_request: Annotated[
        float | None,
        typer.Option(
            "--context-per-request",
            help="Positions of each running request; by default this request's own.",
            min=0.0,
        ),
    ] = None,
    tpot_limit_ms: Annotated[
        float | None, typer.Option("--tpot-limit-ms", help="Limit: asks for the best chunk.")
    ] = None,
    risk: Annotated[
        float, typer.Option("--risk", help="Admitted probability that a step breaks it.")
    ] = 0.01,
    confident: Annotated[
        float | None,
        typer.Option("--confident", help="Posterior probability with which the risk must hold."),
    ] = None,
    ttft_limit_ms: Annotated[
        float | None, typer.Option("--ttft-limit-ms", help="Limit: asks for P(TTFT > limit).")
    ] = None,
    overhead_ms: OverheadOption = None,
    tp: TpOption = None,
    engine: EngineOption = None,
    precision: PrecisionOption = None,
    credible: CredibleOption = 0.9,
    plot: PlotOption = None,
    json: JsonOption = False,
) -> None:
    """Prefill, time to first token, time per output token and end-to-end time of a request.

    Without a wait: what the steps take once they run. `bayeslat goodput` has the queue before them.

    [bold]Examples:[/bold]

    bayeslat phases fleet.nc --gpu H100-80GB --model llama-7b --prompt-tokens 1024 --output-tokens
    128 --running 16

    bayeslat phases fleet.nc --gpu H100-80GB --model llama-7b --prompt-tokens 4096 --output-tokens
    128 --running 16 --tpot-limit-ms 50 --plot chunks.png
    """
    _check(running, arrivals_per_s, tpot_limit_ms, ttft_limit_ms)
    check_plot(plot)
    from bayeslat.predictive.estimate import check_probability

    for name, value in (("credible", credible), ("risk", risk), ("confident", confident)):
        if value is not None:
            check_probability(name, value)
    served = open_served(
        posterior, gpu, model, overhead_ms=overhead_ms, tp=tp, engine=engine, precision=precision
    )
    lengths = {"prompt_tokens": prompt_tokens, "output_tokens": output_tokens}
    load = None
    if arrivals_per_s is not None:
        load = served.engine.steady_load(
            arrivals_per_s=arrivals_per_s, chunk_tokens=chunk_tokens, **lengths
        )
        if not load.stable.any():
            raise InputError(
                f"got --arrivals-per-s {arrivals_per_s:g}, which is sustained in no posterior draw,"
                f" expected less than {load.capacity_per_s.max():.3g} requests/s; lower the load"
            )
        running = load.typical_running
    running = running or 1
    found = served.engine.request_phases(
        **lengths,
        running=running,
        chunk_tokens=chunk_tokens,
        context_per_request=context_per_request,
    )
    positions = prompt_tokens + output_tokens / 2
    if context_per_request is not None:
        positions = context_per_request
    asked: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "running": max(running - 1, 1),  # besides the request whose prompt is computed
        "running_context": positions,
    }
    choice = None
    if tpot_limit_ms is not None:
        choice = served.engine.best_chunk(
            **asked, tpot_limit_ms=tpot_limit_ms, risk=risk, confident=confident, credible=credible
        )
    limits = {"ttft": ttft_limit_ms, "tpot": tpot_limit_ms}
    if plot is not None:
        _draw(served, found, asked, choice, plot, risk=risk, limits=limits, credible=credible)
        say(escape(f"written to {plot}"), quiet=json)
    whole = min(prompt_tokens, chunk_tokens or prompt_tokens)
    weak = served.caveats((running, whole + running - 1, running * positions))
    answer: dict[str, Any] = {
        **lengths,
        "running": running,
        "chunk_tokens": chunk_tokens,
        "context_per_request": context_per_request,
        "credible": credible,
        "load": None if load is None else _load_dict(load, arrivals_per_s, credible),
        "phases_ms": {name: dict(_summary(found, name, credible)) for name in PHASES},
        "p_exceeds_limit": {
            name: {
                "limit_ms": limit,
                **estimate_dict(getattr(found, name).sf(limit, credible=credible)),
            }
            for name, limit in limits.items()
            if limit is not None
        },
        "best_chunk": choice
        and {
            **_chunk_dict(choice),
            "limit_ms": tpot_limit_ms,
            "risk": risk,
            "confident": confident,
            **asked,
        },
        "roofline": _roofline(served, prompt_tokens, running, running * positions),
    }
    if json:
        as_json({**served.summary(weak), **answer})
        return
    how = "whole" if chunk_tokens is None else f"in chunks of {chunk_tokens}"
    served.introduce(
        f"prompt {prompt_tokens} ({how}), output {output_tokens}, {running} running", weak
    )
    _show(answer)


def _show(answer: dict[str, Any]) -> None:
    """Tables and sentences for people."""
    if answer["load"] is not None:
        _say_load(answer["load"], answer["running"])
    stdout.print(_table(answer))
    if answer["best_chunk"] is not None:
        _say_choice(answer["best_chunk"])
    _say_roofline(answer["roofline"], answer["running"])


def _check(
    running: int | None,
    arrivals_per_s: float | None,
    tpot_limit_ms: float | None,
    ttft_limit_ms: float | None,
) -> None:
    if running is not None and arrivals_per_s is not None:
        raise InputError(
            "got --running and --arrivals-per-s, expected one of them: a load decides how many"
            " run; leave one out"
        )
    check_positive("--arrivals-per-s", arrivals_per_s)
    check_positive("--tpot-limit-ms", tpot_limit_ms)
    check_positive("--ttft-limit-ms", ttft_limit_ms)


def _summary(
    found: "RequestPhases", name: str, credible: float
) -> Iterator[tuple[str, dict[str, float]]]:
    phase = getattr(found, name)
    yield "mean", estimate_dict(phase.mean(credible=credible))
    for label, q in QUANTILES.items():
        yield label, estimate_dict(phase.ppf(q, credible=credible))


def _spread(per_draw: Any, credible: float) -> "Estimate":
    """Median and interval over draws."""
    import numpy as np

    from bayeslat.predictive.estimate import estimate

    return estimate(np.median(per_draw), per_draw, credible)


def _load_dict(load: "SteadyLoad", arrivals_per_s: float | None, credible: float) -> dict[str, Any]:
    names = ("running", "step_ms", "utilisation", "capacity_per_s")
    return {
        "arrivals_per_s": arrivals_per_s,
        **{name: estimate_dict(_spread(getattr(load, name), credible)) for name in names},
        "p_unstable": load.probability_unstable,
    }


def _chunk_dict(choice: "ChunkChoice") -> dict[str, Any]:
    return {
        "chunk_tokens": choice.chunk_tokens,
        "prefill_ms": None if choice.prefill_ms is None else estimate_dict(choice.prefill_ms),
        "exceedance": choice.exceedance,
        "floor_ms": estimate_dict(choice.floor_ms),
        "floor_chunk": choice.floor_chunk,
        "limited_by_search": choice.limited,
    }


def _roofline(served: Served, prompt: int, running: int, context: float) -> dict[str, Any]:
    """What datasheets say of the whole prefill in one step, and of a decode step."""
    where = served.deployment
    found = served.fleet.catalog.roofline(
        where.gpu,
        where.model,
        batch_size=[1, running],
        total_tokens=[prompt, running],
        context_tokens=[prompt, context],
        tp=where.tp,
        precision=where.precision,
    )
    names = ("bound", "compute_ms", "memory_ms", "floor_ms")
    return {
        step: {name: getattr(found, name)[at].item() for name in names}
        for at, step in enumerate(("prefill", "decode_step"))
    }


def _draw(
    served: Served,
    found: "RequestPhases",
    asked: dict[str, Any],
    choice: "ChunkChoice | None",
    plot: Path,
    *,
    risk: float,
    limits: dict[str, float | None],
    credible: float,
) -> None:
    """Distributions, or the trade-off of chunk sizes where one was asked for."""
    from bayeslat import plots

    label = served.deployment.label
    if choice is None:
        figure = plots.plot_phases(
            found, label=label, credible=credible, ttft_limit_ms=limits["ttft"]
        )
    else:
        prompt = asked["prompt_tokens"]
        sizes = sorted({*(size for size in CHUNKS if size < prompt), min(prompt, CHUNKS[-1])})
        tradeoff = served.engine.chunk_tradeoff(
            **asked, chunk_sizes=sizes, quantile=1.0 - risk, credible=credible
        )
        figure = plots.plot_chunks(
            tradeoff,
            label=label,
            quantile=1.0 - risk,
            limit_ms=limits["tpot"],
            chosen=choice.chunk_tokens,
        )
    save_plot(figure, plot)


def _table(answer: dict[str, Any]) -> Table:
    table = Table(box=None, header_style="bold")
    table.add_column("ms")
    for heading in ("mean", *QUANTILES):
        table.add_column(escape(f"{heading} [{100 * answer['credible']:g} %]"), justify="right")
    rows = answer["phases_ms"]
    for name, row in rows.items():
        table.add_row(
            PHASES[name], *(with_interval(tuple(value.values())) for value in row.values())
        )
    for name, found in answer["p_exceeds_limit"].items():
        limit, *estimate = found.values()
        table.add_row(f"P({PHASES[name]} > {limit:g})", with_interval(tuple(estimate)))
    if any(value["value"] > value["upper"] for row in rows.values() for value in row.values()):
        table.caption = (
            "values mix noise with what is not known, intervals hold each draw's own value:"
            " a p99 above its interval is mostly lack of knowledge"
        )
        table.caption_justify = "left"
    return table


def _say_load(load: dict[str, Any], running: int) -> None:
    names = ("running", "step_ms", "utilisation", "capacity_per_s")
    spread = {name: with_interval(tuple(load[name].values())) for name in names}
    say(
        f"at {load['arrivals_per_s']:g} requests/s: running {spread['running']} (taken: their"
        f" median, {running}), {spread['step_ms']} ms between tokens, utilisation"
        f" {spread['utilisation']}, capacity {spread['capacity_per_s']} requests/s;"
        f" P(unstable) = {load['p_unstable']:.3g}"
    )


def _say_choice(choice: dict[str, Any]) -> None:
    bound = "" if choice["confident"] is None else f" with confidence {choice['confident']:g}"
    given = (
        f"P(step > {choice['limit_ms']:g} ms) <= {choice['risk']:g}{bound} while"
        f" {choice['running']} requests decode at {choice['running_context']:g} positions each"
    )
    if choice["chunk_tokens"] is None:
        say(
            f"[bold]no chunk meets it[/bold]: {given}; the floor is"
            f" {in_ms(tuple(choice['floor_ms'].values()))}, a step with {choice['floor_chunk']}"
            " tokens of a prompt"
        )
        return
    more = " (the largest looked at)" if choice["limited_by_search"] else ""
    say(
        f"best chunk [bold]{choice['chunk_tokens']}[/bold]{more}: {given}; prefill"
        f" {in_ms(tuple(choice['prefill_ms'].values()))}"
    )


def _say_roofline(bounds: dict[str, Any], running: int) -> None:
    names = {"prefill": "prefill in one step", "decode_step": f"decode step of {running}"}
    told = [
        f"{names[step]} {row['bound']}-bound, at least {number(row['floor_ms'])} ms"
        f" (compute {number(row['compute_ms'])}, memory {number(row['memory_ms'])})"
        for step, row in bounds.items()
        if math.isfinite(row["floor_ms"])
    ]
    say("roofline of the datasheets: " + ("; ".join(told) or "they do not tell"))
