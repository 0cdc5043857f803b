"""Measured serving against the simulator: ``python benchmarks/replay.py``.

* 900 requests that vLLM 0.19 served on an RTX PRO 6000: the model is fitted to composed steps of
  that GPU (sums of kernel times, without the gap between steps), the same arrivals are replayed,
  and percentiles of TTFT, TPOT and E2E are compared. Only one of the three LLMs has steps of its
  very deployment; the others are cold starts (two devices where one was measured, an LLM that never
  was). The gap between steps is no part of the data: it has the package's default prior.
* Closed-loop load tests of TGIS deployments whose steps are in the fleet data: users against TTFT,
  inter-token latency and throughput. The tests state their lengths by the means; they are taken as
  lognormal, as wide as the E2E times of a single user.

Reads the recorded files beside the repository. Writes ``benchmarks/results/replay.md`` and two
pictures.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import bayeslat as bl
from bayeslat.predictive import Estimate

DATA: Final = Path(__file__).parents[2] / "shared" / "data"
RESULTS: Final = Path(__file__).parent / "results"
SEED: Final = 3
DRAWS: Final = 1000
N_RUNS: Final = 200
LEVELS: Final = {"median": 0.5, "p90": 0.9, "p99": 0.99}
REPLAYED: Final = {
    # Name in the requests: name of the LLM in the steps, and what is known of the deployment.
    "meta-llama/Llama-3.1-8B": ("Llama-3.1-8B", "steps of this deployment"),
    "Qwen/Qwen3-32B": ("Qwen3-32B", "cold start: steps on one device only"),
    "Qwen/Qwen3-30B-A3B-Instruct-2507": ("Qwen3-30B-A3B", "cold start: no step of this LLM"),
}
GPU: Final = "RTXPRO6000"
ENGINE: Final = "vllm-0.19-kernels"
TARGETS: Final = {("TPOT", "median"): 5.0, ("E2E", "median"): 10.0, ("E2E", "p99"): 15.0}

USERS: Final = (1, 2, 4, 8, 16, 32, 64)
CURVES: Final = {
    # Column of the load tests: what the simulator calls it.
    "ttft_ms_p50": lambda r: r.percentile("ttft_ms", 0.5),
    "ttft_ms_p95": lambda r: r.percentile("ttft_ms", 0.95),
    "itl_ms_p50": lambda r: r.gap_percentile(0.5),
    "itl_ms_p95": lambda r: r.gap_percentile(0.95),
    "e2e_ms_p50": lambda r: r.percentile("e2e_ms", 0.5),
    "output_tok_per_s": lambda r: r.throughput(),
}


def steps() -> bl.Observations:
    """Composed steps of the GPU."""
    table = pd.read_csv(DATA / "fleet_steps.csv")
    table = table[table["gpu"] == GPU].drop(columns=["source", "sm_percent", "replicate"])
    return bl.validate_steps(table, source="fleet_steps.csv, composed steps of one GPU")


def deployment(fleet: bl.FleetPosterior, llm: str, tp: int) -> bl.ServedDeployment:
    """The measured deployment, or one predicted from the fleet."""
    wanted = bl.Deployment(GPU, llm, tp, ENGINE)
    if wanted not in fleet.deployments:
        new = fleet.catalog.gpu(GPU) if llm in fleet.models else fleet.catalog.llm(llm)
        fleet = fleet.cold_start(new, deployments=[wanted])
    return fleet.serving(
        GPU, llm, tp=tp, settings=bl.EngineSettings(max_num_seqs=128, max_num_batched_tokens=2048)
    )


def replayed(fleet: bl.FleetPosterior) -> Iterator[dict[str, Any]]:
    """Percentiles of every LLM, measured and predicted."""
    requests = pd.read_csv(DATA / "llmservingsim_vllm_requests.csv")
    for name, (llm, known) in REPLAYED.items():
        own = requests[requests["model"] == name].sort_values("arrival_ms")
        served = deployment(fleet, llm, int(own["tp"].iloc[0]))
        records = served.simulate(bl.Workload.from_trace(own), n_runs=N_RUNS, seed=SEED)
        measured = {
            "TTFT": own["ttft_ms"],
            "TPOT": own["tpot_ms"],
            "E2E": own["last_token_ms"] - own["arrival_ms"],
        }
        for metric, values in measured.items():
            for label, level in LEVELS.items():
                yield {
                    "llm": llm,
                    "known": known,
                    "metric": metric,
                    "level": label,
                    "measured": float(np.quantile(values, level)),
                    "predicted": records.percentile(f"{metric.lower()}_ms", level),
                }


def load_tests(fleet: bl.FleetPosterior) -> Iterator[dict[str, Any]]:
    """Every load test of a deployment in the fleet, measured and predicted."""
    tests = pd.read_csv(DATA / "ibm_llm_pilot_load_summary.csv")
    tests = tests[(tests["error_frac"] < 0.05) & tests["num_users"].isin(USERS)]
    settings = bl.EngineSettings(
        max_num_seqs=128, max_num_batched_tokens=16_384, chunked_prefill=False, mixed_steps=False
    )
    for (gpu, model, tp), own in tests.groupby(["gpu", "model", "tp"]):
        served = fleet.serving(gpu, model, tp=tp, engine="tgis", settings=settings)
        alone = own[own["num_users"] == 1]
        if alone.empty:
            continue
        spread = float(np.log(alone["e2e_ms_p95"] / alone["e2e_ms_p50"]).iloc[0] / 1.645)
        for _, test in own.iterrows():
            records = served.simulate(closed_loop(test, spread), n_runs=50, seed=SEED)
            for name, answer in CURVES.items():
                yield {
                    "deployment": f"{gpu}/{model}/tp{tp}",
                    "users": int(test["num_users"]),
                    "metric": name,
                    "measured": float(test[name]),
                    "predicted": answer(records),
                }


def closed_loop(test: pd.Series, spread: float) -> bl.Workload:
    """Users of a load test, with lognormal lengths of the means that it states."""

    def lengths(mean: float) -> Any:
        def draw(rng: np.random.Generator, n: int) -> np.ndarray:
            return np.ceil(rng.lognormal(np.log(mean) - 0.5 * spread**2, spread, n))

        return draw

    return bl.Workload.closed_loop(
        int(test["num_users"]),
        n=max(400, 20 * int(test["num_users"])),
        prompt_tokens=lengths(test["input_tokens_mean"]),
        output_tokens=lengths(test["output_tokens_mean"]),
        seed=SEED,
    )


def held(row: dict[str, Any]) -> bool:
    answer: Estimate = row["predicted"]
    return bool(answer.lower <= row["measured"] <= answer.upper)


def error(row: dict[str, Any]) -> float:
    return 100.0 * (row["predicted"].value / row["measured"] - 1.0)


def replay_lines(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| LLM | | percentile | measured | predicted, 90 % interval | error | target | held |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        answer = row["predicted"]
        target = TARGETS.get((row["metric"], row["level"]))
        shown = f"±{target:g} %" if target and row["known"].startswith("steps") else ""
        lines.append(
            f"| {row['llm']} | {row['known']} | {row['metric']} {row['level']} |"
            f" {row['measured']:,.1f} ms | {answer.value:,.1f} [{answer.lower:,.1f},"
            f" {answer.upper:,.1f}] | {error(row):+.1f} % | {shown} |"
            f" {'yes' if held(row) else 'no'} |"
        )
    return lines


def load_lines(rows: list[dict[str, Any]]) -> list[str]:
    table = pd.DataFrame(
        {
            "metric": [row["metric"] for row in rows],
            "users": [row["users"] for row in rows],
            "error": [abs(error(row)) for row in rows],
            "bias": [error(row) for row in rows],
            "held": [held(row) for row in rows],
        }
    )
    lines = [
        "| metric | users | tests | median error | median bias | held by 90 % intervals |",
        "|---|---|---:|---:|---:|---:|",
    ]
    bands = {"1 to 4": (1, 4), "8 to 16": (8, 16), "32 to 64": (32, 64)}
    for metric in CURVES:
        for band, (low, high) in bands.items():
            own = table[(table["metric"] == metric) & table["users"].between(low, high)]
            lines.append(
                f"| {metric} | {band} | {len(own)} | {own['error'].median():.1f} % |"
                f" {own['bias'].median():+.1f} % | {100 * own['held'].mean():.0f} % |"
            )
    return lines


def draw_replay(rows: list[dict[str, Any]]) -> Figure:
    llms = list(dict.fromkeys(row["llm"] for row in rows))
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for axes, llm in zip(figure.subplots(1, len(llms)), llms, strict=True):
        own = [row for row in rows if row["llm"] == llm]
        place = np.arange(len(own))
        value, lower, upper = (np.array([row["predicted"][k] for row in own]) for k in range(3))
        axes.errorbar(
            value, place, xerr=[value - lower, upper - value], fmt="o", color="#0072B2", capsize=3,
            label="predicted, 90 % interval",
        )  # fmt: skip
        axes.plot(
            [row["measured"] for row in own], place, "x", color="#D55E00", ms=8, label="measured"
        )
        axes.set_xscale("log")
        axes.set_yticks(place, [f"{row['metric']} {row['level']}" for row in own])
        axes.invert_yaxis()
        axes.set_title(f"{llm}\n{own[0]['known']}", fontsize=9)
        axes.set_xlabel("ms")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8, loc="lower left")
    figure.suptitle("Requests served by vLLM, replayed from a posterior of step times")
    return figure


def draw_load_tests(rows: list[dict[str, Any]]) -> Figure:
    names = list(dict.fromkeys(row["deployment"] for row in rows))[:6]
    shown = ("ttft_ms_p50", "itl_ms_p50", "itl_ms_p95")
    figure = Figure(figsize=(10, 6), layout="constrained")
    for axes, name in zip(figure.subplots(2, 3).ravel(), names, strict=True):
        for metric, colour in zip(shown, ("#0072B2", "#009E73", "#D55E00"), strict=True):
            own = [row for row in rows if (row["deployment"], row["metric"]) == (name, metric)]
            users = [row["users"] for row in own]
            value, lower, upper = (np.array([row["predicted"][k] for row in own]) for k in range(3))
            axes.plot(users, value, color=colour, label=metric.replace("_ms_", " "))
            axes.fill_between(users, lower, upper, color=colour, alpha=0.25, lw=0)
            axes.plot(users, [row["measured"] for row in own], "x", color=colour)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("users")
        axes.set_ylabel("ms")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    figure.suptitle("Closed-loop load tests: predicted (bands: 90 %) and measured (crosses)")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps-posterior", type=Path, help="use this instead of fitting anew")
    chosen = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"the recorded files are not at {DATA}")
    start = perf_counter()
    if chosen.steps_posterior is None:
        fleet = bl.fit(steps(), draws=DRAWS, seed=SEED)
    else:
        fleet = bl.load(chosen.steps_posterior)
    fitted = perf_counter() - start
    rows = list(replayed(fleet))
    tests = list(load_tests(bl.load_released("public-fleet")))
    overhead = bl.StepOverhead()
    text = "\n".join(
        [
            "# Serving: measured against simulated from a posterior of step times",
            "",
            "Made by `python benchmarks/replay.py`.",
            "",
            f"## Requests through vLLM ({len(steps()):,} composed steps, fit {fitted:.0f} s)",
            "",
            f"Verdict of the fit: {fleet.verdict}.",
            f"Gap between steps: lognormal prior, median {overhead.median_ms:g} ms, log-sd"
            f" {overhead.spread:g}; nothing of the requests was used to fit anything. Percentiles"
            f" are medians over {N_RUNS} runs, one a posterior draw.",
            "",
            *replay_lines(rows),
            "",
            "## Closed-loop load tests of TGIS (posterior: `public-fleet`)",
            "",
            "Deployments whose steps are in the fleet; 50 runs each; tests with 5 % errors or more"
            " and those of 128 users left out. Prompts are computed apart from decodes.",
            "",
            *load_lines(tests),
            "",
        ]
    )
    (RESULTS / "replay.md").write_text(text, encoding="utf-8")
    draw_replay(rows).savefig(RESULTS / "replay_vllm.png", dpi=110)
    draw_load_tests(tests).savefig(RESULTS / "replay_load_tests.png", dpi=110)
    print(text)


if __name__ == "__main__":
    main()
