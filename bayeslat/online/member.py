"""What is remembered of one deployment while its posterior is kept true."""

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bayeslat.online.attribution import Attribution
from bayeslat.online.belief import Belief
from bayeslat.online.detection import Level
from bayeslat.online.monitor import Monitor
from bayeslat.online.rows import Rows
from bayeslat.online.vectors import Gaussian
from bayeslat.predictive import DeploymentDraws
from bayeslat.schema import Deployment

__all__ = ["VERSIONS_KEPT", "Member", "Regime"]

VERSIONS_KEPT: Final = 3
"""Earlier beliefs that a rollback may take back."""


@dataclass(frozen=True)
class Regime:
    """Since when rows are of one law, and what of the base it has changed.

    Parameters
    ----------
    since : int
        Number of its first row among those of the deployment.
    since_order : int
        The same among those of the fleet.
    kinds : tuple of str, optional
        Kinds of change, relative to the base, that the belief allows for; none in the base's own
        regime. None before the first refit.
    learnt : int
        Rows of the regime when the belief was last taken anew, or that was tried.
    attribution : Attribution, optional
        What has changed, and whose; None in the base's own regime.
    """

    since: int = 0
    since_order: int = 0
    kinds: tuple[str, ...] | None = ()
    learnt: int = 0
    attribution: Attribution | None = None


@dataclass(frozen=True, eq=False)
class Member:
    """One deployment of the fleet.

    Parameters
    ----------
    deployment : Deployment
        Which.
    base_draws : DeploymentDraws
        Draws of the fleet's posterior, to the power of the settings' pull.
    base : Gaussian
        The same as a normal distribution of vectors, the prior of every refit.
    base_rows : int
        Rows that the fleet was fitted to, of this deployment.
    belief : Belief
        What is believed now.
    detection : object
        Memory of the detector.
    monitor : Monitor
        How well the deployment has been predicted of late.
    rows : Rows
        Recent rows.
    n_seen : int
        Rows seen in all.
    version : int
        Rises with every belief that is taken into force; reweighting is none.
    level : {"quiet", "warning", "drift", "adapting"}
        "drift" from an alarm to the first refit, "adapting" until few rows are no longer all there
        are of the regime.
    evidence : float
        The detector's, after the last block, relative to what it takes for an alarm.
    regime : Regime
        The regime of the rows.
    earlier : tuple of (Belief, Regime)
        Beliefs that were in force before, the newest first.
    """

    deployment: Deployment
    base_draws: DeploymentDraws
    base: Gaussian
    base_rows: int
    belief: Belief
    detection: Any
    monitor: Monitor
    rows: Rows = field(default_factory=Rows.empty)
    n_seen: int = 0
    version: int = 0
    level: Level | str = "quiet"
    evidence: float = 0.0
    regime: Regime = field(default_factory=Regime)
    earlier: tuple[tuple[Belief, Regime], ...] = ()

    @property
    def label(self) -> str:
        """The deployment's label."""
        return self.deployment.label

    @property
    def of_regime(self) -> NDArray[np.bool_]:
        """Which of the recent rows are of the present regime, shape (row,)."""
        return self.rows.arrival >= self.regime.since

    @property
    def learnt_rows(self) -> int:
        """Recent rows of the present regime."""
        return int(self.of_regime.sum())

    @property
    def regime_rows(self) -> int:
        """Rows of the present regime that were seen, kept or not."""
        return self.n_seen - self.regime.since
