"""Datasheet quantities of deployments, and the features of a step that are made with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from bayeslat.catalog import Catalog
from bayeslat.evaluation.base import Array
from bayeslat.observations import Observations
from bayeslat.roofline import bytes_per_parameter
from bayeslat.schema import PHASES, Deployment

__all__ = ["FEATURES", "QUANTITIES", "Datasheets", "least_times", "step_features"]

QUANTITIES: Final = ("peak", "bandwidth", "active", "weights", "kv", "tp")
"""Peak (TFLOP/s of the share in use), bandwidth (TB/s), active parameters (billions), weights (GB),
cache (bytes a position) and devices."""

FEATURES: Final = (
    "log_batch_size",
    "log_total_tokens",
    "log_context",
    "tokens_per_request",
    "phase",
    "tp",
    "log_peak",
    "log_bandwidth",
    "log_active",
    "engine",
)
"""Columns of `step_features`."""


@dataclass(frozen=True, eq=False)
class Datasheets:
    """Datasheets without gaps.

    A quantity that the catalogue does not tell of a deployment is taken to be the median over the
    known deployments, and one where it tells of none of them.

    Attributes
    ----------
    catalog
        Where the quantities come from.
    engines
        Engines of the known deployments, sorted.
    typical
        Median of each of `QUANTITIES` over the known deployments, shape (quantity,).
    """

    catalog: Catalog
    engines: tuple[str, ...]
    typical: Array

    @classmethod
    def of(cls, known: Sequence[Deployment], catalog: Catalog) -> Self:
        """Gaps are filled with what is typical of these deployments."""
        told = np.array([_quantities(deployment, catalog) for deployment in known])
        columns = [column[np.isfinite(column)] for column in told.T]
        typical = np.array([np.median(column) if column.size else 1.0 for column in columns])
        return cls(catalog, tuple(sorted({each.engine for each in known})), typical)

    def table(self, deployments: Sequence[Deployment]) -> Array:
        """`QUANTITIES` of each deployment, shape (deployment, quantity)."""
        told = np.array([_quantities(each, self.catalog) for each in deployments], dtype=float)
        told = told.reshape(-1, len(QUANTITIES))
        return np.where(np.isfinite(told), told, self.typical)

    def rows(self, steps: Observations) -> Array:
        """`QUANTITIES` of the deployment of each step, shape (row, quantity)."""
        return self.table(steps.deployments)[steps.deployment_index]

    def engine_codes(self, steps: Observations) -> NDArray[np.int64]:
        """Position of each step's engine in `engines`, -1 for one that is not there."""
        position = {engine: number for number, engine in enumerate(self.engines)}
        codes = [position.get(deployment.engine, -1) for deployment in steps.deployments]
        return np.array(codes, dtype=np.int64)[steps.deployment_index]


def _quantities(deployment: Deployment, catalog: Catalog) -> list[float]:
    """`QUANTITIES` of a deployment, NaN where the catalogue does not tell."""
    gpu, llm = catalog.gpu(deployment.gpu), catalog.llm(deployment.model)
    precision = deployment.precision or llm.weight_precision
    told = (
        gpu.effective_tflops,
        gpu.bandwidth_tbs,
        llm.active_b,
        None if llm.parameters_b is None else llm.parameters_b * bytes_per_parameter(precision),
        llm.kv_bytes_per_position(),
        float(deployment.tp),
    )
    return [np.nan if value is None else value for value in told]


def least_times(steps: Observations, sheets: Datasheets) -> tuple[Array, Array, Array]:
    """Milliseconds that the datasheet allows: weights, arithmetic, context; each (row,)."""
    peak, bandwidth, active, weights, kv, tp = sheets.rows(steps).T
    reading = 1e-9 * kv * steps.context_tokens / (bandwidth * tp)
    return weights / (bandwidth * tp), 2.0 * active * steps.total_tokens / (peak * tp), reading


def step_features(steps: Observations, sheets: Datasheets) -> Array:
    """Features of every step, shape (row, feature); the columns are `FEATURES`.

    A context that is not recorded is NaN.
    """
    peak, bandwidth, active, _, _, tp = sheets.rows(steps).T
    code = {phase: number for number, phase in enumerate(PHASES)}
    columns = (
        np.log(steps.batch_size),
        np.log(steps.total_tokens),
        np.log1p(steps.context_tokens),
        steps.total_tokens / steps.batch_size,
        np.array([code[phase] for phase in steps.phase], dtype=float),
        tp,
        np.log(peak),
        np.log(bandwidth),
        np.log(active),
        sheets.engine_codes(steps),
    )
    return np.column_stack(columns).astype(float)
