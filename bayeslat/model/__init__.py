"""The model: a frozen spec, priors, likelihoods and the one builder; nothing here samples."""

from bayeslat.model.build import build_model
from bayeslat.model.priors import DEFAULT_PRIORS, Prior, ScalePrior
from bayeslat.model.spec import ModelSpec

__all__ = ["DEFAULT_PRIORS", "ModelSpec", "Prior", "ScalePrior", "build_model"]
