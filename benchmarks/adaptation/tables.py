"""Figures of all runs as Markdown."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from adaptation.lineup import OURS
from adaptation.scores import COVERED, WITHIN

__all__ = ["Score", "Title", "alarm_lines", "scenario_lines", "target_lines"]


class Title(NamedTuple):
    """A scenario for a table: its name, what it is, whether the law changes, whether simulated."""

    name: str
    title: str
    changes: bool
    simulated: bool


class Score(NamedTuple):
    """A column: its title, how a value is shown, and whether "never" is an outcome."""

    title: str
    show: Callable[[float], str]
    may_fail: bool = False


def percent(digits: int) -> Callable[[float], str]:
    """Shares as percentages."""
    return lambda value: f"{100.0 * value:.{digits}f}"


SCORES: Final[Mapping[str, Score]] = {
    "recovered": Score("rows until the error is back", "{:.0f}".format, True),
    "covered": Score("rows until coverage is back", "{:.0f}".format, True),
    "mean_error": Score("error after the change, %", percent(1)),
    "settled_error": Score("settled error, %", percent(1)),
    "excess": Score("over hindsight", "{:.2f}".format),
    "worst": Score("worst over hindsight", "{:.2f}".format),
    "settled_coverage": Score("settled coverage, %", percent(1)),
    "settled_exceedance": Score("above p99, %", percent(1)),
    "spread": Score("spread in time, %", "{:.2f}".format),
    "row_ms": Score("ms a row", "{:.2f}".format),
}
RECOVERIES: Final = ("recovered", "covered")
ROWS_TARGET: Final = 300
ALARMS_TARGET: Final = 1.0
PER_ROWS: Final = 1e5
LATE: Final = 0.9


def cell(values: pd.Series, score: Score) -> str:
    """Median with least and largest; where a run never came to it, how many did."""
    known = values.dropna()
    if known.empty:
        return "never" if score.may_fail else "-"
    # A run that never recovered is later than any that did.
    filled = values.fillna(np.inf) if score.may_fail else known
    middle = float(np.median(filled))
    shown = score.show(middle) if np.isfinite(middle) else "never"
    low, high = float(known.min()), float(known.max())
    spread = f" [{score.show(low)}, {score.show(high)}]" if low < high else ""
    missing = (
        f", {len(known)} of {len(values)}" if score.may_fail and len(known) < len(values) else ""
    )
    return f"{shown}{spread}{missing}"


def scenario_lines(table: pd.DataFrame, title: Title, order: Sequence[str]) -> list[str]:
    """One scenario: a row a contestant, a median over runs and tracked deployments a cell."""
    own = table[table["scenario"] == title.name]
    shown = [name for name in SCORES if title.changes or name not in RECOVERIES]
    runs = own["seed"].nunique()
    counted = (
        f"{runs} run{'s' * (runs > 1)}, {own['deployment'].nunique()} of the deployments judged"
    )
    lines = [
        f"### {title.title}",
        "",
        f"{counted}; settled error of the refit in hindsight"
        f" {cell(own['settled_oracle'], Score('', percent(1)))} %.",
        "",
        "| | " + " | ".join(SCORES[name].title for name in shown) + " |",
        "|---|" + "---:|" * len(shown),
    ]
    for name in order:
        mine = own[own["contestant"] == name]
        if len(mine):
            cells = [cell(mine[score], SCORES[score]) for score in shown]
            bold = f"**{name}**" if name == OURS else name
            lines.append(f"| {bold} | " + " | ".join(cells) + " |")
    return lines


def alarm_lines(alarms: pd.DataFrame, titles: Sequence[Title]) -> list[str]:
    """Detection by scenario: delay, missed changes, false alarms and the rows they are of.

    Parameters
    ----------
    alarms : pandas.DataFrame
        One row a run: scenario, seed, delays (a list, NaN where missed), true, false, exposed.
    titles : sequence of Title
        The scenarios.
    """
    lines = [
        "| | rows from change to drift | missed | alarms | false alarms | rows without a change |"
        " false in 1e5 |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for title in titles:
        own = alarms[alarms["scenario"] == title.name]
        if own.empty:
            continue
        delays = np.array([value for found in own["delays"] for value in found], dtype=float)
        known = delays[np.isfinite(delays)]
        late = "-" if not delays.size else f"{int(np.isnan(delays).sum())} of {delays.size}"
        delay = "-"
        if known.size:
            middle, high = np.median(known), np.quantile(known, LATE)
            delay = f"{middle:.0f} (90 %: {high:.0f}, most {known.max():.0f})"
        false, exposed = int(own["false"].sum()), int(own["exposed"].sum())
        rate = f"{PER_ROWS * false / exposed:.2f}" if exposed else "-"
        every = false + int(own["true"].sum())
        cells = (title.title, delay, late, every, false, f"{exposed:,}", rate)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def target_lines(table: pd.DataFrame, alarms: pd.DataFrame, titles: Sequence[Title]) -> list[str]:
    """Each target with what was measured, scenario by scenario where the law changes."""
    lines = ["| target | | measured | met |", "|---|---|---:|---|"]
    ours = table[table["contestant"] == OURS]
    for title in titles:
        own = ours[ours["scenario"] == title.name]
        if not title.changes or own.empty:
            continue
        for score, text in (
            ("recovered", f"error within {100 * (WITHIN - 1):.0f} % of hindsight"),
            ("covered", f"coverage of 90 % within {COVERED[0]:.0%} to {COVERED[1]:.0%}"),
        ):
            in_time = float((own[score] <= ROWS_TARGET).mean())
            found = f"{cell(own[score], SCORES[score])}; in time {100 * in_time:.0f} %"
            wanted = f"{text} after {ROWS_TARGET} rows"
            lines.append(f"| {wanted} | {title.title} | {found} | {verdict(in_time)} |")
    for simulated in (True, False):
        names = [title.name for title in titles if title.simulated == simulated]
        own = alarms[alarms["scenario"].isin(names)]
        exposed = int(own["exposed"].sum()) if len(own) else 0
        if exposed:
            false = int(own["false"].sum())
            low, high = (PER_ROWS * bound / exposed for bound in poisson_interval(false))
            rate = PER_ROWS * false / exposed
            found = f"{rate:.2f} [{low:.2f}, {high:.2f}], {false} in {exposed:,}"
            kind = "simulated" if simulated else "recorded"
            far = "no" if low > ALARMS_TARGET else "too few rows to tell"
            met = "yes" if high <= ALARMS_TARGET else far
            lines.append(f"| false alarms in 1e5 rows, at most 1 | {kind} | {found} | {met} |")
    return lines


def poisson_interval(count: int) -> tuple[float, float]:
    """90 % interval of the mean of a Poisson count, exact (Garwood, 1936)."""
    low = stats.chi2.ppf(0.05, 2 * count) / 2 if count else 0.0
    return float(low), float(stats.chi2.ppf(0.95, 2 * (count + 1)) / 2)


def verdict(share: float) -> str:
    """Whether every run kept to a target, or how it fell short."""
    return "yes" if share == 1.0 else "no" if share == 0.0 else "in part"
