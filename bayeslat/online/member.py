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
    """Rows of one law, and what of the base it has changed.

    Parameters
    ----------
    since : int
        Number of its first row among those of the deployment that were looked at.
    since_order : int
        Number of its first row among those of the fleet.
    changed : bool
        Whether it is another law than the base's.
    kinds : tuple of str, optional
        Kinds of change, relative to the base, that its belief allows for. None where a regime has
        begun and waits for rows.
    learnt : int
        Rows of the regime when its belief was last taken anew, or that was tried.
    attribution : Attribution, optional
        What has changed, and whose.
    """

    since: int = 0
    since_order: int = 0
    changed: bool = False
    kinds: tuple[str, ...] | None = ()
    learnt: int = 0
    attribution: Attribution | None = None

    @property
    def waits(self) -> bool:
        """Whether the belief in force is known to be wrong, and rows are waited for."""
        return self.kinds is None


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
    n_looked : int
        Rows of them that were looked at: all, unless one call brought very many.
    version : int
        Rises with every belief that is taken into force, and when reweighting has moved one by
        much.
    shown : float
        Effective share of the draws when the version last rose.
    level : {"quiet", "warning", "drift", "adapting"}
        "drift" from an alarm to the first refit, "adapting" until few rows are no longer all there
        are of the regime.
    evidence : float
        The detector's, after the last block, relative to what it takes for an alarm.
    regime : Regime
        The regime of the rows.
    in_force : Regime
        The regime that the belief is of: another than that of the rows from an alarm to a refit.
    earlier : tuple of (Belief, Regime)
        Beliefs that were in force before, with their regimes, the newest first.
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
    n_looked: int = 0
    version: int = 0
    shown: float = 1.0
    level: Level | str = "quiet"
    evidence: float = 0.0
    regime: Regime = field(default_factory=Regime)
    in_force: Regime = field(default_factory=Regime)
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
        """Rows of the present regime that were looked at, kept or not."""
        return self.n_looked - self.regime.since
