"""False alarms and delays of the detectors of drift: ``python benchmarks/detection.py``.

Scores are simulated as a fitted model would give them: it believes in lognormal noise of 4 % with
1.5 % stalls, and is right, or wrong by up to 5 % of latency depending on the load, in its spread
and in its tails. Writes ``benchmarks/results/detection.md``. ``--smoke`` is a few rows of each, to
see that it runs, and writes nothing.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from sys import stderr
from time import process_time
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.special import ndtr
from scipy.stats import chi2, t

from bayeslat.online.detection import DETECTORS, Detector
from bayeslat.online.scores import Scores
from bayeslat.online.settings import OnlineSettings

type Array = NDArray[np.float64]

type Change = Callable[[Array, Array, np.random.Generator], Array]
"""What becomes of the noise, given it and the rows since the change."""

RESULTS: Final = Path(__file__).parent / "results"
SETTINGS: Final = OnlineSettings()
LEVELS: Final = 10
BELIEVED_SD: Final = 0.04
STALLS: Final = 0.015
ROWS: Final = 10_000
BEFORE: Final = 3_000
WITHIN: Final = {"slow ramp to +20 % over 5,000 rows": 8_000, "burst: 10 % of 500 rows at 5x": 600}
WITHIN_ELSE: Final = 3_000
FEWER: Final = {"ks": 20, "mann-whitney": 20, "page-hinkley": 10, "adwin": 10}
"""The classical ones get so many times fewer runs; two of them take ten times as long."""


@dataclass(frozen=True)
class World:
    """A deployment, and how wrong the model of it is.

    Parameters
    ----------
    bias : float
        Largest error of the predicted latency, which varies smoothly with the load.
    spread : float
        Noise is between 1 / spread and spread times what is believed, depending on the load.
    tails : float
        Degrees of freedom of the noise; infinite is the believed lognormal.
    moving : bool
        The traffic moves and jumps between loads.
    rho : float
        Correlation of the noise of successive rows.
    sd : float
        Believed standard deviation of log latency.
    """

    bias: float = 0.0
    spread: float = 1.0
    tails: float = np.inf
    moving: bool = False
    rho: float = 0.0
    sd: float = BELIEVED_SD

    def rows(self, n: int, seed: Any, change: Change | None = None, before: int = 0) -> Scores:
        """Rows of the deployment as the model scores them; after some of them it changes."""
        rng = np.random.default_rng(seed)
        load = rng.random(n) if not self.moving else moving_load(n, rng)
        waves = rng.uniform(0.5, 2.0, 2), rng.uniform(0.0, 2.0 * np.pi, 2)
        bias, width = (
            np.sin(2.0 * np.pi * f * load + phase) for f, phase in zip(*waves, strict=True)
        )
        noise = self.sd * self.spread**width * self._standard(n, rng)
        stalled = rng.random(n) < STALLS
        noise += stalled * (np.log(1.2) + rng.exponential(0.25, n))
        if change is not None:
            since = np.arange(n, dtype=float) - before
            noise = np.where(since >= 0, change(noise, since, rng), noise)
        return scored(np.log1p(self.bias) * bias + noise, (load * LEVELS).astype(np.int64), self.sd)

    def _standard(self, n: int, rng: np.random.Generator) -> Array:
        z = rng.standard_normal(n)
        if self.rho:
            start = [self.rho * rng.standard_normal()]
            z = lfilter([np.sqrt(1.0 - self.rho**2)], [1.0, -self.rho], z, zi=start)[0]
        return z if np.isinf(self.tails) else t.ppf(ndtr(z), self.tails) / t.std(self.tails)


def shifted(noise: Array, since: Array, rng: np.random.Generator, *, factor: float) -> Array:
    return noise + np.log(factor)


def ramped(noise: Array, since: Array, rng: np.random.Generator) -> Array:
    return noise + np.log(1.2) * np.minimum(since / 5_000, 1.0)


def widened(noise: Array, since: Array, rng: np.random.Generator) -> Array:
    return 2.0 * noise


def burst(noise: Array, since: Array, rng: np.random.Generator) -> Array:
    return noise + np.log(5.0) * ((since < 500) & (rng.random(noise.size) < 0.1))


RIGHT: Final = World()
WRONG: Final = World(bias=0.05, spread=1.3, tails=4.0)
WORLDS: Final = {
    "(a) right model": RIGHT,
    "(b) bias to 5 %, wrong spread and tails": WRONG,
    "(c) as (b), the traffic moves": replace(WRONG, moving=True),
    "(c) the same, noise of 10 %": replace(WRONG, moving=True, sd=0.1),
    "(d) right model, noise of correlation 0.3": replace(RIGHT, rho=0.3),
    "(d) the same, 0.6": replace(RIGHT, rho=0.6),
    "(d) the same, 0.9": replace(RIGHT, rho=0.9),
    "(d) 0.9, noise of 10 %": replace(RIGHT, rho=0.9, sd=0.1),
}
SLOWER: Final = partial(shifted, factor=1.15)
CHANGES: Final[Mapping[str, tuple[Change, int]]] = {
    "+15 %": (SLOWER, BEFORE),
    "-15 %": (partial(shifted, factor=0.85), BEFORE),
    "+5 %, which is the tolerance": (partial(shifted, factor=1.05), BEFORE),
    "slow ramp to +20 % over 5,000 rows": (ramped, BEFORE),
    "noise doubled": (widened, BEFORE),
    "burst: 10 % of 500 rows at 5x": (burst, BEFORE),
    "+15 % after 50 rows": (SLOWER, 50),
    "+15 % from the first row": (SLOWER, 0),
}


def moving_load(n: int, rng: np.random.Generator) -> Array:
    """Loads on (0, 1) whose distribution swings, and jumps every 500 to 3,000 rows."""
    lengths = rng.integers(500, 3_000, n // 500 + 1)
    place = np.repeat(rng.uniform(0.1, 0.9, lengths.size), lengths)[:n]
    swing = 0.1 * np.sin(2.0 * np.pi * np.arange(n) / rng.uniform(300, 3_000))
    centre = np.clip(place + swing, 0.02, 0.98)
    return np.clip(rng.beta(12.0 * centre, 12.0 * (1.0 - centre)), 1e-9, 1.0 - 1e-9)


def scored(log_error: Array, stratum: NDArray[np.int64], sd: float = BELIEVED_SD) -> Scores:
    """What a model scores that believes in lognormal noise with some stalls."""

    def cdf(error: Array) -> Array:
        stalls = ndtr((error - np.log(1.2) - 0.25) / 0.25)
        return (1.0 - STALLS) * ndtr(error / sd) + STALLS * stalls

    n, admitted = log_error.size, np.log1p(SETTINGS.tolerance)
    return Scores(
        latency_ms=20.0 * np.exp(log_error),
        predicted_ms=np.full(n, 20.0),
        pit=cdf(log_error),
        p_slower=1.0 - cdf(log_error - admitted),
        p_faster=cdf(log_error + admitted),
        log_score=np.zeros(n),
        stratum=stratum,
    )


class Alarm(NamedTuple):
    """Drift, at a row of the stream."""

    row: int
    kind: str
    since: int


class Watched(NamedTuple):
    """What a detector said of a stream."""

    alarms: list[Alarm]
    warnings: int
    """Times that the level rose to warning."""


def watched(detector: Detector, scores: Scores, *, block: int, once: bool = False) -> Watched:
    """Everything that a detector says; it is started anew after every drift, or is done then."""
    memory, alarms, warnings, start, last = detector.start(), [], 0, 0, "quiet"
    while start < len(scores):
        memory, verdict = detector.update(memory, scores[start : start + block])
        warnings += verdict.level == "warning" and last == "quiet"
        last = verdict.level
        if verdict.level == "drift":
            alarms.append(Alarm(start + verdict.row, verdict.kind, verdict.since))
            if once:
                break
            memory, last, start = detector.start(), "quiet", start + verdict.row + 1
        else:
            start += block
    return Watched(alarms, warnings)


def stationary(name: str, world: World, seed: int, n: int) -> Watched:
    """One stream in which nothing changes."""
    rows = world.rows(n, [seed, *b"still"])
    return watched(DETECTORS[name](SETTINGS), rows, block=SETTINGS.block)


def changed(name: str, change: str, seed: int) -> Alarm | None:
    """The first alarm of one stream that changes, as rows after the change."""
    what, before = CHANGES[change]
    within = WITHIN.get(change, WITHIN_ELSE)
    rows = WRONG.rows(before + within, [seed, *b"change"], what, before)
    found = watched(DETECTORS[name](SETTINGS), rows, block=SETTINGS.block, once=True).alarms
    return found[0]._replace(row=found[0].row - before + 1) if found else None


def rate(count: int, rows: int) -> str:
    """Events in 100,000 rows, with the upper end of a one-sided 95 % interval."""
    most = chi2.ppf(0.95, 2 * (count + 1)) / 2.0
    return f"{1e5 * count / rows:.2g} (< {1e5 * most / rows:.2g})"


def runs_of(name: str, runs: int) -> int:
    return max(runs // FEWER.get(name, 1), 1)


def runs_in(title: str, runs: int) -> int:
    """The worlds that the target is for get all runs, the others a fifth."""
    return runs if title in list(WORLDS)[:3] else max(runs // 5, 1)


def all_runs(runs: int) -> str:
    """How often each detector ran, in words."""
    return ", ".join(f"{runs_of(name, runs)} of {name}" for name in DETECTORS)


def false_alarms(runs: int, n: int) -> Iterator[str]:
    """Table of alarms and warnings while nothing changes."""
    yield f"| | {' | '.join(DETECTORS)} |"
    yield f"|---|{'---:|' * len(DETECTORS)}"
    for title, world in WORLDS.items():
        cells, warned = [], []
        for name in DETECTORS:
            seeds = range(runs_of(name, runs_in(title, runs)))
            found = [stationary(name, world, seed, n) for seed in seeds]
            rows = n * len(seeds)
            cells.append(rate(sum(len(run.alarms) for run in found), rows))
            warned.append(f"{1e5 * sum(run.warnings for run in found) / rows:.2g}")
        print(title, cells, warned, file=stderr, flush=True)
        yield f"| {title} | {' | '.join(cells)} |"
        yield f"| warnings | {' | '.join(warned)} |"


def delays(runs: int) -> Iterator[str]:
    """Table of rows from a change to its alarm."""
    yield f"| | {' | '.join(DETECTORS)} |"
    yield f"|---|{'---|' * len(DETECTORS)}"
    for change in CHANGES:
        cells = []
        for name in DETECTORS:
            seeds = range(runs_of(name, runs))
            cells.append(cell([changed(name, change, seed) for seed in seeds]))
        print(change, cells, file=stderr, flush=True)
        yield f"| {change} | {' | '.join(cells)} |"


def cell(found: list[Alarm | None]) -> str:
    """Median and 90 % of the delays, misses, what it was called, and how `since` did."""
    early = sum(alarm is not None and alarm.row <= 0 for alarm in found)
    right = [alarm for alarm in found if alarm is not None and alarm.row > 0]
    missed = 100.0 * (len(found) - len(right) - early) / len(found)
    if not right:
        return f"missed {missed:.0f} %"
    rows = np.array([alarm.row for alarm in right])
    kinds = pd.Series([alarm.kind for alarm in right]).value_counts(normalize=True)
    called = ", ".join(f"{kind} {100.0 * share:.0f} %" for kind, share in kinds.items())
    text = f"{np.median(rows):.0f} / {np.quantile(rows, 0.9):.0f}; {called}"
    text += f"; since {np.median([alarm.since - alarm.row for alarm in right]):+.0f}"
    text += f"; missed {missed:.0f} %" if missed else ""
    return text + (f"; {early} too early" if early else "")


def costs(n: int) -> Mapping[str, float]:
    """Microseconds of this processor a row, in blocks of a hundred."""
    rows, found = RIGHT.rows(n, 0), {}
    for name, maker in DETECTORS.items():
        watched(maker(SETTINGS), rows[:500], block=100)
        start = process_time()
        watched(maker(SETTINGS), rows, block=100)
        found[name] = 1e6 * (process_time() - start) / n
    return found


def text(runs: int, n: int, n_delays: int) -> str:
    """The results as markdown."""
    lines = [
        "# Detectors of drift: false alarms and delays",
        "",
        "Made by `python benchmarks/detection.py` on simulated scores: ten load levels; the model"
        f" believes in lognormal noise of {100 * BELIEVED_SD:g} % with {100 * STALLS:g} % stalls."
        f" Admitted are {SETTINGS.false_alarms:g} false alarms an observation and a tolerance of"
        f" {100 * SETTINGS.tolerance:g} %. In (b) and (c) the predicted latency is wrong by up to"
        " 5 %, smoothly in the load and so within levels too; the noise is 0.77 to 1.3 times what"
        " is believed, with the tails of Student's t of 4 degrees of freedom; in (c) the traffic"
        " swings and jumps between loads.",
        "",
        "## Nothing changes",
        "",
        f"Alarms in 100,000 rows, and the upper end of their one-sided 95 % Poisson interval."
        f" Runs of {n:,} rows: {all_runs(runs)}; a fifth of that in the last five"
        " worlds. Below each the warnings in 100,000 rows.",
        "",
        *false_alarms(runs, n),
        "",
        "## Something changes",
        "",
        "Rows from the change to the alarm, median / 90 %, in world (b), after"
        f" {BEFORE:,} rows where nothing else is said (runs: {all_runs(n_delays)}); what the change"
        " was called; by how many"
        " rows `since` is off, median; runs without an alarm within 3,000 rows of the change"
        " (8,000 of the ramp, 600 of the burst).",
        "",
        *delays(n_delays),
        "",
        "## Cost",
        "",
        "Microseconds of processor time a row in blocks of 100, rough orders on a shared machine:"
        f" {'; '.join(f'{name} {cost:.0f}' for name, cost in costs(min(n, 2_000)).items())}.",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, help="in which nothing changes")
    parser.add_argument("--delays", type=int, default=100, help="runs of each change")
    parser.add_argument("--smoke", action="store_true", help="a few rows of each, to see it runs")
    chosen = parser.parse_args(arguments)
    if chosen.smoke:
        print(text(1, 200, 1))
        return
    found = text(chosen.runs, ROWS, chosen.delays)
    (RESULTS / "detection.md").write_text(found.rstrip() + "\n", encoding="utf-8")
    print(found)


if __name__ == "__main__":
    main()
