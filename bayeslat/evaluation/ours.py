"""bayeslat as a contender: one fleet fit, and cold starts from it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Final

import numpy as np

from bayeslat.catalog import Catalog, load_catalog
from bayeslat.evaluation.base import Array
from bayeslat.evaluation.versions import digest, source_digest
from bayeslat.model.spec import ModelSpec
from bayeslat.observations import Observations
from bayeslat.posterior import FleetPosterior, fit, load
from bayeslat.schema import Deployment

__all__ = ["Bayeslat", "FittedBayeslat"]

FIT_SOURCES: Final = (
    "catalog", "model", "inference", "observations", "discrepancy.py", "noise.py", "saturation.py",
    "schema.py",
)  # fmt: skip
"""Parts of the package that decide a posterior: where one changes, fits are made anew."""

ANSWER_SOURCES: Final = (*FIT_SOURCES, "predictive", "posterior.py")
DEPENDENCIES: Final = ("jax", "numpy", "numpyro", "pymc")


@dataclass(frozen=True)
class Bayeslat:
    """Posterior predictive quantiles; new deployments are cold-started from the fleet's posterior.

    Attributes
    ----------
    draws, chains, seed, retry
        Of the fleet's fit; a cold start from steps has as many draws.
    spec : ModelSpec, optional
        The model; that of `bayeslat.fit` by default, which depends on what a log can tell.
    catalog : Catalog, optional
        Datasheets; the bundled ones by default.
    folder : Path, optional
        Where fitted fleets are kept, so that all folds with the same known steps share one.
    """

    draws: int = 1000
    chains: int = 4
    seed: int = 0
    retry: bool = True
    spec: ModelSpec | None = None
    catalog: Catalog | None = None
    folder: Path | None = None

    name = "bayeslat"

    @property
    def version(self) -> str:
        """Changes wherever predictions may change."""
        return digest(self._settings(), source_digest(ANSWER_SOURCES))

    def fit(self, known: Observations, few: Observations | None = None) -> "FittedBayeslat":
        """See `bayeslat.evaluation.base.Contender`."""
        fleet = self._fleet(known)
        newcomers = None
        if few is not None:
            newcomers = fleet.cold_start(
                _new_entries(fleet, few.deployments, self.catalog),
                steps=few,
                draws=self.draws,
                seed=self.seed,
                retry=self.retry,
                deployments=few.deployments,
            )
        return FittedBayeslat(fleet, newcomers, self.catalog)

    def _fleet(self, known: Observations) -> FleetPosterior:
        """Posterior of the known steps: read, or fitted now."""
        path = None
        if self.folder is not None:
            key = digest(known.fingerprint, self._settings(), source_digest(FIT_SOURCES))
            path = self.folder / f"{key}.nc"
            if path.is_file():
                return load(path)
        fleet = fit(
            known,
            self.spec,
            catalog=self.catalog,
            draws=self.draws,
            chains=self.chains,
            seed=self.seed,
            retry=self.retry,
        )
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            fleet.save(path)
        return fleet

    def _settings(self) -> str:
        versions = {name: version_of(name) for name in DEPENDENCIES}
        sheets = repr(self.catalog) if self.catalog is not None else ""
        sampling = [self.draws, self.chains, self.seed, self.retry]
        spec = self.spec.to_json() if self.spec is not None else None
        return json.dumps([spec, *sampling, versions, sheets])


@dataclass(frozen=True)
class FittedBayeslat:
    """A fleet's posterior, and that of new deployments with a few steps.

    Attributes
    ----------
    fleet : FleetPosterior
        Of the known steps.
    newcomers : FleetPosterior or None
        Of the deployments of which a few steps are known.
    catalog : Catalog or None
        Datasheets of deployments that are in neither.
    """

    fleet: FleetPosterior
    newcomers: FleetPosterior | None
    catalog: Catalog | None = None

    @property
    def max_rhat(self) -> float:
        """Largest R-hat of the draws behind the predictions; NaN where nothing was sampled."""
        found = [self.fleet] if self.newcomers is None else [self.fleet, self.newcomers]
        return max((each.verdict.max_rhat for each in found if each.verdict), default=float("nan"))

    def predict_quantiles(self, steps: Observations, levels: Sequence[float]) -> Array:
        """See `bayeslat.evaluation.base.Fitted`."""
        fleets = [self.fleet] if self.newcomers is None else [self.fleet, self.newcomers]
        held = {each: fleet for fleet in fleets for each in fleet.deployments}
        never = [each for each in steps.deployments if each not in held]
        if never:
            entries = _new_entries(self.fleet, never, self.catalog)
            held |= dict.fromkeys(never, self.fleet.cold_start(entries, deployments=never))
        result = np.empty((len(steps), len(levels)))
        for deployment in steps.deployments:
            own = steps.slice_of(deployment)
            result[own] = _quantiles(held[deployment], deployment, steps.for_deployment(deployment),
                                     levels)  # fmt: skip
        return result


def _new_entries(
    fleet: FleetPosterior, deployments: Sequence[Deployment], catalog: Catalog | None
) -> list:
    """Datasheets of the GPUs and LLMs that the fleet does not hold."""
    sheets = catalog or load_catalog()
    gpus = sorted({each.gpu for each in deployments} - set(fleet.gpus))
    llms = sorted({each.model for each in deployments} - set(fleet.models))
    return [*(sheets.gpu(name) for name in gpus), *(sheets.llm(name) for name in llms)]


def _quantiles(
    posterior: FleetPosterior, deployment: Deployment, own: Observations, levels: Sequence[float]
) -> Array:
    """Quantiles of one deployment's steps; equal steps are computed once."""
    context = np.where(
        np.isnan(own.context_tokens),
        posterior.typical_context(deployment) * own.batch_size,
        own.context_tokens,
    )
    design = np.stack([own.batch_size, own.total_tokens, context, own.n_averaged], axis=1)
    steps, back = np.unique(design, axis=0, return_inverse=True)
    batch, tokens, contexts, n_averaged = steps.T
    latency = posterior.latency(
        **deployment._asdict(),
        batch_size=batch,
        total_tokens=tokens,
        context_tokens=contexts,
        n_averaged=n_averaged,
    )
    return np.stack([latency.ppf(level) for level in levels], axis=1)[back]
