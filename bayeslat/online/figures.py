"""Figures of a whole state, small enough to be sent between processes and shown."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from bayeslat.online.health import Health, health
from bayeslat.online.monitor import parameter_drift
from bayeslat.predictive.estimate import Estimate
from bayeslat.schema import Deployment

__all__ = ["DeploymentFigures", "Figures", "figures"]

REFERENCE_STEPS: Final = 32
"""Recent steps at which predictions are compared with those of the base."""


@dataclass(frozen=True)
class DeploymentFigures:
    """What is known of one deployment's predictions; fields as in `bayeslat.online.monitor`."""

    deployment: Deployment
    n_seen: int
    version: int
    level: str
    mean_error: Estimate
    p95_error: Estimate
    p99_error: Estimate
    coverage_50: Estimate
    coverage_90: Estimate
    exceedance_p99: Estimate
    mean_log_score: Estimate
    accepted: int
    rejected: int
    health: Health


@dataclass(frozen=True)
class Figures:
    """What is known of a state.

    Parameters
    ----------
    version, n_seen : int
        Of the whole state.
    deployments : tuple of DeploymentFigures
        Of each deployment.
    unknown, quarantine : mapping of str to int
        Rows of deployments that the fleet does not hold by label, and refused rows by reason.
    """

    version: int
    n_seen: int
    deployments: tuple[DeploymentFigures, ...] = ()
    unknown: Mapping[str, int] = field(default_factory=dict)
    quarantine: Mapping[str, int] = field(default_factory=dict)


def figures(state: Any, before: tuple[Any, Figures] | None = None) -> Figures:
    """Figures of an online state.

    Parameters
    ----------
    state : OnlineState
        As it is after any call.
    before : tuple of OnlineState and Figures, optional
        An earlier state with its figures, of which those of untouched deployments are taken.
    """
    known: dict[Deployment, tuple[Any, DeploymentFigures]] = {}
    if before is not None:
        known = {each.deployment: (before[0].of(each.deployment), each)
                 for each in before[1].deployments}  # fmt: skip
    return Figures(
        version=state.version,
        n_seen=state.n_seen,
        deployments=tuple(
            known[deployment][1]
            if deployment in known and known[deployment][0] is state.of(deployment)
            else _of(state, deployment)
            for deployment in state.deployments
        ),
        unknown=dict(state.unknown),
        quarantine=dict(state.quarantine),
    )


def _of(state: Any, deployment: Deployment) -> DeploymentFigures:
    held = state.of(deployment)
    monitor = held.monitor
    return DeploymentFigures(
        deployment=deployment,
        n_seen=held.n_seen,
        version=held.version,
        level=held.level,
        mean_error=monitor.mean_error,
        p95_error=monitor.p95_error,
        p99_error=monitor.p99_error,
        coverage_50=monitor.coverage_50,
        coverage_90=monitor.coverage_90,
        exceedance_p99=monitor.exceedance_p99,
        mean_log_score=monitor.mean_log_score,
        accepted=monitor.accepted,
        rejected=monitor.rejected,
        health=health(monitor, parameter_drift=_drift(held)),
    )


def _drift(held: Any) -> float | None:
    """How far predictions of recent steps have moved from the base; None without any step."""
    if not len(held.rows):
        return None
    pick = np.linspace(0, len(held.rows) - 1, REFERENCE_STEPS).astype(int)
    points = held.rows[pick].points
    weights = np.exp(held.belief.log_weights)
    now = weights @ np.log(held.belief.draws.location(points))
    base = np.log(held.base_draws.location(points)).mean(axis=0)
    return parameter_drift(np.exp(now), np.exp(base))
