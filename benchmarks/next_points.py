"""Ten designed points against ten random ones on cold start: ``python benchmarks/next_points.py``.

Simulated fleets, whose truth is known exactly and is not the fitted formula. Every GPU is left out
once: the rest is fitted, the GPU predicted, and ten of its steps are measured (drawn from the
truth), chosen by `bayeslat.decisions.measuring.design` or at random from the same candidates. Given
either ten, the decision is asked again and held against the truth; every candidate measured once
shows what the model leaves however much is measured. Writes
``benchmarks/results/next_points.md`` and ``next_points.png``.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import bayeslat as bl
from bayeslat.decisions import LargestTokens, candidate_steps, next_points
from bayeslat.decisions.measuring.sample_value import Operator
from bayeslat.plots.style import MUTED, PRIMARY, styled
from bayeslat.predictive.draws import Points
from bayeslat.schema import Deployment
from bayeslat.simulate import SimulatedFleet

matplotlib.use("Agg")

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = Path(__file__).parent / "results"
GPUS: Final = ("A100-40GB", "A100-80GB", "H100-80GB", "L40S-48GB")
MODELS: Final = ("llama-7b", "llama-13b")
FLEET_SEEDS: Final = (1, 2)
ROWS: Final = 200
DRAWS: Final = 500
N: Final = 10
BATCH: Final = 16
TYPICAL_TOKENS: Final = 768
"""The limit is what the cold prediction's p99 is at so many tokens: S* lies amid the candidates."""

RISKS: Final = (0.01, 0.05)
"""On either side of the share of stalls, 1.5 % of the simulated steps: at 1 % the tail is made of
stalls, which ten steps seldom show, at 5 % of the common noise."""

CREDIBLE: Final = 0.9
SCORES: Final = {
    "error": "error of S*, abs log",
    "width": "width of its 90 % interval, log",
    "regret": "throughput lost, %",
    "violation": "true P(T > SLA) over the risk",
}
PAIRED: Final = ("error", "width", "regret")
KEYS: Final = ("fleet", "deployment", "seed", "design", "risk")
DESIGNS: Final = ("designed", "random")
COLUMNS: Final = {
    "prediction": "prediction alone",
    "random": "ten random",
    "designed": "ten designed",
    "all": "all candidates",
}


@dataclass(frozen=True)
class Case:
    """One predicted deployment with its question and its truth."""

    fleet: bl.FleetPosterior
    truth: SimulatedFleet
    fleet_seed: int
    deployment: Deployment
    cold: bl.FleetPosterior
    questions: tuple[LargestTokens, ...]
    candidates: Points

    @property
    def where(self) -> dict[str, Any]:
        """The deployment as the simulated fleet is asked for it."""
        return {name: getattr(self.deployment, name) for name in ("gpu", "model", "tp")}


def cases(folder: Path) -> Iterator[Case]:
    """Every deployment of every left-out GPU, of every simulated fleet."""
    catalog = bl.load_catalog()
    for seed in FLEET_SEEDS:
        truth = bl.simulate_fleet(gpus=GPUS, models=MODELS, rows_per_deployment=ROWS, seed=seed)
        for gpu in GPUS:
            fleet = fitted(truth, gpu, folder / f"{seed}-{gpu}.nc")
            cold = fleet.cold_start(catalog.gpu(gpu), seed=seed)
            for deployment in cold.deployments:
                if deployment in truth.truth:
                    questions = tuple(asked(cold, deployment, risk) for risk in RISKS)
                    room = catalog.kv_capacity_tokens(gpu, deployment.model, tp=deployment.tp)
                    steps = candidate_steps(max_context_tokens=float(room))
                    yield Case(fleet, truth, seed, deployment, cold, questions, steps)


def fitted(truth: SimulatedFleet, left_out: str, path: Path) -> bl.FleetPosterior:
    """The fleet without one GPU, fitted once."""
    if path.is_file():
        return bl.load(path)
    start = perf_counter()
    fleet = bl.fit(truth.steps[truth.steps["gpu"] != left_out], draws=DRAWS)
    fleet.save(path)
    print(f"without {left_out}: {perf_counter() - start:.0f} s, {fleet.verdict}", flush=True)
    return fleet


