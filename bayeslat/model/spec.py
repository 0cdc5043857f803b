"""The frozen description of a model: which terms, which noise, which priors."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Self

from bayeslat.errors import InputError
from bayeslat.model.priors import DEFAULT_PRIORS, POOLING_LEVELS, Prior, ScalePrior
from bayeslat.model.quantities import QUANTITY_OF
from bayeslat.noise import FAMILIES
from bayeslat.schema import BASE_PARAMETERS, OPTIONAL_PARAMETERS, PARAMETERS

__all__ = ["DEFAULT_TERMS", "ModelSpec"]

DEFAULT_TERMS: Final = ("tau_B", "tau_C", "r_F", "r_B", "r_C")
"""Optional terms of the default model; `tau_C` counts only where contexts were recorded, `r_F` and
`r_B` only where steps other than decode steps were, and `r_C` only where half of the deployments
have such steps that attend to more than their own tokens."""

RATIO_OF: Final = {"r_B": "tau_B", "r_C": "tau_C"}
"""Terms that multiply another one."""


@dataclass(frozen=True)
class ModelSpec:
    """What the model is; how it is sampled is no part of it.

    Parameters
    ----------
    terms : tuple of str
        Optional parameters of the formula to include, from
        `bayeslat.schema.OPTIONAL_PARAMETERS`. Interference is ``gamma_B``, ``gamma_S``.
    likelihood : str
        ``"student_t"`` (default), ``"lognormal"`` or ``"normal"``; always on a relative scale.
    priors : mapping of str to Prior
        Priors that replace the defaults, by the name of the pooled quantity
        (`bayeslat.model.quantities`).
    discrepancy : bool
        Whether a latency may stray smoothly from the formula (`bayeslat.discrepancy`).
    strays : bool
        Whether a log may hold rows that are no steps of their deployment (other work in the
        measured time, a wrong clock, mixed-up columns). Their share of each log is estimated, and
        predictions are of steps, not of strays. Off by default: rare outliers need none of it.

    Raises
    ------
    InputError
        For an unknown term, likelihood or quantity name.

    Notes
    -----
    By default the pooling scales of floor_share, and of k_B, overhead and slope_share where they
    are terms, are constants: data seldom tell these from their rivals (the knee's shape from the
    discrepancy), and their scales then form funnels that no sampler walks through in reasonable
    time. So are those of settings, engines and layouts, of which most fleets have too few. A
    constant is a prior like another (it is not estimated from the data); give a `ScalePrior` with a
    positive spread to sample it.
    """

    terms: tuple[str, ...] = DEFAULT_TERMS
    likelihood: str = "student_t"
    priors: Mapping[str, Prior] = field(default_factory=dict)
    discrepancy: bool = True
    strays: bool = False

    def __post_init__(self) -> None:
        unknown = [term for term in self.terms if term not in OPTIONAL_PARAMETERS]
        if unknown:
            raise InputError(
                f"got terms {unknown}, expected some of {list(OPTIONAL_PARAMETERS)}; correct them"
            )
        for ratio, term in RATIO_OF.items():
            if ratio in self.terms and term not in self.terms:
                raise InputError(
                    f"got the term {ratio} without {term}, expected both ({ratio} multiplies"
                    f" {term}); add {term} or drop {ratio}"
                )
        if self.likelihood not in FAMILIES:
            raise InputError(
                f"got likelihood {self.likelihood!r}, expected one of {sorted(FAMILIES)};"
                " correct the name"
            )
        strangers = [name for name in self.priors if name not in DEFAULT_PRIORS]
        if strangers:
            raise InputError(
                f"got priors for {strangers}, expected some of {list(DEFAULT_PRIORS)};"
                " correct the names"
            )
        object.__setattr__(self, "priors", MappingProxyType(dict(self.priors)))

    @property
    def parameters(self) -> tuple[str, ...]:
        """Free parameters of every deployment, in table order."""
        chosen = {*BASE_PARAMETERS, *self.terms}
        return tuple(name for name in PARAMETERS if name in chosen)

    @property
    def quantities(self) -> tuple[str, ...]:
        """Pooled quantities of every deployment: each stands in its parameter's place."""
        return tuple(QUANTITY_OF[name] for name in self.parameters)

    def prior(self, quantity: str) -> Prior:
        """Prior of one pooled quantity: the override where there is one, else the default."""
        return self.priors.get(quantity, DEFAULT_PRIORS[quantity])

    def without(self, *terms: str) -> Self:
        """The same spec with some terms left out, and what multiplies them (`RATIO_OF`)."""
        gone = {*terms, *(ratio for ratio, term in RATIO_OF.items() if term in terms)}
        return replace(self, terms=tuple(term for term in self.terms if term not in gone))

    def to_json(self) -> str:
        """The spec as JSON, every prior in force written out."""
        priors = {name: _prior_to_dict(self.prior(name)) for name in self.quantities}
        content = {
            "terms": self.terms,
            "likelihood": self.likelihood,
            "priors": priors,
            "discrepancy": self.discrepancy,
            "strays": self.strays,
        }
        return json.dumps(content, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        content = json.loads(text)
        priors = {name: _prior_from_dict(entry) for name, entry in content["priors"].items()}
        return cls(
            tuple(content["terms"]),
            content["likelihood"],
            priors,
            content["discrepancy"],
            content["strays"],
        )


def _prior_to_dict(prior: Prior) -> dict[str, Any]:
    return {
        "median": prior.median,
        "spread": prior.spread,
        "elasticity": dict(prior.elasticity),
        **{level: asdict(prior.scale(level)) for level in POOLING_LEVELS},
    }


def _prior_from_dict(entry: Mapping[str, Any]) -> Prior:
    scales = {level: ScalePrior(**entry[level]) for level in POOLING_LEVELS}
    return Prior(entry["median"], entry["spread"], entry["elasticity"], **scales)
