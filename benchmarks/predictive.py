"""Time and accuracy of the posterior predictive: ``python benchmarks/predictive.py``.

Times are medians after warm-up on one core, but those of a million points, which take every core
and run once. The same questions are put to a plain scipy implementation in the same run. The draws
are synthetic: the cost does not depend on their values.
"""

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from scipy import optimize, special

from bayeslat import saturation
from bayeslat.decisions import feasible_tokens, nearest_tokens
from bayeslat.discrepancy import Discrepancy, basis_for, unknown_powers
from bayeslat.noise import FAMILIES
from bayeslat.predictive import DeploymentDraws, LatencyDistribution
from bayeslat.predictive.draws import Points
from bayeslat.predictive.kernels import tail_table
from bayeslat.schema import Deployment
from timing import once, repeated

RESULT = Path(__file__).parent / "results" / "predictive.md"
N_DRAWS = 1_000
N_POINTS = 100_000
MANY_POINTS = 1_000_000
SLA_MS = 50.0
ONE = (16, 512, 8_000.0)
"""The step of the questions about one."""

NUS = (1.2, 2.0, 3.0, 5.0, 10.0, 50.0)

type Row = tuple[str, float, float | None, float | None]


def make_draws(family: str = "student_t", nu: float | None = None) -> DeploymentDraws:
    rng = np.random.default_rng(11)
    typical = {
        "P_max": 30.0,
        "k_B": 0.2,
        "k_S": 0.01,
        "w_0": 20.0,
        "w_1": 1.0,
        "tau_0": 5.0,
        "tau_B": 0.05,
        "tau_S": 0.002,
        "tau_C": 1e-5,
    }
    parameters = {name: v * rng.lognormal(0.0, 0.15, N_DRAWS) for name, v in typical.items()}
    sigma = 0.08 * rng.lognormal(0.0, 0.1, N_DRAWS)
    shape = 1.0 + rng.lognormal(1.5, 0.2, N_DRAWS) if nu is None else np.full(N_DRAWS, nu)
    return DeploymentDraws(Deployment("H100-80GB", "llama-7b"), parameters, sigma, shape, family)


def extended(draws: DeploymentDraws) -> DeploymentDraws:
    """The same draws with every term that a fit may leave out."""
    rng = np.random.default_rng(13)
    batch, tokens, _ = random_steps(2_000)
    basis = basis_for(batch, tokens)
    ratios = {name: rng.lognormal(0.4, 0.2, N_DRAWS) for name in ("m_S", "r_F", "r_B", "r_C")}
    weights = 0.05 * rng.standard_normal((N_DRAWS, basis.size))
    return replace(
        draws,
        parameters=draws.parameters | ratios,
        slopes=rng.normal([0.3, 0.1, -0.1], 0.1, size=(N_DRAWS, 3)),
        discrepancy=Discrepancy(
            basis,
            weights,
            rng.lognormal(-2.0, 0.2, N_DRAWS),
            unknown_powers(N_DRAWS, seed=14),
            reach=(1.0, 4_096.0),
        ),
    )


