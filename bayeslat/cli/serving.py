"""The command about an engine under load: goodput."""

import math
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
    SeedOption,
    TpOption,
    as_json,
    check_plot,
    check_positive,
    estimate_dict,
    number,
    save_plot,
    say,
    stdout,
    with_interval,
    working,
)
from bayeslat.cli.served import (
    KvCapacityOption,
    LoadsOption,
    MaxNumSeqsOption,
    OverheadOption,
    OwnOutputTokensOption,
    OwnPromptTokensOption,
    Served,
    TraceOption,
    TtftOption,
    cells,
    headed,
    open_served,
    parse_loads,
    records,
)
from bayeslat.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from bayeslat.decisions import Disaggregation, LoadCurve
    from bayeslat.engine import Workload

__all__ = ["goodput"]

DEFAULT_LOADS = (0.25, 0.5, 0.75, 0.9, 1.1)
"""Shares of what continuous batching sustains."""

DEFAULT_REQUESTS = 500


def goodput(
    posterior: PosteriorArgument,
    gpu: GpuOption,
    model: ModelOption,
    prompt_tokens: OwnPromptTokensOption = None,
    output_tokens: OwnOutputTokensOption = None,
    trace: TraceOption = None,
    loads: LoadsOption = None,
    n_requests: Annotated[
        int | None,
        typer.Option("--n-requests", help="Requests: 500 by default, or all of the trace.", min=2),
    ] = None,
    ttft_ms: TtftOption = 2000.0,
    tpot_ms: Annotated[
        float, typer.Option("--tpot-ms", help="Objective: time per further token.")
    ] = 50.0,
    e2e_ms: Annotated[
        float | None, typer.Option("--e2e-ms", help="Objective: time to the last token.")
    ] = None,
    attainment: Annotated[
        float, typer.Option("--attainment", help="Share of requests that must keep it.")
    ] = 0.9,
    max_num_seqs: MaxNumSeqsOption = 256,
    max_num_batched_tokens: Annotated[
        int, typer.Option("--max-num-batched-tokens", help="Most tokens of a step.")
    ] = 8192,
    kv_capacity_tokens: KvCapacityOption = None,
    chunked_prefill: Annotated[
        bool,
        typer.Option(
            "--chunked-prefill/--no-chunked-prefill", help="Prompts beside decodes, in parts."
        ),
    ] = True,
    static: Annotated[
        bool, typer.Option("--static", help="Keep each batch until its last request has ended.")
    ] = False,
    replicas: Annotated[
        int, typer.Option("--replicas", help="Engines that take requests in turn.", min=1)
    ] = 1,
    disaggregate: Annotated[
        str | None,
        typer.Option("--disaggregate", help="Prefill and decode engines of their own: 1:1."),
    ] = None,
    link_gbs: Annotated[
        float, typer.Option("--link-gbs", help="GB/s of the link that moves the cache.")
    ] = 50.0,
    runs: Annotated[
        int, typer.Option("--runs", help="Posterior draws that are simulated.", min=1)
    ] = 50,
    overhead_ms: OverheadOption = None,
    tp: TpOption = None,
    engine: EngineOption = None,
    precision: PrecisionOption = None,
    credible: CredibleOption = 0.9,
    seed: SeedOption = 0,
    plot: PlotOption = None,
    json: JsonOption = False,
) -> None:
    """Latency and goodput of an engine over loads, simulated from the posterior.

    Continuous batching with a KV cache, as vLLM schedules. Intervals are what is not known about
    the deployment and the time between its steps, for these requests.

    [bold]Examples:[/bold]

    bayeslat goodput fleet.nc --gpu H100-80GB --model llama-7b --prompt-tokens 1024 --output-tokens
    128 --ttft-ms 2000 --tpot-ms 50 --plot goodput.png

    bayeslat goodput fleet.nc --gpu H100-80GB --model llama-7b --trace requests.csv --loads 1,2,4
    --disaggregate 1:1
    """
    check_plot(plot)
    for option, limit in (("--ttft-ms", ttft_ms), ("--tpot-ms", tpot_ms), ("--e2e-ms", e2e_ms)):
        check_positive(option, limit)
    check_positive("--link-gbs", link_gbs)
    given = None if loads is None else parse_loads(loads)
    split = None if disaggregate is None else _split(disaggregate, replicas)
    from bayeslat.decisions import ServiceObjective
    from bayeslat.engine import EngineSettings
    from bayeslat.predictive.estimate import check_probability

    check_probability("credible", credible)
    check_probability("attainment", attainment)
    objective = ServiceObjective(ttft_ms, tpot_ms, *(() if e2e_ms is None else (e2e_ms,)))
    settings = EngineSettings(
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        chunked_prefill=chunked_prefill,
        kv_capacity_tokens=kv_capacity_tokens,
        batching="static" if static else "continuous",
    )
    workload = _workload(prompt_tokens, output_tokens, trace, n_requests, seed)
    served = open_served(
        posterior,
        gpu,
        model,
        overhead_ms=overhead_ms,
        settings=settings,
        tp=tp,
        engine=engine,
        precision=precision,
    )
    n_engines = replicas if split is None else sum(split)
    question: dict[str, Any] = {
        "arrivals_per_s": given
        or _default_loads(served, workload, n_engines, recorded=trace is not None),
        "objective": objective,
        "n_runs": runs,
        "seed": seed,
    }
    comparison = None
    with working(f"simulating {workload.size:,} requests, {runs} times at each load"):
        if split is None:
            curve = served.engine.load_curve(workload, n_replicas=replicas, **question)
        else:
            engines: dict[str, Any] = {"n_prefill": split[0], "n_decode": split[1]}
            comparison = served.engine.compare_disaggregation(
                workload, bandwidth_gbs=link_gbs, **engines, **question
            )
            curve = comparison.aggregated
    if plot is not None:
        _draw(served, curve, comparison, plot, credible)
        say(escape(f"written to {plot}"), quiet=json)
    apart = None if split is None else (*split, link_gbs)
    longest = min(int(workload.prompt_tokens.max()), served.engine.settings.max_num_batched_tokens)
    weak = served.caveats((math.nan, float(longest), math.nan))
    answer: dict[str, Any] = {
        "requests": {
            "source": "a Poisson stream" if trace is None else str(trace),
            "n": workload.size,
            "prompt_tokens_mean": workload.prompt_tokens.mean(),
            "output_tokens_mean": workload.output_tokens.mean(),
        },
        "objective_ms": {"ttft": ttft_ms, "tpot": tpot_ms, "e2e": e2e_ms},
        "attainment": attainment,
        "credible": credible,
        "n_runs": curve.records[0].n_runs,
        "n_engines": n_engines,
        "n_gpus": curve.n_gpus,
        "loads": records(curve.table(credible=credible)),
        "sustained_per_s": curve.sustained(attainment=attainment),
        "max_goodput_per_s": estimate_dict(curve.max_goodput(credible=credible)),
        "disaggregation": _apart_dict(comparison, apart, credible),
    }
    answer["by_length"] = _by_length(curve, answer["sustained_per_s"], credible)
    if json:
        as_json({**served.summary(weak), **answer})
    else:
        requests = answer["requests"]
        served.introduce(
            f"{requests['n']:,} requests of {requests['source']}, prompt"
            f" {requests['prompt_tokens_mean']:.0f} and output"
            f" {requests['output_tokens_mean']:.0f} on average; {n_engines}"
            f" engine{'s' * (n_engines > 1)}; {objective}",
            weak,
        )
        _show(answer)


