"""The whole way on one machine: simulate, fit, ask, measure this device, cold-start it, report."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslat.catalog import GPU, LLM
from bayeslat.checks import PredictionScores, predict_rows, score_predictions
from bayeslat.errors import InputError
from bayeslat.inference.convergence import ConvergenceVerdict
from bayeslat.observations import Observations, validate_steps, write_steps
from bayeslat.posterior import FleetPosterior, fit
from bayeslat.predictive import Estimate
from bayeslat.profiling import DeviceProfile, profile_device
from bayeslat.report import ColdStart, write_report
from bayeslat.schema import Deployment
from bayeslat.simulate import SimulatedFleet, simulate_fleet

__all__ = ["DemoResult", "choose_steps", "run_demo"]

SLA_MS: Final = 50.0
RISK: Final = 0.01
CREDIBLE: Final = 0.9
N_STEPS: Final = 10
"""Steps of the real device that the cold start may see."""

_MAX_TOKENS: Final = 16_384

type Say = Callable[[str], None]


class _Size(NamedTuple):
    """How much of everything."""

    gpus: tuple[str, ...]
    models: tuple[str, ...]
    rows: int
    draws: int
    seconds: float
    toys: tuple[str, ...]


_FULL: Final = _Size(
    ("A100-40GB", "A100-80GB", "H100-80GB"),
    ("llama-7b", "llama-13b", "llama-70b"),
    300,
    1000,
    60.0,
    ("tiny", "small", "base"),
)
_QUICK: Final = _Size(
    ("A100-80GB", "H100-80GB"), ("llama-7b", "llama-13b"), 60, 500, 15.0, ("tiny",)
)


class _Question(NamedTuple):
    """A design point to ask about; C is the context positions of each request."""

    gpu: str
    model: str
    batch_size: int
    total_tokens: int
    context_per_request: int


_QUESTIONS: Final = (
    _Question("H100-80GB", "llama-13b", 32, 1024, 1024),
    _Question("A100-80GB", "llama-7b", 64, 64, 1024),
    _Question("A100-80GB", "llama-13b", 16, 512, 512),
)


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes
    ----------
    verdicts : mapping of str to ConvergenceVerdict
        Of the fleet and of the cold start with steps.
    scores : mapping of int to PredictionScores
        Number of steps seen to the scores on held-back real steps.
    answers : tuple of dict
        Predicted and true values at the design points.
    files : mapping of str to str
        What was written.
    """

    verdicts: dict[str, ConvergenceVerdict]
    scores: dict[int, PredictionScores]
    answers: tuple[dict[str, Any], ...]
    files: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether every verdict passed."""
        return all(verdict.passed for verdict in self.verdicts.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        verdicts = {
            name: {**verdict.to_dict(), "passed": verdict.passed}
            for name, verdict in self.verdicts.items()
        }
        return {
            "passed": self.passed,
            "verdicts": verdicts,
            "cold_start": {str(k): asdict(score) for k, score in self.scores.items()},
            "answers": list(self.answers),
            "files": self.files,
        }


def run_demo(
    out: str | Path = "demo",
    *,
    quick: bool = False,
    seed: int = 0,
    progress: Say | None = None,
    say: Say = print,
) -> DemoResult:
    """Run everything and write posteriors, measured steps and a report to a folder.

    Parameters
    ----------
    out : str or Path
        Folder; made where it does not exist.
    quick : bool
        A smaller fleet and a shorter measurement.
    seed : int
        Seed of the simulation, the sampler and the choice of steps.
    progress : callable, optional
        Told in a few words what begins.
    say : callable
        Given the lines of the result, with rich markup.

    Returns
    -------
    DemoResult
        What was printed, as values.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"got the file {folder}, expected a folder; choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    tell, size = progress or (lambda _: None), _QUICK if quick else _FULL

    simulated = simulate_fleet(
        gpus=size.gpus, models=size.models, rows_per_deployment=size.rows, seed=seed
    )
    say(
        f"[bold]1. Fleet[/bold] {len(simulated.steps):,} simulated steps of"
        f" {len(simulated.truth)} deployments: simulated, with known truth, not measured"
    )
    observations = validate_steps(simulated.steps, source="simulated fleet")
    say(observations.quarantine.summary())
    tell("fitting the fleet")
    fleet = fit(observations, draws=size.draws, seed=seed, progress=tell)
    verdict = _sampled(fleet)
    say(f"[bold]2. Fit[/bold] {_coloured(verdict)}")
    answers = _ask(fleet, simulated, say)
    cold_start, device = _meet_this_machine(fleet, size, seed, tell, say)
    scores = _show_scores(cold_start, say)

    files = {
        "fleet": folder / "fleet.nc",
        "device": folder / "device.nc",
        "device_steps": folder / "device_steps.csv",
        "report": folder / "report.html",
    }
    tell("writing the report")
    fleet.save(files["fleet"])
    cold_start.after.save(files["device"])
    write_steps(device.steps, files["device_steps"])
    write_report(
        fleet,
        files["report"],
        observations=observations,
        sla_ms=SLA_MS,
        risk=RISK,
        cold_start=cold_start,
        title="bayeslat demo: a simulated fleet and this machine's own device",
    )
    say(f"[bold]5. Report[/bold] {files['report']}")
    return DemoResult(
        {"fleet": verdict, "cold start": _sampled(cold_start.after)},
        scores,
        answers,
        {name: str(path) for name, path in files.items()},
    )