def asked(cold: bl.FleetPosterior, deployment: Deployment, risk: float) -> LargestTokens:
    """The largest S for a batch, under a limit that the prediction alone decides."""
    context = cold.typical_context(deployment)
    latency = cold.latency(
        *deployment[:2], tp=deployment.tp, batch_size=BATCH, total_tokens=TYPICAL_TOKENS,
        context_tokens=context * BATCH,
    )  # fmt: skip
    return LargestTokens(BATCH, float(latency.ppf(1 - risk)), risk, context_per_request=context)


def measured(case: Case, points: Points, seed: int) -> pd.DataFrame:
    """Latencies of chosen steps, drawn from the truth."""
    design = {
        "batch_size": points.batch_size,
        "total_tokens": points.total_tokens,
        "context_tokens": points.context_tokens,
    }
    latency = case.truth.latency(**case.where, **design, seed=seed)[0]
    table = pd.DataFrame({**case.deployment._asdict(), **design, "latency_ms": latency})
    return table.assign(n_averaged=1)


def scored(case: Case, question: LargestTokens, posterior: bl.FleetPosterior) -> dict[str, float]:
    """The decision of a posterior against the truth, of which every integer S is asked."""
    draws, tokens = posterior.draws(case.deployment), np.arange(BATCH, question.max_total_tokens)
    design = {
        "batch_size": BATCH,
        "total_tokens": tokens,
        "context_tokens": question.context_per_request * BATCH,
    }
    true_sf = case.truth.sf(question.sla_ms, **case.where, **design)
    true_rate = tokens / case.truth.mean(**case.where, **design)
    fits = true_sf <= question.risk
    true_log, spread = float(np.log(tokens[fits].max())), question(draws)
    low, high = np.quantile(spread, [0.5 - CREDIBLE / 2, 0.5 + CREDIBLE / 2])
    place = Operator.of(question, draws).choice(np.full((1, draws.n_draws), 1.0 / draws.n_draws))[0]
    rate, risk = 0.0, 0.0
    if np.isfinite(place):
        steps = question.steps.total_tokens
        chosen = int(np.interp(place, np.arange(steps.size), steps)) - BATCH
        rate, risk = float(true_rate[chosen]), float(true_sf[chosen])
    return {
        "error": abs(float(np.median(spread)) - true_log),
        "width": float(high - low),
        "covered": float(low <= true_log <= high),
        "regret": 100.0 * (1.0 - rate / float(true_rate[fits].max())),
        "violation": risk / question.risk,
    }


def records(folder: Path, n_seeds: int) -> pd.DataFrame:
    """Scores of every case, design, question and seed; what was scored before is kept."""
    path = folder / "scores.csv"
    kept = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=list(KEYS))
    for case in cases(folder):
        for seed in range(-1, n_seeds):
            about = {"fleet": case.fleet_seed, "deployment": case.deployment.label, "seed": seed}
            done = kept[(kept[list(about)] == pd.Series(about)).all(axis=1)]
            found = [
                {**about, **row}
                for name, posteriors in posteriors_of(case, seed, set(done["design"]))
                for row in rows_of(case, name, posteriors)
            ]
            if found:
                print(pd.DataFrame(found).to_string(), flush=True)
                kept = pd.concat([kept, pd.DataFrame(found)], ignore_index=True)
                kept.to_csv(path, index=False)
    return kept


def posteriors_of(
    case: Case, seed: int, done: set[str]
) -> Iterator[tuple[str, Sequence[bl.FleetPosterior]]]:
    """The posterior for each question, design by design; seed -1 is before any measurement."""
    if seed < 0:
        if "prediction" not in done:
            yield "prediction", [case.cold] * len(RISKS)
        return
    if "designed" not in done:
        draws = case.cold.draws(case.deployment)
        plans = [
            next_points(draws, decision=question, candidates=case.candidates, n=N)
            for question in case.questions
        ]
        yield "designed", [conditioned(case, plan.points, seed) for plan in plans]
    if "random" not in done:
        rng = np.random.default_rng([seed, case.fleet_seed, *case.deployment.label.encode()])
        picked = rng.choice(case.candidates.size, N, replace=False)
        yield "random", [conditioned(case, case.candidates[picked], seed)] * len(RISKS)
    if seed == 0 and "all" not in done:
        yield "all", [conditioned(case, case.candidates, seed)] * len(RISKS)