def _show(answer: dict[str, Any]) -> None:
    """Tables and sentences for people."""
    stdout.print(_curve_table(answer))
    kept = f"more likely than not {100 * answer['attainment']:g} % of requests keep the objective"
    sustained = answer["sustained_per_s"]
    largest = with_interval(tuple(answer["max_goodput_per_s"].values()))
    say(
        (
            f"largest of these loads at which {kept}: [bold]{sustained:g}/s[/bold]"
            if sustained is not None
            else f"[bold]at none of these loads[/bold] {kept}"
        )
        + f"; largest goodput {largest} requests/s"
    )
    _say_lengths(answer["by_length"], answer["credible"])
    apart = answer["disaggregation"]
    if apart is not None:
        say(
            f"prefill and decode apart ({apart['prefill_engines']}:{apart['decode_engines']},"
            f" {apart['link_gbs']:g} GB/s) against {answer['n_engines']} engines that do both"
        )
        stdout.print(_comparison_table(apart["loads"]))


def _split(text: str, replicas: int) -> tuple[int, int]:
    """Prefill and decode engines of --disaggregate."""
    parts = text.split(":")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) >= 1 for part in parts):
        raise InputError(
            f"got --disaggregate {text!r}, expected PREFILL:DECODE engines, at least one of each,"
            " such as 1:1; correct it"
        )
    if replicas != 1:
        raise InputError(
            "got --disaggregate and --replicas, expected one of them: PREFILL:DECODE already says"
            " how many engines; leave --replicas out"
        )
    return int(parts[0]), int(parts[1])


def _workload(
    prompt_tokens: int | None,
    output_tokens: int | None,
    trace: Path | None,
    n_requests: int | None,
    seed: int,
) -> "Workload":
    from bayeslat.engine import Workload

    if trace is not None:
        if prompt_tokens is not None or output_tokens is not None:
            raise InputError(
                "got --trace and lengths, expected one of them: the trace holds the lengths; leave"
                " out --prompt-tokens and --output-tokens"
            )
        whole = Workload.from_trace(trace)
        return whole if n_requests is None else whole.select(slice(n_requests))
    if prompt_tokens is None or output_tokens is None:
        raise InputError(
            "got no requests, expected --prompt-tokens with --output-tokens, or --trace; give them"
        )
    return Workload.poisson(
        1.0,
        n=n_requests or DEFAULT_REQUESTS,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        seed=seed,
    )