def choose_steps(
    observations: Observations, n: int, *, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of about `n` steps spread over the design points, and of the steps to hold back.

    LLMs and phases take turns, each with a design point that is drawn at random; a step of each
    chosen point is drawn. Held back is every step of the other design points, so that no held-back
    step has a twin among the chosen. At most half of the design points are chosen.

    Parameters
    ----------
    observations : Observations
        Measured steps.
    n : int
        Steps to choose.
    seed : int
        Seed of the choice.

    Raises
    ------
    InputError
        There is only one design point.
    """
    rng = np.random.default_rng(seed)
    names = ("deployment_index", "batch_size", "total_tokens", "context_tokens")
    columns = np.stack([getattr(observations, name) for name in names])
    points, point_of = np.unique(columns, axis=1, return_inverse=True)
    n_points = points.shape[1]
    if n_points < 2:
        raise InputError(
            f"got {n_points} design point, expected at least two, one to learn from and one to"
            " predict; measure for longer"
        )
    is_prefill = points[2] > points[1]
    groups: list[list[int]] = [
        rng.permutation(np.flatnonzero((points[0] == index) & (is_prefill == prefill))).tolist()
        for index in range(len(observations.deployments))
        for prefill in (False, True)
    ]
    turns = zip_longest(*groups)
    chosen = [point for turn in turns for point in turn if point is not None]
    chosen = chosen[: min(n, n_points // 2)]
    rows = [int(rng.choice(np.flatnonzero(point_of == point))) for point in chosen]
    return np.array(sorted(rows)), np.flatnonzero(~np.isin(point_of, chosen))


def _sampled(fleet: FleetPosterior) -> ConvergenceVerdict:
    verdict = fleet.verdict
    assert verdict is not None, "a sampled posterior carries its verdict"
    return verdict


def _coloured(verdict: ConvergenceVerdict) -> str:
    colour = "green" if verdict.passed else "bold red"
    return f"[{colour}]{str(verdict).replace('[', '(').replace(']', ')')}[/{colour}]"


def _ask(fleet: FleetPosterior, truth: SimulatedFleet, say: Say) -> tuple[dict[str, Any], ...]:
    say("[bold]3. Answers[/bold] value (90 % interval), next to the truth of the simulation")
    answers = []
    for question in _QUESTIONS:
        if question.gpu not in fleet.gpus or question.model not in fleet.models:
            continue
        predicted, true = _answer(fleet, truth, question)
        say(
            f"   {question.gpu} {question.model}: B = {question.batch_size},"
            f" S = {question.total_tokens}, C = {question.context_per_request} a request"
        )
        for name, value in predicted.items():
            shown = (
                f"{value[0]:8.4g} ({value[1]:.4g} to {value[2]:.4g})"
                if isinstance(value, Estimate)
                else f"{value if value is not None else 'none':>8}"
            )
            against = true[name]
            say(f"      {name:<34} {shown:<34} truth {_number(against)}")
        answers.append({**question._asdict(), "predicted": predicted, "truth": true})
    held = [
        value.lower <= answer["truth"][name] <= value.upper
        for answer in answers
        for name, value in answer["predicted"].items()
        if isinstance(value, Estimate)
    ]
    say(
        f"   {sum(held)} of {len(held)} intervals hold the truth: the simulated engine does not"
        " follow the formula, and an interval knows only of the parameters"
    )
    return tuple(answers)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _answer(
    fleet: FleetPosterior, truth: SimulatedFleet, question: _Question
) -> tuple[dict[str, Any], dict[str, Any]]:
    where: dict[str, Any] = {"gpu": question.gpu, "model": question.model}
    context = question.context_per_request * question.batch_size
    point: dict[str, Any] = {
        "batch_size": question.batch_size,
        "total_tokens": question.total_tokens,
        "context_tokens": context,
    }
    latency = fleet.latency(**where, **point)
    budget = f"tokens that fit {SLA_MS:g} ms at {100 * RISK:g} %"
    risky = f"P(T > {SLA_MS:g} ms)"
    predicted: dict[str, Any] = {risky: latency.sf(SLA_MS, credible=CREDIBLE)}
    true: dict[str, Any] = {risky: float(truth.sf(SLA_MS, **where, **point))}
    for name, q in (("p50, ms", 0.5), ("p95, ms", 0.95), ("p99, ms", 0.99)):
        predicted[name] = latency.ppf(q, credible=CREDIBLE)
        true[name] = float(truth.ppf(q, **where, **point))
    asked: dict[str, Any] = {"batch_size": question.batch_size, "context_tokens": context}
    predicted[budget] = fleet.max_tokens(**where, **asked, sla_ms=SLA_MS, risk=RISK)
    tokens = np.arange(question.batch_size, _MAX_TOKENS + 1)
    fits = tokens[truth.sf(SLA_MS, **where, **asked, total_tokens=tokens) <= RISK]
    true[budget] = int(fits[-1]) if fits.size else None
    return predicted, true


def _meet_this_machine(
    fleet: FleetPosterior, size: _Size, seed: int, tell: Say, say: Say
) -> tuple[ColdStart, DeviceProfile]:
    tell(f"measuring this machine for {size.seconds:.0f} s")
    device = profile_device(seconds=size.seconds, sizes=size.toys, seed=seed)
    entries: list[GPU | LLM] = [device.gpu, *device.llms]
    measured = validate_steps(
        device.steps, source="this machine", catalog=fleet.catalog.with_entries(*entries)
    )
    say(
        f"[bold]4. This machine[/bold] {len(measured):,} measured steps of"
        f" {', '.join(llm.name for llm in device.llms)} on {device.gpu.name}"
        f" ({device.gpu.peak_tflops:.3g} TFLOP/s, {device.gpu.bandwidth_tbs:.3g} TB/s measured)"
    )
    say(f"   {measured.quarantine.summary()}")
    few, held_back = choose_steps(measured, N_STEPS, seed=seed)
    targets: tuple[Deployment, ...] = measured.deployments
    before = fleet.cold_start(entries, deployments=targets, seed=seed)
    tell(f"cold start from {few.size} measured steps")
    after = fleet.cold_start(
        entries,
        steps=measured.select(few),
        deployments=targets,
        draws=size.draws,
        seed=seed,
        progress=tell,
    )
    say(f"   after {few.size} steps: {_coloured(_sampled(after))}")
    return ColdStart(before, after, measured.select(held_back), few.size), device


def _show_scores(cold_start: ColdStart, say: Say) -> dict[int, PredictionScores]:
    predictions = {0: cold_start.before, cold_start.n_steps: cold_start.after}
    scores = {
        k: score_predictions(predict_rows(fleet, cold_start.held_back))
        for k, fleet in predictions.items()
    }
    say("   prediction of held-back real steps, none of whose design points was shown:")
    for k, score in scores.items():
        known = "datasheets alone" if k == 0 else f"datasheets and {k} steps"
        say(f"      {known:<28} {score}")
    return scores
