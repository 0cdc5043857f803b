"""Posteriors kept true under change, against rivals: ``python benchmarks/online.py``.

Simulated fleets, whose truth is known and is not the fitted formula, go through changes of their
latency law; recorded steps are replayed, with and without an injected slow-down. All contestants
see the same rows and are judged on the same steps. Writes ``benchmarks/results/online.md`` and
pictures beside it. Runs are kept in a folder, so that an interrupted one goes on where it was.
"""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from time import perf_counter
from typing import Final

import matplotlib
import pandas as pd

from adaptation.bases import recorded_base
from adaptation.history import history_of
from adaptation.lineup import FULL, OURS, RIVALS
from adaptation.replay import REPLAYS
from adaptation.runs import CHOICES, Finished, Job, played
from adaptation.scenarios import SCENARIOS, TUNING
from adaptation.scores import figures
from adaptation.tables import Title, alarm_lines, scenario_lines, target_lines
from bayeslat.plots.adaptation import plot_adaptation

matplotlib.use("Agg")

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = Path(__file__).parent / "results"
DATA: Final = ROOT.parent / "shared" / "data" / "fleet_steps.csv"
PICTURED: Final = ("slow-down", "swap", "thermal", "burst")
SMOKE: Final = ("slow-down",)
FEWER: Final = {
    "thermal": 2,
    "compute": 2,
    "context": 2,
    "return": 2,
    **{one.name: 2 for one in REPLAYS},
}
"""Runs of scenarios that take long, or are no target."""

ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}


def jobs_of(chosen: argparse.Namespace) -> tuple[list[Job], list[str]]:
    """What is to be run, and why some of it is not."""
    jobs, left_out = [], []
    for name in chosen.scenarios:
        if name.startswith("replay") and (chosen.smoke or not chosen.data.is_file()):
            why = "too long for --smoke" if chosen.smoke else f"no recorded steps at {chosen.data}"
            left_out.append(f"{name}: left out, {why}")
            continue
        seeds = 1 if chosen.smoke else min(chosen.seeds, FEWER.get(name, chosen.seeds))
        about = (chosen.data, chosen.cache, chosen.smoke)
        jobs += [Job(name, seed, *about) for seed in range(seeds)]
        if name == "stationary" and not chosen.smoke:
            seeds_beyond = range(chosen.seeds, chosen.seeds + chosen.alarm_runs)
            jobs += [Job(name, seed, *about, kind="alarms") for seed in seeds_beyond]
        if name == "slow-down" and chosen.full_fits and not chosen.smoke:
            jobs.append(Job(name, 0, *about, kind="full"))
    return jobs, left_out


def finished(jobs: Sequence[Job], workers: int) -> Iterator[Finished]:
    """Runs, in the order of the jobs."""
    if workers == 1:
        for job in jobs:
            yield played(job)
            print(f"{job.scenario}, seed {job.seed}", flush=True)
        return
    context = multiprocessing.get_context("spawn")
    start = perf_counter()
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        going = {pool.submit(played, job): job for job in jobs}
        for future in as_completed(going):
            job = going[future]
            future.result()
            print(f"{perf_counter() - start:.0f} s: {job.scenario}, seed {job.seed}", flush=True)
        yield from (future.result() for future in going)


def titles() -> list[Title]:
    """All scenarios as tables name them."""
    simulated = {scenario.name for scenario in SCENARIOS}
    return [
        Title(one.name, one.title, one.changes, one.name in simulated) for one in CHOICES.values()
    ]


def text(runs: Sequence[Finished], left_out: Sequence[str], command: str) -> str:
    """The results as Markdown."""
    table = figures(pd.concat([run.followed.judged for run in runs if run.kind == "all"]))
    alarms = pd.DataFrame(
        [
            {"scenario": run.scenario, "seed": run.seed, "delays": run.delays,
             "true": run.true, "false": run.false, "exposed": run.exposed}
            for run in runs
        ]
    )  # fmt: skip
    shown = [title for title in titles() if (alarms["scenario"] == title.name).any()]
    lines = [*head(command), *target_lines(table, alarms, shown), ""]
    lines += ["## Detection", "", *alarm_lines(alarms, shown), ""]
    for simulated, heading in ((True, "## Simulated fleet"), (False, "## Recorded steps")):
        some = [title for title in shown if title.simulated == simulated]
        if some:
            lines += [heading, ""]
        for title in some:
            if (table["scenario"] == title.name).any():
                lines += [*scenario_lines(table, title, (OURS, *RIVALS)), ""]
    for run in runs:
        if run.kind == "full":
            lines += [*full_lines(run), ""]
    return "\n".join([*lines, *left_out])


