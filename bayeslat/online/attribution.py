"""What has changed, and whose: a deployment alone, a whole GPU type, an LLM, or the fleet.

The log latency of a step is nearly linear in what a change moves. Rows since the change are
therefore compared with the base in a linear model with robust weights, in which the parameters of a
deployment are integrated out exactly. What is left of each deployment is a quadratic in the change,
so that the evidence of any kind of change, in any group of deployments, has a closed form. A kind
of one factor has the same factor throughout a group, up to a small spread of its own. Where one
term has more than doubled the linear model strains, and "everything" gets the blame.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Final

import jax
import numpy as np
from numpy.typing import NDArray
from scipy import linalg, special, stats

from bayeslat.noise import FAMILIES
from bayeslat.online.changes import (
    EVERYTHING,
    FACTOR_SPREADS,
    KINDS,
    TERMS,
    along,
    moved_terms,
    prior_of_change,
)
from bayeslat.online.rows import Rows
from bayeslat.online.rowwise import (
    RowData,
    degrees_of_freedom,
    log_location,
    log_scale,
    padded_size,
    row_data,
)
from bayeslat.online.vectors import Gaussian, Layout
from bayeslat.predictive import DeploymentDraws

__all__ = ["NOTHING", "Attribution", "Evidence", "Suspect", "attribute", "evidence"]

type Array = NDArray[np.float64]

NOTHING: Final = "nothing"

NO_CHANGE: Final = 0.5
"""Prior probability that no term has changed: an alarm may be about the noise, or for nothing."""

INERT: Final = 0.1
"""Information about a factor, in units of its prior, below which rows cannot tell of it."""

OWN_SPREAD: Final = 0.02
"""Standard deviation of the logarithm of a factor within a group that shares it."""

NOISE_SPREAD: Final = 0.5
"""Of the logarithm of a change of the noise, where there is one; there is in half of the cases."""

MAX_ROUNDS: Final = 30
ROBUST_TOLERANCE: Final = 1e-6


@dataclass(frozen=True, eq=False)
class Evidence:
    """What rows of one deployment say of a change x of its vector.

    Their likelihood, relative to no change, is exp(score . x - x information x / 2).

    Parameters
    ----------
    layout : Layout
        The coordinates.
    score : array, shape (dim,)
        Linear part.
    information : array, shape (dim, dim)
        Quadratic part.
    discrepancy_variance : float
        Prior variance of the deployment's discrepancy.
    noise : tuple of float
        Probability that the noise has changed, and the logarithm of by how much.
    n_rows : int
        Rows behind it.
    """

    layout: Layout
    score: Array
    information: Array
    discrepancy_variance: float
    noise: tuple[float, float]
    n_rows: int

    def along(self, terms: Sequence[str]) -> tuple[float, float]:
        """Score and information of a factor common to terms."""
        direction = along(self.layout, terms)
        return float(direction @ self.score), float(direction @ self.information @ direction)

    def log_bayes_factor(self) -> float:
        """Log evidence of "everything" over that of no change."""
        prior = prior_of_change(
            self.layout, (EVERYTHING,), discrepancy_variance=self.discrepancy_variance
        )
        root = linalg.cholesky(prior + 1e-12 * np.eye(len(prior)), lower=True)
        inner = np.eye(len(prior)) + root.T @ self.information @ root
        white = linalg.solve_triangular(linalg.cholesky(inner, lower=True), root.T @ self.score,
                                        lower=True)  # fmt: skip
        return 0.5 * float(white @ white - np.linalg.slogdet(inner)[1])


@dataclass(frozen=True)
class Suspect:
    """One explanation of a change.

    Parameters
    ----------
    level : {"deployment", "gpu", "model", "fleet", "nothing"}
        Which group moved.
    name : str
        Its name; the deployment's label.
    kind : str
        What moved, of `bayeslat.online.changes.KINDS`, "everything" or "nothing".
    probability : float
        Posterior probability.
    factor, lower, upper : float
        Of the terms that moved, with the central 90 % interval; NaN for "everything".
    """

    level: str
    name: str
    kind: str
    probability: float
    factor: float = np.nan
    lower: float = np.nan
    upper: float = np.nan


@dataclass(frozen=True)
class Attribution:
    """Explanations of a change with their probabilities, the most probable first.

    Parameters
    ----------
    suspects : tuple of Suspect
        They exclude each other; their probabilities sum to one.
    noise_probability, noise_factor : float
        Whether the noise has changed as well, and by which factor.
    n_rows : int
        Rows of the deployment that the answer rests on.
    """

    suspects: tuple[Suspect, ...]
    noise_probability: float
    noise_factor: float
    n_rows: int

    @property
    def levels(self) -> Mapping[str, float]:
        """Probability of each group, by "level name"."""
        return _summed((f"{each.level} {each.name}".strip(), each) for each in self.suspects)

    @property
    def kinds(self) -> Mapping[str, float]:
        """Probability of each kind of change."""
        return _summed((each.kind, each) for each in self.suspects)

    @property
    def terms(self) -> Mapping[str, float]:
        """Probability of each term of the latency to have moved."""
        return {
            term: sum(
                each.probability
                for each in self.suspects
                if each.kind != NOTHING and term in moved_terms(each.kind)
            )
            for term in TERMS
        }

    def likely_kinds(self, mass: float = 0.95) -> tuple[str, ...]:
        """The fewest kinds of change that hold so much probability together."""
        ranked = sorted(self.kinds.items(), key=lambda item: -item[1])
        before = np.cumsum([0.0, *(probability for _, probability in ranked)])
        return tuple(
            kind
            for (kind, _), sum_before in zip(ranked, before[:-1], strict=True)
            if sum_before < mass and kind != NOTHING
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: explanations of at least one per cent, and the sums."""
        return {
            "suspects": [asdict(each) for each in self.suspects if each.probability >= 0.01],
            "levels": dict(self.levels),
            "kinds": dict(self.kinds),
            "terms": dict(self.terms),
            "noise_probability": self.noise_probability,
            "noise_factor": self.noise_factor,
            "n_rows": self.n_rows,
        }

    def __str__(self) -> str:
        best = self.suspects[0]
        if best.kind == NOTHING:
            text = f"no term has moved ({best.probability:.0%})"
        else:
            size = ""
            if np.isfinite(best.factor):
                size = f" x {best.factor:.2f} [{best.lower:.2f}, {best.upper:.2f}]"
            whose = f"{best.level} {best.name}".strip()
            text = f"{best.kind}{size} of {whose} ({best.probability:.0%})"
        if self.noise_probability > 0.5:
            text += f"; noise x {self.noise_factor:.2f} ({self.noise_probability:.0%})"
        return text


