"""May these predictions be relied on? Findings in plain words, and the worst of them decides."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np

from bayeslat import plots
from bayeslat.inference.convergence import ConvergenceVerdict
from bayeslat.observations import Quarantine
from bayeslat.posterior import FleetPosterior
from bayeslat.report.agreement import Agreement, Calibration
from bayeslat.report.formats import percent

__all__ = ["Finding", "Level", "Reliance", "judge"]

SHORT_90: Final = (0.05, 0.15)
"""Shortfall of the coverage of 90 % intervals that asks for care, and that which is too much."""

OVER_P99: Final = (0.01, 0.04)
"""The same for what lies beyond the 99th percentile, on top of the one per cent that should."""

STANDARD_ERRORS: Final = 2.0
"""Standard errors of a share that are put down to chance, on top of the limits above."""

LEAST_ROWS: Final = 20
"""Steps from which on a deployment counts as measured, and is judged on its own."""

MAX_PUT_ASIDE: Final = 0.05
"""Share of rows in quarantine from which on a log needs looking at."""

MAX_NAMED: Final = 3


class Level(IntEnum):
    """How bad a finding is."""

    GOOD = 0
    CAUTION = 1
    FAILED = 2

    @property
    def word(self) -> str:
        """The level in lower case."""
        return self.name.lower()


@dataclass(frozen=True)
class Finding:
    """One reason to rely on predictions, or not to.

    Attributes
    ----------
    level : Level
        How bad it is.
    clause : str
        In a few words, as a part of a sentence.
    text : str
        In full.
    """

    level: Level
    clause: str
    text: str


@dataclass(frozen=True)
class Reliance:
    """All findings, and what follows from them."""

    findings: tuple[Finding, ...]

    @property
    def level(self) -> Level:
        """That of the worst finding."""
        return max(finding.level for finding in self.findings)

    @property
    def headline(self) -> str:
        """What to do with the predictions."""
        return (
            "You may rely on these predictions",
            "Use these predictions with care",
            "Do not rely on these predictions",
        )[self.level]

    @property
    def reason(self) -> str:
        """The clauses of all findings at the level that decides."""
        clauses = [each.clause for each in self.findings if each.level == self.level]
        return "; ".join(clauses) + "."

    def __str__(self) -> str:
        return f"{self.headline}: {self.reason}"


def judge(
    fleet: FleetPosterior,
    agreement: Agreement | None,
    quarantines: tuple[Quarantine, ...],
) -> Reliance:
    """Judge a posterior.

    Parameters
    ----------
    fleet : FleetPosterior
        The posterior.
    agreement : Agreement, optional
        What measured steps say of it, where they were given.
    quarantines : tuple of Quarantine
        Rows put aside when it was fitted and in the steps given.
    """
    findings = [
        _sampling(fleet.verdict),
        *([_unchecked()] if agreement is None else _checked(agreement)),
        _measured(fleet),
        _put_aside(quarantines),
    ]
    if plots.is_simulated(item.label for item in fleet.deployments):
        findings.append(
            Finding(
                Level.CAUTION,
                "some or all steps come from a simulation",
                "Steps whose engine is “simulated” were never measured: they come from a simulation"
                " and say nothing about real hardware.",
            )
        )
    return Reliance(tuple(findings))


def _sampling(verdict: ConvergenceVerdict | None) -> Finding:
    if verdict is None:
        return Finding(
            Level.CAUTION,
            "nothing was measured here, they are carried over from other deployments",
            "Nothing was sampled: this is a prediction from a fleet's posterior and datasheets.",
        )
    if verdict.passed:
        return Finding(
            Level.GOOD,
            "the sampling converged",
            f"The sampling converged: repeating the fit would give the same answers ({verdict}).",
        )
    return Finding(
        Level.FAILED,
        "the sampling has not converged",
        f"Repeating the fit might give other answers: {verdict}. Fit again with more draws.",
    )


def _unchecked() -> Finding:
    return Finding(
        Level.CAUTION,
        "no measured steps were given to check them against",
        "No measured steps were given to this report: the fit was not looked at. Give those that"
        " the model was fitted to, or better newer ones.",
    )


def _checked(agreement: Agreement) -> list[Finding]:
    total, scores = agreement.total, agreement.total.scores
    steps = f"{scores.n_rows:,} measured steps"
    known = (
        "the steps that the model was fitted to, so that new ones may be met less well"
        if agreement.fitted
        else "steps other than those the model was fitted to"
    )
    held = f"90 % intervals hold {percent(scores.coverage_90)} % of {steps}"
    wide = ", which is more than they should: they err on the safe side"
    findings = [
        Finding(
            _level(0.9 - scores.coverage_90, SHORT_90, _standard_error(0.9, scores.n_rows)),
            held,
            f"{held[0].upper()}{held[1:]}{wide if scores.coverage_90 > 0.95 else ''}; these are"
            f" {known}. Mean error of the median {percent(scores.mape)} %.",
        ),
        Finding(
            _level(total.beyond_p99 - 0.01, OVER_P99, _standard_error(0.01, scores.n_rows)),
            f"{percent(total.beyond_p99)} % of the steps lie beyond their predicted p99",
            f"{percent(total.beyond_p99)} % of the steps lie beyond their predicted p99, where 1 %"
            " should: this is what answers at a small risk rest on.",
        ),
    ]
    poor = [each for each in agreement.deployments if _is_poor(each)]
    if poor:
        clause = f"the intervals of {_named([each.label for each in poor])} are too narrow"
        shares = "; ".join(f"{each.label} {percent(each.scores.coverage_90)} %" for each in poor)
        findings.append(
            Finding(
                Level.CAUTION,
                clause,
                f"90 % intervals hold far fewer steps than they should of: {shares}.",
            )
        )
    return findings


def _is_poor(each: Calibration) -> bool:
    scores = each.scores
    error = _standard_error(0.9, scores.n_rows)
    return (
        scores.n_rows >= LEAST_ROWS
        and _level(0.9 - scores.coverage_90, SHORT_90, error) == Level.FAILED
    )


def _measured(fleet: FleetPosterior) -> Finding:
    counts = fleet.constant_data["n_rows"].to_numpy()
    labels = np.array([item.label for item in fleet.deployments])
    never, few = list(labels[counts == 0]), list(labels[(counts > 0) & (counts < LEAST_ROWS)])
    unknown = ", ".join(fleet.unknown_names)
    sheets = f" Without a full datasheet, and so with a wider prior: {unknown}." if unknown else ""
    if not (never or few):
        return Finding(
            Level.GOOD,
            "every deployment was measured",
            f"Every deployment was measured, with {counts.min():,} steps or more.{sheets}",
        )
    clauses, texts = [], []
    if never:
        clauses.append(f"{_named(never)} never measured")
        texts.append(f"Never measured, predicted only: {', '.join(never)}.")
    if few:
        clauses.append(f"{_named(few)} measured in fewer than {LEAST_ROWS} steps")
        texts.append(f"Measured in fewer than {LEAST_ROWS} steps: {', '.join(few)}.")
    return Finding(Level.CAUTION, ", ".join(clauses), " ".join(texts) + sheets)


def _put_aside(quarantines: tuple[Quarantine, ...]) -> Finding:
    shares = [each.n_quarantined / each.n_read for each in quarantines if each.n_read]
    share = max(shares, default=0.0)
    suspicions = list(dict.fromkeys(text for each in quarantines for text in each.warnings))
    warned = "".join(f" Warning: {text}" for text in suspicions)
    if share > MAX_PUT_ASIDE:
        clause = f"{percent(share)} % of the rows were put aside as impossible"
        return Finding(
            Level.CAUTION,
            clause,
            f"{clause[0].upper()}{clause[1:]}: look at the reasons before you trust the rest."
            f"{warned}",
        )
    clause = f"{percent(share)} % of the rows were put aside" if share else "no row was put aside"
    if suspicions:
        return Finding(Level.CAUTION, "something in the log is suspicious", warned.strip())
    return Finding(Level.GOOD, clause, f"{clause[0].upper()}{clause[1:]} as impossible.")


def _level(excess: float, limits: tuple[float, float], error: float) -> Level:
    """How bad an excess over what should be is, chance put aside."""
    beyond = excess - STANDARD_ERRORS * error
    return Level(int(np.searchsorted(limits, beyond, side="left")))


def _standard_error(share: float, n: int) -> float:
    """Of a share of `n` independent steps."""
    return float(np.sqrt(share * (1.0 - share) / n))


def _named(labels: list[str]) -> str:
    shown = ", ".join(labels[:MAX_NAMED])
    rest = len(labels) - MAX_NAMED
    return f"{shown} and {rest} more" if rest > 0 else shown
