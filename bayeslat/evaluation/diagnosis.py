"""Every diagnostic of one posterior at once: what `bayeslat check` prints."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import pandas as pd

from bayeslat.evaluation.findings import LEVEL, Findings
from bayeslat.evaluation.left_out import RowChecks, check_rows
from bayeslat.evaluation.predictive_checks import Replicated, pit_tests, prior_check, replicate
from bayeslat.evaluation.prior_sensitivity import INFORMED, PriorSensitivity, prior_sensitivity
from bayeslat.evaluation.residuals import quantile_residuals, residual_tests
from bayeslat.observations import Observations
from bayeslat.posterior import FleetPosterior
from bayeslat.schema import Deployment

__all__ = ["MAX_ROWS", "Diagnosis", "diagnose"]

MAX_ROWS: Final = 2000
"""Rows of each deployment that are looked at by default."""


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What every diagnostic says of a posterior and measured steps.

    Attributes
    ----------
    fitted : bool
        Whether these are the steps of the fit: each row is then predicted with itself left out.
    checked : RowChecks
        PIT, elpd and k-hat of every row that was looked at.
    residuals : DataFrame
        From `bayeslat.evaluation.residuals.quantile_residuals`.
    findings : Findings
        Calibration, residual tests and posterior predictive checks.
    replicated : Replicated
        Behind the posterior predictive checks.
    prior : DataFrame
        From `bayeslat.evaluation.predictive_checks.prior_check`.
    sensitivity : PriorSensitivity, optional
        None where it could not be told, see `why_no_sensitivity`.
    why_no_sensitivity : str
        Empty where there is one.
    left_over : dict of str to int
        Rows that were not looked at, by the label of their deployment.
    """

    fitted: bool
    checked: RowChecks
    residuals: pd.DataFrame
    findings: Findings
    replicated: Replicated
    prior: pd.DataFrame
    sensitivity: PriorSensitivity | None
    why_no_sensitivity: str
    left_over: dict[str, int]

    @property
    def deployments(self) -> tuple[str, ...]:
        """Labels of the deployments that were looked at."""
        return self.replicated.deployments

    def lines(self, deployment: str) -> list[tuple[str, str, str]]:
        """Name, verdict and sentence of every diagnostic of one deployment, by its label."""
        found = [(item.check, item.verdict, item.sentence) for item in self.findings.of(deployment)]
        found.append(("left-out rows", *self._left_out(deployment)))
        prior = _of(self.prior, deployment).iloc[0]
        verdict = "failed" if prior["failed"] else "passed"
        found.append(("prior predictive", verdict, prior["sentence"]))
        found.append(("prior sensitivity", *self._sensitivity(deployment)))
        return found

    def failing(self) -> tuple[str, ...]:
        """Labels of the deployments of which any diagnostic failed."""
        return tuple(
            label
            for label in self.deployments
            if any(verdict == "failed" for _, verdict, _ in self.lines(label))
        )

    @cached_property
    def _k_table(self) -> pd.DataFrame:
        return self.checked.k_table()

    @cached_property
    def _sensitivities(self) -> pd.DataFrame:
        return pd.DataFrame() if self.sensitivity is None else self.sensitivity.table()

    def _left_out(self, deployment: str) -> tuple[str, str]:
        if not self.fitted:
            return "not done", "these are not the steps of the fit, there is nothing to leave out"
        row = _of(self._k_table, deployment).iloc[0]
        verdict = "failed" if row["very bad"] else "passed"
        sentence = (
            f"elpd {row['elpd']:.0f}; k-hat up to {row['largest_k']:.2f}, {row['bad']} rows above"
            f" {self.checked.good_k:.2f} and {row['very bad']} above 1; worst {row['worst']}"
        )
        return verdict, sentence

    def _sensitivity(self, deployment: str) -> tuple[str, str]:
        if self.sensitivity is None:
            return "not done", self.why_no_sensitivity
        own = _of(self._sensitivities, deployment)
        failures = own[own["diagnosis"] != INFORMED]
        worst = (own if failures.empty else failures).sort_values("shift", key=abs).iloc[-1]
        sentence = (
            f"{worst['answer']}: doubling the prior of {worst['part']} shifts it by"
            f" {worst['shift']:+.2f} ± {worst['shift_error']:.2f} posterior standard deviations,"
            f" {worst['diagnosis']}"
        )
        return ("passed" if failures.empty else "failed"), sentence


def diagnose(
    fleet: FleetPosterior,
    observations: Observations,
    *,
    deployment: Deployment | None = None,
    max_rows: int | None = MAX_ROWS,
    level: float = LEVEL,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Diagnosis:
    """Run every diagnostic of a posterior on measured steps.

    Parameters
    ----------
    fleet : FleetPosterior
        The posterior.
    observations : Observations
        The steps of the fit, or others of the same deployments.
    deployment : Deployment, optional
        The only one to look at; all that posterior and steps have in common where not given.
    max_rows : int, optional
        Rows to look at of each deployment, chosen at random; all where None. The prior's
        sensitivity takes all in any case.
    level : float
        Probability that a check fails any deployment of a right model.
    seed : int
        Of the choice of rows and of replications.
    progress : callable, optional
        Told in a few words what begins.

    Raises
    ------
    InputError
        The posterior holds none of the deployments, or all latencies are identical.
    """
    tell = progress or (lambda _: None)
    fitted = fleet.tree.attrs["data_fingerprint"] == observations.fingerprint
    chosen = observations if deployment is None else observations.for_deployment(deployment)
    tell("predicting measured steps")
    checked = check_rows(fleet, chosen, max_rows=max_rows, seed=seed)
    residuals = quantile_residuals(checked, left_out=fitted)
    shown, measured = checked.rows["deployment"].value_counts(), _row_counts(chosen)
    left_over = {str(label): measured[str(label)] - int(n) for label, n in shown.items()}
    picked = [label for label, n in left_over.items() if n > 0]
    tested = residual_tests(residuals, level=level, picked=picked)
    calibrated = pit_tests(checked, left_out=fitted, level=level)
    tell("replicating measured steps")
    replicated = replicate(fleet, chosen, max_rows=max_rows, seed=seed)
    findings = (*calibrated, *tested, *replicated.findings(level=level))
    labels = replicated.deployments
    tell("asking the prior")
    prior = prior_check(chosen, fleet.spec, catalog=fleet.catalog, seed=seed)
    sensitivity, why = None, _no_sensitivity(fleet, fitted)
    if not why:
        tell("weighing priors and likelihood")
        sensitivity = prior_sensitivity(fleet, observations)
    return Diagnosis(
        fitted,
        checked,
        residuals,
        Findings(findings, level),
        replicated,
        prior[prior["deployment"].isin(labels)].reset_index(drop=True),
        sensitivity,
        why,
        left_over,
    )


def _row_counts(observations: Observations) -> dict[str, int]:
    """Rows of every deployment, by its label."""
    counts = np.bincount(observations.deployment_index)
    return {each.label: int(n) for each, n in zip(observations.deployments, counts, strict=True)}


def _no_sensitivity(fleet: FleetPosterior, fitted: bool) -> str:
    """Why the sensitivity to priors cannot be told; empty where it can."""
    if not fitted:
        return "these are not the steps of the fit, the likelihood is unknown"
    if "intercept" not in fleet.posterior:
        return "the prior of a newcomer is a fleet's posterior: ask that fleet"
    return ""


def _of(table: pd.DataFrame, deployment: str) -> pd.DataFrame:
    return table[table["deployment"] == deployment]
