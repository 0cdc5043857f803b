"""Simulation-based calibration of the default model: ``python benchmarks/calibration.py``.

Truths drawn from the prior, steps of 2 GPUs x 2 LLMs drawn from them, and one fit each, with the
programs compiled once a process. Two models that are wrong on purpose must be refused by the same
statistic. Fits are kept under ``build/calibration``, and a run that was stopped goes on from there.
Writes ``benchmarks/results/calibration.md`` and ``calibration.png``.
"""

import argparse
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = Path(__file__).parent / "results"
ROWS: Final = 25
"""Simulated steps of each deployment."""

NOISE: Final = 1.5
SHIFTED: Final = ("floor_share", 0.73)
"""A pooled quantity and the median that truths are drawn with instead of its own, 0.27."""

CASES: Final = {
    "right": "the model itself",
    "noise": f"noise {NOISE} times what the truth says",
    "prior": f"median of {SHIFTED[0]} {SHIFTED[1]} instead of 0.27",
}


def fitted(case: str, n: int, processes: int, cache: Path) -> Any:
    """The calibration of one case."""
    import bayeslat as bl
    from bayeslat.evaluation.calibration import Wrong, calibrate
    from bayeslat.inference.fit import spec_for
    from bayeslat.inference.samplers import SamplerSettings

    steps = bl.simulate_fleet(
        gpus=("A100-80GB", "H100-80GB"),
        models=("llama-7b", "llama-13b"),
        rows_per_deployment=ROWS,
        seed=1,
    ).steps
    design = bl.validate_steps(steps)
    spec = spec_for(design, None)
    name, median = SHIFTED
    shifted = replace(spec, priors={name: replace(spec.prior(name), median=median)})
    wrong = {"right": Wrong(), "noise": Wrong(noise=NOISE), "prior": Wrong(spec=shifted)}
    return calibrate(
        design,
        spec,
        n_simulations=n,
        settings=SamplerSettings(draws=300, tune=100, chains=2, seed=3),
        wrong=wrong[case],
        folder=cache / case,
        processes=processes,
        progress=lambda done, of: print(f"{case}: {done} of {of}", file=sys.stderr, flush=True),
    )


def summary(results: dict[str, Any]) -> list[str]:
    lines = [
        "| simulated from | simulations | passed the verdict | largest R-hat below 1.05 |"
        " its median, maximum | divergences | fewest draws placed among | quantities refused |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for case, result in results.items():
        rhat = sorted(result.max_rhat)
        lines.append(
            f"| {CASES[case]} | {len(result)} | {result.converged.sum()} |"
            f" {(result.max_rhat < 1.05).mean():.0%} |"
            f" {rhat[len(rhat) // 2]:.3f}, {rhat[-1]:.3f} | {result.divergences.sum()} |"
            f" {result.n_draws.min()} | {len(result.refused())} of {len(result.names)} |"
        )
    return lines


def quantity_lines(result: Any, n: int | None = None) -> list[str]:
    lines = [
        "| quantity | p of the distribution | p of chi-square | mean place | spread | draws |"
        " verdict |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in result.table().head(n or len(result.names)).itertuples():
        p = f"{row.p_ecdf:.4f}" if row.p_ecdf > 0 else "< 0.0001"
        lines.append(
            f"| {row.quantity} | {p} | {row.p_chi_square:.2g} | {row.mean_place:.2f} |"
            f" {row.spread:.2f} | {row.n_draws} | {'refused' if row.refused else 'kept'} |"
        )
    return lines


def text(results: dict[str, Any]) -> str:
    from bayeslat.evaluation.calibration import LEVEL

    command = " ".join(["python benchmarks/calibration.py", *sys.argv[1:]])
    right = results["right"]
    table = right.table()
    outside = int((table["p_ecdf"] < LEVEL).sum())
    lines = [
        "# Simulation-based calibration",
        "",
        f"Made by `{command}`. Every free variable of the default model is"
        f" drawn from its prior and {ROWS} steps of each of 2 GPUs x 2 LLMs from it (PyMC's own"
        " forward sampling), the model is fitted to them (2 chains of 100 warm-up and 300 draws,"
        " after a pilot, never retried), and the truth is placed among draws thinned to their"
        " effective number, at most 100. Fits that did not pass the verdict count like the others.",
        "",
        "A quantity is refused where the distribution of its places leaves a simultaneous band"
        " (Säilynoja, Bürkner and Vehtari, 2022) that any of all quantities of a right model leaves"
        f" with a probability of {LEVEL:g}.",
        "",
        *summary(results),
        "",
        f"Of the {len(right.names)} quantities of the right model {outside} leave their own band of"
        f" {LEVEL:g}, of which {LEVEL * len(right.names):.1f} are expected by chance. Smallest p of"
        f" the distribution {table['p_ecdf'].min():.4f}. Mean place over all quantities"
        f" {table['mean_place'].mean():.3f} (0.5 where right), mean spread"
        f" {table['spread'].mean():.3f} (1 where right).",
        "",
        "The verdict asks for 400 effective draws of every variable, which 600 draws seldom give of"
        " the slowest, the scale of a deployment's own discrepancy: short fits do not pass it. What"
        " places need are draws that are as independent as they are counted, which thinning gives;"
        " where chains are slow a truth is placed among fewer.",
        "",
        "![Places of truths against uniform ones](calibration.png)",
        "",
    ]
    for case, result in results.items():
        if case != "right":
            lines += [f"## Refused: {CASES[case]}", "", *quantity_lines(result, 8), ""]
    lines += ["## Every quantity of the right model", "", *quantity_lines(right)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=200, help="of the right model")
    parser.add_argument("--wrong", type=int, default=30, help="of each wrong model")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "calibration")
    chosen = parser.parse_args()
    # Programs are compiled once for all processes.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(chosen.cache / "compiled"))

    from bayeslat.plots.calibration import plot_calibration

    logging.getLogger("pymc").setLevel("WARNING")  # which lists every variable
    results = {}
    for case in CASES:
        n = chosen.simulations if case == "right" else chosen.wrong
        results[case] = fitted(case, n, chosen.processes, chosen.cache)
        print(f"{CASES[case]}: {results[case]}", file=sys.stderr, flush=True)
    (RESULTS / "calibration.md").write_text(text(results), encoding="utf8")
    plot_calibration(results["right"]).savefig(RESULTS / "calibration.png", dpi=110)
    print(text(results))


if __name__ == "__main__":
    main()
