"""The command about ways of batching: queue."""

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
    SeedOption,
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
    working,
)
from bayeslat.cli.served import (
    LoadsOption,
    OutputTokensOption,
    OverheadOption,
    PromptTokensOption,
    TraceOption,
    cells,
    headed,
    open_served,
    parse_loads,
    records,
)
from bayeslat.errors import InputError

if TYPE_CHECKING:
    from bayeslat.decisions import BatchService, Fallback, PolicyComparison

__all__ = ["queue"]

DEFAULT_LOADS = (0.2, 0.4, 0.6, 0.8, 0.95)
"""Shares of the capacity with full batches."""

STABLE = 0.05
"""A load counts as sustained up to this probability that requests pile up."""


def queue(
    posterior: PosteriorArgument,
    gpu: GpuOption,
    model: ModelOption,
    prompt_tokens: PromptTokensOption,
    output_tokens: OutputTokensOption = 1,
    loads: LoadsOption = None,
    max_batch: Annotated[
        int, typer.Option("--max-batch", help="Most requests of a batch.", min=1)
    ] = 16,
    max_wait_ms: Annotated[
        float, typer.Option("--max-wait-ms", help="How long to wait for a full batch.", min=0.0)
    ] = 50.0,
    cut_ms: Annotated[
        float | None,
        typer.Option("--cut-ms", help="Wait after which a request leaves for the fallback."),
    ] = None,
    fallback_ms: Annotated[
        float | None, typer.Option("--fallback-ms", help="Mean service of the fallback.")
    ] = None,
    sla_ms: Annotated[
        float | None, typer.Option("--sla-ms", help="Limit on the p99 from arrival to answer.")
    ] = None,
    trace: TraceOption = None,
    overhead_ms: OverheadOption = None,
    tp: TpOption = None,
    engine: EngineOption = None,
    precision: PrecisionOption = None,
    credible: CredibleOption = 0.9,
    seed: SeedOption = 0,
    plot: PlotOption = None,
    json: JsonOption = False,
) -> None:
    """One server whose batches are served from start to end: how to batch, and at which loads.

    Compares one request at a time, full batches, and batches of what has come when the oldest has
    waited long enough, without and with a fallback server for those who wait too long. Requests
    are equal and come as a Poisson stream, or at the times of a trace, stretched to each load.

    [bold]Example:[/bold] bayeslat queue fleet.nc --gpu H100-80GB --model llama-7b --prompt-tokens
    512 --sla-ms 200 --cut-ms 500 --fallback-ms 50 --plot queue.png
    """
    check_positive("--sla-ms", sla_ms)
    check_plot(plot)
    given = None if loads is None else parse_loads(loads)
    from bayeslat.decisions import standard_policies
    from bayeslat.decisions.loads import loads_around
    from bayeslat.decisions.policies import compare_policies
    from bayeslat.engine import Workload
    from bayeslat.predictive.estimate import check_probability

    check_probability("credible", credible)
    policies = standard_policies(
        max_batch, max_wait_ms=max_wait_ms, fallback=_fallback(cut_ms, fallback_ms)
    )
    arrivals = None if trace is None else Workload.from_trace(trace)
    served = open_served(
        posterior, gpu, model, overhead_ms=overhead_ms, tp=tp, engine=engine, precision=precision
    )
    service = served.engine.batch_service(
        prompt_tokens=prompt_tokens, output_tokens=output_tokens, max_batch=max_batch, seed=seed
    )
    rates = given or loads_around(service.capacity_per_draw(), DEFAULT_LOADS)
    with working("simulating the queues"):
        compared = compare_policies(
            service, policies, arrivals_per_s=rates, arrivals=arrivals, seed=seed
        )
    _refuse_unstable(compared, service)
    table = records(compared.table(credible=credible))
    alone = [] if arrivals is not None else _alone(service, rates, sla_ms or max_wait_ms, credible)
    largest_step = min(max_batch * prompt_tokens, served.engine.settings.max_num_batched_tokens)
    weak = served.caveats((max_batch, largest_step, max_batch * (prompt_tokens + output_tokens)))
    answer: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "output_tokens": output_tokens,
        "credible": credible,
        "max_wait_ms": max_wait_ms,
        "arrivals": "poisson" if trace is None else str(trace),
        "floor_ms": estimate_dict(service.floor_ms(credible=credible)),
        "capacity_per_s": estimate_dict(service.capacity_per_s(credible=credible)),
        "policies": table,
        "one_at_a_time": alone,
        "sustained": compared.sustained(unstable=STABLE),
        "sla_ms": sla_ms,
        "within_sla": None if sla_ms is None else compared.keeping(sla_ms, credible=credible),
        "warnings": _warnings(table),
    }
    if plot is not None:
        from bayeslat import plots

        figure = plots.plot_policies(
            compared, label=served.deployment.label, credible=credible, sla_ms=sla_ms
        )
        save_plot(figure, plot)
        say(escape(f"written to {plot}"), quiet=json)
    if json:
        as_json({**served.summary(weak), **answer})
        return
    source = "a Poisson stream" if trace is None else f"the arrivals of {trace}, stretched"
    served.introduce(f"prompt {prompt_tokens}, output {output_tokens}, {source}", weak)
    _show(answer)


