"""Predictions beside measured steps: the fit, its calibration, and a newcomer before and after."""

from dataclasses import dataclass
from typing import Final, NamedTuple

import pandas as pd

from bayeslat import plots
from bayeslat.checks import PredictionScores, predict_rows, score_predictions
from bayeslat.observations import Observations
from bayeslat.posterior import FleetPosterior
from bayeslat.report.formats import percent
from bayeslat.report.pictures import Picture, drawn

__all__ = ["Agreement", "Calibration", "ColdStart", "ColdStartView", "agreement", "newcomer"]

MAX_ROWS: Final = 300
"""Rows of a deployment that are looked at, chosen at random; more would hide each other."""


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
class Calibration:
    """How true stated uncertainty is.

    Attributes
    ----------
    label : str
        Of the deployment; of all together.
    scores : PredictionScores
        Error of the median, and coverage of intervals.
    beyond_p99 : float
        Share of the steps beyond their predicted 99th percentile.
    """

    label: str
    scores: PredictionScores
    beyond_p99: float


@dataclass(frozen=True)
class Agreement:
    """A posterior beside measured steps.

    Attributes
    ----------
    fitted : bool
        Whether these are the steps that the posterior was fitted to.
    n_given : int
        How many steps there are, of which at most `MAX_ROWS` a deployment are looked at.
    total : Calibration
        Of all steps that were looked at.
    deployments : tuple of Calibration
        Of each deployment.
    pictured : int
        How many of them the pictures show: the least well covered.
    fit, pit : Picture
        Measured against predicted, and whether measured steps fall where they should.
    strays : float or None
        Largest share of stray rows that the model expects in a deployment, which it does not
        predict; None where it knows of none.
    """

    fitted: bool
    n_given: int
    total: Calibration
    deployments: tuple[Calibration, ...]
    pictured: int
    fit: Picture
    pit: Picture
    strays: float | None = None


class ColdStartView(NamedTuple):
    """A cold start as the page shows it."""

    labels: tuple[str, ...]
    scores: dict[str, PredictionScores]
    picture: Picture


def agreement(fleet: FleetPosterior, observations: Observations) -> Agreement:
    """Predict measured steps and look at how they fell."""
    table = predict_rows(fleet, observations, max_rows=MAX_ROWS)
    total = _calibration("All deployments", table)
    deployments = tuple(
        _calibration(str(label), rows) for label, rows in table.groupby("deployment", sort=False)
    )
    worst = sorted(deployments, key=lambda each: each.scores.coverage_90)[: plots.MAX_PANELS]
    labels = {each.label for each in worst}
    shown = table[table["deployment"].isin(labels)]
    return Agreement(
        observations.fingerprint == fleet.provenance["data_fingerprint"],
        len(observations),
        total,
        deployments,
        len(labels),
        drawn(
            plots.plot_fit(shown),
            f"Measured against predicted latency of {len(labels)} deployments, both on logarithmic"
            " axes: dots near the diagonal are predicted well, grey bars are 90 % intervals."
            f" {percent(score_predictions(shown).coverage_90)} % of the dots lie inside theirs.",
        ),
        drawn(
            plots.plot_pit(shown),
            f"Probability integral transform of {len(labels)} deployments: the share of measured"
            " steps against the predicted probability of a shorter step. A curve within the grey"
            " band along the diagonal holds 95 % of the curves of a true model at any one place.",
        ),
        _strays(fleet),
    )


def _strays(fleet: FleetPosterior) -> float | None:
    if "stray_share" not in fleet.posterior:
        return None
    return float(fleet.posterior["stray_share"].mean(["chain", "draw"]).max())


def newcomer(cold_start: ColdStart) -> ColdStartView:
    """Held-back steps of a newcomer against both predictions."""
    after = f"after {cold_start.n_steps} steps"
    fleets = {"from datasheets alone": cold_start.before, after: cold_start.after}
    tables = {name: predict_rows(item, cold_start.held_back) for name, item in fleets.items()}
    scores = {name: score_predictions(table) for name, table in tables.items()}
    errors = "; ".join(f"{name} {percent(each.mape)} %" for name, each in scores.items())
    labels = tuple(item.label for item in cold_start.held_back.deployments)
    picture = drawn(
        plots.plot_cold_start(tables),
        f"Measured against predicted latency of {', '.join(labels)}, a panel for each prediction;"
        f" mean error {errors}.",
    )
    return ColdStartView(labels, scores, picture)


def _calibration(label: str, table: pd.DataFrame) -> Calibration:
    return Calibration(label, score_predictions(table), float((table["pit"] > 0.99).mean()))
