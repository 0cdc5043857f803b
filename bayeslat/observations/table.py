"""The observations: measured steps as arrays, the one type that every later stage sees.

Foreign formats and pandas end here. An `Observations` is immutable: its arrays are read-only, and
a method that changes something returns a new value. Rows are sorted by deployment, so that the
rows of one deployment are one slice.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bayeslat.errors import InputError, UnknownDeploymentError
from bayeslat.schema import Deployment

__all__ = ["Observations", "Quarantine", "concat"]

ROW_FIELDS = (
    "deployment_index",
    "batch_size",
    "total_tokens",
    "context_tokens",
    "latency_ms",
    "n_averaged",
    "phase",
    "timestamp",
    "replicate",
)
"""Fields of `Observations` that hold one value per row."""

EXAMPLES_PER_REASON = 20
"""Offending rows that a quarantine keeps for each reason; the counts are always complete."""

MAX_DEPLOYMENTS_NAMED = 8


@dataclass(frozen=True, eq=False)
class Quarantine:
    """What was not used, and why.

    Attributes
    ----------
    counts
        Rows put aside because something was wrong with them, by reason. A row is counted once,
        under the first reason that applies.
    rows
        The first rows of each reason, at most 20: columns ``reason``, ``row`` (the line of a text
        file, the position in a frame or a parquet file), then the values or the ``text`` as read.
    n_read
        Rows seen: ``n_read == len(observations) + sum(counts) + sum(dropped)`` for a fresh read.
    dropped
        Rows left out that are no error, such as dummy and idle steps, by kind.
    warnings
        Suspicions that cost no row, each one readable sentence.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    rows: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({"reason": [], "row": []}))
    n_read: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def n_quarantined(self) -> int:
        """Rows put aside, over all reasons."""
        return sum(self.counts.values())

    @property
    def n_dropped(self) -> int:
        """Rows left out that are no error."""
        return sum(self.dropped.values())

    def summary(self) -> str:
        """Everything in one readable paragraph."""
        n_kept = self.n_read - self.n_quarantined - self.n_dropped
        parts = [f"{self.n_read:,} rows read, {n_kept:,} kept"]
        if self.counts:
            parts.append(f"{self.n_quarantined:,} quarantined ({_listed(self.counts)})")
        if self.dropped:
            parts.append(f"{self.n_dropped:,} dropped ({_listed(self.dropped)})")
        sentences = [", ".join(parts) + ".", *(f"Warning: {text}" for text in self.warnings)]
        return " ".join(sentences)

    def to_dict(self) -> dict[str, Any]:
        """Return counts, drops and warnings as JSON-able values; the example rows stay behind."""
        return {
            "n_read": self.n_read,
            "counts": dict(self.counts),
            "dropped": dict(self.dropped),
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Quarantine":
        """Inverse of `to_dict`."""
        return cls(
            counts=dict(values["counts"]),
            n_read=int(values["n_read"]),
            dropped=dict(values["dropped"]),
            warnings=tuple(values["warnings"]),
        )


@dataclass(frozen=True, eq=False)
class Observations:
    """Measured engine steps of one or many deployments.

    Attributes
    ----------
    deployments
        The deployments that have rows: sorted, unique.
    deployment_index
        int64 [row], position in `deployments`; non-decreasing.
    batch_size, total_tokens, context_tokens, latency_ms, n_averaged
        float64 [row]: requests, tokens computed, key-value positions attended to (NaN where not
        recorded), milliseconds, number of steps that the row averages.
    phase
        object [row], one of `bayeslat.schema.PHASES`.
    timestamp
        float64 [row], seconds since 1970, NaN where not recorded.
    replicate
        int64 [row], repeat number at the same design point.
    timing_scope
        What a latency spans, one of `bayeslat.schema.TIMING_SCOPES`.
    quarantine
        What was not used. A selection keeps the quarantine of the read that it stems from.
    source
        Where the rows come from, for messages and provenance.
    """

    deployments: tuple[Deployment, ...]
    deployment_index: npt.NDArray[np.int64]
    batch_size: npt.NDArray[np.float64]
    total_tokens: npt.NDArray[np.float64]
    context_tokens: npt.NDArray[np.float64]
    latency_ms: npt.NDArray[np.float64]
    n_averaged: npt.NDArray[np.float64]
    phase: npt.NDArray[np.object_]
    timestamp: npt.NDArray[np.float64]
    replicate: npt.NDArray[np.int64]
    timing_scope: str = "unknown"
    quarantine: Quarantine = field(default_factory=Quarantine)
    source: str = ""

    def __post_init__(self) -> None:
        shapes = {getattr(self, name).shape for name in ROW_FIELDS}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise InputError(
                f"got row arrays of shapes {sorted(shapes)}, expected one shape [row] for all; "
                "build observations with validate_steps"
            )
        for name in ROW_FIELDS:
            getattr(self, name).setflags(write=False)

    def __len__(self) -> int:
        return self.deployment_index.size

    def __repr__(self) -> str:
        return (
            f"Observations({self.n_rows:,} rows, {len(self.deployments)} deployments, "
            f"timing_scope={self.timing_scope!r}, source={self.source!r})"
        )

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self)

    @property
    def has_context(self) -> bool:
        """Whether any row records its context tokens."""
        return bool(np.isfinite(self.context_tokens).any())

    def slice_of(self, deployment: Deployment) -> slice:
        """Rows of a deployment.

        Raises
        ------
        UnknownDeploymentError
            The deployment has no rows here.
        """
        if deployment not in self.deployments:
            raise UnknownDeploymentError(
                f"got {Deployment(*deployment).label}, expected one of {self._labels()}; "
                "`observations.deployments` lists them"
            )
        position = self.deployments.index(deployment)
        bounds = np.searchsorted(self.deployment_index, [position, position + 1])
        return slice(int(bounds[0]), int(bounds[1]))

    def for_deployment(self, deployment: Deployment) -> "Observations":
        """Take the rows of one deployment alone.

        Raises
        ------
        UnknownDeploymentError
            The deployment has no rows here.
        """
        rows = self.slice_of(deployment)
        return self.select(np.arange(rows.start, rows.stop))

    def select(self, rows: npt.ArrayLike) -> "Observations":
        """Take some of the rows, with only the deployments that still have any.

        Parameters
        ----------
        rows
            Boolean mask [row], or positions. Positions may repeat; their order is kept within a
            deployment.
        """
        wanted = np.asarray(rows)
        if wanted.size == 0 and wanted.dtype != bool:
            wanted = wanted.astype(np.int64)
        arrays = {name: getattr(self, name)[wanted] for name in ROW_FIELDS}
        present, index = np.unique(arrays["deployment_index"], return_inverse=True)
        arrays["deployment_index"] = index.astype(np.int64)
        order = np.argsort(index, kind="stable")
        return replace(
            self,
            deployments=tuple(self.deployments[i] for i in present),
            **{name: values[order] for name, values in arrays.items()},
        )

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a table with the columns of `bayeslat.schema`."""
        columns: dict[str, Any] = {}
        for position, name in enumerate(Deployment._fields):
            labels = np.array([deployment[position] for deployment in self.deployments])
            columns[name] = labels[self.deployment_index] if labels.size else []
        columns["phase"] = self.phase
        columns["batch_size"] = self.batch_size.astype(np.int64)
        columns["total_tokens"] = self.total_tokens.astype(np.int64)
        for name in ("context_tokens", "latency_ms", "n_averaged", "timestamp", "replicate"):
            columns[name] = getattr(self, name)
        return pd.DataFrame(columns)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content, in hexadecimal; the order of the rows does not enter."""
        phases, phase_code = np.unique(self.phase.astype(str), return_inverse=True)
        numbers = [getattr(self, name) for name in ROW_FIELDS if name != "phase"]
        order = np.lexsort((phase_code, *numbers[::-1]))
        digest = hashlib.sha256()
        header = (self.timing_scope, *(tuple(d) for d in self.deployments), *phases.tolist())
        digest.update(repr(header).encode())
        for values in (*numbers, phase_code):
            digest.update(_canonical_bytes(values[order]))
        return digest.hexdigest()

    def _labels(self) -> str:
        labels = [deployment.label for deployment in self.deployments[:MAX_DEPLOYMENTS_NAMED]]
        rest = len(self.deployments) - len(labels)
        return ", ".join(labels) + (f" and {rest} more" if rest else "")