def _show(answer: dict[str, Any]) -> None:
    """Tables and sentences for people."""
    floor, capacity = (tuple(answer[name].values()) for name in ("floor_ms", "capacity_per_s"))
    say(
        f"a request alone takes {in_ms(floor)}; batches serve at most {with_interval(capacity)}"
        " requests/s"
    )
    stdout.print(_policy_table(answer))
    for line in answer["warnings"]:
        say(f"[yellow]warning: {escape(line)}[/yellow]")
    if answer["one_at_a_time"]:
        stdout.print(_alone_table(answer))
    parts = [
        f"{name} {'none' if load is None else f'{load:g}/s'}"
        for name, load in answer["sustained"].items()
    ]
    say(f"largest of these loads with P(unstable) <= {STABLE:g}: {', '.join(parts)}")
    if answer["sla_ms"] is not None:
        _say_within(answer["within_sla"], answer["sla_ms"], floor)


def _fallback(cut_ms: float | None, fallback_ms: float | None) -> "Fallback | None":
    if (cut_ms is None) != (fallback_ms is None):
        raise InputError(
            "got one of --cut-ms and --fallback-ms, expected both or neither: when a request"
            " leaves, and how long the fallback takes; give the other"
        )
    if cut_ms is None or fallback_ms is None:
        return None
    from bayeslat.decisions import Fallback

    return Fallback(cut_ms, fallback_ms)


def _refuse_unstable(compared: "PolicyComparison", service: "BatchService") -> None:
    """Refuse a question about which nothing can be said: all would wait for ever."""
    if compared.unstable.all():
        raise InputError(
            f"got --loads {', '.join(f'{load:g}' for load in compared.arrivals_per_s)}, at which"
            " requests pile up in every draw, whatever the policy, expected less than"
            f" {service.capacity_per_draw().max():.3g} requests/s; lower the loads"
        )
    for policy, unstable in zip(compared.policies, compared.unstable, strict=True):
        if policy.fallback is not None and unstable.all():
            raise InputError(
                f"got --fallback-ms {policy.fallback.service_ms:g}, with which requests pile up"
                " before the fallback at every load, expected one that keeps up; lower it, raise"
                " --cut-ms or lower the loads"
            )