def rows_of(
    case: Case, name: str, posteriors: Sequence[bl.FleetPosterior]
) -> Iterator[dict[str, Any]]:
    """Scores of a design, question by question."""
    for question, posterior in zip(case.questions, posteriors, strict=True):
        verdict = posterior.verdict
        about = {"design": name, "risk": question.risk, "passed": verdict and verdict.passed}
        yield {**about, **scored(case, question, posterior)}


def conditioned(case: Case, points: Points, seed: int) -> bl.FleetPosterior:
    """The prediction, given measurements of these points."""
    steps = measured(case, points, seed)
    gpu = bl.load_catalog().gpu(case.deployment.gpu)
    return case.fleet.cold_start(
        gpu, steps=steps, deployments=[case.deployment], draws=DRAWS, seed=seed
    )


def paired(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """Both designs of every case and seed side by side."""
    both = table[table["design"].isin(DESIGNS)]
    return both.pivot(index=["deployment", "fleet", "seed"], columns="design", values=score)


def wins_of(pairs: pd.DataFrame) -> tuple[float, float, float]:
    """Share of pairs in which the design is better, with its 90 % interval over deployments."""
    better = pairs["designed"] < pairs["random"]
    equal = pairs["designed"] == pairs["random"]
    wins = better.astype(float) + 0.5 * equal
    by_case = wins.groupby(level=["deployment", "fleet"]).mean().to_numpy()
    return float(by_case.mean()), *resampled(by_case, np.mean)


def resampled(by_case: Any, summary: Any) -> tuple[float, float]:
    """90 % interval of a summary over deployments, by the bootstrap."""
    rng = np.random.default_rng(0)
    found = [summary(rng.choice(by_case, by_case.size)) for _ in range(2_000)]
    low, high = np.quantile(found, [0.05, 0.95])
    return float(low), float(high)


def median_of(table: pd.DataFrame, design: str, score: str) -> str:
    """Median over deployments and seeds, with the interval over deployments."""
    own = table[table["design"] == design]
    by_case = [group[score].to_numpy() for _, group in own.groupby(["deployment", "fleet"])]
    index = np.arange(len(by_case))
    low, high = resampled(index, lambda pick: np.median(np.concatenate([by_case[i] for i in pick])))
    return f"{np.median(own[score]):.3g} [{low:.3g}, {high:.3g}]"


def text(table: pd.DataFrame, n_seeds: int) -> str:
    """The results as markdown."""
    n_cases = len(table.groupby(["deployment", "fleet"]))
    passed = table.loc[table["design"] != "prediction", "passed"].astype(bool).mean()
    lines = [
        "# Ten designed points against ten random ones, on cold start",
        "",
        "Made by `python benchmarks/next_points.py` on simulated fleets, whose truth is known and"
        f" is not the fitted formula: {len(FLEET_SEEDS)} fleets of {len(GPUS)} GPUs and"
        f" {len(MODELS)} LLMs, every GPU left out once, {n_cases} deployments, {n_seeds} seeds each"
        " (of the measured noise, of the random points and of the sampler). Both designs pick"
        " single steps from the same candidates before any is measured.",
        "",
        f"The decision is the largest S for B = {BATCH} with P(latency > SLA) within a risk; the"
        f" limit is the quantile at 1 - risk that the cold prediction has at S = {TYPICAL_TOKENS}."
        " Throughput lost is that of the step with the most tokens per millisecond that keeps the"
        " risk, chosen by the posterior instead of by the truth; it is negative where the choice"
        " breaks the risk. Medians with 90 % intervals from resampling deployments.",
        "",
        "For comparison every candidate was measured once. The truth is a staircase of whole tiles,"
        " on whose edges S* lies, and 1.5 % of its steps stall; the model has neither stairs nor"
        " stalls.",
        "",
        f"{100 * passed:.0f} % of the conditioned posteriors passed their verdict; none was left"
        " out.",
        "",
    ]
    for risk, own in table.groupby("risk"):
        lines += [f"## Risk {100 * risk:g} %", "", *comparison(own), "", conclusion(own), ""]
        lines += ["Designed less random, mean over the seeds of each deployment:", ""]
        lines += [*by_deployment(own), ""]
    return "\n".join(lines)


def comparison(table: pd.DataFrame) -> list[str]:
    """Prediction, random and designed points side by side."""
    lines = [
        f"| | {' | '.join(COLUMNS.values())} | designed better, % of pairs |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for score, title in SCORES.items():
        cells = [median_of(table, name, score) for name in COLUMNS]
        share = "-"
        if score in PAIRED:
            value, low, high = (100 * x for x in wins_of(paired(table, score)))
            share = f"{value:.0f} [{low:.0f}, {high:.0f}]"
        lines.append(f"| {title} | {' | '.join(cells)} | {share} |")
    groups = {name: table[table["design"] == name] for name in COLUMNS}
    shares = {
        "true S* within the 90 % interval": [own["covered"].mean() for own in groups.values()],
        "choices that break the risk": [(own["violation"] > 1).mean() for own in groups.values()],
    }
    for title, values in shares.items():
        lines.append(f"| {title} | {' | '.join(f'{100 * v:.0f} %' for v in values)} | - |")
    return lines


def conclusion(table: pd.DataFrame) -> str:
    """Where the design beats random points, and where it does not."""
    verdicts = []
    for score in PAIRED:
        share, low, high = wins_of(paired(table, score))
        word = "better" if low > 0.5 else "worse" if high < 0.5 else "not told apart"
        verdicts.append(f"{SCORES[score]}: **{word}** ({100 * share:.0f} % of pairs)")
    covered = table[table["design"] == "designed"]["covered"].mean()
    missed = f" Its 90 % interval held the true S* in {100 * covered:.0f} % of cases."
    return "The design against random points: " + "; ".join(verdicts) + "." + missed


def by_deployment(table: pd.DataFrame) -> list[str]:
    """How much the designs differ, deployment by deployment."""
    differences = {}
    for score in PAIRED:
        pairs = paired(table, score)
        less = pairs["designed"] - pairs["random"]
        differences[score] = less.groupby(level=["fleet", "deployment"]).mean()
    lines = [
        "| deployment | error of S*, log | width, log | throughput lost, % |",
        "|---|---:|---:|---:|",
    ]
    for (fleet, label), row in pd.DataFrame(differences).iterrows():
        cells = " | ".join(f"{row[score]:+.3f}" for score in PAIRED)
        lines.append(f"| {label}, fleet {fleet} | {cells} |")
    return lines


@styled
def picture(table: pd.DataFrame) -> Any:
    """Every pair as a dot: random against designed, better below the line."""
    figure = Figure(figsize=(10.0, 3.4 * len(RISKS)), layout="constrained")
    grid = figure.subplots(len(RISKS), len(PAIRED), squeeze=False)
    for row, (risk, own) in zip(grid, table.groupby("risk"), strict=True):
        for axes, score in zip(row, PAIRED, strict=True):
            pairs = paired(own, score)
            low, high = float(pairs.to_numpy().min()), float(pairs.to_numpy().max())
            room = 0.06 * (high - low)
            ends = low - room, high + room
            axes.plot(ends, ends, color=MUTED, lw=1.0)
            axes.scatter(pairs["random"], pairs["designed"], s=14, color=PRIMARY, alpha=0.7, lw=0)
            axes.set(xlim=ends, ylim=ends, xlabel="ten random points",
                     ylabel="ten designed points",
                     title=f"{SCORES[score]}; risk {100 * risk:g} %")  # fmt: skip
    figure.suptitle("Cold start of a GPU with ten measured steps (simulated data): below the line"
                    " the design is better")  # fmt: skip
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2, help="of each deployment")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "next_points",
                        help="folder of fitted fleets and scores, which are kept")  # fmt: skip
    chosen = parser.parse_args()
    chosen.cache.mkdir(parents=True, exist_ok=True)
    table = records(chosen.cache, chosen.seeds)
    found = text(table, chosen.seeds)
    (RESULTS / "next_points.md").write_text(found.rstrip() + "\n", encoding="utf-8")
    picture(table).savefig(RESULTS / "next_points.png", dpi=110)
    print(found)


if __name__ == "__main__":
    main()
