"""The command about ways of scheduling an engine: schedule."""

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
    RiskOption,
    SeedOption,
    TpOption,
    as_json,
    check_plot,
    check_positive,
    number,
    save_plot,
    say,
    stdout,
    with_interval,
    working,
)
from bayeslat.cli.served import (
    KvCapacityOption,
    MaxNumSeqsOption,
    OverheadOption,
    OwnOutputTokensOption,
    OwnPromptTokensOption,
    TraceOption,
    TtftOption,
    cells,
    headed,
    open_served,
    records,
)
from bayeslat.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from bayeslat.engine import Workload

__all__ = ["schedule"]

DEFAULT_REQUESTS = 300

COLUMNS = {
    "attainment": "attainment",
    "goodput_per_s": "goodput, 1/s",
    "ttft_p99_ms": "TTFT p99, ms",
    "tpot_p99_ms": "TPOT p99, ms",
    "gap_p99_ms": "gap p99, ms",
}


def schedule(
    posterior: PosteriorArgument,
    gpu: GpuOption,
    model: ModelOption,
    sla_ms: Annotated[float, typer.Option("--sla-ms", help="Limit of a step's latency, ms.")],
    risk: RiskOption = 0.01,
    trace: TraceOption = None,
    arrivals_per_s: Annotated[
        float | None,
        typer.Option("--arrivals-per-s", help="Requests a second; those of the trace by default."),
    ] = None,
    prompt_tokens: OwnPromptTokensOption = None,
    output_tokens: OwnOutputTokensOption = None,
    variability: Annotated[
        float | None,
        typer.Option(
            "--variability", help="Squared variation of the gaps: 1 (default) is a Poisson stream."
        ),
    ] = None,
    n_requests: Annotated[
        int | None,
        typer.Option("--n-requests", help="Requests: 300 by default, or all of the trace.", min=2),
    ] = None,
    policies: Annotated[
        str | None,
        typer.Option("--policies", help="Names, with commas; all by default. See below."),
    ] = None,
    ttft_ms: TtftOption = 2000.0,
    tpot_ms: Annotated[
        float | None,
        typer.Option("--tpot-ms", help="Objective: time per further token; --sla-ms by default."),
    ] = None,
    max_num_seqs: MaxNumSeqsOption = 256,
    max_num_batched_tokens: Annotated[
        int,
        typer.Option("--max-num-batched-tokens", help="Most tokens of a step: the largest chunk."),
    ] = 2048,
    kv_capacity_tokens: KvCapacityOption = None,
    expected_output_tokens: Annotated[
        float | None,
        typer.Option(
            "--expected-output-tokens",
            help="What an SLA-aware scheduler expects; the mean of those that ended by default.",
        ),
    ] = None,
    runs: Annotated[
        int, typer.Option("--runs", help="Posterior draws that are taken for the truth.", min=1)
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
    """Ways of scheduling an engine, compared on the same requests.

    A posterior draw is taken for the truth in each run. Policies: decode-first, prefill-first,
    waiting-threshold and chunked-prefill know nothing of a limit; mean, risk and oracle build every
    step so that it keeps one: by the expected latency, by P(latency > limit) <= risk under the
    posterior, and by the same with the truth known. The limit is one on the step itself, without
    the time between steps.

    [bold]Examples:[/bold]

    bayeslat schedule fleet.nc --gpu H100-80GB --model llama-7b --sla-ms 40 --risk 0.01
    --prompt-tokens 1024 --output-tokens 128 --arrivals-per-s 6 --plot schedulers.png

    bayeslat schedule fleet.nc --gpu H100-80GB --model llama-7b --sla-ms 40 --trace requests.csv
    --policies chunked-prefill,mean,risk
    """
    check_plot(plot)
    for option, limit in (
        ("--sla-ms", sla_ms), ("--ttft-ms", ttft_ms), ("--tpot-ms", tpot_ms),
        ("--arrivals-per-s", arrivals_per_s), ("--expected-output-tokens", expected_output_tokens),
    ):  # fmt: skip
        check_positive(option, limit)
    from bayeslat.decisions import SCHEDULERS, ServiceObjective, compare_schedulers
    from bayeslat.decisions.schedulers import scheduler_named
    from bayeslat.engine import EngineSettings
    from bayeslat.predictive.estimate import check_probability

    check_probability("credible", credible)
    check_probability("risk", risk)
    chosen = (
        SCHEDULERS
        if policies is None
        else [scheduler_named(name.strip()) for name in policies.split(",")]
    )
    settings = EngineSettings(
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        kv_capacity_tokens=kv_capacity_tokens,
        expected_output_tokens=expected_output_tokens,
    )
    workload = _workload(
        trace, arrivals_per_s, prompt_tokens, output_tokens, variability, n_requests, seed
    )
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
    objective = ServiceObjective(ttft_ms, sla_ms if tpot_ms is None else tpot_ms)
    with working(f"serving {workload.size:,} requests by {len(chosen)} schedulers, {runs} times"):
        comparison = compare_schedulers(
            served.engine.draws,
            workload,
            served.engine.settings,
            sla_ms=sla_ms,
            risk=risk,
            objective=objective,
            schedulers=chosen,
            overhead=served.engine.overhead,
            n_runs=runs,
            seeds=(seed,),
        )
    if plot is not None:
        from bayeslat import plots

        label = served.deployment.label
        save_plot(plots.plot_schedulers(comparison, label=label, credible=credible), plot)
        say(escape(f"written to {plot}"), quiet=json)
    longest = min(int(workload.prompt_tokens.max()), served.engine.settings.max_num_batched_tokens)
    weak = served.caveats((math.nan, float(longest), math.nan))
    answer: dict[str, Any] = {
        "requests": {
            "source": "a stream" if trace is None else str(trace),
            "n": workload.size,
            "arrivals_per_s": workload.arrivals_per_s,
            "prompt_tokens_mean": workload.prompt_tokens.mean(),
            "output_tokens_mean": workload.output_tokens.mean(),
        },
        "sla_ms": sla_ms,
        "risk": risk,
        "objective_ms": {"ttft": objective.ttft_ms, "tpot": objective.tpot_ms},
        "credible": credible,
        "n_runs": comparison.records[0][0].n_runs,
        "schedulers": records(comparison.table(credible=credible)),
    }
    if json:
        as_json({**served.summary(weak), **answer})
        return
    requests = answer["requests"]
    served.introduce(
        f"{requests['n']:,} requests of {requests['source']} at"
        f" {number(requests['arrivals_per_s'])}/s, prompt {requests['prompt_tokens_mean']:.0f} and"
        f" output {requests['output_tokens_mean']:.0f} on average; limit of a step {sla_ms:g} ms,"
        f" risk {risk:g}; {objective}",
        weak,
    )
    _show(answer)


def _show(answer: dict[str, Any]) -> None:
    """Tables and sentences for people."""
    stdout.print(_table(answer))
    rows = {row["scheduler"]: row for row in answer["schedulers"]}
    if "risk" in rows:
        row = rows["risk"]
        say(
            "[bold]risk[/bold]: over the limit in"
            f" {number(100 * row['over_sla_chosen'])} ±"
            f" {number(100 * row['over_sla_chosen_error'])} % of the steps that had a choice, on"
            f" average over what is not known, of {100 * answer['risk']:g} % admitted; more than"
            f" that in {number(100 * row['p_breaks_risk'])} % of the truths"
        )
    forced = [row for row in answer["schedulers"] if row["forced"] > 0.0]
    for row in forced:
        say(
            f"{escape(row['scheduler'])}: {number(100 * row['forced'])} % of the steps were forced:"
            " a request that does not fit alone is served all the same"
        )


def _table(answer: dict[str, Any]) -> "Table":
    last = {"fairness": "fairness", "goodput_ratio": "of oracle's"}
    shown = [name for name in last if name in answer["schedulers"][0]]
    headings = ["scheduler", "steps over, %", *COLUMNS.values(), *(last[name] for name in shown)]
    table = headed(headings)
    for row in answer["schedulers"]:
        over = tuple(100.0 * row[f"over_sla_chosen{side}"] for side in ("", "_lower", "_upper"))
        beside = [number(row[name]) for name in shown]
        table.add_row(escape(row["scheduler"]), with_interval(over), *cells(row, COLUMNS), *beside)
    return table


def _workload(
    trace: Path | None,
    arrivals_per_s: float | None,
    prompt_tokens: int | None,
    output_tokens: int | None,
    variability: float | None,
    n_requests: int | None,
    seed: int,
) -> "Workload":
    from bayeslat.engine import Workload

    if trace is not None:
        if not prompt_tokens is output_tokens is variability is None:
            raise InputError(
                "got --trace and lengths or a variability, expected one of them: the trace holds"
                " both; leave out --prompt-tokens, --output-tokens and --variability"
            )
        whole = Workload.from_trace(trace)
        chosen = whole if n_requests is None else whole.select(slice(n_requests))
        return chosen if arrivals_per_s is None else chosen.at_rate(arrivals_per_s)
    if prompt_tokens is None or output_tokens is None or arrivals_per_s is None:
        raise InputError(
            "got no requests, expected --arrivals-per-s with --prompt-tokens and --output-tokens,"
            " or --trace; give them"
        )
    return Workload.bursty(
        arrivals_per_s,
        variability=1.0 if variability is None else variability,
        n=n_requests or DEFAULT_REQUESTS,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        seed=seed,
    )
