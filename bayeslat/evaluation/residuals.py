"""Residual tests: whether residuals are normal, of one spread, independent and without trend.

A residual is the normal score of a row's PIT, z = Phi^-1(PIT), called a randomised quantile
residual by Dunn and Smyth (1996): standard normal where the model is right, whatever its
likelihood, so that heavy tails that were predicted are no fault. Of a predictor without a
distribution the relative errors are tested instead, standardised by deployment.
"""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import special, stats
from statsmodels.stats.diagnostic import het_breuschpagan
from statsmodels.stats.stattools import durbin_watson

from bayeslat.errors import InputError
from bayeslat.evaluation.findings import LEVEL, Finding, Findings, judged, not_done
from bayeslat.evaluation.left_out import RowChecks
from bayeslat.observations import Observations
from bayeslat.predictive.kernels import ERROR

__all__ = ["TREND_AXES", "quantile_residuals", "relative_residuals", "residual_tests"]

type Array = NDArray[np.float64]
type Check = Callable[[str, pd.DataFrame], Finding]

PICKED: Final = "the rows were picked at random from a longer log, look at all of them"
MAX_SHAPIRO: Final = 5000
"""Rows up to which the p-value of Shapiro and Wilk holds; of more, as many at even distances."""

NEEDED: Final = {"normality": 3, "spread": 20, "independence": 20, "trend": 10}
"""Least rows of each test: the first by definition, the others for their asymptotic p-values."""

MATERIAL_W: Final = 0.02
"""Share 1 - W of the residuals' variance off the straight line of a normal plot: Student-t
residuals of seven degrees of freedom have about as much."""

MATERIAL_SPREAD: Final = 1.25
"""Ratio of spreads: a p99 that is a quarter too far or too near."""

MATERIAL_CORRELATION: Final = 0.1
"""Correlation, of ranks or from row to row; it explains one per cent of the variance."""

DESIGN_AXES: Final = ("batch_size", "total_tokens", "context_tokens")
TREND_AXES: Final = ("timestamp", "fitted", *DESIGN_AXES)
"""What residuals must not follow."""

_NAMES: Final = {
    "timestamp": "time",
    "fitted": "the predicted latency",
    "batch_size": "batch size B",
    "total_tokens": "tokens S",
    "context_tokens": "context C",
}


def quantile_residuals(checked: RowChecks, *, left_out: bool = True) -> pd.DataFrame:
    """Normal scores of PIT values.

    Parameters
    ----------
    checked : RowChecks
        From `bayeslat.evaluation.left_out.check_rows`.
    left_out : bool
        Whether to take LOO-PIT: for steps that the posterior was fitted to. Take the plain PIT of
        steps that it has not seen.

    Returns
    -------
    DataFrame
        Columns ``deployment``, ``batch_size``, ``total_tokens``, ``context_tokens``,
        ``timestamp``, ``observed``, ``fitted``, ``relative`` (observed / fitted - 1) and ``z``.
    """
    rows = checked.rows
    pit = np.clip(rows["loo_pit" if left_out else "pit"], ERROR, 1.0 - ERROR)
    return _table(rows, rows["fitted"]).assign(z=special.ndtri(pit))


def relative_residuals(observations: Observations, predicted_ms: Sequence[float]) -> pd.DataFrame:
    """Relative errors of a point predictor, standardised by deployment.

    Parameters
    ----------
    observations : Observations
        Measured steps.
    predicted_ms : array, shape (row,)
        Predicted latency of every step in milliseconds, positive.

    Returns
    -------
    DataFrame
        Columns as of `quantile_residuals`; ``z`` has mean zero and standard deviation one.

    Raises
    ------
    InputError
        The predictions are not as many as the rows, or not positive and finite.
    """
    predicted = np.asarray(predicted_ms, dtype=float)
    if predicted.shape != (len(observations),):
        raise InputError(
            f"got predictions of shape {predicted.shape}, expected one for each of"
            f" {len(observations)} rows; predict the same steps"
        )
    if not (np.isfinite(predicted) & (predicted > 0.0)).all():
        raise InputError(
            "got predictions that are not positive and finite, expected milliseconds; leave out"
            " the steps that the predictor has no answer for"
        )
    frame = observations.to_frame()
    labels = np.array([deployment.label for deployment in observations.deployments])
    frame["deployment"] = labels[observations.deployment_index]
    table = _table(frame.rename(columns={"latency_ms": "observed"}), predicted)
    groups = table.groupby("deployment")["relative"]
    # Constant errors have no spread to be measured in; the tests say so.
    spread = groups.transform("std", ddof=0).replace(0.0, np.nan)
    return table.assign(z=(table["relative"] - groups.transform("mean")) / spread)


