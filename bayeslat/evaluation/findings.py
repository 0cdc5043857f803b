"""Findings: what one check found in one deployment, and the verdict over a whole fleet.

With ten thousand rows every deviation is significant, and with sixty deployments some are by
chance. A check fails where both hold: its p-value stays below the level after Holm's correction
over the deployments (Holm, 1979), and its effect is larger than what matters in practice.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["LEVEL", "Finding", "Findings", "judged", "not_done"]

LEVEL: Final = 0.01
"""Probability that a check of a fleet of right models fails any of its deployments."""


@dataclass(frozen=True)
class Finding:
    """What one check found in one deployment.

    Attributes
    ----------
    deployment, check : str
        Label of the deployment, name of the check.
    n_rows : int
        Rows that were looked at.
    statistic, p_value, effect : float
        NaN where the check could not be done; the sentence says why.
    effect_name : str
        What the effect is.
    material : bool
        Whether the effect is larger than what matters in practice.
    sentence : str
        The finding in plain words.
    adjusted_p : float
        The p-value after Holm's correction over the deployments of the same check.
    failed : bool
        Whether the check failed: significant after the correction, and material.
    """

    deployment: str
    check: str
    n_rows: int
    statistic: float
    p_value: float
    effect: float
    effect_name: str
    material: bool
    sentence: str
    adjusted_p: float = math.nan
    failed: bool = False

    @property
    def done(self) -> bool:
        """Whether the check could be done."""
        return not math.isnan(self.p_value)

    @property
    def verdict(self) -> str:
        """One word: "failed", "passed" or "not done"."""
        if not self.done:
            return "not done"
        return "failed" if self.failed else "passed"

    def __str__(self) -> str:
        return f"{self.check}: {self.verdict}: {self.sentence}"


@dataclass(frozen=True)
class Findings:
    """Findings of some checks over a fleet.

    Attributes
    ----------
    findings : tuple of Finding
        One for each deployment and check.
    level : float
        Level of significance after the correction.
    """

    findings: tuple[Finding, ...]
    level: float = LEVEL

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    @property
    def failures(self) -> tuple[Finding, ...]:
        """Those that failed."""
        return tuple(finding for finding in self.findings if finding.failed)

    def of(self, deployment: str) -> tuple[Finding, ...]:
        """Those of one deployment, by its label."""
        return tuple(finding for finding in self.findings if finding.deployment == deployment)

    def table(self) -> pd.DataFrame:
        """One row a finding, its attributes and ``verdict`` as columns."""
        return pd.DataFrame(
            [{**asdict(finding), "verdict": finding.verdict} for finding in self.findings]
        )

    def counts(self) -> pd.DataFrame:
        """Over the fleet: deployments for which each check was done, significant and failed."""
        table = self.table()
        return (
            table.assign(
                done=table["p_value"].notna(), significant=table["adjusted_p"] < self.level
            )
            .groupby("check", sort=False)[["done", "significant", "failed"]]
            .sum()
            .reset_index()
        )


def judged(findings: Iterable[Finding], *, level: float = LEVEL) -> Findings:
    """Correct p-values over the deployments, check by check, and say what failed.

    Parameters
    ----------
    findings : iterable of Finding
        As the checks give them.
    level : float
        Probability that any deployment fails a check by chance.
    """
    found = list(findings)
    for check in dict.fromkeys(finding.check for finding in found):
        places = [i for i, finding in enumerate(found) if finding.check == check and finding.done]
        if not places:
            continue
        for i, p in zip(places, _holm([found[i].p_value for i in places]), strict=True):
            failed = bool(p < level and found[i].material)
            found[i] = replace(found[i], adjusted_p=float(p), failed=failed)
    return Findings(tuple(found), level)


def _holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """Adjusted p-values; statsmodels' own collects garbage on every call, half a second each."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def not_done(deployment: str, check: str, n_rows: int, why: str) -> Finding:
    """A check that could not be done."""
    nan = math.nan
    return Finding(deployment, check, n_rows, nan, nan, nan, "", False, why)
