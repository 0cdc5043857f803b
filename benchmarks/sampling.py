"""Time to a converged posterior of a simulated fleet, sampler by sampler, in one run.

``python benchmarks/sampling.py`` fits 9 deployments x 300 simulated rows with each sampler in a
fresh process and writes ``benchmarks/results/sampling.md``; ``--steps FILE`` fits a log instead.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "sampling.md"
SAMPLERS = ("numpyro", "nutpie", "blackjax")


def measure(sampler: str, steps: str | None) -> dict:
    """Fit once in this process."""
    import bayeslat as bl

    observations = bl.read_steps(steps) if steps else bl.validate_steps(bl.simulate_fleet().steps)
    stages = []
    start = time.perf_counter()
    fleet = bl.fit(
        observations,
        sampler=sampler,
        progress=lambda text: stages.append((time.perf_counter() - start, text)),
    )
    seconds = time.perf_counter() - start
    for when, text in stages:
        print(f"{when:7.1f} s  {text}", file=sys.stderr)
    return {
        "sampler": sampler,
        "rows": len(observations),
        "deployments": len(fleet.deployments),
        "seconds": seconds,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "verdict": str(fleet.verdict),
        "ess": fleet.verdict.min_ess_bulk,
        "leapfrogs": fleet.verdict.leapfrogs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps")
    parser.add_argument("--only", choices=SAMPLERS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.steps)))
        return
    rows = []
    for sampler in SAMPLERS:
        command = [sys.executable, __file__, "--only", sampler]
        command += ["--steps", arguments.steps] if arguments.steps else []
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows.append(json.loads(output.splitlines()[-1]))
    first = rows[0]["seconds"]
    lines = [
        f"{rows[0]['rows']:,} rows, {rows[0]['deployments']} deployments"
        f" ({'from a log' if arguments.steps else 'simulated'}), 2 CPU cores, whole fit with"
        " compilation, pilots and the run that counts.",
        "",
        "| sampler | seconds | ratio | leapfrogs a draw | smallest bulk ESS | peak GB | verdict |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    lines += [
        f"| {row['sampler']} | {row['seconds']:.1f} | {row['seconds'] / first:.2f} |"
        f" {row['leapfrogs']:.0f} | {row['ess']:.0f} | {row['peak_gb']:.1f} | {row['verdict']} |"
        for row in rows
    ]
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
