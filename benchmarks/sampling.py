"""Time to a converged posterior of a simulated fleet: ``python benchmarks/sampling.py``.

9 deployments x 300 simulated rows, each sampler of the package in a fresh process, and beside them
the same posterior written plainly (`plain.py`): non-centred PyMC, sampled by numpyro. What is
compared is the smallest effective sample size of quantities and noise for each second of a whole
run, compilation included. Writes ``benchmarks/results/sampling.md``; ``--steps FILE`` takes a log.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import arviz as az

RESULTS = Path(__file__).parent / "results" / "sampling.md"
SAMPLERS = ("numpyro", "nutpie", "blackjax")
PLAIN = "plain"
PLAIN_DRAWS, PLAIN_TUNE = 250, 500
"""Half the draws of the others: the plain form takes many times as long for each."""


def measure(name: str, steps: str | None, draws: int) -> dict[str, Any]:
    """Sample once in this process."""
    import bayeslat as bl

    observations = bl.read_steps(steps) if steps else bl.validate_steps(bl.simulate_fleet().steps)
    start = time.perf_counter()
    found = _plain(observations) if name == PLAIN else _ours(name, observations, draws)
    seconds = time.perf_counter() - start
    return {
        "name": name,
        "rows": len(observations),
        "deployments": len(observations.deployments),
        "seconds": seconds,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        **found,
    }


def _ours(sampler: str, observations: Any, draws: int) -> dict[str, Any]:
    import bayeslat as bl
    from bayeslat.inference import fit

    kept = []
    sample_model = fit.sample_model

    def remembering(*arguments: Any, **options: Any) -> Any:
        kept.append(sample_model(*arguments, **options))
        return kept[-1]

    fit.sample_model = remembering
    start = time.perf_counter()

    def tell(line: str) -> None:
        print(f"{time.perf_counter() - start:7.1f} s  {line}", file=sys.stderr)

    verdict = bl.fit(observations, sampler=sampler, draws=draws, progress=tell).verdict
    return {
        "draws": verdict.chains * verdict.draws,
        "leapfrogs": verdict.leapfrogs,
        "rhat": verdict.max_rhat,
        "divergences": verdict.divergences,
        "passed": verdict.passed,
        **_sizes(kept[0].values),
    }


def _plain(observations: Any) -> dict[str, Any]:
    import pymc as pm

    import bayeslat as bl
    from plain import plain_model

    with plain_model(observations, bl.ModelSpec()):
        tree = pm.sample(
            draws=PLAIN_DRAWS,
            tune=PLAIN_TUNE,
            chains=2,
            nuts_sampler="numpyro",
            random_seed=0,
            progressbar=False,
            compute_convergence_checks=False,
            var_names=["quantities", "log_sigma"],
        )
    values, stats = tree["posterior"].to_dataset(), tree["sample_stats"].to_dataset()
    rhat = az.rhat(values)
    return {
        "draws": int(values.sizes["chain"] * values.sizes["draw"]),
        "leapfrogs": float(stats["n_steps"].mean()),
        "rhat": max(float(rhat[name].max()) for name in rhat.data_vars),
        "divergences": int(stats["diverging"].sum()),
        "passed": False,
        **_sizes(values),
    }


def _sizes(values: Any) -> dict[str, float]:
    """Smallest effective sample sizes of the variables that both forms have."""
    found = {}
    for kind in ("bulk", "tail"):
        ess = az.ess(values[["quantities", "log_sigma"]], method=kind)
        found[f"ess_{kind}"] = min(float(ess[name].min()) for name in ess.data_vars)
    return found


def table(rows: list[dict[str, Any]], *, from_log: bool) -> str:
    """Ratios are to the plain form where it was sampled, else to the first row."""
    speed = {row["name"]: row["ess_bulk"] / row["seconds"] for row in rows}
    unit = speed.get(PLAIN, speed[rows[0]["name"]])
    lines = [
        "# Samplers",
        "",
        f"{rows[0]['rows']:,} rows, {rows[0]['deployments']} deployments"
        f" ({'from a log' if from_log else 'simulated'}), 2 CPU cores, one run each. Seconds are"
        " those of the whole: compilation, pilot and the run that counts. ESS is the smallest of"
        " all pooled quantities and noises.",
        f"`{PLAIN}` is the same posterior in non-centred form, sampled by numpyro with 2 chains,"
        f" {PLAIN_TUNE} warm-up draws and {PLAIN_DRAWS} draws.",
        "",
        "| sampler | seconds | draws | leapfrogs a draw | ESS bulk | ESS tail | R-hat | divergences"
        " | verdict | ESS a second | ratio | peak GB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|---:|---:|---:|",
    ]
    lines += [
        f"| {row['name']} | {row['seconds']:.1f} | {row['draws']:,} | {row['leapfrogs']:.1f} |"
        f" {row['ess_bulk']:.0f} | {row['ess_tail']:.0f} | {row['rhat']:.3f} |"
        f" {row['divergences']} |"
        f" {'passed' if row['passed'] else 'not passed' if row['name'] != PLAIN else ''} |"
        f" {speed[row['name']]:.2f} | {speed[row['name']] / unit:.1f} | {row['peak_gb']:.1f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", help="a log to sample instead")
    parser.add_argument(
        "--names", nargs="+", choices=(*SAMPLERS, PLAIN), default=[*SAMPLERS, PLAIN]
    )
    parser.add_argument("--draws", type=int, default=500, help="a chain; four chains")
    parser.add_argument("--only", choices=(*SAMPLERS, PLAIN), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    if chosen.only:
        print(json.dumps(measure(chosen.only, chosen.steps, chosen.draws)))
        return
    rows = []
    for name in chosen.names:
        command = [sys.executable, __file__, "--only", name, "--draws", str(chosen.draws)]
        command += ["--steps", chosen.steps] if chosen.steps else []
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows.append(json.loads(output.splitlines()[-1]))
    text = table(rows, from_log=bool(chosen.steps))
    chosen.out.write_text(text, encoding="utf8")
    print(text)


if __name__ == "__main__":
    main()
