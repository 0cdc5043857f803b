"""Simulation-based calibration of the full model: truths lie anywhere among posterior draws.

Parameters are drawn from the prior, steps from the parameters, and the model is fitted to the steps
exactly as `bayeslat.fit` does it. If model, likelihood and sampler belong together, the truth of
each quantity lies anywhere among the draws with the same probability.
"""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslat.errors import InputError
from bayeslat.evaluation.calibration_fits import CompiledFleet, Simulation, simulate_from_prior
from bayeslat.evaluation.calibration_ranks import chi_square, places, rank_band
from bayeslat.evaluation.ours import ANSWER_SOURCES, DEPENDENCIES
from bayeslat.evaluation.versions import digest, package_versions, source_digest
from bayeslat.inference.fit import spec_for
from bayeslat.inference.samplers import SamplerSettings
from bayeslat.model.spec import ModelSpec
from bayeslat.observations import Observations
from bayeslat.observations.files import replacing

__all__ = ["LEVEL", "CalibrationResult", "Wrong", "calibrate"]

type Array = NDArray[np.float64]

LEVEL: Final = 0.05
"""Probability that any quantity of a right model is refused, over all of them (Bonferroni)."""

MIN_SIMULATIONS: Final = 10

SOURCES: Final = (
    *ANSWER_SOURCES,
    "evaluation/calibration.py",
    "evaluation/calibration_fits.py",
    "evaluation/calibration_ranks.py",
)
"""Parts of the package that decide what is kept of a fit."""


@dataclass(frozen=True)
class Wrong:
    """How data are simulated otherwise than the model that is fitted says.

    Parameters
    ----------
    noise : float
        Factor of the noise.
    spec : ModelSpec, optional
        The model whose prior truths are drawn from; it has the quantities of the one fitted.
    """

    noise: float = 1.0
    spec: ModelSpec | None = None


@dataclass(frozen=True, eq=False)
class CalibrationResult:
    """Where truths lay among the draws of their posteriors.

    Attributes
    ----------
    names
        The quantities.
    place
        Shape (simulation, quantity), between 0 and 1.
    n_draws
        Thinned draws that each truth was placed among, shape (simulation, quantity).
    converged
        Whether each fit passed its verdict, shape (simulation,). Those that did not count too.
    max_rhat, divergences, seconds
        Of each fit, shape (simulation,).
    """

    names: tuple[str, ...]
    place: Array
    n_draws: NDArray[np.int64]
    converged: NDArray[np.bool_]
    max_rhat: Array
    divergences: NDArray[np.int64]
    seconds: Array

    def __len__(self) -> int:
        return len(self.place)

    def __str__(self) -> str:
        refused = self.refused()
        told = f"{len(refused)} of {len(self.names)} quantities refused"
        if refused:
            told += f" ({', '.join(refused[:4])}{', ...' if len(refused) > 4 else ''})"
        return (
            f"{told} at a level of {LEVEL:g} over all, from {len(self)} simulations, of whose fits"
            f" {self.converged.sum()} converged"
        )

    def table(self) -> pd.DataFrame:
        """One row a quantity, the least uniform first.

        Returns
        -------
        DataFrame
            Columns ``quantity``; ``p_ecdf``, of its whole distribution; ``p_chi_square``, of binned
            places; ``mean_place``, 1/2 where truths lie in the middle on average; ``spread``, the
            standard deviation of places over that of uniform ones (below 1 where intervals are too
            wide, above 1 where they are too narrow); ``n_draws``, median number of draws placed
            among; ``refused``, whether ``p_ecdf`` is below `LEVEL` over the number of quantities.
        """
        p = [rank_band(len(self)).p_value(column) for column in self.place.T]
        found = pd.DataFrame(
            {
                "quantity": self.names,
                "p_ecdf": p,
                "p_chi_square": [chi_square(column) for column in self.place.T],
                "mean_place": self.place.mean(axis=0),
                "spread": self.place.std(axis=0) * np.sqrt(12.0),
                "n_draws": np.median(self.n_draws, axis=0).astype(int),
                "refused": np.array(p) < LEVEL / len(self.names),
            }
        )
        return found.sort_values(["p_ecdf", "p_chi_square"], ignore_index=True)

    def refused(self) -> tuple[str, ...]:
        """Quantities whose truths lie where they should not, the worst first."""
        table = self.table()
        return tuple(table.loc[table["refused"], "quantity"])