def random_steps(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points that are all distinct."""
    rng = np.random.default_rng(12)
    batch = rng.integers(1, 257, n)
    return batch, batch + rng.integers(0, 16_384, n), rng.uniform(0.0, 1e6, n)


def design() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A grid of 250 x 400 points, and as many random points that are all distinct."""
    batch, tokens = np.meshgrid(np.arange(1, 251), np.arange(1, 401) * 40 + 250, indexing="ij")
    return {"grid": (batch, tokens, np.zeros(batch.shape)), "random": random_steps(N_POINTS)}


def scipy_sf(draws: DeploymentDraws, t: float, *step: np.ndarray) -> np.ndarray:
    """The mixture's survival function, as one would write it with numpy and scipy."""
    columns = {name: values[:, None] for name, values in draws.parameters.items()}
    flat = [np.ravel(np.asarray(values, dtype=float)) for values in step]
    result = np.empty(flat[0].size)
    for start in range(0, result.size, 1_000):
        mu = saturation.latency(columns, *(values[start : start + 1_000] for values in flat))
        z = (1.0 - t / mu) / draws.sigma[:, None]
        result[start : start + 1_000] = special.stdtr(draws.nu[:, None], z).mean(axis=0)
    return result


def scipy_ppf(draws: DeploymentDraws, q: float, *step: np.ndarray) -> list[float]:
    """The mixture's quantile by Brent's method, point after point."""

    def one(*point: float) -> float:
        mu = np.asarray(saturation.latency(draws.parameters, *point))

        def excess(t: float) -> float:
            return special.stdtr(draws.nu, (1.0 - t / mu) / draws.sigma).mean() - (1.0 - q)

        return optimize.brentq(excess, 1e-3, 1e5, xtol=1e-9, rtol=1e-12)

    return [one(*point) for point in zip(*map(np.ravel, step), strict=True)]


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Median over repeats, after one more."""
    run()
    return median(repeated(run, repeats))


def time_rows(draws: DeploymentDraws) -> list[Row]:
    """Question, seconds, seconds of the plain implementation, target."""
    points = design()
    thousand = tuple(values[:1_000] for values in points["random"])
    return [
        *probability_rows(draws, points),
        *extended_rows(extended(draws), points["random"]),
        *quantile_rows(draws, thousand),
        *inversion_rows(draws),
    ]


def probability_rows(draws: DeploymentDraws, points: dict[str, Any]) -> list[Row]:
    distribution = LatencyDistribution(draws, *ONE)
    plain = seconds(partial(scipy_sf, draws, SLA_MS, *map(np.atleast_1d, ONE)), 50)
    rows: list[Row] = [
        (
            "P(T > SLA), 1 point, construction included",
            seconds(lambda: LatencyDistribution(draws, *ONE).sf(SLA_MS), 2_000),
            plain,
            1e-4,
        ),
        ("P(T > SLA), 1 point", seconds(lambda: distribution.sf(SLA_MS), 2_000), plain, 1e-4),
    ]
    for name, steps in points.items():
        run = seconds(lambda steps=steps: LatencyDistribution(draws, *steps).sf(SLA_MS), 3)
        plain = once(partial(scipy_sf, draws, SLA_MS, *steps))
        rows.append((f"P(T > SLA), 1e5 points, {name}", run, plain, 2.0))
    return rows


def extended_rows(full: DeploymentDraws, points: tuple[np.ndarray, ...]) -> list[Row]:
    return [
        (
            "P(T > SLA), 1 point, every term and discrepancy, construction included",
            seconds(lambda: LatencyDistribution(full, *ONE).sf(SLA_MS), 2_000),
            None,
            1e-4,
        ),
        (
            "P(T > SLA), 1e5 points, random, every term and discrepancy",
            seconds(lambda: LatencyDistribution(full, *points).sf(SLA_MS), 3),
            None,
            3.0,
        ),
    ]


def quantile_rows(draws: DeploymentDraws, thousand: tuple[np.ndarray, ...]) -> list[Row]:
    distribution, step = LatencyDistribution(draws, *ONE), map(np.atleast_1d, ONE)
    credible = seconds(lambda: LatencyDistribution(draws, *thousand).sf(SLA_MS, credible=0.9), 3)
    return [
        ("P(T > SLA) with credible interval, 1e3 points", credible, None, None),
        (
            "99th percentile, 1 point",
            seconds(lambda: distribution.ppf(0.99), 500),
            seconds(partial(scipy_ppf, draws, 0.99, *step), 20),
            None,
        ),
        (
            "99th percentile, 1e3 points, random",
            seconds(lambda: LatencyDistribution(draws, *thousand).ppf(0.99), 3),
            once(partial(scipy_ppf, draws, 0.99, *thousand)),
            None,
        ),
    ]


def inversion_rows(draws: DeploymentDraws) -> list[Row]:
    question = {"batch_size": 16, "sla_ms": SLA_MS, "risk": 0.01}
    searches = {
        "every feasible S up to 16,384": partial(feasible_tokens, draws, **question),
        "every feasible S, with confidence 0.9": partial(
            feasible_tokens, draws, confident=0.9, **question
        ),
        "S nearest to a target from below": partial(
            nearest_tokens, draws, batch_size=16, target_ms=SLA_MS
        ),
        "table of the tail, once for one fit": partial(tail_table, draws.noise, draws.nu),
    }
    return [(name, seconds(run, 3), None, None) for name, run in searches.items()]


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def time_and_memory(run: Callable[[], object]) -> tuple[float, int]:
    """Seconds, and the greatest growth of this process in bytes, looked at every 10 ms."""
    before, ended, greatest = resident(), threading.Event(), [0]

    def watch() -> None:
        while not ended.wait(0.01):
            greatest[0] = max(greatest[0], resident() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    taken = once(run)
    ended.set()
    watcher.join()
    return taken, greatest[0]


def many_rows(draws: DeploymentDraws) -> list[tuple[str, float, int]]:
    """Time and memory of a million points on every core."""
    steps = random_steps(MANY_POINTS)
    rows = []
    for name, one in (("plain terms", draws), ("every term and discrepancy", extended(draws))):
        latency = LatencyDistribution(one, *steps)
        few = LatencyDistribution(one, *random_steps(10))
        few.sf(SLA_MS), few.ppf(0.99)  # warm-up: the table of the tail, compiled code
        rows.append((f"P(T <= SLA), {name}", *time_and_memory(partial(latency.cdf, SLA_MS))))
        rows.append((f"99th percentile, {name}", *time_and_memory(partial(latency.ppf, 0.99))))
    return rows


def sf_error(family: str, nu: float) -> float:
    """Largest absolute error of the mixture's survival function over many latencies."""
    draws = make_draws(family, nu)
    one = tuple(map(np.atleast_1d, (16.0, 512.0, 8_000.0)))
    mu = draws.location(Points(*one))
    t = np.concatenate([np.linspace(1.0, 100.0, 1_500), np.geomspace(100.0, 1e6, 500)])
    ratio = t / mu
    z = np.log(ratio) if draws.noise.log_scale else ratio - 1.0
    exact = FAMILIES[family].standard_sf(z / draws.sigma[:, None], draws.nu[:, None]).mean(axis=0)
    return float(np.abs(LatencyDistribution(draws, *one).sf(t) - exact).max())


def shown(value: float | None) -> str:
    """Seconds in a readable unit."""
    if value is None:
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"


def main() -> None:
    cores = os.sched_getaffinity(0)
    many = many_rows(make_draws())
    os.sched_setaffinity(0, {max(cores)})
    lines = [
        "# Posterior predictive and SLA inversion",
        "",
        f"Made by `python benchmarks/predictive.py`: {N_DRAWS:,} draws, Student-t noise, one core,",
        "medians after warm-up. The plain implementation is numpy and `scipy.special.stdtr` in",
        "pieces of 1,000 points, and Brent's method point after point for the percentile; on many",
        "points it runs once.",
        "",
        "| question | time | target | plain scipy | ratio |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, taken, plain, target in time_rows(make_draws()):
        ratio = "-" if plain is None else f"{plain / taken:.0f}"
        lines.append(f"| {name} | {shown(taken)} | {shown(target)} | {shown(plain)} | {ratio} |")
    lines += [
        "",
        f"A million points that are all distinct, {N_DRAWS:,} draws, {len(cores)} cores, one run;",
        "the target is 30 s and 500 MB:",
        "",
        "| question | time | memory beyond the query |",
        "|---|---:|---:|",
        *(f"| {name} | {shown(taken)} | {size / 1e6:.0f} MB |" for name, taken, size in many),
        "",
        "Largest absolute error of P(T > t) against scipy, over 2,000 latencies from 1 ms to",
        "1,000 s:",
        "",
        "| noise | error |",
        "|---|---:|",
        *(f"| Student-t, nu = {nu:g} | {sf_error('student_t', nu):.1e} |" for nu in NUS),
        *(f"| {name} | {sf_error(name, np.inf):.1e} |" for name in ("normal", "lognormal")),
    ]
    RESULT.write_text("\n".join(lines) + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
