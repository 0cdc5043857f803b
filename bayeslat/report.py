"""One self-contained HTML page about a posterior: where it comes from, what it says, its limits."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import jinja2
import numpy as np
from matplotlib.figure import Figure

from bayeslat import plots
from bayeslat.checks import PredictionScores, predict_rows, prior_predictive, score_predictions
from bayeslat.decisions import FeasibleRegion, ServedDeployment, ServiceObjective, StepOverhead
from bayeslat.decisions.loads import loads_around
from bayeslat.engine import Workload
from bayeslat.errors import InputError
from bayeslat.model.spec import ModelSpec
from bayeslat.observations import Observations, Quarantine
from bayeslat.observations.files import replacing
from bayeslat.posterior import FleetPosterior
from bayeslat.predictive import Estimate
from bayeslat.predictive.estimate import check_probability
from bayeslat.schema import PARAMETER_UNITS, Deployment

__all__ = ["ColdStart", "write_report"]

PICTURED_ROWS: Final = 200
"""Rows of a deployment that the pictures show; more would hide each other."""

SERVED: Final = 3
"""Deployments that are served in the report, those with most rows first."""

_REQUEST: Final = {"prompt_tokens": 1024, "output_tokens": 128}
_RUNNING: Final = 16
_OBJECTIVE: Final = ServiceObjective(ttft_ms=2000.0, tpot_ms=50.0)
_SHARES: Final = (0.25, 0.5, 0.7, 0.85, 1.0, 1.15)
_SERVED_REQUESTS, _SERVED_RUNS = 300, 25
_GRID_POINTS: Final = (25, 40)
_PRIOR_POINTS: Final = 24
_COMBINATION_UNITS: Final = {"slope": "ms/token", "floor": "ms", "overhead": "ms"}


class ColdStart(NamedTuple):
    """A newcomer predicted twice, and measured steps that neither prediction has seen.

    Attributes
    ----------
    before, after : FleetPosterior
        Predicted from datasheets alone, and after a few steps.
    held_back : Observations
        Measured steps.
    n_steps : int
        How many steps `after` has seen.
    """

    before: FleetPosterior
    after: FleetPosterior
    held_back: Observations
    n_steps: int


@dataclass(frozen=True)
class _Picture:
    title: str
    text: str
    source: str


@dataclass(frozen=True)
class _Serving:
    """One deployment under load: a table of phases, and a picture."""

    label: str
    running: int
    phases: list[tuple[str, list[Estimate]]]
    sustained: str
    picture: _Picture


def write_report(
    fleet: FleetPosterior,
    path: str | Path,
    *,
    observations: Observations | None = None,
    sla_ms: float = 50.0,
    risk: float = 0.01,
    cold_start: ColdStart | None = None,
    title: str = "Fleet latency report",
    serving: bool = True,
) -> None:
    """Write a report as one HTML file without outside parts, all or nothing.

    Parameters
    ----------
    fleet : FleetPosterior
        What the report is about.
    path : str or Path
        HTML file to make or replace.
    observations : Observations, optional
        Measured steps of the fleet; without them the report has no fit and no predictive check.
    sla_ms, risk : float
        Limit in milliseconds and admitted probability of breaking it.
    cold_start : ColdStart, optional
        A newcomer before and after a few steps.
    title : str
        Of the page.
    serving : bool
        Whether a few deployments are simulated under load, where their KV cache is known.

    Raises
    ------
    InputError
        A wrong SLA or risk, steps of other deployments, or a folder that does not exist.
    """
    check_probability("risk", risk)
    if not (np.isfinite(sla_ms) and sla_ms > 0):
        raise InputError(f"got sla_ms={sla_ms}, expected positive milliseconds; correct the limit")
    pictures = [
        *(_agreement(fleet, observations) if observations is not None else ()),
        _parameters(fleet),
        _exceedance(fleet, sla_ms, risk),
        *((_newcomer(cold_start),) if cold_start is not None else ()),
        _prior(fleet),
    ]
    page = _template().render(
        title=title,
        fleet=fleet,
        verdict=fleet.verdict,
        provenance=_provenance(fleet),
        quarantine=Quarantine.from_dict(fleet.provenance["quarantine"]),
        pictures=pictures,
        served=_served(fleet) if serving else [],
        request=_REQUEST,
        gap_ms=f"{StepOverhead().median_ms:g}",
        objective=str(_OBJECTIVE),
        simulated=plots.is_simulated(item.label for item in fleet.deployments),
        identifiability=_identifiability(fleet),
        limits=_limits(fleet, observations),
    )
    replacing(Path(path), lambda target: _write(target, page))


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bayeslat"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html")


def _write(target: Path, page: str) -> None:
    target.write_text(page, encoding="utf-8")


def _picture(figure: Figure, title: str, text: str = "") -> _Picture:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    coded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return _Picture(title, text, f"data:image/png;base64,{coded}")


def _agreement(fleet: FleetPosterior, observations: Observations) -> Sequence[_Picture]:
    table = predict_rows(fleet, observations, max_rows=PICTURED_ROWS)
    scores = score_predictions(table)
    return (
        _picture(
            plots.plot_fit(table),
            "Fit of each deployment",
            f"{scores}. Where these steps were fitted, this is the fit and no forecast.",
        ),
        _picture(
            plots.plot_pit(table),
            "Posterior predictive check",
            "A curve that leaves the band says where the predicted distribution is wrong: an"
            " S-shape that intervals are too wide or narrow, a shift that latencies are biased.",
        ),
    )


def _parameters(fleet: FleetPosterior) -> _Picture:
    return _picture(
        plots.plot_parameters(fleet.identifiability()),
        "Parameters",
        "Grey, hollow: the data said little, the value is the prior's.",
    )


def _exceedance(fleet: FleetPosterior, sla_ms: float, risk: float) -> _Picture:
    shown = fleet.deployments[: plots.MAX_PANELS]
    batches, tokens = _grid(fleet)
    regions: dict[str, FeasibleRegion] = {
        item.label: fleet.feasible_region(
            **item._asdict(), batch_sizes=batches, total_tokens=tokens, sla_ms=sla_ms, risk=risk
        )
        for item in shown
    }
    left_out = len(fleet.deployments) - len(shown)
    return _picture(
        plots.plot_exceedance(regions, sla_ms=sla_ms, risk=risk),
        f"P(T > {sla_ms:g} ms)",
        "Each request attends to the deployment's typical context. The red line bounds what fits at"
        f" a risk of {100 * risk:g} %."
        + (f" {left_out} more deployments are not shown." if left_out else ""),
    )


def _grid(fleet: FleetPosterior) -> tuple[np.ndarray, np.ndarray]:
    """Whole batch sizes and token counts up to the largest that were measured."""
    high = fleet.constant_data["measured_range"].sel(bound="high")
    ends = []
    for axis, least in (("batch_size", 64.0), ("total_tokens", 4096.0)):
        measured = high.sel(design_axis=axis).to_numpy()
        ends.append(max(least, float(np.nanmax(measured, initial=0.0))))
    batches, tokens = (
        np.unique(np.geomspace(1, end, points).round())
        for end, points in zip(ends, _GRID_POINTS, strict=True)
    )
    return batches, tokens


def _served(fleet: FleetPosterior) -> list[_Serving]:
    """The deployments with most rows whose cache is known and holds a batch, under load."""
    rows = fleet.constant_data["n_rows"].to_numpy()
    positions = sorted(range(rows.size), key=lambda at: -rows[at])
    found = []
    for position in positions:
        item = fleet.deployments[position]
        room = fleet.catalog.kv_capacity_tokens(
            item.gpu, item.model, tp=item.tp, precision=item.precision
        )
        if room >= _RUNNING * sum(_REQUEST.values()):
            found.append(position)
    return [_under_load(fleet, position) for position in found[:SERVED]]


def _under_load(fleet: FleetPosterior, position: int) -> _Serving:
    item = fleet.deployments[position]
    engine = fleet.serving(**item._asdict())
    measured = fleet.constant_data["measured_range"].sel(design_axis="batch_size", bound="high")
    largest = float(measured.to_numpy()[position])
    running = _RUNNING if np.isnan(largest) else int(min(_RUNNING, largest))
    phases = engine.request_phases(**_REQUEST, running=running)
    rows = [
        (name, [part.mean(credible=0.9), *(part.ppf(q, credible=0.9) for q in (0.5, 0.99))])
        for name, part in (
            ("Prefill", phases.prefill),
            ("TTFT", phases.ttft),
            ("TPOT", phases.tpot),
            ("E2E", phases.e2e),
        )
    ]
    curve = engine.load_curve(
        Workload.poisson(1.0, n=_SERVED_REQUESTS, **_REQUEST),
        arrivals_per_s=_loads(engine),
        objective=_OBJECTIVE,
        n_runs=_SERVED_RUNS,
    )
    sustained = curve.sustained()
    goodput = curve.max_goodput()
    kept = "none of these loads" if sustained is None else f"up to {sustained:.3g} requests/s"
    return _Serving(
        item.label,
        running,
        rows,
        f"More likely than not 90 % of requests keep it at {kept}; the largest goodput"
        f" is {goodput:.3g} requests/s.",
        _picture(plots.plot_load_curve(curve, label=item.label), f"Load curve of {item.label}"),
    )


def _loads(engine: ServedDeployment) -> list[float]:
    """Loads around what continuous batching sustains."""
    capacity = engine.steady_load(arrivals_per_s=0.0, **_REQUEST).capacity_per_s
    return loads_around(capacity, _SHARES)


def _newcomer(cold_start: ColdStart) -> _Picture:
    after = f"after {cold_start.n_steps} steps"
    fleets = {"from datasheets alone": cold_start.before, after: cold_start.after}
    tables = {name: predict_rows(item, cold_start.held_back) for name, item in fleets.items()}
    scores: dict[str, PredictionScores] = {
        name: score_predictions(table) for name, table in tables.items()
    }
    names = ", ".join(item.label for item in cold_start.held_back.deployments)
    figures = "; ".join(f"{name}: {value}" for name, value in scores.items())
    return _picture(
        plots.plot_cold_start(tables),
        "Cold start before and after",
        f"Measured steps of {names} that neither prediction has seen. {figures}.",
    )


def _prior(fleet: FleetPosterior) -> _Picture:
    first: Deployment = fleet.deployments[0]
    batch, tokens = np.geomspace(1, 256, _PRIOR_POINTS), np.geomspace(16, 8192, _PRIOR_POINTS)
    common: dict[str, Any] = {"spec": fleet.spec, "catalog": fleet.catalog}
    decode = prior_predictive(
        first, batch_size=batch, total_tokens=batch, context_tokens=512 * batch, **common
    )
    prefill = prior_predictive(
        first, batch_size=1, total_tokens=tokens, context_tokens=tokens, **common
    )
    return _picture(
        plots.plot_prior_predictive(
            {"decode, 512 positions a request": decode, "prefill of one prompt": prefill},
            title=f"Prior predictive of {first.label}",
        ),
        "Prior predictive",
        "What the model expects of the first deployment before it has seen any step.",
    )


def _provenance(fleet: FleetPosterior) -> list[tuple[str, str]]:
    facts = fleet.provenance
    versions = ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
    rows = [
        ("Data", str(facts["data_source"]) or "none: predicted from a fleet"),
        ("Fingerprint of the data (SHA-256)", str(facts["data_fingerprint"]) or "-"),
        ("Fleet that it stems from", str(facts.get("parent", ""))),
        ("Steps", f"{facts['n_rows']:,}"),
        ("What a latency spans", str(facts.get("timing_scope", ""))),
        ("Model", _described(fleet.spec)),
        ("Sampler, seed", f"{facts['sampler']}, seed {facts['seed']}, on {facts['device']}"),
        ("Date", str(facts["created"])),
        ("Versions", versions),
    ]
    return [(name, value) for name, value in rows if value]


def _identifiability(fleet: FleetPosterior) -> list[dict[str, Any]]:
    table = fleet.identifiability()
    units = {**PARAMETER_UNITS, **_COMBINATION_UNITS}
    table["unit"] = [units.get(name, "") for name in table["quantity"]]
    ordered = table.sort_values(["deployment"], kind="stable")
    return [{str(name): value for name, value in row.items()} for row in ordered.to_dict("records")]


def _described(spec: ModelSpec) -> str:
    extras = [name for name in ("discrepancy", "strays") if getattr(spec, name)]
    return f"terms {', '.join((*spec.terms, *extras))}; likelihood {spec.likelihood}"


def _limits(fleet: FleetPosterior, observations: Observations | None) -> list[str]:
    unmeasured = [
        item.label
        for item, rows in zip(
            fleet.deployments, fleet.constant_data["n_rows"].to_numpy(), strict=True
        )
        if rows == 0
    ]
    limits = [
        "Outside the measured range of batch sizes, tokens and contexts the formula extrapolates;"
        " intervals widen with the distance in tokens, yet know nothing of what an engine does"
        " there.",
        "Steps are taken as independent given the parameters; drift and slow periods of a machine"
        " are not modelled.",
        "A parameter marked as uninformed is the prior's word, even where predictions are good.",
    ]
    if unmeasured:
        limits.append(f"Never measured, predicted only: {', '.join(unmeasured)}.")
    if fleet.verdict is None:
        limits.append("Nothing was sampled for this posterior: it is a prediction from a fleet.")
    if observations is None:
        limits.append("No measured steps were given to this report: the fit was not looked at.")
    return limits