def full_lines(run: Finished) -> list[str]:
    """Full fits beside others, on a short stream."""
    title = next(title for title in titles() if title.name == run.scenario)
    table = scenario_lines(figures(run.followed.judged), title, (OURS, *RIVALS, FULL))
    return [
        "## Full fits",
        "",
        "A short stream of the same slow-down, judged every 100 rows: the whole model of one"
        " deployment fitted anew (`bayeslat.fit`) on its last 300 rows, every 100. Its *ms a row*"
        " is the time of a fit over a hundred rows.",
        "",
        *table[2:],
    ]


def head(command: str) -> list[str]:
    """What was done, and how to read it."""
    tuned = " and ".join(f"{one.title}" for one in TUNING)
    return [
        "# Posteriors kept true under change",
        "",
        f"Made by `{command}`. The base is the released reference fleet of nine simulated"
        " deployments, whose truth is known and is not the fitted formula; four send rows, in"
        " turns."
        " Every 50 rows of a deployment (200 in the slow drift) each belief is judged on the same"
        " 300 fresh steps under the law then in force, with their noise. Recorded steps are judged"
        " on the next 200 rows of the deployment; what they lack in a truth they have in being"
        " real. Injected slow-downs are no measurements.",
        "",
        "Error is the mean absolute relative error of the predicted median, noise included."
        " *Hindsight* is a refit that knows when the law changed and has all rows of the stream"
        " since: a robust polynomial regression, in the logarithms of B, S and C, of what the law"
        " has become relative to the base posterior. Of recorded steps it has seen the very"
        " rows that beliefs are judged on. *Back* means: at three judgements in a row"
        " the error within 10 % of hindsight's, or the coverage of the 90 % interval between 85"
        " and 95 %. *Settled* is the last third of a stream. *Spread in time* is the standard"
        " deviation over time of the latency predicted for five fixed steps, once settled. Cells"
        " are medians over runs and judged deployments, with least and largest; *never* counts"
        " as later than any.",
        "",
        "The rivals: the base posterior left as it is; the regression that hindsight uses, on the"
        " last 200 rows, every 100; robust least squares of the throughput-saturation formula with"
        " a context term on the last 5,000 (and 200) rows, every 100; one gradient step with"
        " momentum on its parameters every 100 rows; a Kalman filter of what the law has become"
        " relative to the base. Their settings were chosen on another simulated fleet:"
        f" {tuned}. Full fits of the model are too slow to be led through all this: a"
        " short stream with them stands at the end, where it was run.",
        "",
        "Times are rough: two runs share the machine. What a prediction costs while an update goes"
        " on is not measured here.",
        "",
        "## Targets",
        "",
    ]


def pictures(runs: Sequence[Finished], folder: Path) -> Iterator[Path]:
    """One drift followed, of each pictured scenario."""
    for run in runs:
        rows = run.followed.rows
        if run.scenario not in PICTURED or run.seed != 0 or run.kind != "all":
            continue
        label = rows["deployment"].iloc[0]
        tick = CHOICES[run.scenario].tick
        history = history_of(run.followed, OURS, label, run.onset, tick)
        path = folder / f"online_{run.scenario.replace('-', '_')}.png"
        title = CHOICES[run.scenario].title
        plot_adaptation(history, label=label, title=title).savefig(path, dpi=110)
        yield path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="runs of a scenario")
    parser.add_argument("--scenarios", nargs="+", default=None, choices=list(CHOICES))
    parser.add_argument("--alarm-runs", type=int, default=6,
                        help="further stationary runs, for alarms alone")  # fmt: skip
    parser.add_argument("--full-fits", action=argparse.BooleanOptionalAction, default=True,
                        help="the run with full fits, which takes minutes")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--data", type=Path, default=DATA, help="the recorded steps")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "online",
                        help="folder of runs, which are kept")  # fmt: skip
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--smoke", action="store_true", help="one short run, to try things out")
    chosen = parser.parse_args()
    command = " ".join(["python benchmarks/online.py", *sys.argv[1:]])
    chosen.scenarios = chosen.scenarios or list(SMOKE if chosen.smoke else CHOICES)
    os.environ.update(ONE_THREAD)
    jobs, left_out = jobs_of(chosen)
    if any(job.scenario.startswith("replay") for job in jobs):
        # Here and once, before two processes do it at the same time.
        recorded_base(chosen.data, chosen.cache)
    if not jobs:
        raise SystemExit("\n".join(left_out))
    runs = list(finished(jobs, 1 if chosen.smoke else chosen.jobs))
    found = text(runs, left_out, command)
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "online.md").write_text(found.rstrip() + "\n", encoding="utf-8")
    for path in pictures(runs, chosen.out):
        print(path)
    print(found)


if __name__ == "__main__":
    main()
