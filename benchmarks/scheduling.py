"""Scheduling policies on the same requests and truths: ``python benchmarks/scheduling.py``.

* Truths from a posterior: deployments of the released fleets and a cold start, whose step times are
  known less well. Each run's truth is a posterior draw; schedulers that keep to a limit know all
  draws (`mean`, `risk`) or the one that is true (`oracle`). Recorded requests of two services and a
  bursty stream, at two loads each.
* Truths that are no draws: the simulated deployments that `reference-fleet` was fitted to. The
  engine runs with their true mechanism, noise replaced by a Student-t of the same median, p90 and
  quantile at the risk; the probability that a step of the run exceeds the limit is exact.

Reads the recorded requests beside the repository. Writes ``benchmarks/results/scheduling.md`` and a
picture.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from scipy import optimize, stats

import bayeslat as bl
from bayeslat.decisions.loads import loads_around
from bayeslat.decisions.schedulers import SCHEDULERS, Scheduler
from bayeslat.decisions.scheduling import SchedulerComparison, compare_schedulers
from bayeslat.decisions.serving import ServiceObjective, StepOverhead, step_times
from bayeslat.decisions.step_gates import mean_gates, oracle_gates, risk_gates
from bayeslat.engine import StepTimes, nodes, simulate_engine
from bayeslat.noise import FAMILIES

DATA: Final = Path(__file__).parents[2] / "shared" / "data"
RESULTS: Final = Path(__file__).parent / "results"
RISK: Final = 0.02
TOLERATED: Final = 1.2
GOODPUT: Final = 0.95
SHARES: Final = (0.7, 1.1)
SEED: Final = 3
GAP_ROOM: Final = 1.1
"""Promised time per token over the limit of a step: the gap between steps needs room too."""

LIMITS: Final = {"max_num_seqs": 128, "max_num_batched_tokens": 2048}
PLAIN: Final = (
    *SCHEDULERS[:4],
    Scheduler("chunked-prefill, 512", {"max_num_batched_tokens": 512}),
)


@dataclass(frozen=True)
class Case:
    """A deployment with the limit of its steps."""

    name: str
    engine: bl.ServedDeployment
    sla_ms: float

    @property
    def objective(self) -> ServiceObjective:
        """What a user is promised."""
        return ServiceObjective(ttft_ms=2_000.0, tpot_ms=GAP_ROOM * self.sla_ms)


def cases() -> list[Case]:
    """A simulated and a measured deployment that the fleet knows, and one that it does not."""
    reference, public = bl.load_released("reference-fleet"), bl.load_released("public-fleet")
    new = bl.Deployment("H200", "llama-13b", 1, "simulated")
    cold = reference.cold_start(reference.catalog.gpu("H200"), deployments=[new])
    found = [
        Case(
            "reference-fleet: H100-80GB, llama-13b",
            reference.serving("H100-80GB", "llama-13b"),
            50.0,
        ),
        Case(
            "public-fleet: A100-80GB, llama-13b",
            public.serving("A100-80GB", "llama-13b", tp=1),
            80.0,
        ),
        Case(
            "cold start from reference-fleet: H200, llama-13b",
            cold.serving("H200", "llama-13b"),
            50.0,
        ),
    ]
    return [replace(one, engine=one.engine.with_settings(**LIMITS)) for one in found]


def workloads(n: int) -> dict[str, bl.Workload]:
    """Requests without regard to their rate."""
    rng = np.random.default_rng(SEED)
    found = {
        f"Azure {name}": bl.Workload.from_trace(DATA / f"trace_azure_2023_{name[:4]}.csv").select(
            slice(n)
        )
        for name in ("code", "conversation")
    }
    found["bursty"] = bl.Workload.bursty(
        1.0,
        variability=5.0,
        n=n,
        prompt_tokens=np.ceil(rng.lognormal(np.log(500.0), 0.8, 500)),
        output_tokens=np.ceil(rng.lognormal(np.log(120.0), 0.6, 500)),
        seed=SEED,
    )
    return found


def loads(case: Case, served: bl.Workload) -> list[float]:
    """Shares of what continuous batching sustains with chunks of 512."""
    steady = case.engine.steady_load(
        arrivals_per_s=0.0,
        prompt_tokens=round(served.prompt_tokens.mean()),
        output_tokens=round(served.output_tokens.mean()),
        chunk_tokens=512,
    )
    return loads_around(steady.capacity_per_s, SHARES)


def limited(
    case: Case, n_runs: int, *, share: float | None = None, tokens: int
) -> tuple[StepTimes, list[Scheduler]]:
    """Truths of a case, and the schedulers that know more or less of them, gates made once."""
    times = step_times(
        case.engine.draws,
        max_batch_size=LIMITS["max_num_seqs"],
        max_total_tokens=tokens,
        n_runs=n_runs,
        repeated_share=share,
    )
    asked = {"sla_ms": case.sla_ms, "risk": RISK}
    gates = {
        "mean": mean_gates(case.engine.draws, times, sla_ms=case.sla_ms),
        "risk": risk_gates(case.engine.draws, times, **asked),
        "oracle": oracle_gates(times, **asked),
    }
    own = [Scheduler(name, gate=gate) for name, gate in gates.items()]
    return times, own


def compared(n: int, n_runs: int, *, shares: tuple[float | None, ...]) -> Iterator[dict[str, Any]]:
    """Every deployment with every workload at every load."""
    for case in cases():
        for repeated in shares:
            times, schedulers = limited(
                case, n_runs, share=repeated, tokens=LIMITS["max_num_batched_tokens"]
            )
            for name, served in workloads(n).items():
                chosen = list(zip(SHARES, loads(case, served), strict=True))
                for share, load in chosen if repeated is None else chosen[-1:]:
                    found = case_with(case, served.at_rate(load), schedulers, truth=times)
                    print(f"{case.name}, {repeated}, {name}, {load:g}/s", flush=True)
                    yield {
                        "case": case, "workload": name, "share": share, "load": load,
                        "repeated": repeated, "found": found,
                    }  # fmt: skip


def all_schedulers(n: int, n_runs: int) -> Iterator[dict[str, Any]]:
    """Every scheduler at the larger load, in fewer truths."""
    streams = workloads(n)
    longest = max(int((one.prompt_tokens + one.output_tokens).max()) for one in streams.values())
    for case in cases():
        times, schedulers = limited(case, n_runs, tokens=longest)
        for name, served in streams.items():
            load = loads(case, served)[-1]
            found = case_with(case, served.at_rate(load), [*PLAIN, *schedulers], truth=times)
            print(f"all: {case.name}, {name}, {load:g}/s", flush=True)
            yield {"case": case, "workload": name, "load": load, "found": found}


def case_with(
    case: Case, served: bl.Workload, schedulers: Any, **options: Any
) -> SchedulerComparison:
    return compare_schedulers(
        case.engine.draws,
        served,
        case.engine.settings,
        sla_ms=case.sla_ms,
        risk=RISK,
        objective=case.objective,
        schedulers=schedulers,
        overhead=case.engine.overhead,
        seeds=(SEED,),
        **options,
    )


# Truths that are no draws


def known_step_times(truth: Any, settings: bl.EngineSettings, *, context: float) -> StepTimes:
    """A simulated deployment as the engine reads it: a line in C at every node.

    The line goes through a step that attends to its own tokens and one whose requests have
    `context` positions each. The noise is a Student-t with the jitter's median, p90 and quantile
    at the risk.
    """
    batch, extra = nodes(1, settings.max_num_seqs), nodes(0, settings.max_num_batched_tokens)
    rows, columns = np.meshgrid(batch, extra, indexing="ij")
    tokens, far = rows + columns, rows * context + columns
    typical, jitter = truth.mechanism.typical_ms, truth.jitter
    middle, p90, tail = (float(jitter.ppf(q)) for q in (0.5, 0.9, 1.0 - RISK))
    reach = (tail - middle) / (p90 - middle)

    def mismatch(nu: float) -> float:
        return float(stats.t.ppf(1.0 - RISK, nu) / stats.t.ppf(0.9, nu) - reach)

    nu = optimize.brentq(mismatch, 0.5, 200.0)
    sigma = (p90 / middle - 1.0) / stats.t.ppf(0.9, nu)
    near, later = typical(rows, tokens, tokens), typical(rows, tokens, far)
    slope = np.maximum((later - near) / np.maximum(far - tokens, 1), 0.0)
    level = np.maximum(middle * (near - slope * tokens), 0.0)
    return StepTimes(
        batch, extra, level[None], middle * slope[None], np.full((1, *level.shape), sigma),
        np.array([nu]), "student_t",
    )  # fmt: skip


def known_truths(n: int) -> Iterator[dict[str, Any]]:
    """Schedulers of `reference-fleet` on the deployments that it was fitted to."""
    simulated, fleet = bl.simulate_fleet(), bl.load_released("reference-fleet")
    served = workloads(n)["Azure conversation"]
    for deployment, truth in simulated.truth.items():
        engine = fleet.serving(**deployment._asdict()).with_settings(**LIMITS)
        longest = served.prompt_tokens + served.output_tokens
        kept = served.select(longest <= (engine.settings.kv_capacity_tokens or np.inf))
        times = known_step_times(truth, engine.settings, context=1_000.0)
        decode = {"batch_size": 16, "total_tokens": 16, "context_tokens": 16_000}
        sla = float(f"{2.5 * simulated.mean(*deployment[:2], **decode):.2g}")
        case = Case(deployment.label, engine, sla)
        load = loads(case, kept)[0]
        asked = {"sla_ms": sla, "risk": RISK}
        gates = {
            "mean": mean_gates(engine.draws, times, sla_ms=sla),
            "risk": risk_gates(engine.draws, times, **asked),
            "oracle": oracle_gates(times, **asked),
        }
        row: dict[str, Any] = {"deployment": deployment.label, "sla_ms": sla, "load": load}
        for name, gate in gates.items():
            records = simulate_engine(
                kept.at_rate(load), replace(engine.settings, sla_aware=True), times,
                overhead_ms=StepOverhead().median_ms, gates=gate, sla_ms=sla, seed=SEED,
                n_logged_steps=200_000,
            )  # fmt: skip
            log = records.step_log()
            exact = simulated.sf(
                sla, *deployment[:2], batch_size=log.batch_size, total_tokens=log.total_tokens,
                context_tokens=log.context_tokens,
            )  # fmt: skip
            row[name] = float(records.over_sla().value)
            row[f"{name}_exact"] = float(exact.mean())
            row[f"{name}_goodput"] = float(records.attainment(**case.objective.limits()).value)
            row["forced"] = max(row.get("forced", 0.0), records.total("forced_steps").value)
        yield row


# Tables

INTRODUCTION: Final = (
    "`mean`, `risk` and `oracle` build every step so that a gate says yes to it: the expected"
    " latency is within the limit, P(latency > limit) <= risk under the posterior predictive, or"
    " the same with the true parameters known. Admitted risk: "
    f"{100 * RISK:g} %. The limit is one on the latency of a step without the gap between steps."
    f" A limit counts as kept up to {TOLERATED:g} x the risk, and goodput as near the oracle's from"
    f" {100 * GOODPUT:g} % on. Requests are promised their first token within 2 s and further ones"
    f" at {GAP_ROOM:g} x the limit of a step. Loads are shares of what continuous batching with"
    " chunks of 512 tokens and no limit would sustain; the recorded requests of Azure code come in"
    " bursts that keep the engine full at either load.",
    "",
    "Who knows less has to leave more room: where a deployment was never measured the risk-aware"
    " scheduler computes prompts in smaller parts than one that knows the truth, and its goodput"
    " falls short of the oracle's by what the doubt costs. It promises the risk over all that is"
    " not known: in a truth that is slower than most it exceeds the limit more often, and the"
    " column of such truths says in how many.",
)
HEADINGS: Final = {
    None: "### Part of the noise comes back in every step of a run, how much is not known (the"
    " default of serving)",
    0.0: "### All noise is new in every step, as in the posterior predictive of a step",
}
EDGE: Final = (
    "### At the edge of what the gate of `risk` lets through",
    "",
    "Mean over all draws of P(latency > limit) for steps whose context is the largest that fits, by"
    " what the noise of serving is taken to be. With all noise new it is the admitted risk, as it"
    " has to be. Noise that comes back is drawn as a lognormal factor of the same variance; where"
    " the Student-t is heavy its 98th percentile is further out than that of the Student-t itself,"
    " which is what a gate made from the posterior predictive of a step allows for. A run in which"
    " every step stood at the edge would exceed the limit that often.",
)
KNOWN: Final = (
    "The deployments that `reference-fleet` was fitted to, Azure conversation at the smaller load."
    " The engine reads their mechanism from tables, which smooth the stairs it has over token"
    " counts; in brackets is the mean of the exact probability, under the mechanism itself, that"
    " the steps which the engine took exceed the limit.",
)


def share(value: float) -> str:
    return "-" if np.isnan(value) else f"{100.0 * value:.2f}"


def verdict(found: SchedulerComparison) -> tuple[bool, bool, bool]:
    """Whether the mean breaks the risk, the risk is kept, and the goodput is near the oracle's."""
    broken, kept = (
        found.estimate("over_sla_chosen", name).value / RISK for name in ("mean", "risk")
    )
    goodput = found.against("goodput_per_s", "risk").value
    return broken > TOLERATED, not kept > TOLERATED, bool(goodput >= GOODPUT)


