"""Fit and release the posteriors that come with the package: ``python models/rebuild.py``.

`public-fleet` needs the recorded steps beside the repository, `reference-fleet` only the simulator.
"""

import argparse
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import bayeslat as bl
from bayeslat.checks import predict_rows
from bayeslat.released import write_released

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data" / "fleet_steps.csv"
SEED = 20
KEPT = {"public-fleet": 75, "reference-fleet": 250}
"""Draws of each chain that a file of a few megabytes has room for."""
DRAWS = {"public-fleet": 2200, "reference-fleet": 1000}
"""Draws of each chain of the fit, before thinning."""

PUBLIC_SOURCES = [
    {
        "repository": "hao-ai-lab/MuxServe",
        "commit": "223148033454",
        "licence": "Apache-2.0",
        "engine": "muxserve",
    },
    {
        "repository": "Mutinifni/splitwise-sim",
        "commit": "8f99e7dc9b40",
        "licence": "MIT",
        "engine": "vllm",
    },
    {
        "repository": "IBM/LLM-performance-prediction",
        "commit": "3c66483f55d7",
        "licence": "CDLA-Permissive-2.0",
        "engine": "tgis",
    },
    {
        "repository": "casys-kaist/LLMServingSim",
        "commit": "5daddb21a545",
        "licence": "MIT",
        "engine": "vllm-0.19-kernels",
    },
]


def scores(fleet: bl.FleetPosterior, steps: bl.Observations) -> dict[str, Any]:
    """How the posterior tells the steps that it was fitted to."""
    table = predict_rows(fleet, steps)
    error = 100.0 * (table["median"] / table["observed"] - 1.0).abs()
    inside = 100.0 * table["pit"].between(0.05, 0.95)
    by = table["deployment"]
    return {
        "in_sample": True,
        "median_over_deployments_of_mape_percent": round(
            float(error.groupby(by).mean().median()), 2
        ),
        "median_over_deployments_of_coverage_90_percent": round(
            float(inside.groupby(by).mean().median()), 1
        ),
        "beyond_p99_percent": round(float(100.0 * np.mean(table["pit"] > 0.99)), 2),
    }


def steps_of(name: str) -> bl.Observations | None:
    """What a posterior is fitted to; None where that is not here."""
    if name == "reference-fleet":
        return bl.validate_steps(bl.simulate_fleet().steps, source="simulated: simulate_fleet()")
    return bl.read_steps(DATA) if DATA.is_file() else None


def release(name: str, steps: bl.Observations, chosen: argparse.Namespace) -> bool:
    """Fit and write one posterior; whether it was written."""
    draws, anything, start = chosen.draws or DRAWS[name], chosen.allow_unconverged, perf_counter()

    def say(what: str) -> None:
        print(f"{perf_counter() - start:.0f} s: {what}", flush=True)

    fleet = bl.fit(steps, draws=draws, seed=chosen.seed, retry=not anything, progress=say)
    say(str(fleet.verdict))
    if not (anything or (fleet.verdict and fleet.verdict.passed)):
        print(f"rebuild: got {fleet.verdict}, expected a verdict that passes; give more"
              f" --draws; {name} stays as it is", file=sys.stderr)  # fmt: skip
        return False
    simulated = name == "reference-fleet"
    described = {
        "simulated": simulated,
        "sources": [] if simulated else PUBLIC_SOURCES,
        "licence": "Apache-2.0",
        "scores": scores(fleet, steps),
        "rebuild": f"python models/rebuild.py {name} --draws {draws} --seed {chosen.seed}"
        + " --allow-unconverged" * anything,
    }
    place = write_released(fleet.tree, name, draws=KEPT[name], described=described)
    size = (place / "posterior.nc").stat().st_size
    print(f"{place}: {size / 2**20:.1f} MiB")
    return True


def main() -> int:
    """Fit and release what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=sorted(KEPT), help=f"some of {sorted(KEPT)}")
    parser.add_argument("--draws", type=int, help=f"of each chain, before thinning: {DRAWS}")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--allow-unconverged", action="store_true",
                        help="one run, released whatever its verdict")  # fmt: skip
    chosen = parser.parse_args()
    failed = 0
    for name in chosen.names:
        if name not in KEPT:
            print(f"rebuild: got {name!r}, expected some of {sorted(KEPT)}", file=sys.stderr)
            return 2
        steps = steps_of(name)
        if steps is None:
            print(f"rebuild: got no {DATA.name} beside the repository, expected the recorded steps"
                  f" there; {name} stays as it is", file=sys.stderr)  # fmt: skip
            failed = 2
        elif not release(name, steps, chosen):
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