def _alone(
    service: "BatchService", rates: list[float], t_ms: float, credible: float
) -> list[dict[str, Any]]:
    """Waits of requests served one at a time, exactly, at the loads that any draw sustains."""
    from bayeslat.decisions.queues import posterior_queue

    rows = []
    for rate in rates:
        if rate >= service.capacity_per_draw(1).max():
            continue
        line = posterior_queue(service, arrivals_per_s=rate)
        rows.append(
            {
                "arrivals_per_s": rate,
                "utilisation": estimate_dict(line.load(credible=credible)),
                "mean_wait_ms": estimate_dict(line.mean_wait_ms(credible=credible)),
                "t_ms": t_ms,
                "p_wait_exceeds_t": estimate_dict(line.wait_sf(t_ms, credible=credible)),
                "p_unstable": line.probability_unstable,
            }
        )
    return rows


def _warnings(table: list[dict[str, Any]]) -> list[str]:
    return [
        f"at {row['arrivals_per_s']:g}/s the p99 that a Poisson overflow would have at the"
        f" fallback is exceeded in {100 * (1 - row['bound_holds']):.0f} % of the draws: overflow"
        " comes in bursts; rely on the simulated p99"
        for row in table
        if row["bound_holds"] < 1.0
    ]


def _policy_table(answer: dict[str, Any]) -> Table:
    rows, sla_ms = answer["policies"], answer["sla_ms"]
    share = f"[{100 * answer['credible']:g} %]"
    headings = ["policy", "load, 1/s", f"p50, ms {share}", f"p99, ms {share}", "P(unstable)"]
    headings.append("mean batch")
    if any(row["overflow"] > 0 for row in rows):
        headings.append("overflow")
    if sla_ms is not None:
        headings.append(f"p99 <= {sla_ms:g} ms")
    table = headed(headings)
    table.columns[0].justify = "left"
    before = ""
    for row in rows:
        shown = [f"{row['arrivals_per_s']:g}", *cells(row, ("p50_ms", "p99_ms"))]
        shown += [number(row["p_unstable"]), number(row["mean_batch"])]
        if "overflow" in headings:
            shown.append(number(row["overflow"]))
        if sla_ms is not None:
            shown.append(_verdict(row, sla_ms))
        table.add_row("" if row["policy"] == before else row["policy"], *shown)
        before = row["policy"]
    return table


def _verdict(row: dict[str, Any], sla_ms: float) -> str:
    if row["p99_ms_upper"] <= sla_ms:
        return "[green]yes[/green]"
    return "[yellow]likely[/yellow]" if row["p99_ms"] <= sla_ms else "[red]no[/red]"


def _alone_table(answer: dict[str, Any]) -> Table:
    rows, share = answer["one_at_a_time"], f"[{100 * answer['credible']:g} %]"
    wait = f"P(W > {rows[0]['t_ms']:g} ms)"
    table = headed(
        ["load, 1/s", f"rho {share}", f"E(W), ms {share}", wait, "P(unstable)"],
        title="one at a time, M/G/1",
    )
    for row in rows:
        names = ("utilisation", "mean_wait_ms", "p_wait_exceeds_t")
        shown = [with_interval(tuple(row[name].values())) for name in names]
        table.add_row(f"{row['arrivals_per_s']:g}", *shown, number(row["p_unstable"]))
    return table


def _say_within(
    found: dict[str, dict[str, list[float]]], sla_ms: float, floor: tuple[float, ...]
) -> None:
    kept = {name: own for name, own in found.items() if own["likely"]}
    if sla_ms < floor[0]:
        say(
            f"[bold]no configuration meets it[/bold]: p99 <= {sla_ms:g} ms; the floor is"
            f" {in_ms(floor)}"
        )
    elif not kept:
        say(
            f"[bold]no policy keeps p99 <= {sla_ms:g} ms[/bold] at these loads; the floor is"
            f" {in_ms(floor)}"
        )
    for name, own in kept.items():
        likely, surely = (", ".join(f"{load:g}" for load in own[key]) for key in own)
        say(f"p99 <= {sla_ms:g} ms: {name} at {likely}/s; with confidence at {surely or 'none'}")
