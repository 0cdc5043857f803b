"""Comparison of models by leave-one-out: likelihood families, and terms of the formula.

The expected log density of a left-out row says how well a model tells steps like the measured ones.
Two models are compared row by row, and the sum of the differences has a standard error. Rows at one
design point of one deployment share whatever a model misses there, so a second standard error takes
them together; the larger of the two counts. Small differences, below four, are none (Sivula,
Magnusson and Vehtari, 2020).

What leave-one-out does not see: a row is left out and its neighbours stay, so a term that matters
only far from the measured steps, or for a new GPU, is worth nothing here. A backtest shows that.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslat.catalog import Catalog
from bayeslat.checks import common_rows
from bayeslat.errors import InputError
from bayeslat.evaluation.left_out import RowChecks, check_rows
from bayeslat.inference.fit import spec_for
from bayeslat.model.spec import ModelSpec
from bayeslat.noise import FAMILIES
from bayeslat.observations import Observations
from bayeslat.posterior import FleetPosterior, fit

__all__ = [
    "TERM_NAMES",
    "Comparison",
    "Difference",
    "compare_families",
    "compare_models",
    "compare_posteriors",
    "compare_terms",
]

type Array = NDArray[np.float64]
type Fit = Callable[[ModelSpec], FleetPosterior]

LEAST_DIFFERENCE: Final = 4.0
"""Difference below which two models predict alike, whatever its standard error."""

CLEAR: Final = 2.0
"""Standard errors from zero of a clear difference."""

TERM_NAMES: Final = {
    "k_B": "saturation in B",
    "w_0": "constant work",
    "tau_B": "cost of a request",
    "tau_S": "cost of a token",
    "tau_C": "context",
    "gamma_B": "interference of requests",
    "gamma_S": "interference of tokens",
    "m_S": "sharp knee",
    "r_F": "floor of prefills",
    "r_B": "requests in prefills",
    "r_C": "context in mixed steps",
}
"""What the optional terms of the formula stand for."""


@dataclass(frozen=True)
class Difference:
    """How much better one model predicts left-out rows than another.

    Attributes
    ----------
    name : str
        Of the comparison.
    elpd : float
        Difference of expected log densities, nats; positive where the first is better.
    se, se_points : float
        Its standard error, rows taken as independent and design points taken as independent.
    reliable : bool
        Whether both fits converged and no row has a k-hat above one.
    notes : tuple of str
        What makes it unreliable.
    """

    name: str
    elpd: float
    se: float
    se_points: float
    reliable: bool
    notes: tuple[str, ...] = ()

    @property
    def error(self) -> float:
        """The larger standard error."""
        return float(np.fmax(self.se, self.se_points))

    @property
    def clear(self) -> bool:
        """Whether the models differ: by more than four, and twice the standard error."""
        return abs(self.elpd) > LEAST_DIFFERENCE and abs(self.elpd) > CLEAR * self.error

    def __str__(self) -> str:
        if self.clear:
            verdict = "better with it" if self.elpd > 0 else "worse with it"
        else:
            verdict = "no clear difference"
        notes = f" ({'; '.join(self.notes)})" if self.notes else ""
        return f"{self.name}: {self.elpd:+.0f} ± {self.error:.0f}, {verdict}{notes}"


@dataclass(frozen=True)
class Comparison:
    """Models compared with each other over the same rows.

    Attributes
    ----------
    differences : tuple of Difference
        As asked for.
    models : DataFrame
        Columns ``model``, ``elpd``, ``se``, ``bad_k`` (rows of a k-hat that is no longer good),
        ``largest_k``, ``converged`` and ``verdict``; the best first.
    n_rows : int
        Rows that every model was judged by.
    """

    differences: tuple[Difference, ...]
    models: pd.DataFrame
    n_rows: int

    def table(self) -> pd.DataFrame:
        """One row a difference, its attributes and ``clear`` as columns."""
        return pd.DataFrame(
            [
                {
                    "name": item.name,
                    "elpd": item.elpd,
                    "se": item.se,
                    "se_points": item.se_points,
                    "clear": item.clear,
                    "reliable": item.reliable,
                    "notes": "; ".join(item.notes),
                }
                for item in self.differences
            ]
        )

    def __str__(self) -> str:
        return "\n".join(map(str, self.differences))


def compare_posteriors(
    observations: Observations,
    posteriors: Mapping[str, FleetPosterior],
    pairs: Mapping[str, tuple[str, str]] | None = None,
    *,
    max_rows: int | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare posteriors that were fitted to the same steps.

    Parameters
    ----------
    observations : Observations
        The steps.
    posteriors : mapping of str to FleetPosterior
        At least two, by name.
    pairs : mapping of str to tuple of two str, optional
        Name of a comparison to the model and the one it is compared with. By default every model
        against the first.
    max_rows, seed
        As in `bayeslat.checks.predict_rows`.

    Raises
    ------
    InputError
        There are fewer than two posteriors, they do not hold the same of the deployments, or one
        was fitted to other steps, of which leaving out says nothing.
    """
    names = list(posteriors)
    if len(names) < 2:
        raise InputError(f"got {len(names)} model, expected at least two to compare; add another")
    rows = {name: common_rows(fleet, observations) for name, fleet in posteriors.items()}
    held = {tuple(deployment for deployment, _ in found) for found in rows.values()}
    if len(held) > 1:
        raise InputError(
            "got posteriors that hold different deployments of these steps, expected the same in"
            " all; fit them to the same steps"
        )
    for name, fleet in posteriors.items():
        if fleet.tree.attrs["data_fingerprint"] != observations.fingerprint:
            raise InputError(
                f"got posterior {name!r} of other steps than these, expected the steps of its fit:"
                " leaving one out means nothing for others; give those"
            )
    checked = {
        name: check_rows(fleet, observations, max_rows=max_rows, seed=seed)
        for name, fleet in posteriors.items()
    }
    pairs = pairs or {name: (name, names[0]) for name in names[1:]}
    notes = {name: _notes(name, posteriors[name], checked[name]) for name in names}
    differences = tuple(
        _difference(name, checked[one], checked[other], notes[one] + notes[other])
        for name, (one, other) in pairs.items()
    )
    lines = [_line(name, posteriors[name], found) for name, found in checked.items()]
    models = pd.DataFrame(lines).sort_values("elpd", ascending=False, ignore_index=True)
    return Comparison(differences, models, len(checked[names[0]].rows))


