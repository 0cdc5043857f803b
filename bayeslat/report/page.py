"""The page: what each section shows is asked for here, and templates put it into words."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2
import numpy as np

from bayeslat import plots
from bayeslat.checks import prior_predictive
from bayeslat.errors import InputError
from bayeslat.evaluation.backtesting import Backtest
from bayeslat.model.spec import ModelSpec
from bayeslat.observations import Observations, Quarantine
from bayeslat.observations.files import replacing
from bayeslat.posterior import FleetPosterior
from bayeslat.predictive.estimate import check_probability
from bayeslat.report.agreement import ColdStart, agreement, newcomer
from bayeslat.report.answers import answer, exceedance_picture
from bayeslat.report.comparison import compared, remarks
from bayeslat.report.formats import FILTERS
from bayeslat.report.parameters import parameters
from bayeslat.report.pictures import Picture, drawn
from bayeslat.report.reliance import Reliance, judge
from bayeslat.report.served import GAP_MS, OBJECTIVE, REQUEST, served

__all__ = ["write_report"]

OPEN_TABLES: Final = 3
"""Tables of single deployments that are unfolded from the start where there are no more of them."""

EXAMPLES: Final = 3
"""Rows of the quarantine that are shown for each reason."""

_PRIOR_POINTS: Final = 24


def write_report(
    fleet: FleetPosterior,
    path: str | Path,
    *,
    observations: Observations | None = None,
    sla_ms: float = 50.0,
    risk: float = 0.01,
    cold_start: ColdStart | None = None,
    backtest: Backtest | None = None,
    title: str = "Fleet latency report",
    serving: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Reliance:
    """Write a report as one HTML file without outside parts, all or nothing.

    Parameters
    ----------
    fleet : FleetPosterior
        What the report is about.
    path : str or Path
        HTML file to make or replace.
    observations : Observations, optional
        Measured steps of the fleet; without them the report has no fit and no calibration.
    sla_ms, risk : float
        Limit in milliseconds and admitted probability of breaking it.
    cold_start : ColdStart, optional
        A newcomer before and after a few steps.
    backtest : Backtest, optional
        The model beside others, on steps that were held out.
    title : str
        Of the page.
    serving : bool
        Whether a few deployments are simulated under load, where their KV cache is known.
    progress : callable, optional
        Told in a few words what begins.

    Returns
    -------
    Reliance
        Whether the predictions may be relied on: what the page says first.

    Raises
    ------
    InputError
        A wrong SLA or risk, steps of other deployments, or a folder that does not exist.
    """
    check_probability("risk", risk)
    if not (np.isfinite(sla_ms) and sla_ms > 0):
        raise InputError(f"got sla_ms={sla_ms}, expected positive milliseconds; correct the limit")
    target, tell = Path(path), progress or _silent
    if not target.parent.is_dir():  # before the work, not after it
        raise InputError(
            f"got {target}, whose folder does not exist, expected an existing folder; make it first"
        )
    tell("comparing with measured steps")
    met = agreement(fleet, observations) if observations is not None else None
    quarantines = _quarantines(fleet, observations)
    reliance = judge(fleet, met, tuple(quarantines.values()))
    tell("answering questions")
    asked = {
        "answers": answer(fleet, sla_ms=sla_ms, risk=risk),
        "exceedance": exceedance_picture(fleet, sla_ms=sla_ms, risk=risk),
    }
    tell("serving requests")
    under_load = served(fleet) if serving else []
    tell("drawing")
    page = _template().render(
        title=title,
        fleet=fleet,
        reliance=reliance,
        **asked,
        served=under_load,
        request=REQUEST,
        gap_ms=GAP_MS,
        objective=str(OBJECTIVE),
        parameters=parameters(fleet),
        open_tables=OPEN_TABLES,
        agreement=met,
        cold_start=newcomer(cold_start) if cold_start is not None else None,
        comparisons=compared(backtest) if backtest is not None else [],
        remarks=(
            remarks(backtest, fleet.tree.attrs["data_fingerprint"]) if backtest is not None else []
        ),
        prior=_prior(fleet),
        quarantines=quarantines,
        examples=_examples(observations),
        provenance=_provenance(fleet, observations),
        spec=json.dumps(json.loads(fleet.spec.to_json()), indent=1),
        limits=_limits(fleet, observations),
    )
    replacing(target, lambda part: _write(part, page))
    return reliance


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bayeslat"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(FILTERS)
    return environment.get_template("report.html")


def _write(target: Path, page: str) -> None:
    target.write_text(page, encoding="utf-8")


def _silent(_: str) -> None:
    """Report nothing."""


def _prior(fleet: FleetPosterior) -> Picture:
    first = fleet.deployments[0]
    batch, tokens = np.geomspace(1, 256, _PRIOR_POINTS), np.geomspace(16, 8192, _PRIOR_POINTS)
    common: dict[str, Any] = {"spec": fleet.spec, "catalog": fleet.catalog}
    decode = prior_predictive(
        first, batch_size=batch, total_tokens=batch, context_tokens=512 * batch, **common
    )
    prefill = prior_predictive(
        first, batch_size=1, total_tokens=tokens, context_tokens=tokens, **common
    )
    figure = plots.plot_prior_predictive(
        {"decode, 512 positions a request": decode, "prefill of one prompt": prefill},
        title=f"Prior predictive of {first.label}",
    )
    return drawn(
        figure,
        f"Latency that the model expects of {first.label} before any step was seen, over the tokens"
        " of decode steps and of prefill steps: a median that rises, and broad bands for 50 % and"
        " 90 % of steps.",
    )


def _quarantines(fleet: FleetPosterior, observations: Observations | None) -> dict[str, Quarantine]:
    """What was put aside in the fit, and in the steps given where these are others."""
    found = {"In the fit": Quarantine.from_dict(fleet.provenance["quarantine"])}
    if observations is not None:
        given = observations.quarantine
        if given.to_dict() != found["In the fit"].to_dict():
            found["In the steps given to this report"] = given
    return found


def _examples(observations: Observations | None) -> list[tuple[str, str, str]]:
    """Reason, place and content of some rows that were put aside."""
    if observations is None:
        return []
    rows = observations.quarantine.rows
    found = []
    for reason, some in rows.groupby("reason", sort=False):
        for row in some.head(EXAMPLES).to_dict("records"):
            known = {
                name: value
                for name, value in row.items()
                if name not in ("reason", "row") and str(value) not in ("", "nan", "None")
            }
            content = ", ".join(f"{name} = {value}" for name, value in known.items())
            found.append((str(reason), str(row["row"]), content))
    return found


def _provenance(fleet: FleetPosterior, observations: Observations | None) -> list[tuple[str, str]]:
    facts = fleet.provenance
    versions = ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
    rows = [
        ("Data", str(facts["data_source"]) or "none: predicted from a fleet"),
        ("Fingerprint of the data (SHA-256)", str(facts["data_fingerprint"]) or "–"),
        ("Fleet that it stems from", str(facts.get("parent", ""))),
        ("Steps", f"{facts['n_rows']:,}"),
        ("What a latency spans", str(facts.get("timing_scope", ""))),
        ("Model", _described(fleet.spec)),
        ("Sampler, seed", f"{facts['sampler']}, seed {facts['seed']}, on {facts['device']}"),
        ("Date of the fit", str(facts["created"])),
        ("Versions", versions),
    ]
    if observations is not None:
        rows += [
            ("Steps given to this report", f"{len(observations):,} of {observations.source}"),
            ("Their fingerprint (SHA-256)", observations.fingerprint),
        ]
    return [(name, value) for name, value in rows if value]


def _described(spec: ModelSpec) -> str:
    extras = [name for name in ("discrepancy", "strays") if getattr(spec, name)]
    return f"terms {', '.join((*spec.terms, *extras))}; likelihood {spec.likelihood}"


def _limits(fleet: FleetPosterior, observations: Observations | None) -> list[str]:
    limits = [
        "Outside the measured range of batch sizes, tokens and contexts the formula extrapolates;"
        " intervals widen with the distance in tokens, yet know nothing of what an engine does"
        " there.",
        "Steps are taken as independent given the parameters; drift and slow periods of a machine"
        " are not modelled.",
        "A parameter marked as uninformed is the prior's word, even where predictions are good.",
    ]
    unmeasured = [
        item.label
        for item, rows in zip(
            fleet.deployments, fleet.constant_data["n_rows"].to_numpy(), strict=True
        )
        if rows == 0
    ]
    if unmeasured:
        limits.append(f"Never measured, predicted only: {', '.join(unmeasured)}.")
    if fleet.unknown_names:
        limits.append(
            "Not in the catalogue, or without a full datasheet, and so with a wider prior:"
            f" {', '.join(fleet.unknown_names)}."
        )
    if fleet.verdict is None:
        limits.append("Nothing was sampled for this posterior: it is a prediction from a fleet.")
    if observations is None:
        limits.append("No measured steps were given to this report: the fit was not looked at.")
    return limits
