"""How the cost of the posterior grows with rows and deployments: ``python benchmarks/growth.py``.

Each cell is a simulated fleet in a fresh process: time of one gradient, of one exact
Hessian, and the largest memory so far. `--fits` also samples some cells and counts leapfrogs.
Writes ``benchmarks/results/growth.md`` and ``growth.png``.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import matplotlib
import numpy as np

from timing import repeated

matplotlib.use("Agg")

RESULTS: Final = Path(__file__).parent / "results"
GPUS: Final = (
    "A100-80GB", "H100-80GB", "L40S-48GB", "A100-40GB", "H200", "A10G-24GB", "L4-24GB",
    "A10-24GB", "B200", "V100-32GB", "A30-24GB", "L40-48GB", "A40-48GB", "RTX-4090",
)  # fmt: skip
MODELS: Final = (
    "llama-7b", "llama-13b", "mistral-7b", "llama-30b", "llama3-8b", "qwen2.5-7b", "qwen2.5-14b",
    "qwen2.5-32b", "gemma-7b", "starcoder", "falcon-7b", "opt-13b", "phi-4", "yi-6b",
)  # fmt: skip
FLEETS: Final = {9: (3, 3), 36: (6, 6), 100: (10, 10), 196: (14, 14)}
ROWS: Final = (1_000, 10_000, 100_000, 1_000_000)
FITTED: Final = ((9, 1_000), (9, 10_000), (36, 10_000), (100, 10_000))
DRAWS: Final = 250
REPEATS: Final = 7
SEED: Final = 3


def simulated(deployments: int, rows: int) -> Any:
    import bayeslat as bl

    n_gpus, n_models = FLEETS[deployments]
    steps = bl.simulate_fleet(
        gpus=GPUS[:n_gpus],
        models=MODELS[:n_models],
        rows_per_deployment=rows // deployments,
        seed=SEED,
    ).steps
    return bl.validate_steps(steps)


def measure(deployments: int, rows: int, *, fit: bool) -> dict[str, Any]:
    """One cell, in this process."""
    import bayeslat as bl

    observations = simulated(deployments, rows)
    found = {"deployments": deployments, "rows": len(observations)}
    if fit:
        fleet = bl.fit(observations, draws=DRAWS)
        verdict = fleet.verdict
        assert verdict is not None
        return found | {
            "leapfrogs": verdict.leapfrogs,
            "ess": min(verdict.min_ess_bulk, verdict.min_ess_tail),
            "rhat": verdict.max_rhat,
            "divergences": verdict.divergences,
            "draws": verdict.chains * verdict.draws,
        }
    return found | cost_of(observations)


def cost_of(observations: Any) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    import bayeslat as bl
    from bayeslat.inference.coordinates import Coordinates
    from bayeslat.inference.density import flat_density
    from bayeslat.inference.structure import structure_of
    from bayeslat.inference.target import Target
    from bayeslat.model.build import build_model
    from bayeslat.model.design import fleet_design
    from bayeslat.model.rows import row_layout

    spec = bl.ModelSpec()
    model = build_model(observations, spec)
    density = flat_density(model)
    design = fleet_design(observations.deployments, bl.load_catalog())
    shape = density.shapes["quantities"]
    structure = structure_of(model, density, design.levels["stack"].index)
    target = Target(density, Coordinates(spec.quantities, np.ones(shape)), structure)
    y = jnp.asarray(density.initial)
    start = perf_counter()
    gradient = jax.jit(jax.value_and_grad(target.log_posterior)).lower(y).compile()
    compiled = perf_counter() - start
    target.derivatives(density.initial)
    return {
        "points": int(np.unique(row_layout(observations).point).size),
        "dim": density.dim,
        "compile_s": compiled,
        "gradient_ms": 1e3 * min(repeated(lambda: jax.block_until_ready(gradient(y)), REPEATS)),
        "hessian_ms": 1e3 * min(repeated(lambda: target.derivatives(density.initial), 2)),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def in_fresh_process(deployments: int, rows: int, *flags: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--cell", str(deployments), str(rows), *flags]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    print(found, file=sys.stderr, flush=True)
    return found


def table(cells: list[dict[str, Any]], fits: list[dict[str, Any]]) -> str:
    lines = [
        "# Growth with rows and deployments",
        "",
        "Made by `python benchmarks/growth.py` on simulated fleets, 2 CPU cores, the default model"
        " (context and discrepancy on).",
        "The gradient is that of the log-posterior, fastest of"
        f" {REPEATS}; the Hessian is exact. Memory is the peak of a process that reads, builds and"
        " differentiates.",
        "",
        "| deployments | rows | design points | coordinates | compile, s | gradient, ms |"
        " Hessian, ms | peak, GB |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {cell['deployments']} | {cell['rows']:,} | {cell['points']:,} | {cell['dim']:,} |"
        f" {cell['compile_s']:.1f} | {cell['gradient_ms']:.2f} | {cell['hessian_ms']:.0f} |"
        f" {cell['peak_gb']:.2f} |"
        for cell in cells
    ]
    lines += [
        "",
        "The gradient is linear in design points up to about 100,000 rows; beyond, the arrays of a"
        " pass over the rows no longer fit the cache, and the same row costs up to twice as much."
        " With few rows the coordinates decide. The Hessian is a dense matrix: its memory and the"
        " time to assemble it grow with the square of the coordinates.",
    ]
    if fits:
        lines += [
            "",
            f"Sampled with 4 x {DRAWS} draws, or what a second run took:",
            "",
            "| deployments | rows | leapfrogs a draw | smallest ESS | R-hat | divergences |"
            " draws |",
            "|---:|---:|---:|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {cell['deployments']} | {cell['rows']:,} | {cell['leapfrogs']:.1f} |"
            f" {cell['ess']:.0f} | {cell['rhat']:.3f} | {cell['divergences']} | {cell['draws']:,} |"
            for cell in fits
        ]
    return "\n".join(lines) + "\n"


def picture(cells: list[dict[str, Any]]) -> Any:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    for deployments in sorted({cell["deployments"] for cell in cells}):
        own = [cell for cell in cells if cell["deployments"] == deployments]
        rows = [cell["rows"] for cell in own]
        for axis, name in zip(axes, ("gradient_ms", "hessian_ms", "peak_gb"), strict=True):
            axis.plot(rows, [cell[name] for cell in own], "o-", label=f"{deployments} deployments")
    titles = ("gradient, ms", "exact Hessian, ms", "peak memory, GB")
    for axis, title in zip(axes, titles, strict=True):
        axis.set(xscale="log", yscale="log", xlabel="rows", title=title)
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cell", nargs=2, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--fit", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--fits", action="store_true", help="sample some cells too")
    chosen = parser.parse_args()
    if chosen.cell:
        print(json.dumps(measure(*chosen.cell, fit=chosen.fit)))
        return
    cells = [
        in_fresh_process(deployments, rows)
        for deployments in FLEETS
        for rows in ROWS
        if rows >= 10 * deployments
    ]
    fits = [in_fresh_process(*cell, "--fit") for cell in FITTED] if chosen.fits else []
    (RESULTS / "growth.md").write_text(table(cells, fits), encoding="utf8")
    picture(cells).savefig(RESULTS / "growth.png", dpi=110)
    print(table(cells, fits))


if __name__ == "__main__":
    main()