def compare_models(
    observations: Observations,
    specs: Mapping[str, ModelSpec],
    pairs: Mapping[str, tuple[str, str]] | None = None,
    *,
    catalog: Catalog | None = None,
    max_rows: int | None = None,
    progress: Callable[[str], None] | None = None,
    **settings: Any,
) -> Comparison:
    """Fit models to the same steps and compare them.

    Parameters
    ----------
    observations : Observations
        The steps.
    specs : mapping of str to ModelSpec
        At least two, by name. Equal specs are fitted once.
    pairs, max_rows
        As in `compare_posteriors`.
    catalog, progress, **settings
        As in `bayeslat.fit`.

    Returns
    -------
    Comparison
        A fit that did not converge is in it and marked as such.
    """
    tell = progress or (lambda _: None)
    fitted: dict[str, FleetPosterior] = {}
    posteriors = {}
    for position, (name, spec) in enumerate(specs.items(), start=1):
        key = spec.to_json()
        if key not in fitted:
            tell(f"fitting {name}, model {position} of {len(specs)}")
            fitted[key] = fit(observations, spec, catalog=catalog, progress=progress, **settings)
        posteriors[name] = fitted[key]
    return compare_posteriors(observations, posteriors, pairs, max_rows=max_rows)


def compare_families(
    observations: Observations,
    families: Sequence[str] = tuple(FAMILIES),
    *,
    base: ModelSpec | None = None,
    **options: Any,
) -> Comparison:
    """Compare likelihood families: every other one with the first.

    Parameters
    ----------
    observations : Observations
        The steps.
    families : sequence of str
        Names of `bayeslat.noise.FAMILIES`, at least two.
    base : ModelSpec, optional
        The rest of the model; the default where left out.
    **options
        As in `compare_models`.
    """
    base = spec_for(observations, base)
    specs = {family: replace(base, likelihood=family) for family in families}
    return compare_models(observations, specs, **options)


def compare_terms(
    observations: Observations,
    terms: Sequence[str],
    *,
    base: ModelSpec | None = None,
    **options: Any,
) -> Comparison:
    """What each optional term of the formula is worth: the model with it against the one without.

    Parameters
    ----------
    observations : Observations
        The steps.
    terms : sequence of str
        Names of `bayeslat.schema.OPTIONAL_PARAMETERS`. A term that `base` has is dropped, with what
        multiplies it; one that it has not is added.
    base : ModelSpec, optional
        The model around them; the default where left out.
    **options
        As in `compare_models`.
    """
    base = spec_for(observations, base)
    if not terms:
        raise InputError(
            f"got no terms, expected some of {list(TERM_NAMES)}; name those to be compared"
        )
    specs, pairs = {"base": base}, {}
    for term in terms:
        name = f"{TERM_NAMES.get(term, term)} ({term})"
        if term in base.terms:
            other = f"without {term}"
            specs[other], pairs[name] = base.without(term), ("base", other)
        else:
            other = f"with {term}"
            specs[other], pairs[name] = replace(base, terms=(*base.terms, term)), (other, "base")
    return compare_models(observations, specs, pairs, **options)


def _difference(name: str, one: RowChecks, other: RowChecks, notes: tuple[str, ...]) -> Difference:
    each = one.rows["elpd"].to_numpy() - other.rows["elpd"].to_numpy()
    total = float(each.sum())
    centred = one.rows[["deployment", "batch_size", "total_tokens"]].assign(d=each - each.mean())
    points = centred.groupby(["deployment", "batch_size", "total_tokens"])["d"].sum()
    return Difference(
        name,
        total,
        float(np.sqrt(each.size) * each.std(ddof=1)) if each.size > 1 else float("nan"),
        # One design point alone has no spread.
        float(np.sqrt(np.square(points).sum())) if points.size > 1 else float("nan"),
        not notes,
        tuple(dict.fromkeys(notes)),
    )


def _notes(name: str, fleet: FleetPosterior, checked: RowChecks) -> tuple[str, ...]:
    notes = []
    if fleet.verdict is not None and not fleet.verdict.passed:
        notes.append(f"{name}: not converged")
    wild = int((checked.rows["pareto_k"] > 1.0).sum())
    if wild:
        notes.append(f"{name}: {wild} rows with k-hat above 1")
    return tuple(notes)


def _line(name: str, fleet: FleetPosterior, checked: RowChecks) -> dict[str, Any]:
    elpd, se = checked.elpd
    verdict = fleet.verdict
    return {
        "model": name,
        "elpd": elpd,
        "se": se,
        "bad_k": int((checked.rows["pareto_k"] > checked.good_k).sum()),
        "largest_k": float(checked.rows["pareto_k"].max()),
        "converged": verdict is None or verdict.passed,
        "verdict": str(verdict) if verdict is not None else "nothing sampled",
    }
