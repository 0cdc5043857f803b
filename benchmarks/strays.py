"""Logs in which some rows are no steps: ``python benchmarks/strays.py``.

9 deployments x 400 simulated rows, a quarter held out clean. Of the others some are spoiled: by a
factor of 1.3 to 12 (other work in the measured time), or by the latency of another spoiled row of
the same deployment (columns out of step). The default model and the one with strays forecast the
held-out rows. Writes ``benchmarks/results/strays.md``.
"""

import sys
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import pandas as pd

import bayeslat as bl
from bayeslat.checks import predict_rows

RESULTS: Final = Path(__file__).parent / "results" / "strays.md"
ROWS: Final = 400
HELD_OUT: Final = 0.25
CASES: Final = ((0.0, "slow"), (0.2, "slow"), (0.4, "slow"), (0.4, "shuffled"))
DRAWS: Final = 400
SEED: Final = 5


def spoiled(steps: pd.DataFrame, share: float, kind: str) -> pd.DataFrame:
    """The steps with a share of their latencies spoiled."""
    rng = np.random.default_rng(SEED)
    steps = steps.copy()
    stray = rng.random(len(steps)) < share
    if kind == "slow":
        steps.loc[stray, "latency_ms"] *= np.exp(rng.uniform(0.26, 2.5, stray.sum()))
        return steps
    for _, rows in steps[stray].groupby(["gpu", "model"]):
        steps.loc[rows.index, "latency_ms"] = rng.permutation(rows["latency_ms"].to_numpy())
    return steps


def measure(train: pd.DataFrame, test: bl.Observations, spec: bl.ModelSpec) -> dict[str, Any]:
    start = perf_counter()
    fleet = bl.fit(bl.validate_steps(train, check_floor=False), spec, draws=DRAWS, seed=SEED)
    rows = predict_rows(fleet, test)
    verdict = fleet.verdict
    assert verdict is not None
    share = fleet.posterior["stray_share"].mean().item() if spec.strays else np.nan
    return {
        "mape": 100.0 * (rows["median"] / rows["observed"] - 1.0).abs().mean(),
        "coverage": rows["pit"].between(0.05, 0.95).mean(),
        "above": (rows["pit"] > 0.99).mean(),
        "sigma": fleet.posterior["sigma"].median().item(),
        "share": share,
        "rhat": verdict.max_rhat,
        "seconds": perf_counter() - start,
    }


def main() -> None:
    steps = bl.simulate_fleet(rows_per_deployment=ROWS, seed=SEED).steps
    held = np.random.default_rng(SEED).random(len(steps)) < HELD_OUT
    test = bl.validate_steps(steps[held].reset_index(drop=True), check_floor=False)
    train = steps[~held].reset_index(drop=True)
    lines = [
        "# Rows that are no steps",
        "",
        "Made by `python benchmarks/strays.py` on a simulated fleet: 9 deployments, 300 rows each",
        "to learn from, spoiled as said, and 100 clean ones to forecast;"
        f" 4 x {DRAWS} draws or more.",
        "",
        "| spoiled | model | MAPE, % | in 90 % interval | above p99 | sigma | found | R-hat |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for share, kind in CASES:
        for name, spec in (("default", bl.ModelSpec()), ("strays", bl.ModelSpec(strays=True))):
            found = measure(spoiled(train, share, kind), test, spec)
            print(share, kind, name, found, file=sys.stderr, flush=True)
            strays = "-" if np.isnan(found["share"]) else f"{found['share']:.2f}"
            lines.append(
                f"| {100 * share:.0f} % {kind} | {name} | {found['mape']:.1f} |"
                f" {found['coverage']:.2f} | {found['above']:.3f} | {found['sigma']:.3f} |"
                f" {strays} | {found['rhat']:.3f} |"
            )
    RESULTS.write_text("\n".join(lines) + "\n")
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