def residual_tests(
    residuals: pd.DataFrame, *, level: float = LEVEL, picked: Collection[str] = ()
) -> Findings:
    """Test the residuals of every deployment.

    ``normality`` (Shapiro and Wilk), ``spread`` (Breusch and Pagan in Koenker's studentised form,
    on the logarithms of B, S and C), ``independence`` (Durbin and Watson, in the order of time
    where time stamps were recorded and else in that of the predicted latency; its p-value takes d
    as normal with mean 2 and variance 4 / n) and ``trend`` along each of `TREND_AXES` (Spearman;
    along time this is the test of Daniels, a sister of Mann and Kendall's).

    Parameters
    ----------
    residuals : DataFrame
        From `quantile_residuals` or `relative_residuals`.
    level : float
        Probability that a test fails any deployment of a right model.
    picked : collection of str
        Deployments whose rows were picked at random from a longer log: what were neighbours in time
        is not known of them, so that their independence is not tested.

    Raises
    ------
    InputError
        All latencies of every deployment are identical.
    """
    groups = [(str(label), own) for label, own in residuals.groupby("deployment", sort=False)]
    constant = {label for label, own in groups if own["observed"].nunique() == 1 < len(own)}
    if len(constant) == len(groups):
        value = residuals["observed"].iloc[0]
        raise InputError(
            f"got latencies that are all {value:g} ms, expected measured ones that differ; check"
            " the clock and the column that they come from"
        )
    found = []
    for label, own in groups:
        for name, check in _checks().items():
            if label in constant:
                why = f"all {len(own)} latencies are {own['observed'].iloc[0]:g} ms"
                found.append(not_done(label, name, len(own), why))
            elif name == "independence" and label in picked:
                found.append(not_done(label, name, len(own), PICKED))
            else:
                found.append(check(name, own.assign(deployment=label)))
    return judged(found, level=level)


def _table(rows: pd.DataFrame, fitted: Any) -> pd.DataFrame:
    names = ["deployment", *DESIGN_AXES, "timestamp", "observed"]
    table = rows[names].assign(fitted=np.asarray(fitted))
    return table.assign(relative=table["observed"] / table["fitted"] - 1.0)


def _checks() -> dict[str, Check]:
    def along(axis: str) -> Check:
        return lambda name, own: _trend(name, own, axis)

    trends = {f"trend along {_NAMES[axis]}": along(axis) for axis in TREND_AXES}
    return {
        "normality": _normality,
        "spread": _spread,
        "independence": _independence,
        **trends,
    }


def _refused(name: str, own: pd.DataFrame, test: str) -> Finding | None:
    """Where a test cannot be done, the finding that says so."""
    label, n = own["deployment"].iloc[0], len(own)
    if n < NEEDED[test]:
        return not_done(label, name, n, f"got {n} rows, expected at least {NEEDED[test]}")
    if not np.ptp(own["z"]) > 0.0:
        return not_done(label, name, n, "all residuals are equal")
    return None


def _normality(name: str, own: pd.DataFrame) -> Finding:
    refused = _refused(name, own, "normality")
    if refused is not None:
        return refused
    z = own["z"].to_numpy()
    if z.size > MAX_SHAPIRO:
        z = z[np.linspace(0, z.size - 1, MAX_SHAPIRO).astype(int)]
    w, p = stats.shapiro(z)
    tails, skew = float(stats.kurtosis(z)), float(stats.skew(z))
    shape = "heavier tails than predicted" if tails > 0 else "lighter tails than predicted"
    if abs(skew) > abs(tails):
        shape = "a longer tail of slow steps" if skew > 0 else "a longer tail of fast steps"
    sentence = (
        f"residuals have mean {z.mean():+.2f} and standard deviation {z.std():.2f} (0 and 1"
        f" expected), {shape}: skewness {skew:+.2f}, excess kurtosis {tails:+.2f}"
    )
    material = bool(1.0 - w > MATERIAL_W)
    return _finding(name, own, w, p, 1.0 - w, "1 - W", material, sentence)


