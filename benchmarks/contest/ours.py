"""The contender that this is all about: one fleet fit, and cold starts from it."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import bayeslat as bl
from bayeslat.schema import Deployment
from contest.scores import LEVELS
from contest.splits import Task, deployment_of

__all__ = ["Bayeslat"]

type Array = NDArray[np.float64]

FIT_SOURCES: Final = (
    "catalog", "model", "inference", "observations", "discrepancy.py", "noise.py", "saturation.py",
    "schema.py",
)  # fmt: skip
"""Parts of the package that decide a fleet's posterior: where one changes, fits are redone."""

ANSWER_SOURCES: Final = ("predictive", "posterior.py")
PACKAGES: Final = ("jax", "numpy", "numpyro", "pymc")


class Bayeslat:
    """Posterior predictive quantiles; new deployments are cold-started from the fleet's posterior.

    Parameters
    ----------
    folder
        Where fitted fleets are kept, so that all tasks with the same training steps share one.
    draws, chains, retry
        Of the fleet's fit; a cold start from steps has as many draws.
    spec
        The default model if none is given.
    """

    name = "bayeslat"

    def __init__(
        self,
        folder: Path,
        *,
        draws: int = 1000,
        chains: int = 4,
        retry: bool = True,
        spec: bl.ModelSpec | None = None,
    ):
        self.folder, self.draws, self.chains, self.retry = folder, draws, chains, retry
        self.spec = spec or bl.ModelSpec()
        self._last: tuple[Path, bl.FleetPosterior] | None = None
        self.max_rhat = np.nan
        """Largest R-hat of the draws behind the last forecast."""

    @property
    def version(self) -> str:
        """Changes wherever forecasts may change."""
        return _digest(self._settings(), _source_digest((*FIT_SOURCES, *ANSWER_SOURCES)))

    def forecast(self, task: Task) -> Array:
        """Quantiles of the test steps, shape (row, level)."""
        fleet = self.fleet(task.train)
        posterior = self._cold_start(fleet, task) if task.is_new else fleet
        verdicts = [each.verdict for each in (fleet, posterior) if each.verdict is not None]
        self.max_rhat = max(verdict.max_rhat for verdict in verdicts)
        result = np.empty((len(task.test), len(LEVELS)))
        rows = task.test.groupby("deployment").indices
        for label, deployment in deployment_of(task.test).items():
            own = task.test.iloc[rows[label]]
            result[rows[label]] = _quantiles(posterior, deployment, own)
        return result

    def fleet(self, train: pd.DataFrame) -> bl.FleetPosterior:
        """Posterior of the training steps: remembered, read, or fitted now."""
        observations = _observations(train)
        path = self.folder / "fleets" / f"{self._key(observations)}.nc"
        if self._last is None or self._last[0] != path:
            self._last = path, self._read_or_fit(path, observations)
        return self._last[1]

    def _read_or_fit(self, path: Path, observations: bl.Observations) -> bl.FleetPosterior:
        if path.is_file():
            return bl.load(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        fleet = bl.fit(
            observations, self.spec, draws=self.draws, chains=self.chains, retry=self.retry
        )
        fleet.save(path)
        return fleet

    def _cold_start(self, fleet: bl.FleetPosterior, task: Task) -> bl.FleetPosterior:
        catalog, new = bl.load_catalog(), deployment_of(task.test)
        gpus = sorted({each.gpu for each in new.values()} - set(fleet.gpus))
        llms = sorted({each.model for each in new.values()} - set(fleet.models))
        entries = [*(catalog.gpu(name) for name in gpus), *(catalog.llm(name) for name in llms)]
        steps = _observations(task.few) if len(task.few) else None
        return fleet.cold_start(
            entries,
            steps=steps,
            deployments=list(new.values()),
            draws=self.draws,
            retry=self.retry,
        )

    def _key(self, observations: bl.Observations) -> str:
        return _digest(observations.fingerprint, self._settings(), _source_digest(FIT_SOURCES))

    def _settings(self) -> str:
        versions = {name: version(name) for name in PACKAGES}
        settings = [self.spec.to_json(), self.draws, self.chains, self.retry, versions]
        return json.dumps(settings)


def _quantiles(posterior: bl.FleetPosterior, deployment: Deployment, own: pd.DataFrame) -> Array:
    """Quantiles of one deployment's steps; equal steps are computed once."""
    columns = ["batch_size", "total_tokens", "context_tokens", "n_averaged"]
    steps, back = np.unique(own[columns].to_numpy(dtype=float), axis=0, return_inverse=True)
    batch, tokens, context, n_averaged = steps.T
    latency = posterior.latency(
        deployment.gpu,
        deployment.model,
        tp=deployment.tp,
        engine=deployment.engine,
        batch_size=batch,
        total_tokens=tokens,
        context_tokens=context,
        n_averaged=n_averaged,
    )
    return np.column_stack([latency.ppf(level) for level in LEVELS])[back]


def _observations(frame: pd.DataFrame) -> bl.Observations:
    return bl.validate_steps(frame.drop(columns="deployment"))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def _source_digest(names: tuple[str, ...]) -> str:
    """Digest of modules and subpackages of bayeslat."""
    digest = hashlib.sha256()
    for name in names:
        place = Path(bl.__file__).parent / name
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.suffix in {".py", ".toml"}:
                digest.update(path.read_bytes())
    return digest.hexdigest()