def summary(rows: list[dict[str, Any]], repeated: float | None) -> list[str]:
    rows = [row for row in rows if row["repeated"] == repeated]
    answers = np.array([verdict(row["found"]) for row in rows])
    broken = answers[:, 0]
    lines = [
        "| deployment | requests | load, 1/s (share) | mean: over, % | risk: over, % |"
        " oracle: over, % | truths where risk breaks it | attainment, oracle | goodput, risk /"
        " oracle | goodput, mean / oracle | mean breaks it | risk keeps it | goodput near |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---|---|---|",
    ]
    for row in rows:
        found: SchedulerComparison = row["found"]
        over = {
            name: found.estimate("over_sla_chosen", name).value
            for name in ("mean", "risk", "oracle")
        }
        error = found.error("over_sla_chosen", "risk")
        near = {name: found.against("goodput_per_s", name) for name in ("risk", "mean")}
        words = ["yes" if answer else "no" for answer in verdict(found)]
        lines.append(
            f"| {row['case'].name} | {row['workload']} | {row['load']:g} ({row['share']:g}) |"
            f" {share(over['mean'])} | {share(over['risk'])} ± {share(error)} |"
            f" {share(over['oracle'])} | {share(found.breaks_risk('risk'))} % |"
            f" {found.estimate('attainment', 'oracle').value:.2f} | {near['risk']:.3f} |"
            f" {near['mean']:.3f} | {' | '.join(words)} |"
        )
    least = min(rows, key=lambda row: row["found"].against("goodput_per_s", "risk").value)
    lowest = least["found"].against("goodput_per_s", "risk").value
    forced = max(row["found"].estimate("forced", "risk").value for row in rows)
    return [
        *lines,
        "",
        f"The mean breaks {TOLERATED:g} x the risk in {broken.sum()} of {len(rows)}; the risk-aware"
        f" scheduler keeps it in {answers[:, 1].sum()}, with {100 * GOODPUT:g} % of the oracle's"
        f" goodput in {answers[:, 2].sum()}. Where the mean breaks it, both hold in"
        f" {answers[broken][:, 1:].all(axis=1).sum()} of {broken.sum()}. The least goodput of the"
        f" risk-aware scheduler beside the oracle's is {lowest:.3f} ({least['case'].name},"
        f" {least['workload']}, {least['load']:g}/s). At most {share(forced)} % of its steps were"
        " forced.",
    ]