def calibrate(
    design: Observations,
    spec: ModelSpec | None = None,
    *,
    n_simulations: int = 200,
    settings: SamplerSettings | None = None,
    wrong: Wrong | None = None,
    folder: Path | None = None,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> CalibrationResult:
    """Calibrate a model on the design of a log.

    Parameters
    ----------
    design : Observations
        Deployments, B, S and C of every simulated data set; its latencies are not used.
    spec : ModelSpec, optional
        The model; as `bayeslat.fit` chooses it for this design where left out.
    n_simulations : int
        Data sets, each fitted once. The programs are compiled once in each process.
    settings : SamplerSettings, optional
        Of each fit, and seed of the whole. Fits are not retried.
    wrong : Wrong, optional
        Data that the model does not describe, to see them refused.
    folder : path, optional
        Where fits are kept, one file each: a calibration that was stopped goes on from there.
    processes : int
        Fits next to each other, each process on a core of its own.
    progress : callable, optional
        Told after each fit how many are done, and of how many.

    Returns
    -------
    CalibrationResult

    Raises
    ------
    InputError
        Too few simulations, or a folder of another calibration.
    """
    if n_simulations < MIN_SIMULATIONS or processes < 1:
        raise InputError(
            f"got n_simulations={n_simulations}, processes={processes}, expected at least"
            f" {MIN_SIMULATIONS} and 1; places of fewer truths tell nothing"
        )
    settings = replace(settings or SamplerSettings(draws=300, tune=100, chains=2), retry=False)
    wrong, spec = wrong or Wrong(), spec_for(design, spec)
    key = _fingerprint(design, spec, settings, wrong)
    kept = [_read(folder, number, key) for number in range(n_simulations)]
    missing = [number for number, found in enumerate(kept) if found is None]
    tasks = []
    if missing:
        simulations = simulate_from_prior(
            design, wrong.spec or spec, n_simulations, seed=settings.seed, noise=wrong.noise
        )
        told = spec.to_json()
        tasks = [_Task(number, design, told, simulations[number], settings) for number in missing]
    done = n_simulations - len(tasks)
    for number, fitted in _fit_all(tasks, processes):
        kept[number] = fitted
        _write(folder, number, key, fitted)
        done += 1
        if progress is not None:
            progress(done, n_simulations)
    return _result([fitted for fitted in kept if fitted is not None])


class _Fitted(NamedTuple):
    """What is kept of one fit."""

    names: NDArray[np.str_]
    place: Array
    n_draws: NDArray[np.int64]
    converged: bool
    max_rhat: float
    divergences: int
    seconds: float


class _Task(NamedTuple):
    number: int
    design: Observations
    spec: str
    """As JSON, which a process can be sent."""
    simulation: Simulation
    settings: SamplerSettings


def _result(kept: list[_Fitted]) -> CalibrationResult:
    columns: Any = zip(*kept, strict=True)
    names, *others = (np.array(column) for column in columns)
    return CalibrationResult(tuple(names[0].tolist()), *others)


def _fit_all(tasks: list[_Task], processes: int) -> Iterator[tuple[int, _Fitted]]:
    """Fits as they are done."""
    if processes == 1 or len(tasks) < 2:
        for task in tasks:
            yield task.number, _fit_one(task)
        return
    # Processes that are spawned know nothing of the threads of JAX in this one.
    context, pending = get_context("spawn"), {}
    with ExitStack() as pools:
        for seat in range(min(processes, len(tasks))):
            pool = pools.enter_context(ProcessPoolExecutor(1, mp_context=context))
            with _on_core(seat):
                for task in tasks[seat::processes]:
                    pending[pool.submit(_fit_one, task)] = task.number
        for future in as_completed(pending):
            yield pending[future], future.result()


@contextmanager
def _on_core(seat: int) -> Iterator[None]:
    """Processes begun here keep to one core: the threads of XLA would wait for each other."""
    if not hasattr(os, "sched_setaffinity"):  # not every system can
        yield
        return
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[seat % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


_compiled: dict[str, CompiledFleet] = {}
"""The model of the last calibration of this process."""


def _compiled_for(task: _Task) -> CompiledFleet:
    key = f"{task.design.fingerprint} {task.spec}"
    if key not in _compiled:
        _compiled.clear()
        _compiled[key] = CompiledFleet.of(task.design, ModelSpec.from_json(task.spec))
    return _compiled[key]


def _fit_one(task: _Task) -> _Fitted:
    compiled, start = _compiled_for(task), time.perf_counter()
    seed = int(np.random.SeedSequence([task.settings.seed, task.number]).generate_state(1)[0])
    settings = replace(task.settings, seed=seed)
    observations = task.simulation.observations
    sampled = compiled.sample(observations, settings)
    drawn = compiled.quantities(sampled.values, observations)
    truth = compiled.quantities(task.simulation.truth, observations)
    draws = np.stack([drawn[name] for name in truth], axis=-1)
    true = np.array([values.item() for values in truth.values()])
    found = places(draws, true, np.random.default_rng([seed, 1]))
    return _Fitted(
        np.array(list(truth)),
        found.place,
        found.n_draws,
        sampled.verdict.passed,
        sampled.verdict.max_rhat,
        sampled.verdict.divergences,
        time.perf_counter() - start,
    )


def _fingerprint(
    design: Observations, spec: ModelSpec, settings: SamplerSettings, wrong: Wrong
) -> str:
    """What a kept fit must have been made with."""
    other = wrong.spec.to_json() if wrong.spec is not None else ""
    parts = (design.fingerprint, spec.to_json(), asdict(settings), wrong.noise, other)
    return digest(repr(parts), source_digest(SOURCES), package_versions(DEPENDENCIES))


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.npz"


def _read(folder: Path | None, number: int, key: str) -> _Fitted | None:
    if folder is None or not _path(folder, number).is_file():
        return None
    with np.load(_path(folder, number)) as kept:
        if str(kept["key"]) != key:
            raise InputError(
                f"got {folder}, which holds fits of another calibration, expected an empty folder"
                " or one of the same design, model, settings and code; name another"
            )
        return _Fitted(*(kept[name] for name in _Fitted._fields))


def _write(folder: Path | None, number: int, key: str, fitted: _Fitted) -> None:
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)

    def save(path: Path) -> None:
        with path.open("wb") as stream:
            np.savez_compressed(stream, key=key, **fitted._asdict())

    replacing(_path(folder, number), save)
