"""The frozen description of a model: which terms, which noise, which priors."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Self

from bayeslat.errors import InputError
from bayeslat.model.priors import DEFAULT_PRIORS, Prior, ScalePrior
from bayeslat.noise import FAMILIES
from bayeslat.schema import BASE_PARAMETERS, OPTIONAL_PARAMETERS, PARAMETERS

__all__ = ["DEFAULT_TERMS", "ModelSpec"]

DEFAULT_TERMS: Final = ("k_B", "w_0", "tau_B", "tau_S", "tau_C")
"""Optional terms of the default model; `tau_C` counts only where contexts were recorded."""


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
        Priors that replace the defaults, by the name of the parameter.

    Raises
    ------
    InputError
        For an unknown term, likelihood or parameter name.

    Notes
    -----
    By default the pooling scales of k_B, k_S, w_0 and tau_S are constants: data seldom tell these
    four from their rivals. Their scales then form funnels that no sampler walks through in
    reasonable time, and that of k_S two modes. A constant is a prior like another (it is not
    estimated from the data); give a `ScalePrior` with a positive spread to sample it.
    """

    terms: tuple[str, ...] = DEFAULT_TERMS
    likelihood: str = "student_t"
    priors: Mapping[str, Prior] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = [term for term in self.terms if term not in OPTIONAL_PARAMETERS]
        if unknown:
            raise InputError(
                f"got terms {unknown}, expected some of {list(OPTIONAL_PARAMETERS)}; correct them"
            )
        if self.likelihood not in FAMILIES:
            raise InputError(
                f"got likelihood {self.likelihood!r}, expected one of {sorted(FAMILIES)};"
                " correct the name"
            )
        strangers = [name for name in self.priors if name not in DEFAULT_PRIORS]
        if strangers:
            raise InputError(
                f"got priors for {strangers}, expected some of {list(DEFAULT_PRIORS)}; w_1 has no"
                " prior because it fixes the gauge"
            )
        object.__setattr__(self, "priors", MappingProxyType(dict(self.priors)))

    @property
    def parameters(self) -> tuple[str, ...]:
        """Free parameters of every deployment, in table order."""
        chosen = {*BASE_PARAMETERS, *self.terms}
        return tuple(name for name in PARAMETERS if name in chosen)

    def prior(self, name: str) -> Prior:
        """Prior of one parameter: the override where there is one, else the default."""
        return self.priors.get(name, DEFAULT_PRIORS[name])

    def without(self, *terms: str) -> Self:
        """The same spec with some terms left out."""
        return replace(self, terms=tuple(term for term in self.terms if term not in terms))

    def to_json(self) -> str:
        """The spec as JSON, every prior in force written out."""
        priors = {name: _prior_to_dict(self.prior(name)) for name in self.parameters}
        content = {"terms": self.terms, "likelihood": self.likelihood, "priors": priors}
        return json.dumps(content, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        content = json.loads(text)
        priors = {name: _prior_from_dict(entry) for name, entry in content["priors"].items()}
        return cls(tuple(content["terms"]), content["likelihood"], priors)


def _prior_to_dict(prior: Prior) -> dict[str, Any]:
    scales = {name: asdict(getattr(prior, name)) for name in ("gpu", "model", "deployment")}
    return {
        "median": prior.median,
        "spread": prior.spread,
        "elasticity": dict(prior.elasticity),
        **scales,
    }


def _prior_from_dict(entry: Mapping[str, Any]) -> Prior:
    scales = {name: ScalePrior(**entry[name]) for name in ("gpu", "model", "deployment")}
    return Prior(entry["median"], entry["spread"], entry["elasticity"], **scales)
