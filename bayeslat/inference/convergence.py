"""The convergence verdict: one frozen answer to "may these draws be used?"."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

import arviz as az
import numpy as np
import xarray as xr

__all__ = ["ConvergenceVerdict", "convergence_verdict"]

MAX_RHAT: Final = 1.01
MIN_ESS: Final = 400
"""Per quantity, bulk and tail (Vehtari et al., 2021)."""
MAX_DIVERGENT_SHARE: Final = 0.001
MIN_BFMI: Final = 0.3
MAX_DEEP_SHARE: Final = 0.01


@dataclass(frozen=True)
class ConvergenceVerdict:
    """Convergence figures of a fit and whether they pass.

    Parameters
    ----------
    max_rhat : float
        Worst rank-normalised split R-hat of all quantities.
    min_ess_bulk, min_ess_tail : float
        Smallest effective sample sizes.
    worst : str
        The quantity with the worst R-hat.
    divergences : int
        Divergent transitions after warm-up.
    min_bfmi : float
        Smallest Bayesian fraction of missing information over chains.
    deep_share : float
        Share of transitions that used the deepest tree.
    leapfrogs : float
        Mean leapfrog steps a draw.
    chains, draws : int
        Size of the sample.
    """

    max_rhat: float
    min_ess_bulk: float
    min_ess_tail: float
    worst: str
    divergences: int
    min_bfmi: float
    deep_share: float
    leapfrogs: float
    chains: int
    draws: int

    @property
    def failures(self) -> tuple[str, ...]:
        """Each failed check as one clause; empty when all passed."""
        n = self.chains * self.draws
        checks = (
            (self.max_rhat <= MAX_RHAT, f"R-hat {self.max_rhat:.3f} > {MAX_RHAT} ({self.worst})"),
            (self.min_ess_bulk >= MIN_ESS, f"bulk ESS {self.min_ess_bulk:.0f} < {MIN_ESS}"),
            (self.min_ess_tail >= MIN_ESS, f"tail ESS {self.min_ess_tail:.0f} < {MIN_ESS}"),
            (
                self.divergences <= MAX_DIVERGENT_SHARE * n,
                f"{self.divergences} divergences in {n} draws",
            ),
            (self.min_bfmi >= MIN_BFMI, f"BFMI {self.min_bfmi:.2f} < {MIN_BFMI}"),
            (
                self.deep_share <= MAX_DEEP_SHARE,
                f"{100 * self.deep_share:.1f} % of trees at the depth limit",
            ),
        )
        # A figure that is not a number fails: comparisons with NaN are false.
        return tuple(clause for passed, clause in checks if not passed)

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return not self.failures

    def __str__(self) -> str:
        figures = (
            f"R-hat <= {self.max_rhat:.3f}, ESS bulk >= {self.min_ess_bulk:.0f},"
            f" tail >= {self.min_ess_tail:.0f}, {self.divergences} divergences,"
            f" BFMI >= {self.min_bfmi:.2f}, {self.leapfrogs:.0f} leapfrogs a draw,"
            f" {self.chains} x {self.draws} draws"
        )
        if self.passed:
            return f"converged: {figures}"
        return f"NOT converged ({'; '.join(self.failures)}): {figures}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        return cls(**values)


def convergence_verdict(
    posterior: xr.Dataset, sample_stats: xr.Dataset, max_depth: int
) -> ConvergenceVerdict:
    """Judge draws by R-hat, ESS, divergences, BFMI and tree depth.

    Parameters
    ----------
    posterior : Dataset
        Variables with dims chain, draw first; constant ones are left out.
    sample_stats : Dataset
        ``diverging``, ``n_steps`` and ``energy``, dims chain, draw.
    max_depth : int
        Tree depth limit of the sampler.
    """
    # Chains that never moved have no variance within: their R-hat is infinite, and that is right.
    with np.errstate(divide="ignore", invalid="ignore"):
        rhat, bulk, tail = (
            az.rhat(posterior),
            az.ess(posterior, method="bulk"),
            az.ess(posterior, method="tail"),
        )
    worst_name, max_rhat = _extreme(rhat, largest=True)
    n_steps = sample_stats["n_steps"].to_numpy()
    return ConvergenceVerdict(
        max_rhat=max_rhat,
        min_ess_bulk=_extreme(bulk, largest=False)[1],
        min_ess_tail=_extreme(tail, largest=False)[1],
        worst=worst_name,
        divergences=int(sample_stats["diverging"].sum()),
        min_bfmi=float(np.min(_bfmi(sample_stats["energy"].to_numpy()))),
        deep_share=float(np.mean(n_steps >= 2**max_depth - 1)),
        leapfrogs=float(n_steps.mean()),
        chains=posterior.sizes["chain"],
        draws=posterior.sizes["draw"],
    )


def _bfmi(energy: np.ndarray) -> np.ndarray:
    """Betancourt's energy diagnostic, one figure a chain."""
    return np.square(np.diff(energy, axis=1)).mean(axis=1) / energy.var(axis=1)


def _extreme(figures: xr.Dataset, *, largest: bool) -> tuple[str, float]:
    """Name (with coordinates) and value of the worst entry; NaN counts as the worst."""
    found = ("", -np.inf if largest else np.inf)
    for name, values in figures.data_vars.items():
        array = np.asarray(values)
        bad = np.isnan(array)
        if bad.any():
            return f"{name}", float("nan")
        flat = int(array.argmax() if largest else array.argmin())
        value = float(array.ravel()[flat])
        if (value > found[1]) if largest else (value < found[1]):
            where = np.unravel_index(flat, array.shape)
            labels = [
                str(values.coords[dim].to_numpy()[i])
                for dim, i in zip(values.dims, where, strict=True)
            ]
            found = (f"{name}[{', '.join(labels)}]" if labels else str(name), value)
    return found
