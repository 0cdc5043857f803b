"""The compiled gate beside point and quantile predictors: ``python benchmarks/gate.py``.

All answer the same question, may this step run?, for the same deployments of the simulated
reference fleet, whose true exceedance is known. The gate comes from the released posterior of that
fleet; the rivals are fitted to the steps of the deployment that the posterior was fitted to. Times
are those of one process on one core, all in one run; ratios between them are what counts. Decisions
are made for steps that were not measured, where the true exceedance is near the risk. Writes
``benchmarks/results/gate.md``.
"""

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from lightgbm import LGBMRegressor
from scipy import stats
from sklearn.linear_model import BayesianRidge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from xgboost import XGBRegressor

import bayeslat as bl
from bayeslat.decisions import exceedance
from timing import once

RESULTS: Final = Path(__file__).parent / "results" / "gate.md"
RISK: Final = 0.05
SLA_QUANTILE: Final = 0.7
"""The SLA is this quantile of the measured steps of a deployment."""
N_CALLS: Final = 2_000
N_MANY: Final = 1_000_000
N_ROUNDS: Final = 5
DEPLOYMENTS: Final = (
    ("A100-80GB", "llama-7b"),
    ("H100-80GB", "llama-13b"),
    ("H100-80GB", "llama-70b"),
)
GATE: Final = "**gate**, P <= risk"
SIMPLE: Final = "BayesianRidge, cubic, P of a normal"
NEAR: Final = (0.01, 0.5)
"""True exceedance of the steps that are judged."""


@dataclass(frozen=True)
class Judge:
    """Something that says whether steps may run.

    Parameters
    ----------
    name : str
        For the table.
    one : callable
        (B, S, C) as numbers: the decision.
    many : callable
        The same for arrays.
    size : int
        Bytes when pickled.
    """

    name: str
    one: Callable[[int, int, int], Any]
    many: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    size: int


def rivals(steps: pd.DataFrame, sla_ms: float) -> list[Judge]:
    """Predictors fitted to the steps of one deployment, with the decision each allows."""
    design = steps[["batch_size", "total_tokens", "context_tokens"]].to_numpy(float)
    latency = steps["latency_ms"].to_numpy()
    ridge = make_pipeline(PolynomialFeatures(3), StandardScaler(), BayesianRidge())
    ridge.fit(design, latency)
    quiet = {"n_jobs": 1, "random_state": 0}
    quantile = LGBMRegressor(objective="quantile", alpha=1.0 - RISK, verbose=-1, **quiet)
    quantile.fit(design, latency)
    mean = XGBRegressor(n_estimators=200, max_depth=5, learning_rate=0.1, **quiet)
    mean.fit(design, latency)

    def by_ridge(rows: np.ndarray) -> np.ndarray:
        centre, spread = ridge.predict(rows, return_std=True)
        return stats.norm.sf(sla_ms, centre, spread) <= RISK

    def judge(name: str, decide: Callable[[np.ndarray], np.ndarray], model: Any) -> Judge:
        return Judge(
            name,
            lambda b, s, c: bool(decide(np.array([[b, s, c]], float))[0]),
            lambda b, s, c: decide(np.column_stack([b, s, c]).astype(float)),
            len(pickle.dumps(model)),
        )

    return [
        judge(SIMPLE, by_ridge, ridge),
        judge("LightGBM, quantile", lambda x: booster_predict(quantile, x) <= sla_ms, quantile),
        judge("XGBoost, mean", lambda x: mean.predict(x) <= sla_ms, mean),
    ]


def booster_predict(model: LGBMRegressor, rows: np.ndarray) -> np.ndarray:
    """Predictions without the checks of column names, which take longer than the prediction."""
    return model.booster_.predict(rows, num_threads=1)


def microseconds(ask: Callable[..., Any], steps: list[tuple[int, ...]]) -> float:
    """Median over rounds of the mean time of a single call."""

    def ask_all() -> None:
        for step in steps:
            ask(*step)

    ask_all()
    return float(np.median([once(ask_all) for _ in range(N_ROUNDS)])) / len(steps) * 1e6


def seconds(judge: Judge, steps: tuple[np.ndarray, ...]) -> float:
    """Least time of asking about many steps at once."""
    return min(once(lambda: judge.many(*steps)) for _ in range(3))