def _default_loads(
    served: Served, workload: "Workload", n_engines: int, *, recorded: bool
) -> list[float]:
    """Loads around the capacity of all engines, and the recorded one."""
    from bayeslat.decisions.loads import loads_around

    steady = served.engine.steady_load(
        arrivals_per_s=0.0,
        prompt_tokens=round(workload.prompt_tokens.mean()),
        output_tokens=round(workload.output_tokens.mean()),
        chunk_tokens=served.engine.settings.max_num_batched_tokens,
    )
    loads = set(loads_around(n_engines * steady.capacity_per_s, DEFAULT_LOADS))
    if recorded:
        loads.add(float(f"{workload.arrivals_per_s:.3g}"))
    return sorted(loads)


def _by_length(curve: "LoadCurve", sustained: float | None, credible: float) -> dict[str, Any]:
    """Percentiles by length at the last sustained load, or at the least where none is."""
    loads = curve.arrivals_per_s.tolist()
    at = 0 if sustained is None else loads.index(sustained)
    rows = records(curve.records[at].by_length(credible=credible))
    return {"arrivals_per_s": loads[at], "rows": rows}


def _apart_dict(
    comparison: "Disaggregation | None", apart: tuple[int, int, float] | None, credible: float
) -> dict[str, Any] | None:
    if comparison is None or apart is None:
        return None
    names = ("prefill_engines", "decode_engines", "link_gbs")
    table = records(comparison.table(credible=credible))
    return {**dict(zip(names, apart, strict=True)), "loads": table}


def _draw(
    served: Served,
    curve: "LoadCurve",
    comparison: "Disaggregation | None",
    plot: Path,
    credible: float,
) -> None:
    from bayeslat import plots

    label = served.deployment.label
    figure = (
        plots.plot_load_curve(curve, label=label, credible=credible)
        if comparison is None
        else plots.plot_disaggregation(comparison, label=label, credible=credible)
    )
    save_plot(figure, plot)


def _curve_table(answer: dict[str, Any]) -> "Table":
    columns = {
        "ttft_p50_ms": "TTFT p50, ms",
        "ttft_p99_ms": "TTFT p99, ms",
        "tpot_p99_ms": "TPOT p99, ms",
        "e2e_p99_ms": "E2E p99, ms",
        "attainment": "attainment",
        "goodput_per_s": "goodput, 1/s",
    }
    if answer["objective_ms"]["e2e"] is None:
        del columns["e2e_p99_ms"]
    table = headed(["load, 1/s", *columns.values(), "P(behind)"])
    for row in answer["loads"]:
        table.add_row(f"{row['arrivals_per_s']:g}", *cells(row, columns), number(row["p_behind"]))
    return table


def _comparison_table(rows: list[dict[str, Any]]) -> "Table":
    columns = {
        f"{side}_{name}": f"{heading}, {way}"
        for name, heading in (
            ("goodput_per_gpu_s", "1/s a GPU"),
            ("ttft_p99_ms", "TTFT p99, ms"),
            ("tpot_p99_ms", "TPOT p99, ms"),
        )
        for side, way in (("aggregated", "both"), ("disaggregated", "apart"))
    }
    table = headed(["load, 1/s", *columns.values(), "P(apart wins)"])
    for row in rows:
        wins = number(row["p_disaggregated_wins"])
        table.add_row(f"{row['arrivals_per_s']:g}", *cells(row, columns), wins)
    return table


def _say_lengths(by_length: dict[str, Any], credible: float) -> None:
    """Percentiles by length of prompt, where requests differ in it."""
    rows = by_length["rows"]
    buckets = list(dict.fromkeys(row["bucket"] for row in rows))
    if len(buckets) < 2:
        return
    found = {(row["bucket"], row["metric"], row["percentile"]): row for row in rows}
    columns = {
        ("ttft_ms", "p50"): "TTFT p50, ms",
        ("ttft_ms", "p99"): "TTFT p99, ms",
        ("tpot_ms", "p99"): "TPOT p99, ms",
        ("e2e_ms", "p99"): "E2E p99, ms",
    }
    table = headed(["prompt tokens", "requests", *columns.values()])
    for bucket in buckets:
        chosen = [found[bucket, *key] for key in columns]
        shown = [with_interval((row["value"], row["lower"], row["upper"])) for row in chosen]
        table.add_row(bucket, f"{chosen[0]['n']:,}", *shown)
    say(f"by length at {by_length['arrivals_per_s']:g}/s, {100 * credible:g} % intervals:")
    stdout.print(table)
