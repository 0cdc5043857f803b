"""A few deployments under load: what users would wait for, from the steps' posterior."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from bayeslat import plots
from bayeslat.decisions import ServedDeployment, ServiceObjective, StepOverhead
from bayeslat.decisions.loads import loads_around
from bayeslat.engine import Workload
from bayeslat.posterior import FleetPosterior
from bayeslat.predictive import Estimate
from bayeslat.report.formats import number
from bayeslat.report.pictures import Picture, drawn

__all__ = ["GAP_MS", "OBJECTIVE", "REQUEST", "Serving", "served"]

SERVED: Final = 3
"""Deployments that are served, those with most rows first."""

REQUEST: Final = {"prompt_tokens": 1024, "output_tokens": 128}
RUNNING: Final = 16
OBJECTIVE: Final = ServiceObjective(ttft_ms=2000.0, tpot_ms=50.0)
GAP_MS: Final = StepOverhead().median_ms
"""Median of the prior of the time between two steps."""

_SHARES: Final = (0.25, 0.5, 0.7, 0.85, 1.0, 1.15)
_REQUESTS, _RUNS = 300, 25


@dataclass(frozen=True)
class Serving:
    """One deployment under load.

    Attributes
    ----------
    label : str
        Of the deployment.
    running : int
        Requests at a time behind the phases.
    phases : list of (str, list of Estimate)
        Name of a phase with its mean, median and 99th percentile in ms.
    sustained : str
        Up to which load the objective is kept.
    picture : Picture
        Latency and goodput over load.
    """

    label: str
    running: int
    phases: list[tuple[str, list[Estimate]]]
    sustained: str
    picture: Picture


def served(fleet: FleetPosterior) -> list[Serving]:
    """The deployments with most rows whose cache is known and holds a batch, under load."""
    rows = fleet.constant_data["n_rows"].to_numpy()
    found = []
    for position in np.argsort(-rows, kind="stable"):
        item = fleet.deployments[position]
        room = fleet.catalog.kv_capacity_tokens(
            item.gpu, item.model, tp=item.tp, precision=item.precision
        )
        if room >= RUNNING * sum(REQUEST.values()):
            found.append(int(position))
    return [_under_load(fleet, position) for position in found[:SERVED]]


def _under_load(fleet: FleetPosterior, position: int) -> Serving:
    item = fleet.deployments[position]
    engine = fleet.serving(**item._asdict())
    measured = fleet.constant_data["measured_range"].sel(design_axis="batch_size", bound="high")
    largest = float(measured.to_numpy()[position])
    running = RUNNING if np.isnan(largest) else int(min(RUNNING, largest))
    phases = engine.request_phases(**REQUEST, running=running)
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
        Workload.poisson(1.0, n=_REQUESTS, **REQUEST),
        arrivals_per_s=_loads(engine),
        objective=OBJECTIVE,
        n_runs=_RUNS,
    )
    sustained = curve.sustained()
    goodput = curve.max_goodput()
    kept = "none of these loads" if sustained is None else f"up to {number(sustained)} requests/s"
    return Serving(
        item.label,
        running,
        rows,
        f"More likely than not 90 % of requests keep it at {kept}; the largest goodput"
        f" is {goodput:.3g} requests/s.",
        drawn(
            plots.plot_load_curve(curve, label=item.label),
            f"Time to first token, time per output token and goodput of {item.label} over the load,"
            f" with their 90 % intervals and the limits of {OBJECTIVE}.",
        ),
    )


def _loads(engine: ServedDeployment) -> list[float]:
    """Loads around what continuous batching sustains."""
    capacity = engine.steady_load(arrivals_per_s=0.0, **REQUEST).capacity_per_s
    return loads_around(capacity, _SHARES)