def _summed(pairs: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, suspect in pairs:
        found[name] = found.get(name, 0.0) + suspect.probability
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def evidence(base: Gaussian, layout: Layout, like: DeploymentDraws, rows: Rows) -> Evidence:
    """What rows of a deployment say of a change since its base.

    Parameters
    ----------
    base : Gaussian
        What was believed of its vector.
    layout : Layout
        The coordinates.
    like : DeploymentDraws
        Draws of the deployment, as in `bayeslat.online.rowwise.row_data`.
    rows : Rows
        Rows since the change; at least one.
    """
    variance = 0.0
    if like.discrepancy is not None:
        variance = float(np.square(like.discrepancy.scale).mean())
    data = row_data(rows, like)
    found = _linearised(layout, base.mean, data.padded(padded_size(len(rows))))
    log_mu, slopes, log_sigma = (np.asarray(each)[: len(rows)] for each in found)
    dof = np.broadcast_to(degrees_of_freedom(layout, base.mean, data), log_mu.shape)
    residual = np.log(rows.latency_ms) - log_mu
    free = base.widened(prior_of_change(layout, (EVERYTHING,), discrepancy_variance=variance))
    variances, z = _robust_variances(free, slopes, residual, np.exp(2.0 * log_sigma), dof)
    weighted = slopes / variances[:, None]
    information, score = weighted.T @ slopes, weighted.T @ residual
    # The base's own uncertainty explains a part of what is seen.
    explained = information @ linalg.solve(
        np.linalg.inv(base.covariance) + information, np.eye(layout.dim), assume_a="pos"
    )
    return Evidence(
        layout,
        score - explained @ score,
        information - explained @ information,
        variance,
        _noise_change(z, dof, layout.family),
        len(rows),
    )


@partial(jax.jit, static_argnums=0)
def _linearised(layout: Layout, x: Any, data: RowData) -> tuple[Any, Any, Any]:
    location = partial(log_location, layout, data=data)
    return location(x), jax.jacfwd(location)(x), log_scale(layout, x, data)


def _robust_variances(
    prior: Gaussian, slopes: Array, residual: Array, variances: Array, dof: Array
) -> tuple[Array, Array]:
    """Variances of rows as a Student-t weighs them around the best fit, and their deviations.

    A noise that has grown counts as such: a common factor is estimated along, from one upwards.
    Deviations are in units of what was believed, less what the fit has taken of them.
    """
    precision = np.linalg.inv(prior.covariance)
    weights, common, fitted = np.ones_like(residual), 1.0, np.zeros_like(residual)
    left = np.ones_like(residual)
    for _ in range(MAX_ROUNDS):
        weighted = slopes * (weights / (common * variances))[:, None]
        inverse = np.linalg.inv(precision + weighted.T @ slopes)
        before, fitted = fitted, slopes @ (inverse @ (weighted.T @ residual))
        left = np.clip(1.0 - np.einsum("ij,jk,ik->i", weighted, inverse, slopes), 0.1, 1.0)
        square = np.square(residual - fitted) / (variances * left)
        with np.errstate(invalid="ignore"):
            heavy = (dof + 1.0) / (dof + square / common)
        weights = np.where(np.isfinite(dof), heavy, 1.0)
        common = max(1.0, float(np.mean(weights * square)))
        if np.abs(fitted - before).max() < ROBUST_TOLERANCE:
            break
    return common * variances / weights, (residual - fitted) / np.sqrt(variances * left)


def _noise_change(z: Array, dof: Array, family: str) -> tuple[float, float]:
    """Probability that deviations are of another scale, and the expected logarithm of it."""
    grid = np.linspace(-2.0, 2.0, 161)
    scaled = z[:, None] * np.exp(-grid)
    density = FAMILIES[family].standard_logpdf(scaled, dof[:, None]).sum(axis=0) - z.size * grid
    at_rest = FAMILIES[family].standard_logpdf(z, dof).sum()
    slab = stats.norm.logpdf(grid, scale=NOISE_SPREAD) + density - at_rest
    log_odds = special.logsumexp(slab) + np.log(grid[1] - grid[0])
    weights = special.softmax(slab)
    return float(special.expit(log_odds)), float(weights @ grid)


def attribute(
    deployment: str, groups: Mapping[tuple[str, str], Sequence[Evidence]], own: Evidence
) -> Attribution:
    """Weigh explanations of a change of one deployment.

    Parameters
    ----------
    deployment : str
        Its label.
    groups : mapping of (level, name) to sequence of Evidence
        The groups that may have moved, each with the evidence of its members that have rows since
        the change; the deployment is a member of all. Every group is as likely beforehand.
    own : Evidence
        That of the deployment.
    """
    kinds = _distinguishable(own)
    found = [(Suspect(NOTHING, "", NOTHING, NO_CHANGE), np.log(NO_CHANGE))]
    share = np.log((1.0 - NO_CHANGE) / (len(groups) * (len(kinds) + 1)))
    for (level, name), members in groups.items():
        for kind, terms in kinds.items():
            log_evidence, interval = _common_factor([each.along(terms) for each in members])
            found.append((Suspect(level, name, kind, np.nan, *interval), share + log_evidence))
        log_evidence = sum(each.log_bayes_factor() for each in members)
        found.append((Suspect(level, name, EVERYTHING, np.nan), share + log_evidence))
    probabilities = special.softmax([log_weight for _, log_weight in found])
    order = np.argsort(-probabilities, kind="stable")
    return Attribution(
        tuple(replace(found[i][0], probability=float(probabilities[i])) for i in order),
        own.noise[0],
        float(np.exp(own.noise[1])),
        own.n_rows,
    )


def _distinguishable(own: Evidence) -> dict[str, tuple[str, ...]]:
    """Kinds that the rows could tell from no change and from each other.

    A term that no row has (a log without contexts, a model without the term) is no explanation.
    """
    seen = [term for term in TERMS if own.along([term])[1] * max(FACTOR_SPREADS) ** 2 > INERT]
    kinds: dict[str, tuple[str, ...]] = {}
    for kind, terms in KINDS.items():
        left = tuple(term for term in terms if term in seen)
        if left and left not in kinds.values():
            kinds[kind] = left
    return kinds


def _common_factor(
    members: Sequence[tuple[float, float]],
) -> tuple[float, tuple[float, float, float]]:
    """Log evidence over no change of one factor, and its median with the central 90 %.

    Each member has score and information of the factor's logarithm; what departs from the common
    factor is integrated out, then the factor itself under either of its spreads.
    """
    score = information = constant = 0.0
    for own_score, own_information in members:
        lost = 1.0 + OWN_SPREAD**2 * own_information
        score += own_score / lost
        information += own_information / lost
        constant += 0.5 * (np.square(OWN_SPREAD * own_score) / lost - np.log(lost))
    precisions = information + 1.0 / np.square(FACTOR_SPREADS)
    log_evidence = 0.5 * (
        score**2 / precisions - np.log1p(information * np.square(FACTOR_SPREADS))
    ) - np.log(len(FACTOR_SPREADS))
    best = int(np.argmax(log_evidence))
    centre, spread = score / precisions[best], 1.0 / np.sqrt(precisions[best])
    bounds = np.exp(centre + spread * stats.norm.ppf([0.5, 0.05, 0.95]))
    found = constant + float(special.logsumexp(log_evidence))
    return found, (float(bounds[0]), float(bounds[1]), float(bounds[2]))
