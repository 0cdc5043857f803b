"""Contestants led through one stream: all see the same rows and are judged on the same steps."""

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd

from adaptation.rivals.base import Contestant, Forecast
from adaptation.rivals.fixed import Fixed
from adaptation.rivals.oracle import Oracle
from adaptation.streams import Stream, label_of, of_deployment
from bayeslat.schema import Deployment

__all__ = ["REFERENCES", "Followed", "follow"]

REFERENCES: Final = pd.DataFrame(
    [(1, 1, 512), (16, 16, 8192), (64, 64, 8192), (17, 272, 8192), (1, 1024, 1024)],
    columns=["batch_size", "total_tokens", "context_tokens"],
).assign(n_averaged=1)
"""Steps whose predicted latency is followed: decodes small and large, a mixed step, a prompt."""


class Followed(NamedTuple):
    """What one stream has shown.

    Attributes
    ----------
    judged : pandas.DataFrame
        One row a contestant, tracked deployment and time.
    happenings : pandas.DataFrame
        What contestants said, one row each: contestant, kind, deployment, n_seen, version.
    rows : pandas.DataFrame
        Rows of the tracked deployments with what each contestant predicted before it saw them;
        only of the contestants that were asked for.
    """

    judged: pd.DataFrame
    happenings: pd.DataFrame
    rows: pd.DataFrame


def follow(
    stream: Stream,
    contestants: Sequence[Contestant],
    base: Fixed,
    known: pd.DataFrame,
    *,
    recorded: Sequence[str] = (),
) -> Followed:
    """Lead contestants through a stream.

    A contestant to which deployments tell nothing of each other is shown the tracked ones alone.

    Parameters
    ----------
    stream : Stream
        The rows.
    contestants : sequence of Contestant
        At their start.
    base : Fixed
        The posterior that they started from.
    known : pandas.DataFrame
        The rows that it was fitted to.
    recorded : sequence of str
        Contestants whose prediction of every row is kept.
    """
    oracles = {
        deployment: Oracle.of(stream, deployment, base, of_deployment(known, deployment))
        for deployment in stream.tracked
    }
    beliefs = list(contestants)
    costs = [np.nan] * len(beliefs)
    judged: list[dict[str, Any]] = []
    happenings: list[dict[str, Any]] = []
    rows: list[pd.DataFrame] = []
    for tick in stream.ticks():
        for deployment in stream.tracked:
            judged += _judged(stream, deployment, tick.seen, beliefs, costs, oracles[deployment])
        rows += _recorded(stream, tick.rows, [one for one in beliefs if one.name in recorded])
        judged_rows = tick.rows[label_of(tick.rows).isin([one.label for one in stream.tracked])]
        for position, belief in enumerate(beliefs):
            shown = judged_rows if belief.alone else tick.rows
            if shown.empty:
                continue
            start = perf_counter()
            beliefs[position] = belief.observe(shown)
            costs[position] = (perf_counter() - start) / len(shown)
            happenings += [
                {"contestant": belief.name, **happening._asdict()}
                for happening in beliefs[position].happenings
            ]
    about = {"scenario": stream.name, "seed": stream.seed}
    columns = ["contestant", "kind", "deployment", "n_seen", "version"]
    return Followed(
        pd.DataFrame(judged).assign(**about),
        pd.DataFrame(happenings, columns=columns).assign(**about),
        (pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()).assign(**about),
    )


def _judged(
    stream: Stream,
    deployment: Deployment,
    seen: int,
    beliefs: Sequence[Contestant],
    costs: Sequence[float],
    oracle: Oracle,
) -> Iterator[dict[str, Any]]:
    """Every belief about one deployment, on the same steps."""
    steps = stream.world.probe(deployment, seen)
    if not len(steps):
        return
    measured = steps["latency_ms"].to_numpy()
    best = _scores(measured, oracle.predict(steps, seen))
    for belief, cost in zip(beliefs, costs, strict=True):
        fixed = belief.predict(deployment, REFERENCES).median
        yield {
            "contestant": belief.name,
            "deployment": deployment.label,
            "seen": seen,
            "since": np.nan if stream.onset is None else seen - stream.onset,
            **_scores(measured, belief.predict(deployment, steps)),
            **{f"oracle_{name}": value for name, value in best.items()},
            **{f"reference_{n}": float(value) for n, value in enumerate(np.log(fixed))},
            "evidence": belief.evidence(deployment),
            "row_s": cost,
        }


def _scores(measured: np.ndarray, forecast: Forecast) -> dict[str, float]:
    """Mean absolute relative error, coverage of 90 %, share above p99."""
    inside = (forecast.lower <= measured) & (measured <= forecast.upper)
    return {
        "error": float(np.mean(np.abs(forecast.median / measured - 1.0))),
        "coverage": float(np.mean(inside)),
        "exceedance": float(np.mean(measured > forecast.p99)),
    }


def _recorded(
    stream: Stream, rows: pd.DataFrame, beliefs: Sequence[Contestant]
) -> Iterator[pd.DataFrame]:
    """Rows of tracked deployments beside what was predicted of them."""
    for deployment in stream.tracked:
        own = of_deployment(rows, deployment)
        for belief in beliefs if len(own) else ():
            forecast = belief.predict(deployment, own)
            yield pd.DataFrame(
                {
                    "contestant": belief.name,
                    "deployment": deployment.label,
                    "timestamp": own["timestamp"].to_numpy(),
                    "latency_ms": own["latency_ms"].to_numpy(),
                    **forecast._asdict(),
                    "evidence": belief.evidence(deployment),
                }
            )
