"""Speed of the engine simulator, and queues against closed forms: ``python benchmarks/engine.py``.

Speed: one run on one core, continuous batching with chunked prefill, Student-t noise at every step.
Closed forms: mean waits and p99 of the event simulations against formulas, with the Monte Carlo
error of batch means. Writes ``benchmarks/results/engine.md``.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np

from bayeslat import queueing
from bayeslat.engine import EngineSettings, StepTimes, Workload, simulate_engine
from timing import once

RESULTS: Final = Path(__file__).parent / "results" / "engine.md"
SEED: Final = 3
N: Final = 1_000_000
BATCHES: Final = 40


def engine_speed() -> list[tuple[str, int, float]]:
    """Engines under a load, with their steps and seconds."""
    times = StepTimes.from_function(
        lambda b, s: 8.0 + 0.05 * b + 0.02 * s,
        max_batch_size=256,
        max_total_tokens=8192,
        per_position_ms=1e-5,
        sigma=0.05,
        nu=4.0,
        family="student_t",
    )
    rows = []
    for name, rate, n, options in (
        ("10 requests/s", 10.0, 120_000, {}),
        ("26 requests/s", 26.0, 220_000, {}),
        ("26 requests/s, the cache runs out", 26.0, 60_000, {"kv_capacity_tokens": 60_000}),
    ):
        workload = Workload.poisson(
            rate,
            n=n,
            prompt_tokens=lambda rng, n: rng.integers(100, 1_000, n),
            output_tokens=lambda rng, n: rng.integers(50, 250, n),
            seed=SEED,
        )
        settings = EngineSettings(**options)
        simulate_engine(workload.select(slice(100)), settings, times)  # compiled before the clock
        found: list[Any] = []
        seconds = once(
            lambda w=workload, s=settings, f=found: f.append(simulate_engine(w, s, times))
        )
        running = found[0].running().value
        rows.append((f"{name} ({running:.0f})", int(found[0].total("n_steps").value), seconds))
    return rows


def batched(values: np.ndarray) -> tuple[float, float]:
    """Mean of a stationary series and its standard error."""
    parts = values[values.size // 20 :]
    parts = parts[: parts.size // BATCHES * BATCHES].reshape(BATCHES, -1).mean(axis=1)
    return float(parts.mean()), float(parts.std(ddof=1) / np.sqrt(BATCHES))


def through_engine(rate: float, services: np.ndarray, *, seed: int) -> np.ndarray:
    """Waits of a queue of one server, simulated as an engine of one place: a token is 0.001."""
    times = StepTimes.from_function(lambda b, s: 1e-3 * s, max_batch_size=1, max_total_tokens=2**17)
    tokens = np.maximum(np.round(1e3 * services), 1)
    arrivals = queueing.poisson_arrivals(rate, services.size, np.random.default_rng(seed))
    workload = Workload(arrivals, tokens, np.ones(services.size))
    settings = EngineSettings(max_num_seqs=1, max_num_batched_tokens=2**16)
    return simulate_engine(workload, settings, times).queue_ms[0]


def closed_forms() -> list[tuple[str, str, float, float, float]]:
    """Queue, simulator, formula, simulated value and its error."""
    rng = np.random.default_rng(SEED)
    mean, rate = 5.0, 0.16  # rho = 0.8
    services = {
        "M/M/1": rng.exponential(mean, N),
        "M/D/1": np.full(N, mean),
        "M/G/1, lognormal": rng.lognormal(np.log(mean) - 0.5, 1.0, N),
    }
    seconds = {"M/M/1": 2 * mean**2, "M/D/1": mean**2, "M/G/1, lognormal": np.e * mean**2}
    rows = []
    for name, service in services.items():
        exact = float(queueing.mg1_mean_wait(rate, mean, seconds[name]))
        rows.append(
            (f"{name}, E[W]", "engine", exact, *batched(through_engine(rate, service, seed=1)))
        )
        arrivals = queueing.poisson_arrivals(rate, N, np.random.default_rng(1))
        waits = queueing.simulate_servers(arrivals, service).wait
        rows.append((f"{name}, E[W]", "station", exact, *batched(waits)))
    arrivals = queueing.poisson_arrivals(0.9 * 8 / mean, N, rng)
    waits = queueing.simulate_servers(arrivals, rng.exponential(mean, N), servers=8).wait
    exact = float(queueing.mmc_mean_wait(0.9 * 8 / mean, 1 / mean, servers=8))
    rows.append(("M/M/8, E[W]", "station", exact, *batched(waits)))
    for least, longest in ((1, np.inf), (8, 2.0)):
        batch = queueing.affine_service(3.0, 0.5, 8)
        exact_bulk = queueing.bulk_queue(0.9, batch, min_batch=least, max_wait=longest)
        arrivals = queueing.poisson_arrivals(0.9, N, rng)
        events = queueing.simulate_bulk(arrivals, batch, min_batch=least, max_wait=longest)
        name = f"bulk of {least} to 8, E[W]"
        rows.append((name, "station", exact_bulk.mean_wait, *batched(events.wait)))
    batch = np.asarray(queueing.affine_service(3.0, 0.5, 8))
    times = StepTimes.from_function(
        lambda b, s: 3.0 + 0.5 * b, max_batch_size=8, max_total_tokens=8
    )
    workload = Workload(queueing.poisson_arrivals(0.9, N, rng), np.ones(N), np.ones(N))
    records = simulate_engine(
        workload, EngineSettings(max_num_seqs=8, max_num_batched_tokens=8), times
    )
    exact_bulk = queueing.bulk_queue(0.9, batch)
    rows.append(
        ("bulk of 1 to 8, E[W]", "engine", exact_bulk.mean_wait, *batched(records.queue_ms[0]))
    )
    return rows


def main() -> None:
    lines = [
        "# The engine simulator: speed, and queues against closed forms",
        "",
        "Made by `python benchmarks/engine.py`. One run on one core.",
        "",
        "| engine (mean running) | steps | seconds | µs a step | seconds for 1e6 steps | target |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, steps, seconds in engine_speed():
        each = 1e6 * seconds / steps
        lines.append(f"| {name} | {steps:,} | {seconds:.2f} | {each:.2f} | {each:.1f} | 20 |")
    lines += [
        "",
        f"{N:,} requests each; errors are those of {BATCHES} batch means; z is their multiple.",
        "",
        "| queue | simulator | closed form | simulated | error | z |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, simulator, exact, found, error in closed_forms():
        z = (found - exact) / error
        lines.append(
            f"| {name} | {simulator} | {exact:.4f} | {found:.4f} | {error:.4f} | {z:+.1f} |"
        )
    text = "\n".join(lines) + "\n"
    RESULTS.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
