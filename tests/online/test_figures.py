"""Figures of a state: those of its monitors, and how far its predictions have moved."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_scores import scores
from stand_ins import CHIP, StandIn

from bayeslat.online.figures import figures
from bayeslat.online.monitor import Monitor
from bayeslat.predictive import DeploymentDraws
from bayeslat.predictive.draws import Points

RNG = np.random.default_rng([3, 4])
N_DRAWS = 200


def draws(slower: float = 1.0) -> DeploymentDraws:
    """Draws whose every latency is slower by a factor."""
    spread = np.exp(0.02 * np.random.default_rng(8).normal(size=N_DRAWS))
    parameters = {
        "P_max": 5.0 / slower / spread,
        "k_S": np.full(N_DRAWS, 0.01),
        "w_1": np.ones(N_DRAWS),
        "tau_0": np.full(N_DRAWS, 3.0 * slower),
    }
    nothing = np.full(N_DRAWS, np.inf)
    return DeploymentDraws(CHIP, parameters, np.full(N_DRAWS, 0.05), nothing, "normal")


@dataclass(frozen=True)
class Rows:
    points: Points

    def __len__(self) -> int:
        return self.points.size

    def __getitem__(self, where: Any) -> "Rows":
        return Rows(self.points[where])


def held(slower: float, log_weights: np.ndarray | None = None) -> Any:
    tokens = RNG.integers(16, 2000, 50).astype(float)
    even = np.full(N_DRAWS, -np.log(N_DRAWS))
    return SimpleNamespace(
        n_seen=500,
        version=1,
        level="quiet",
        monitor=Monitor.empty().update(scores(500, 1)),
        rows=Rows(Points(np.ones(50), tokens, np.zeros(50))),
        belief=SimpleNamespace(
            draws=draws(slower), log_weights=even if log_weights is None else log_weights
        ),
        base_draws=draws(),
    )


def test_figures_are_those_of_the_monitor() -> None:
    monitor = Monitor.empty().update(scores(300, 2)).counted(accepted=2)
    state = StandIn(held=replace(StandIn().held, n_seen=300, monitor=monitor))
    found = figures(state)
    (only,) = found.deployments
    assert (found.version, found.n_seen, found.unknown) == (0, 300, {"chip/other": 3})
    assert only.mean_error == monitor.mean_error
    assert only.coverage_90 == monitor.coverage_90
    assert (only.accepted, only.rejected, only.health.verdict) == (2, 0, "healthy")


@pytest.mark.parametrize(("slower", "verdict"), [(1.05, "healthy"), (1.15, "degraded")])
def test_predictions_far_from_the_base_are_named(slower: float, verdict: str) -> None:
    (only,) = figures(StandIn(held=held(slower))).deployments
    assert only.health.verdict == verdict
    if verdict == "degraded":
        assert f"lie {100 * np.log(slower):.3g} % from those of the base" in only.health.reasons[0]


def test_weights_move_predictions_as_draws_do() -> None:
    """All weight on the draw that is most of all slower than the rest."""
    one = np.full(N_DRAWS, -np.inf)
    one[0] = 0.0
    wide = draws()
    wide.parameters["P_max"][0] /= 2.0
    wide.parameters["tau_0"][0] *= 2.0
    member = held(1.0, one)
    member.belief.draws = wide
    (only,) = figures(StandIn(held=member)).deployments
    assert only.health.verdict == "degraded"


def test_figures_of_untouched_deployments_are_taken_over() -> None:
    before = StandIn(held=held(1.0))
    first = figures(before)
    again = figures(replace(before, digest="other"), (before, first))
    assert again.deployments[0] is first.deployments[0]
    moved = figures(StandIn(held=held(1.0)), (before, first))
    assert moved.deployments[0] is not first.deployments[0]