def _spread(name: str, own: pd.DataFrame) -> Finding:
    refused = _refused(name, own, "spread")
    if refused is not None:
        return refused
    names, design = _independent_columns(own)
    if not names:
        why = "B, S and C are constant, there is nothing along which the spread could change"
        return not_done(own["deployment"].iloc[0], name, len(own), why)
    z = own["z"].to_numpy()
    z = z - z.mean()
    statistic, p, _, _ = het_breuschpagan(z, design)
    expected = sm.OLS(np.square(z), design).fit().fittedvalues
    low, high = np.quantile(expected, [1 / 6, 5 / 6])
    ratio = float(z[expected >= high].std() / z[expected <= low].std())
    sentence = (
        f"residuals spread {ratio:.2f} times as wide in the sixth of steps where {', '.join(names)}"
        " make them wide as in the sixth where narrow"
    )
    dropped = [axis for axis in ("log B", "log S", "log C") if axis not in names]
    if dropped:
        sentence += f" ({', '.join(dropped)} dropped: constant or told by the others)"
    material = ratio > MATERIAL_SPREAD
    return _finding(name, own, statistic, p, ratio, "ratio of spreads", material, sentence)


def _independent_columns(own: pd.DataFrame) -> tuple[list[str], Array]:
    """Names and columns of the logarithms that tell something new, after a constant."""
    names: list[str] = []
    design = np.ones((len(own), 1))
    for axis, name in zip(DESIGN_AXES, ("log B", "log S", "log C"), strict=True):
        values = np.log(np.maximum(own[axis].to_numpy(), 1.0))
        if not np.isfinite(values).all() or not values.std() > 0.0:
            continue
        wider = np.column_stack([design, (values - values.mean()) / values.std()])
        if np.linalg.cond(wider) < 1e6:
            names.append(name)
            design = wider
    return names, design


def _independence(name: str, own: pd.DataFrame) -> Finding:
    refused = _refused(name, own, "independence")
    if refused is not None:
        return refused
    stamps = own["timestamp"]
    timed = bool(stamps.notna().all() and stamps.nunique() > 1)
    ordered = own.sort_values("timestamp" if timed else "fitted", kind="stable")
    z = ordered["z"].to_numpy()
    z = z - z.mean()
    statistic = float(durbin_watson(z))
    p = 2.0 * stats.norm.sf(abs(2.0 - statistic) / 2.0 * math.sqrt(z.size))
    correlation = 1.0 - statistic / 2.0
    order = "time" if timed else "the predicted latency (no time stamps)"
    sentence = f"neighbouring residuals in the order of {order} correlate by {correlation:+.2f}"
    return _finding(
        name,
        own,
        statistic,
        p,
        correlation,
        "lag-one correlation",
        abs(correlation) > MATERIAL_CORRELATION,
        sentence,
    )


def _trend(name: str, own: pd.DataFrame, axis: str) -> Finding:
    own = own[own[axis].notna()] if own[axis].notna().any() else own
    label, n = own["deployment"].iloc[0], len(own)
    along = _NAMES[axis]
    if own[axis].isna().all():
        why = "no time stamps" if axis == "timestamp" else f"{along} was not recorded"
        return not_done(label, name, n, why)
    if own[axis].nunique() == 1:
        return not_done(label, name, n, f"{along} is constant")
    refused = _refused(name, own, "trend")
    if refused is not None:
        return refused
    rho, p = stats.spearmanr(own[axis], own["z"])
    ranks = own[axis].rank(pct=True)
    low, high = (
        100.0 * own.loc[chosen, "relative"].median() for chosen in (ranks <= 0.25, ranks > 0.75)
    )
    where = ("early", "late") if axis == "timestamp" else ("small", "large")
    sentence = f"rank correlation with {along} {rho:+.2f}"
    if math.isfinite(low) and math.isfinite(high):
        sentence += (
            f"; the median step is {low:+.1f} % off its prediction where that is {where[0]},"
            f" {high:+.1f} % where {where[1]}"
        )
    material = abs(rho) > MATERIAL_CORRELATION
    return _finding(name, own, rho, p, rho, "rank correlation", material, sentence)


def _finding(
    name: str,
    own: pd.DataFrame,
    statistic: float,
    p: float,
    effect: float,
    effect_name: str,
    material: bool,
    sentence: str,
) -> Finding:
    label = own["deployment"].iloc[0]
    return Finding(
        label, name, len(own), float(statistic), float(p), float(effect), effect_name,
        bool(material), sentence,
    )  # fmt: skip