def import_seconds() -> tuple[float, float]:
    """Seconds that the import of the gate takes in a new process, and that of numpy alone."""
    times = []
    for module in ("bayeslat.gate", "numpy"):
        program = (
            f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
        )
        runs = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                               check=True) for _ in range(7)]  # fmt: skip
        times.append(float(np.median([float(run.stdout) for run in runs])))
    return times[0], times[1]


def near_the_limit(
    fleet: bl.SimulatedFleet, gpu: str, model: str, sla_ms: float, rng: np.random.Generator
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Steps of the truth within the measured range whose true exceedance is in `NEAR`."""
    own = fleet.steps.query("gpu == @gpu and model == @model")
    rows = own.sample(200_000, replace=True, random_state=int(rng.integers(2**31)))
    factor = np.exp(rng.normal(0.0, 0.3, (3, len(rows))))
    batch = np.maximum(np.round(rows["batch_size"] * factor[0]), 1)
    decode = (rows["total_tokens"] == rows["batch_size"]).to_numpy()
    tokens = np.maximum(np.round(rows["total_tokens"] * factor[1]), batch + 1)
    tokens = np.where(decode, batch, tokens)
    context = np.maximum(np.round(rows["context_tokens"] * factor[2]), tokens)
    inside = np.ones(len(rows), dtype=bool)
    for values, name in (
        (batch, "batch_size"),
        (tokens, "total_tokens"),
        (context, "context_tokens"),
    ):
        inside &= np.asarray((values >= own[name].min()) & (values <= own[name].max()))
    steps = tuple(np.asarray(v, float)[inside] for v in (batch, tokens, context))
    truth = fleet.sf(
        sla_ms, gpu, model, batch_size=steps[0], total_tokens=steps[1], context_tokens=steps[2]
    )
    near = (truth > NEAR[0]) & (truth < NEAR[1])
    return tuple(v[near] for v in steps), truth[near]


def decisions(judge: Judge, steps: tuple[np.ndarray, ...], truth: np.ndarray) -> dict[str, float]:
    """How a judge decides where the truth is known."""
    admitted = np.asarray(judge.many(*steps), dtype=bool)
    fitting = truth <= RISK
    return {
        "mean": float(truth[admitted].mean()) if admitted.any() else np.nan,
        "broken": float((truth[admitted] > 2.0 * RISK).mean()) if admitted.any() else np.nan,
        "found": float(admitted[fitting].mean()),
    }


def measured(
    simulated: bl.SimulatedFleet,
    posterior: bl.FleetPosterior,
    gpu: str,
    model: str,
    rng: np.random.Generator,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Speed and decisions of every judge for one deployment, and the gate against its mixture."""
    own = simulated.steps.query("gpu == @gpu and model == @model")
    sla_ms = float(own["latency_ms"].quantile(SLA_QUANTILE))
    made: list[bl.Gate] = []
    took = once(lambda: made.append(posterior.compile(gpu, model, sla_ms=sla_ms, risk=RISK)))
    gate = made[0]
    near, truth = near_the_limit(simulated, gpu, model, sla_ms, rng)
    draws = posterior.draws(posterior.find(gpu, model))
    few = tuple(v[:4000] for v in near)
    exact = exceedance(
        draws, batch_size=few[0], total_tokens=few[1], context_tokens=few[2], sla_ms=sla_ms
    )
    single = [tuple(int(v[i]) for v in near) for i in rng.integers(0, truth.size, N_CALLS)]
    index = rng.integers(0, truth.size, N_MANY)
    many = tuple(v[index] for v in near)
    size = len(pickle.dumps(gate))
    rows = []
    for judge in [Judge(GATE, gate.fits, gate.fits, size), *rivals(own, sla_ms)]:
        rows.append(
            {"judge": judge.name, "call": microseconds(judge.one, single), "kb": judge.size / 1e3}
            | {"many": seconds(judge, many)}
            | decisions(judge, near, truth)
        )
    of_probability = Judge("gate, the probability", gate.p_exceed, gate.p_exceed, size)
    rows.append(
        {"judge": of_probability.name, "call": microseconds(gate.p_exceed, single)}
        | {"many": seconds(of_probability, many)}
    )
    for name, ask in (
        ("gate, most tokens", lambda b, s, c: gate.max_tokens(b, c)),
        ("gate, further tokens", gate.max_more_tokens),
        ("gate, most requests", lambda b, s, c: gate.max_batch(s, c)),
    ):
        rows.append({"judge": name, "call": microseconds(ask, single)})
    error = gate.p_exceed(*few) - exact
    about = {
        "deployment": f"{gpu}, {model}",
        "SLA, ms": f"{sla_ms:.1f}",
        "draws": draws.n_draws,
        "compiled in, s": f"{took:.1f}",
        "profiles": len(gate.profiles.curves),
        "kB": f"{size / 1e3:.0f}",
        "below the mixture": f"{max(-error.min(), 0.0):.1e}",
        "above it": f"{max(error.max(), 0.0):.1e}",
        "median error": f"{np.median(np.abs(error)):.1e}",
        "99 % of errors below": f"{np.quantile(np.abs(error), 0.99):.1e}",
    }
    return pd.DataFrame(rows), about


def main() -> None:
    rng = np.random.default_rng(5)
    simulated, posterior = bl.simulate_fleet(), bl.load_released("reference-fleet")
    found = [measured(simulated, posterior, gpu, model, rng) for gpu, model in DEPLOYMENTS]
    together = pd.concat([rows for rows, _ in found])
    speeds = together.groupby("judge", sort=False)[["call", "many", "kb"]].median()
    quality = (
        together.groupby("judge", sort=False)[["mean", "broken", "found"]].mean().dropna(how="all")
    )
    text = "\n".join(report(speeds, quality, [about for _, about in found])) + "\n"
    RESULTS.write_text(text, encoding="utf-8")
    print(text)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows of texts as a table."""
    names = list(rows[0])
    head = [f"| {' | '.join(names)} |", f"|---|{'---:|' * (len(names) - 1)}"]
    return head + [f"| {' | '.join(str(row[name]) for name in names)} |" for row in rows]


def report(speeds: pd.DataFrame, quality: pd.DataFrame, gates: list[dict[str, Any]]) -> list[str]:
    """The page, line by line."""
    with_gate, numpy_alone = import_seconds()
    base = speeds.loc[GATE]
    return [
        "# A compiled gate beside point and quantile predictors",
        "",
        "Made by `python benchmarks/gate.py`: one process, one core, medians over"
        f" {len(DEPLOYMENTS)} deployments of the simulated reference fleet. The question is always"
        f" whether a step keeps P(T > SLA) <= {RISK:g}; the SLA is the {100 * SLA_QUANTILE:g} %"
        " quantile of the measured steps.",
        "",
        *table(
            [
                {
                    "": name,
                    "a call, µs": f"{row['call']:.1f}",
                    "in gates": f"{row['call'] / base['call']:.1f}",
                    f"{N_MANY:.0e} steps at once, s": text(row["many"], 2),
                    "in gates ": text(row["many"] / base["many"], 1),
                    "pickled, kB": text(row["kb"], 0),
                }
                for name, row in speeds.iterrows()
            ]
        ),
        "",
        f"The import of the gate takes {with_gate:.2f} s in a new process, that of numpy alone"
        f" {numpy_alone:.2f} s.",
        "",
        "## Against the exact mixture",
        "",
        *table(gates),
        "",
        "Steps are those of the next table, not those at which a gate is checked when compiled.",
        "",
        "## Decisions where the truth is known",
        "",
        "Steps within the measured ranges that were not measured themselves, with a true exceedance"
        f" from {NEAR[0]:g} to {NEAR[1]:g}; means over deployments. What is admitted should on the"
        " average stay within the risk, and little that keeps it should be refused.",
        "",
        *table(
            [
                {
                    "": name,
                    "true exceedance of what is admitted": text(row["mean"], 3),
                    "admitted with more than twice the risk": text(100 * row["broken"], 1, " %"),
                    "admitted of what keeps the risk": text(100 * row["found"], 1, " %"),
                }
                for name, row in quality.iterrows()
            ]
        ),
    ]


def text(value: float, digits: int, unit: str = "") -> str:
    """A number, or nothing where there is none."""
    return "" if np.isnan(value) else f"{value:.{digits}f}{unit}"


if __name__ == "__main__":
    main()