def concat(*observations: Observations) -> Observations:
    """Rows of several observations in one.

    Raises
    ------
    InputError
        Nothing was given, or the timing scopes differ: a client's latency and a kernel's are
        different quantities.
    """
    scopes = sorted({part.timing_scope for part in observations})
    if len(scopes) != 1:
        raise InputError(
            f"got timing scopes {scopes}, expected one for all parts; keep records of different "
            "scopes apart, or state the scope with read_steps(..., timing_scope=...)"
        )
    deployments = tuple(sorted({d for part in observations for d in part.deployments}))
    position = {deployment: i for i, deployment in enumerate(deployments)}
    index = np.concatenate(
        [
            np.array([position[d] for d in part.deployments], dtype=np.int64)[part.deployment_index]
            for part in observations
        ]
    )
    order = np.argsort(index, kind="stable")
    arrays = {
        name: np.concatenate([getattr(part, name) for part in observations])[order]
        for name in ROW_FIELDS
        if name != "deployment_index"
    }
    return Observations(
        deployments=deployments,
        deployment_index=index[order],
        timing_scope=scopes[0],
        quarantine=_merged([part.quarantine for part in observations]),
        source=" + ".join(dict.fromkeys(part.source for part in observations if part.source)),
        **arrays,
    )


def _merged(parts: list[Quarantine]) -> Quarantine:
    rows = [part.rows for part in parts if len(part.rows)]
    return Quarantine(
        counts=_added([part.counts for part in parts]),
        rows=pd.concat(rows, ignore_index=True) if rows else Quarantine().rows,
        n_read=sum(part.n_read for part in parts),
        dropped=_added([part.dropped for part in parts]),
        warnings=tuple(dict.fromkeys(text for part in parts for text in part.warnings)),
    )


def _added(counts: list[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in counts:
        for reason, number in part.items():
            total[reason] = total.get(reason, 0) + number
    return total


def _listed(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{number:,} {reason}" for reason, number in ordered)


def _canonical_bytes(values: npt.NDArray[Any]) -> bytes:
    if values.dtype.kind == "f":
        # NaN has many bit patterns and zero has two; equal content must give equal bytes.
        return np.where(np.isnan(values), np.nan, values + 0.0).astype("<f8").tobytes()
    return values.astype("<i8").tobytes()
