"""A profile table: measured latencies, and straight lines between them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
from threadpoolctl import threadpool_limits

from bayeslat.catalog import Catalog
from bayeslat.evaluation.base import Array
from bayeslat.evaluation.rivals.datasheets import Datasheets
from bayeslat.evaluation.rivals.history import KNOWN, N_FOLDS, History, Novelty, folds
from bayeslat.evaluation.rivals.pooled import likeness, thinned
from bayeslat.evaluation.rivals.spread import Forecaster, PointRival, Ratios, scaled_by_few
from bayeslat.observations import Observations, concat
from bayeslat.schema import Deployment

__all__ = ["ProfileTable"]

CELL: Final = 0.05
"""Width of a cell of the table in log B, log S and log C; steps in one cell are averaged."""

FLAT: Final = 1e-3
"""Extent, relative to the largest, below which the points of a table have no direction."""

one_blas_thread = threadpool_limits.wrap(limits=1, user_api="blas")
"""Every simplex of a table is a matrix of three rows: BLAS threads only wait for each other."""


class ProfileTable(PointRival):
    """Linear interpolation of log-latency over (log B, log S, log C), as users of tables do it.

    Every deployment has a table for each phase; outside its hull the nearest entry counts. A new
    deployment gets the table of the one that it is most like by datasheet, engine and names, times
    a factor from its few steps. Quantiles are those of errors at entries left out; for new
    deployments those of known ones, each forecast from the most alike that does not share what is
    new. ``n_averaged`` is not used: all steps count alike.
    """

    name = "table"
    version = "2"

    def _maker(self, history: History) -> Callable[[Novelty], Forecaster]:
        return _Maker(history, _tables(history.known), self.catalog)


@dataclass(frozen=True, eq=False)
class _Maker:
    """Makes the forecaster of each novelty from the tables of the known deployments."""

    history: History
    tables: Mapping[Deployment, "_Tables"]
    catalog: Catalog

    def __call__(self, novelty: Novelty) -> Forecaster:
        if novelty == KNOWN:
            return Forecaster(partial(_look_up, self.tables), self._errors_left_out())
        errors = self._errors_as_if_new(novelty) or self._errors_left_out()
        return Forecaster(partial(scaled_by_few, self._from_most_alike, self.history), errors)

    def _errors_left_out(self) -> Ratios:
        """Errors at design points that were not in the table."""
        steps = self.history.known
        fold, fitted = folds(steps), _look_up(self.tables, steps)
        for number in range(N_FOLDS):
            rest, held = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            held = held[np.isin(steps.deployment_index[held], steps.deployment_index[rest])]
            fitted[held] = _look_up(_tables(steps.select(rest)), steps.select(held))
        return Ratios(steps, steps.latency_ms / fitted)

    def _errors_as_if_new(self, novelty: Novelty) -> Ratios | None:
        """Errors of known deployments as if new; `None` where all share what is new."""
        known = self.history.known.deployments
        if len({getattr(each, novelty.by) for each in known}) < 2:
            return None
        own = [thinned(self.history.known.for_deployment(each)) for each in known]
        own = [steps for steps in own if len(steps) > novelty.n_few]
        if not own:
            return None
        few = concat(*(steps.select(np.arange(novelty.n_few)) for steps in own))
        rest = concat(*(steps.select(np.arange(novelty.n_few, len(steps))) for steps in own))
        point = partial(self._from_most_alike, unlike=novelty.by)
        fitted = scaled_by_few(point, replace(self.history, few=few), rest)
        return Ratios(rest, rest.latency_ms / fitted)

    def _from_most_alike(self, steps: Observations, unlike: str = "") -> Array:
        """Latency from the table of the most alike deployment, one with another `unlike`."""
        known = self.history.known.deployments
        sheets = Datasheets.of(known, self.catalog)
        like = likeness(steps.deployments, known, sheets)
        distance = likeness(known, known, sheets).diagonal() - 2.0 * like
        if unlike:
            groups, own = (
                np.array([getattr(each, unlike) for each in deployments])
                for deployments in (known, steps.deployments)
            )
            distance[own[:, None] == groups] = np.inf
        donors = [known[position] for position in distance.argmin(axis=1)]
        borrowed = {
            new: self.tables[donor] for new, donor in zip(steps.deployments, donors, strict=True)
        }
        return _look_up(borrowed, steps)


@dataclass(frozen=True, eq=False)
class _Entries:
    """Entries of one table, in those directions in which they have any extent.

    Attributes
    ----------
    centre, axes
        Mean point, shape (3,), and the directions, shape (3, direction).
    at, log_latency
        Coordinates of the entries, shape (entry, direction), and their values, shape (entry,).
    linear, nearest
        Interpolators where there are two directions or three.
    """

    centre: Array
    axes: Array
    at: Array
    log_latency: Array
    linear: Any = None
    nearest: Any = None

    @classmethod
    def of(cls, points: Array, log_latency: Array) -> "_Entries":
        points, log_latency = _gathered(points, log_latency)
        centre = points.mean(axis=0)
        _, extent, axes = np.linalg.svd(points - centre, full_matrices=False)
        axes = axes[extent > max(FLAT * extent[0], FLAT)].T
        at = (points - centre) @ axes
        if axes.shape[1] == 1:
            order = np.argsort(at[:, 0])
            return cls(centre, axes, at[order], log_latency[order])
        if axes.shape[1] < 1:
            return cls(centre, axes, at, log_latency)
        linear = LinearNDInterpolator(at, log_latency)
        return cls(centre, axes, at, log_latency, linear, NearestNDInterpolator(at, log_latency))

    def look_up(self, points: Array) -> Array:
        """Log-latency at points, shape (row,)."""
        at = (points - self.centre) @ self.axes
        if self.axes.shape[1] == 0:
            return np.full(len(points), self.log_latency.mean())
        if self.axes.shape[1] == 1:
            return np.interp(at[:, 0], self.at[:, 0], self.log_latency)
        inside = self.linear(at)
        return np.where(np.isnan(inside), self.nearest(at), inside)


@dataclass(frozen=True, eq=False)
class _Tables:
    """Tables of one deployment: one a phase, and one of all steps for phases that it lacks."""

    of_phase: Mapping[str, _Entries]
    everything: _Entries

    @classmethod
    def of(cls, own: Observations) -> "_Tables":
        points, log_latency = _points(own), np.log(own.latency_ms)
        everything = _Entries.of(points, log_latency)
        rows = {phase: own.phase == phase for phase in set(own.phase)}
        if len(rows) == 1:
            return cls(dict.fromkeys(rows, everything), everything)
        parts = {
            phase: _Entries.of(points[mask], log_latency[mask]) for phase, mask in rows.items()
        }
        return cls(parts, everything)

    def look_up(self, steps: Observations) -> Array:
        """Latency in ms, shape (row,)."""
        points, result = _points(steps), np.empty(len(steps))
        for phase in set(steps.phase):
            rows = steps.phase == phase
            result[rows] = self.of_phase.get(phase, self.everything).look_up(points[rows])
        return np.exp(result)


def _tables(steps: Observations) -> dict[Deployment, _Tables]:
    return {each: _Tables.of(steps.for_deployment(each)) for each in steps.deployments}


@one_blas_thread
def _look_up(tables: Mapping[Deployment, _Tables], steps: Observations) -> Array:
    """Latency in ms by the tables of each deployment, shape (row,)."""
    parts = [tables[each].look_up(steps.for_deployment(each)) for each in steps.deployments]
    return np.concatenate([np.empty(0), *parts])


def _points(steps: Observations) -> Array:
    """Coordinates log B, log S and log(1 + C), shape (row, 3)."""
    columns = np.log(steps.batch_size), np.log(steps.total_tokens), np.log1p(steps.context_tokens)
    return np.column_stack(columns)


def _gathered(points: Array, log_latency: Array) -> tuple[Array, Array]:
    """Mean point and mean log-latency of each cell that holds any."""
    cells, cell = np.unique(np.round(points / CELL), axis=0, return_inverse=True)
    size = np.bincount(cell, minlength=len(cells))
    totals = [np.bincount(cell, column) for column in (*points.T, log_latency)]
    *means, value = (total / size for total in totals)
    return np.column_stack(means), value
