"""What a report shows of a backtest: tables and pictures of the model beside others."""

from typing import Final, NamedTuple

from bayeslat.evaluation.backtesting import Backtest
from bayeslat.evaluation.tables import TITLES, TextTable, split_tables
from bayeslat.plots.backtest import plot_backtest
from bayeslat.report.pictures import Picture, drawn

__all__ = ["Comparison", "compared", "remarks"]

SCORES: Final = ("mape", "ape95", "relative_crps", "coverage90", "exceedance99", "log_score")
"""Scores that a page has room for."""


class Comparison(NamedTuple):
    """One split of a backtest.

    Attributes
    ----------
    table : TextTable
        Scores over all steps.
    picture : Picture
        Error and coverage of every deployment.
    """

    table: TextTable
    picture: Picture


def compared(found: Backtest) -> list[Comparison]:
    """Every split of a backtest as a page shows it."""
    return [
        Comparison(
            split_tables(found, split, scores=SCORES)[0],
            drawn(
                plot_backtest(found, split),
                f"{TITLES[split]}. Error of the median and share of steps within the 90 % interval,"
                " a point for each deployment and a bar at the median of each model.",
            ),
        )
        for split in found.splits
    ]


def remarks(found: Backtest, fingerprint: str) -> list[str]:
    """What a reader has to know of a backtest: whose steps, who failed, what it cannot judge.

    Parameters
    ----------
    found : Backtest
        The backtest.
    fingerprint : str
        Of the steps that the posterior of the report was fitted to.
    """
    rows, deployments = found.source["rows"], len(found.source["deployments"])
    same = found.source["fingerprint"] == fingerprint
    whose = "the steps of this posterior" if same else "other steps than those of this posterior"
    failed = [f"{each.contender} failed in {each.split}, {each.fold}: {each.reason}"
              for each in found.failures]  # fmt: skip
    first = f"Held out of {whose}: {rows:,} steps of {deployments} deployments."
    return [first, *failed, *found.notes]