def detail(row: dict[str, Any]) -> list[str]:
    found: SchedulerComparison = row["found"]
    lines = [
        f"### {row['case'].name}; {row['workload']}, {row['load']:g} requests/s",
        "",
        f"Limit of a step {found.sla_ms:g} ms; {found.objective}.",
        "",
        "| scheduler | steps over, % | of steps with decodes, % | truths over risk, % | attainment"
        " | goodput / oracle | TTFT p99, ms | TPOT p99, ms | gap p99, ms | tokens/s | Jain |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in found.names:
        over = found.estimate("over_sla_chosen", name)
        of = {
            metric: found.estimate(metric, name)
            for metric in (
                "attainment",
                "ttft_p99_ms",
                "tpot_p99_ms",
                "gap_p99_ms",
                "tokens_per_s",
                "fairness",
            )
        }
        lines.append(
            f"| {name} | {share(over.value)} [{share(over.lower)}, {share(over.upper)}] |"
            f" {share(found.estimate('over_sla_decodes', name).value)} |"
            f" {100.0 * found.breaks_risk(name):.0f} | {of['attainment']:.2f} |"
            f" {found.against('goodput_per_s', name):.3f} | {of['ttft_p99_ms']:,.0f} |"
            f" {of['tpot_p99_ms']:,.0f} | {of['gap_p99_ms']:,.0f} | {of['tokens_per_s']:,.0f} |"
            f" {of['fairness']:.2f} |"
        )
    return [*lines, ""]


def edge_lines() -> list[str]:
    """P(latency > limit) of steps at the edge of the gate, over all draws."""
    lines = [
        "| deployment | noise comes back in part, % | all noise is new, % | steps |",
        "|---|---:|---:|---:|",
    ]
    for case in cases():
        found = [at_the_edge(case, share) for share in (None, 0.0)]
        ranges = [f"{share(own.min())} to {share(own.max())}" for own in found]
        lines.append(f"| {case.name} | {' | '.join(ranges)} | {found[0].size} |")
    return lines


def at_the_edge(case: Case, repeated: float | None) -> np.ndarray:
    """P(latency > limit), mean over draws, of steps with the largest context that fits."""
    draws = case.engine.draws
    times = step_times(
        draws, max_batch_size=64, max_total_tokens=256, n_runs=draws.n_draws,
        repeated_share=repeated,
    )  # fmt: skip
    limit = risk_gates(draws, times, sla_ms=case.sla_ms, risk=RISK).older[0]
    least = times.batch_nodes[:, None] + times.extra_nodes
    level = times.location + times.per_position * limit
    z = (case.sla_ms / level - 1.0) / times.sigma
    over = FAMILIES[times.family].standard_sf(z, times.nu[:, None, None]).mean(axis=0)
    return np.asarray(over[limit > least])


def known_lines(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| deployment | limit, ms | load, 1/s | mean: over, % (exact) | risk: over, % (exact) |"
        " oracle: over, % (exact) | attainment, mean | risk | oracle |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    names = ("mean", "risk", "oracle")
    for row in rows:
        over = [f"{share(row[name])} ({share(row[f'{name}_exact'])})" for name in names]
        kept = [f"{row[f'{name}_goodput']:.3f}" for name in names]
        lines.append(
            f"| {row['deployment']} | {row['sla_ms']:g} | {row['load']:g} |"
            f" {' | '.join([*over, *kept])} |"
        )
    average = {name: np.mean([row[name] for row in rows]) for name in names}
    broken = {name: sum(row[name] > TOLERATED * RISK for row in rows) for name in names}
    goodput = np.sum([row["risk_goodput"] for row in rows]) / np.sum(
        [row["oracle_goodput"] for row in rows]
    )
    return [
        *lines,
        "",
        "Over deployments, with an admitted risk of "
        f"{share(RISK)} %: "
        + "; ".join(
            f"{name} {share(value)} % of the steps over, more than {TOLERATED:g} x the risk in"
            f" {broken[name]} of {len(rows)}"
            for name, value in average.items()
        )
        + f". Attainment, risk over oracle: {goodput:.3f}.",
    ]


def draw(rows: list[dict[str, Any]], more: list[dict[str, Any]]) -> Figure:
    """Steps over the limit against goodput, a panel for each deployment.

    What schedulers with a gate do depends on the truth: theirs is from `more` truths.
    """
    known = {(row["case"].name, row["workload"], row["load"]): row["found"] for row in more}
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    names = list(dict.fromkeys(row["case"].name for row in rows))
    tints = "#9A9A9A", "#44AAEE", "#B8860B", "#0072B2", "#AA4499", "#D55E00", "#009E73", "#000000"
    colours = dict(zip(rows[0]["found"].names, tints, strict=True))
    markers = {"Azure code": "o", "Azure conversation": "^", "bursty": "s"}
    for axes, case in zip(figure.subplots(1, len(names), sharey=True), names, strict=True):
        for row in (row for row in rows if row["case"].name == case):
            for name in row["found"].names:
                precise = known[row["case"].name, row["workload"], row["load"]]
                found = precise if name in precise.names else row["found"]
                over = max(found.estimate("over_sla_chosen", name).value, 1e-5)
                near = found.against("goodput_per_s", name).value
                axes.plot(
                    near, over, markers[row["workload"]], color=colours[name], ms=6, alpha=0.8,
                    label=name if row["workload"] == "Azure code" else None,
                )  # fmt: skip
        axes.axhline(RISK, color="#CC3311", ls=":", label="admitted risk")
        axes.set_yscale("log")
        axes.set_title(case, fontsize=9)
        axes.set_xlabel("goodput / goodput of the oracle")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("share of steps over the limit")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
    figure.suptitle(
        "Circles: Azure code; triangles: Azure conversation; squares: bursty; at"
        f" {max(SHARES):g} of capacity", fontsize=10,
    )  # fmt: skip
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=150)
    parser.add_argument("--runs", type=int, default=200, help="truths")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"the recorded files are not at {DATA}")
    start = perf_counter()
    rows = list(compared(chosen.requests, chosen.runs, shares=(None, 0.0)))
    known = list(known_truths(2 * chosen.requests))
    every = list(all_schedulers(chosen.requests, max(chosen.runs // 10, 2)))
    text = "\n".join(
        [
            "# Schedulers under one load: limits of steps, and what they cost",
            "",
            f"Made by `python benchmarks/scheduling.py` in {perf_counter() - start:.0f} s on two"
            " cores.",
            "",
            *INTRODUCTION,
            "",
            "## Truths from the posterior",
            "",
            f"{chosen.requests} requests, {chosen.runs} truths each. Over: share of the steps that"
            " were not forced and took longer than the limit, mean over truths with its Monte Carlo"
            " error.",
            "",
            *(
                line
                for repeated, heading in HEADINGS.items()
                for line in (heading, "", *summary(rows, repeated), "")
            ),
            *EDGE,
            "",
            *edge_lines(),
            "",
            "## Truths that are no draws",
            "",
            *KNOWN,
            "",
            *known_lines(known),
            "",
            "## All schedulers",
            "",
            f"At the larger load, {max(chosen.runs // 10, 2)} truths: enough for what does not"
            " depend on the truth's rare ends, and too few for the shares of steps over the limit"
            " of `mean` and `risk`, for which see above.",
            "",
            *(line for row in every for line in detail(row)),
        ]
    )
    (chosen.out / "scheduling.md").write_text(text, encoding="utf-8")
    more = [row for row in rows if row["repeated"] is None]
    draw(every, more).savefig(chosen.out / "scheduling.png", dpi=110)
    print(text)


if __name__ == "__main__":
    main()
