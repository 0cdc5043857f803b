"""Suspicions about whole columns: too fast for the device, two units, half a context."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from bayeslat.catalog import Catalog
from bayeslat.observations.table import Observations

__all__ = [
    "ObservationWarning",
    "UnitWarning",
    "below_half_floor",
    "mixed_unit_warnings",
    "partial_context_warnings",
]

FLOOR_SHARE = 0.5
"""Share of the roofline floor below which a latency cannot be true; datasheets are not exact."""

GAP = 100.0
"""Ratio between neighbouring latencies of one design bin that splits it into two groups."""

UNIT_RATIO = 300.0
"""Ratio between the medians of two groups that speaks for two units."""

MINORITY_ROWS = 2
MINORITY_SHARE = 0.01
"""Least size of the smaller group: a first step that compiles is slow, and no matter of units."""


class ObservationWarning(UserWarning):
    """Something about a log is suspicious, though every row is possible."""


class UnitWarning(ObservationWarning):
    """Two units of time seem to be mixed in one column."""


def below_half_floor(table: Observations, catalog: Catalog) -> npt.NDArray[np.bool_]:
    """Mask of rows whose latency is below half of what compute and bandwidth allow.

    A deployment whose GPU or LLM the catalogue does not know is not checked.
    """
    too_fast = np.zeros(len(table), dtype=bool)
    for deployment in table.deployments:
        rows = table.slice_of(deployment)
        floor = catalog.step_floor_ms(
            deployment.gpu,
            deployment.model,
            total_tokens=table.total_tokens[rows],
            context_tokens=table.context_tokens[rows],
            tp=deployment.tp,
            precision=deployment.precision,
        )
        # A comparison with NaN, the unknown floor, is False.
        too_fast[rows] = table.latency_ms[rows] < FLOOR_SHARE * floor
    return too_fast


def mixed_unit_warnings(table: Observations) -> Iterator[UnitWarning]:
    """Deployments in which latencies at comparable design points lie about 1,000-fold apart.

    Rows are compared within one deployment and one octave of batch size and of total tokens, so
    that a long prefill is never held against a short decode step.
    """
    bins = _design_bins(table)
    order = np.lexsort((table.latency_ms, bins))
    bins, latency = bins[order], table.latency_ms[order]
    gaps = np.flatnonzero((bins[1:] == bins[:-1]) & (latency[1:] > GAP * latency[:-1])) + 1
    suspected: dict[int, tuple[float, float]] = {}
    for split in gaps:
        start, stop = np.searchsorted(bins, [bins[split], bins[split] + 1])
        fast = float(np.median(latency[start:split]))
        slow = float(np.median(latency[split:stop]))
        least = max(MINORITY_ROWS, MINORITY_SHARE * (stop - start))
        if slow > UNIT_RATIO * fast and min(split - start, stop - split) >= least:
            suspected.setdefault(int(table.deployment_index[order[split]]), (fast, slow))
    for position, (fast, slow) in suspected.items():
        yield UnitWarning(
            f"two units seem to be mixed in latency_ms of {table.deployments[position].label}: "
            f"at comparable steps one group lies near {fast:.4g} and one near {slow:.4g}, "
            "expected milliseconds throughout; convert the rows of the other unit"
        )


def _design_bins(table: Observations) -> npt.NDArray[np.int64]:
    """Give each row a number for its deployment and its octaves of batch size and tokens."""
    batch, tokens = (
        np.floor(np.log2(values)).astype(np.int64)
        for values in (table.batch_size, table.total_tokens)
    )
    # Fewer than 2,048 octaves fit into a float64, so that the bins of two deployments never meet.
    return (table.deployment_index * 2048 + batch) * 2048 + tokens


def partial_context_warnings(table: Observations) -> Iterator[ObservationWarning]:
    """Deployments of which only some rows record their context tokens."""
    known = np.isfinite(table.context_tokens)
    size = len(table.deployments)
    n_rows = np.bincount(table.deployment_index, minlength=size)
    n_known = np.bincount(table.deployment_index[known], minlength=size)
    for position in np.flatnonzero((n_known > 0) & (n_known < n_rows)):
        yield ObservationWarning(
            f"context_tokens is recorded for {n_known[position]:,} of {n_rows[position]:,} rows of "
            f"{table.deployments[position].label}, expected all or none; keep the rows of one kind"
        )
