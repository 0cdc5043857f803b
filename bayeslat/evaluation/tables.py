"""Tables of a backtest as text: what the command line, Markdown files and reports show."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from bayeslat.evaluation.backtesting import ALL_REGIMES, Backtest

__all__ = ["COLUMNS", "TITLES", "Column", "TextTable", "as_document", "as_markdown", "split_tables"]

TITLES: Final = {
    "points": "Design points: a share of those of every deployment held out",
    "time": "Time: windows predicted from everything before them",
    "extrapolation": "Extrapolation: known up to a fraction of the largest B and S, asked beyond",
    "new-gpu": "New GPU: left out with all its deployments, of which k steps are known",
    "new-llm": "New LLM: left out with all its deployments, of which k steps are known",
}
TARGET: Final = "best, or nominal"


class Column(NamedTuple):
    """A score as it is shown: heading, format, and its nominal value where it has one."""

    title: str
    show: Callable[[float], str]
    nominal: float | None = None
    larger_is_better: bool = False


COLUMNS: Final[dict[str, Column]] = {
    "mape": Column("MAPE, %", "{:.1f}".format),
    "ape95": Column("p95 APE, %", "{:.1f}".format),
    "r2": Column("R2", "{:.3f}".format, larger_is_better=True),
    "rmse": Column("RMSE, ms", "{:.2f}".format),
    "mae": Column("MAE, ms", "{:.2f}".format),
    "relative_crps": Column("CRPS, % of mean", "{:.1f}".format),
    "pinball99": Column("pinball p99, ms", "{:.2f}".format),
    "coverage50": Column("in 50 %", "{:.2f}".format, 0.50),
    "coverage90": Column("in 90 %", "{:.2f}".format, 0.90),
    "coverage99": Column("in 99 %", "{:.2f}".format, 0.99),
    "exceedance99": Column("above p99", "{:.3f}".format, 0.01),
    "log_score": Column("log score", "{:.2f}".format, larger_is_better=True),
}
"""Scores in the order of the tables."""


class TextTable(NamedTuple):
    """A table as text.

    Attributes
    ----------
    title, note
        What it is of, and what its cells are.
    columns
        Headings, the contender first.
    rows
        Cells; the last row is the nominal value of a score, or the best of all contenders.
    """

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def split_tables(found: Backtest, split: str, *, scores: Sequence[str] = ()) -> list[TextTable]:
    """One table a regime, that of all steps first.

    Parameters
    ----------
    found : Backtest
        The backtest.
    split : str
        One of its splits.
    scores : sequence of str
        Names in `COLUMNS`; all by default.
    """
    chosen = {name: COLUMNS[name] for name in scores or COLUMNS}
    regimes = found.regimes(split)
    # One regime alone repeats the table of all steps.
    shown = regimes[:1] if len(regimes) == 2 else regimes
    return [_table(found, split, regime, chosen) for regime in shown]


def _table(found: Backtest, split: str, regime: str, columns: dict[str, Column]) -> TextTable:
    medians = found.medians(split, regime=regime)
    ks = list(dict.fromkeys(medians["k"].dropna()))
    own = found.scores[(found.scores["split"] == split) & (found.scores["regime"] == regime)]
    n = own["deployment"].nunique()
    steps = own[own["contender"] == medians["contender"].iloc[0]]
    if ks:
        steps = steps[steps["k"] == ks[0]]
    note = f"{n} {'deployment' if n == 1 else 'deployments'}, {steps['rows'].sum():,.0f} steps."
    if len(ks) > 1:
        note += f" Cells: {' / '.join(f'k = {k:.0f}' for k in ks)}."
    contenders = list(dict.fromkeys(medians["contender"]))
    rows = [
        (name, *(_cell(medians[medians["contender"] == name][score], column.show)
                 for score, column in columns.items()))
        for name in contenders
    ]  # fmt: skip
    targets = (_target(medians, score, column) for score, column in columns.items())
    return TextTable(
        TITLES[split] if regime == ALL_REGIMES else f"{split}: {regime} steps",
        note,
        ("contender", *(column.title for column in columns.values())),
        (*rows, (TARGET, *targets)),
    )


def _target(medians: pd.DataFrame, score: str, column: Column) -> str:
    """The nominal value, or the best of all contenders."""
    if column.nominal is not None:
        return column.show(column.nominal)
    groups = medians.groupby("k", sort=False, dropna=False)[score]
    return _cell(groups.max() if column.larger_is_better else groups.min(), column.show)


def _cell(values: pd.Series, show: Callable[[float], str]) -> str:
    return " / ".join("-" if np.isnan(value) else show(value) for value in values)


def as_markdown(table: TextTable, *, heading: str = "##", bold: str = "bayeslat") -> str:
    """A table in Markdown, with one contender in bold."""
    lines = [
        f"{heading} {table.title}",
        "",
        table.note,
        "",
        "| " + " | ".join(table.columns) + " |",
        "|---|" + "---:|" * (len(table.columns) - 1),
    ]
    for name, *cells in table.rows:
        lines.append(f"| {f'**{name}**' if name == bold else name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def as_document(found: Backtest, *, title: str = "Backtest", made_by: str = "") -> str:
    """Everything that there is to read of a backtest, in Markdown.

    Parameters
    ----------
    found : Backtest
        The backtest.
    title, made_by : str
        Heading, and the command that made it.
    """
    source = found.source
    lines = [
        f"# {title}",
        "",
        *([f"Made by `{made_by}`.", ""] if made_by else []),
        f"{source['rows']:,} steps of {len(source['deployments'])} deployments, data fingerprint"
        f" `{source['fingerprint'][:16]}`, seed {source['settings']['seed']}.",
        "",
        "Every value is a median over deployments of the score over a deployment's held-out",
        "steps. Errors are those of the predicted median. The log score is the log predictive",
        "density of a step in nats, by the same rule from the quantiles of every contender: larger",
        "is better. CRPS is a sum over 13 levels, 1 to 4 % too small, the wider a prediction the",
        "more. The last row is the nominal value, or the best of all.",
    ]
    lines += [f"\n{note}" for note in found.notes]
    rhat = found.scores["max_rhat"].max()
    if rhat > 0:
        lines += ["", f"Largest R-hat of the draws behind bayeslat's predictions: {rhat:.3f}."]
    for failure in found.failures:
        lines += ["", f"{failure.contender} failed in {failure.split}, {failure.fold}:"
                      f" {failure.reason}"]  # fmt: skip
    for split in found.splits:
        first, *others = split_tables(found, split)
        lines += ["", as_markdown(first), *(as_markdown(each, heading="###") for each in others)]
        lines += [_times(found, split)]
    return "\n".join(lines).rstrip() + "\n"


def _times(found: Backtest, split: str) -> str:
    """How long the contenders took, all folds together."""
    own = found.scores[found.scores["split"] == split]
    each = own.drop_duplicates(["contender", "fold", "k"]).groupby("contender", sort=False)
    said = ", ".join(f"{name} {seconds:.0f}" for name, seconds in each["seconds"].sum().items())
    return f"Seconds of fit and prediction, all folds together: {said}.\n"
