"""FleetPosterior: what a fitted fleet knows, with where it comes from; and `fit`, `load`."""

import difflib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike

from bayeslat import decisions
from bayeslat.catalog import GPU, LLM, Catalog, load_catalog
from bayeslat.decisions.compiling import compile_gate
from bayeslat.decisions.measuring.targets import Decision
from bayeslat.discrepancy import Basis
from bayeslat.engine import EngineSettings
from bayeslat.errors import InputError, UnknownDeploymentError
from bayeslat.gate import Gate
from bayeslat.identifiability import combinations, identifiability_table
from bayeslat.inference.cold_start import (
    conditioned_newcomers,
    newcomer_tree,
    predicted_newcomers,
)
from bayeslat.inference.convergence import ConvergenceVerdict
from bayeslat.inference.fit import sample_fleet
from bayeslat.inference.run import check_settings
from bayeslat.inference.samplers import SamplerSettings
from bayeslat.model.design import fleet_design
from bayeslat.model.pooling import prior_draws
from bayeslat.model.spec import ModelSpec
from bayeslat.observations import Observations, validate_steps
from bayeslat.predictive import DeploymentDraws, LatencyDistribution, deployment_draws
from bayeslat.released import load_released_tree, released_names
from bayeslat.schema import Deployment
from bayeslat.storage import load_tree, save_tree

__all__ = ["FleetPosterior", "fit", "load", "load_released"]

N_PRIOR_DRAWS: Final = 4000
MAX_NAMED: Final = 6


@dataclass(frozen=True, eq=False)
class FleetPosterior:
    """Posterior of a fleet's step latencies. Immutable: methods return new values.

    Parameters
    ----------
    tree : xarray.DataTree
        Groups ``posterior`` (dims chain, draw, deployment, quantity, basis and the pooling levels),
        ``sample_stats`` and ``constant_data``; the root attributes hold spec, data fingerprint,
        versions, seed, date, quarantine counts and the convergence verdict.
    """

    tree: xr.DataTree

    def __repr__(self) -> str:
        return (
            f"FleetPosterior({len(self.deployments)} deployments, {len(self.gpus)} GPUs,"
            f" {len(self.models)} LLMs, {self.verdict or 'predicted, nothing sampled'})"
        )

    @cached_property
    def posterior(self) -> xr.Dataset:
        """The draws."""
        return self.tree["posterior"].to_dataset()

    @cached_property
    def constant_data(self) -> xr.Dataset:
        """Gauge, row counts and measured ranges of each deployment."""
        return self.tree["constant_data"].to_dataset()

    @cached_property
    def spec(self) -> ModelSpec:
        """The model."""
        return ModelSpec.from_json(self.tree.attrs["spec"])

    @cached_property
    def basis(self) -> Basis | None:
        """Features of the discrepancy; None where the model has none."""
        text = self.tree.attrs["discrepancy_basis"]
        return Basis.from_json(text) if text else None

    @cached_property
    def verdict(self) -> ConvergenceVerdict | None:
        """Convergence verdict; None for a cold start without steps, where nothing was sampled."""
        text = self.tree.attrs["verdict"]
        return ConvergenceVerdict.from_dict(json.loads(text)) if text else None

    @cached_property
    def deployments(self) -> tuple[Deployment, ...]:
        """The deployments, in the order of the deployment dim."""
        fields = [
            self.constant_data[f"deployment_{name}"].to_numpy() for name in Deployment._fields
        ]
        return tuple(
            Deployment(str(gpu), str(model), int(tp), str(engine), str(precision))
            for gpu, model, tp, engine, precision in zip(*fields, strict=True)
        )

    @property
    def gpus(self) -> tuple[str, ...]:
        """Distinct GPU names."""
        return tuple(sorted({deployment.gpu for deployment in self.deployments}))

    @property
    def models(self) -> tuple[str, ...]:
        """Distinct LLM names."""
        return tuple(sorted({deployment.model for deployment in self.deployments}))

    @cached_property
    def catalog(self) -> Catalog:
        """The bundled catalogue with the datasheets that the fit used on top."""
        sheets = json.loads(self.tree.attrs["datasheets"])
        return load_catalog().with_entries(
            *(GPU.from_dict(entry) for entry in sheets["gpus"]),
            *(LLM.from_dict(entry) for entry in sheets["llms"]),
        )

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the posterior comes from: data, versions, seed, date, quarantine, device."""
        attrs = {str(name): value for name, value in self.tree.attrs.items()}
        for name in ("versions", "quarantine"):
            attrs[name] = json.loads(attrs[name])
        for name in ("spec", "datasheets", "verdict", "discrepancy_basis"):
            attrs.pop(name)
        return attrs

    @property
    def unknown_names(self) -> tuple[str, ...]:
        """GPUs and LLMs without a full datasheet: their prior was wider."""
        gpus = [name for name in self.gpus if not self.catalog.gpu(name).is_known]
        llms = [name for name in self.models if self.catalog.llm(name).active_b is None]
        return (*gpus, *llms)

    def find(
        self,
        gpu: str,
        model: str,
        *,
        tp: int | None = None,
        engine: str | None = None,
        precision: str | None = None,
    ) -> Deployment:
        """The one deployment of these properties; what is not given may be anything.

        Raises
        ------
        UnknownDeploymentError
            Where none fits (the message names the nearest) or several do (it lists them).
        """
        wanted = {"gpu": gpu, "model": model, "tp": tp, "engine": engine, "precision": precision}
        found = [
            deployment
            for deployment in self.deployments
            if all(value is None or getattr(deployment, name) == value
                   for name, value in wanted.items())
        ]  # fmt: skip
        if len(found) == 1:
            return found[0]
        asked = "/".join(
            f"tp{value}" if name == "tp" else str(value)
            for name, value in wanted.items()
            if value is not None
        )
        if found:
            labels = [deployment.label for deployment in found]
            raise UnknownDeploymentError(
                f"got {asked}, which fits {len(found)} deployments ({_named(labels)}); add tp=,"
                " engine= or precision= to choose one"
            )
        labels = [deployment.label for deployment in self.deployments]
        nearest = difflib.get_close_matches(asked, labels, n=3, cutoff=0.0)
        raise UnknownDeploymentError(
            f"got {asked}, which this posterior does not hold; nearest: {', '.join(nearest)};"
            " use one of these or cold_start a new one"
        )

    def thin(self, n: int) -> Self:
        """The same posterior with at most `n` draws, evenly spaced along its chains.

        Parameters
        ----------
        n : int
            Draws of all chains together; rounded down to as many of each.
        """
        chains, draws = self.posterior.sizes["chain"], self.posterior.sizes["draw"]
        each = max(n // chains, 1)
        if draws <= each:
            return self
        pick = np.linspace(0, draws - 1, each).astype(int)
        tree = self.tree.copy()
        for name in ("posterior", "sample_stats"):
            if name in tree.children:
                tree[name] = xr.DataTree(tree[name].to_dataset().isel(draw=pick))
        return type(self)(tree)

    def draws(self, deployment: Deployment) -> DeploymentDraws:
        """All posterior draws of one deployment, chains one after the other."""
        if deployment not in self._draws:
            self._draws[deployment] = deployment_draws(
                self.posterior,
                self.constant_data,
                deployment,
                self.deployments.index(deployment),
                family=self.spec.likelihood,
                basis=self.basis,
                fleet_tokens=json.loads(self.tree.attrs.get("fleet_tokens", "null")),
            )
        return self._draws[deployment]

    @cached_property
    def _draws(self) -> dict[Deployment, DeploymentDraws]:
        """Draws already laid out; a cache, not state."""
        return {}

    def typical_context(self, deployment: Deployment) -> float:
        """Median context positions per request that were measured; 0 where none were."""
        position = self.deployments.index(deployment)
        return float(self.constant_data["context_per_request"][position])

    def latency(
        self,
        gpu: str,
        model: str,
        *,
        batch_size: ArrayLike,
        total_tokens: ArrayLike,
        context_tokens: ArrayLike | None = None,
        n_averaged: ArrayLike = 1,
        tp: int | None = None,
        engine: str | None = None,
        precision: str | None = None,
    ) -> LatencyDistribution:
        """Predictive distribution of a step's latency.

        Parameters
        ----------
        gpu, model : str
            Names as in the log.
        batch_size, total_tokens : array
            Requests B and computed tokens S of the step; they broadcast.
        context_tokens : array, optional
            KV positions attended to, summed over requests. By default the deployment's typical
            context per request times B.
        n_averaged : array
            Steps whose mean the latency is; a single step by default.
        tp, engine, precision : optional
            Needed only where several deployments share GPU and LLM.

        Raises
        ------
        UnknownDeploymentError, InputError
            For a deployment that is not there, or an impossible step.
        """
        deployment = self.find(gpu, model, tp=tp, engine=engine, precision=precision)
        batch = np.asarray(batch_size, dtype=float)
        tokens = np.asarray(total_tokens, dtype=float)
        if context_tokens is None:
            context = self.typical_context(deployment) * batch
        else:
            context = np.asarray(context_tokens, dtype=float)
        averaged = np.asarray(n_averaged, dtype=float)
        return LatencyDistribution(self.draws(deployment), batch, tokens, context, averaged)

    def max_tokens(
        self,
        gpu: str,
        model: str,
        *,
        batch_size: int,
        sla_ms: float,
        risk: float = 0.01,
        confident: float | None = None,
        context_tokens: float | None = None,
        **where: Any,
    ) -> int | None:
        """Largest S with P(latency > SLA) <= risk for a given B; None where nothing fits.

        Parameters
        ----------
        gpu, model, **where
            The deployment, as in `find`.
        batch_size : int
            Requests in the step.
        sla_ms : float
            Milliseconds.
        risk : float
            Allowed probability of exceeding the SLA.
        confident : float, optional
            Ask that the upper credible bound of that probability, at this level, stays within the
            risk.
        context_tokens : float, optional
            Context of the step; by default the typical context per request times B.
        """
        return self.feasible_tokens(
            gpu,
            model,
            batch_size=batch_size,
            sla_ms=sla_ms,
            risk=risk,
            confident=confident,
            context_tokens=context_tokens,
            **where,
        ).largest

    def feasible_tokens(
        self, gpu: str, model: str, *, context_tokens: float | None = None, **query: Any
    ) -> decisions.FeasibleSet:
        """All S that fit for a given B; see `bayeslat.decisions.feasible_tokens`."""
        draws, context, query = self._question(gpu, model, context_tokens, query)
        return decisions.feasible_tokens(draws, **context, **query)

    def feasible_batches(
        self, gpu: str, model: str, *, context_tokens: float | None = None, **query: Any
    ) -> decisions.FeasibleSet:
        """All B that fit for a given S; see `bayeslat.decisions.feasible_batches`."""
        draws, context, query = self._question(gpu, model, context_tokens, query)
        return decisions.feasible_batches(draws, **context, **query)

    def feasible_region(
        self, gpu: str, model: str, *, context_tokens: float | None = None, **query: Any
    ) -> decisions.FeasibleRegion:
        """P(latency > SLA) over a grid; see `bayeslat.decisions.feasible_region`."""
        draws, context, query = self._question(gpu, model, context_tokens, query)
        return decisions.feasible_region(draws, **context, **query)

    def compile(
        self,
        gpu: str,
        model: str,
        *,
        sla_ms: float,
        risk: float = 0.01,
        max_batch_size: int = 256,
        max_total_tokens: int = 8192,
        tp: int | None = None,
        engine: str | None = None,
        precision: str | None = None,
    ) -> Gate:
        """P(latency > SLA) <= risk of one deployment as a gate that answers in microseconds.

        Parameters
        ----------
        gpu, model, tp, engine, precision
            The deployment, as in `find`.
        sla_ms, risk : float
            Limit of a step's latency in milliseconds, and the admitted probability of exceeding it.
        max_batch_size, max_total_tokens : int
            Largest step of the engine.

        Raises
        ------
        UnknownDeploymentError, InputError
            For a deployment that is not there, a risk outside (0, 1), or an SLA that no step keeps.
        """
        found = self.find(gpu, model, tp=tp, engine=engine, precision=precision)
        return compile_gate(
            self.draws(found),
            sla_ms=sla_ms,
            risk=risk,
            max_batch_size=max_batch_size,
            max_total_tokens=max_total_tokens,
        )

    def check_gate(self, gate: Gate) -> None:
        """Refuse a gate that does not stand for this posterior.

        Raises
        ------
        StaleGateError
            The gate was compiled from other draws of its deployment.
        UnknownDeploymentError
            This posterior does not hold the deployment of the gate.
        """
        labels = [deployment.label for deployment in self.deployments]
        if gate.deployment not in labels:
            nearest = difflib.get_close_matches(gate.deployment, labels, n=3, cutoff=0.0)
            raise UnknownDeploymentError(
                f"got a gate of {gate.deployment}, which this posterior does not hold; nearest:"
                f" {', '.join(nearest)}; compile a gate of one of these"
            )
        gate.check(self.draws(self.deployments[labels.index(gate.deployment)]).fingerprint)

    def frontier(
        self,
        gpu: str,
        model: str,
        *,
        sla_ms: Sequence[float],
        risk: float = 0.01,
        space: decisions.StepSpace | None = None,
        tp: int | None = None,
        engine: str | None = None,
        precision: str | None = None,
        **options: Any,
    ) -> decisions.Frontier:
        """Most tokens a second under each of some SLAs: the throughput-latency frontier.

        Parameters
        ----------
        gpu, model, tp, engine, precision
            The deployment, as in `find`.
        sla_ms, risk
            Limits of a step's latency in milliseconds, and the admitted probability of exceeding
            them.
        space : StepSpace, optional
            Which steps are searched; by default all up to 256 requests and 8,192 tokens, with the
            deployment's typical context for each request.
        **options
            As in `bayeslat.decisions.throughput.compiled_frontier`.
        """
        found = self.find(gpu, model, tp=tp, engine=engine, precision=precision)
        typical = decisions.StepSpace(context_per_request=self.typical_context(found))
        return decisions.compiled_frontier(
            self.draws(found), sla_ms, risk=risk, space=space or typical, **options
        )

    def share_step(
        self,
        gpu: str,
        model: str,
        tenants: Sequence[decisions.Tenant],
        *,
        sla_ms: float,
        risk: float = 0.01,
        tp: int | None = None,
        engine: str | None = None,
        precision: str | None = None,
        **options: Any,
    ) -> decisions.TenantFront:
        """Steps shared by tenants under an SLA: throughput against fairness.

        Parameters
        ----------
        gpu, model, tp, engine, precision
            The deployment, as in `find`.
        tenants : sequence of Tenant
            Who shares the step.
        sla_ms, risk : float
            Limit of the step's latency in milliseconds, and the admitted probability of exceeding
            it.
        **options
            As in `bayeslat.decisions.tenancy.pareto_front`.
        """
        found = self.find(gpu, model, tp=tp, engine=engine, precision=precision)
        gate = self.compile(**found._asdict(), sla_ms=sla_ms, risk=risk)
        return decisions.pareto_front(self.draws(found), gate, tenants, **options)

    def next_points(
        self,
        gpu: str,
        model: str,
        *,
        decision: Decision,
        tp: int | None = None,
        engine: str | None = None,
        precision: str | None = None,
        **options: Any,
    ) -> decisions.NextPoints:
        """Which steps to measure next, so that a decision about a deployment becomes certain.

        Parameters
        ----------
        gpu, model, tp, engine, precision
            The deployment, as in `find`; perhaps one of a cold start.
        decision : Decision
            What shall become certain, such as `LargestTokens` or `LogLatency`.
        **options
            As in `bayeslat.decisions.measuring.next_points`.
        """
        found = self.find(gpu, model, tp=tp, engine=engine, precision=precision)
        return decisions.next_points(self.draws(found), decision=decision, **options)

    def serving(
        self,
        gpu: str,
        model: str,
        *,
        settings: EngineSettings | None = None,
        overhead: decisions.StepOverhead | None = None,
        tp: int | None = None,
        engine: str | None = None,
        precision: str | None = None,
    ) -> decisions.ServedDeployment:
        """A deployment with the engine around its steps: phases, queues, goodput, simulation.

        Parameters
        ----------
        gpu, model, tp, engine, precision
            The deployment, as in `find`.
        settings : EngineSettings, optional
            Scheduling of the engine. Where it does not say how much the KV cache holds, the
            datasheets do, if they know the memory and the LLM's shape; else the cache has no end.
        overhead : StepOverhead, optional
            Prior of the time between two steps, which step logs do not hold.
        """
        found = self.find(gpu, model, tp=tp, engine=engine, precision=precision)
        chosen = settings or EngineSettings()
        if chosen.kv_capacity_tokens is None:
            room = self.catalog.kv_capacity_tokens(
                found.gpu, found.model, tp=found.tp, precision=found.precision
            )
            # A datasheet that leaves no room at all is wrong about a deployment that was measured.
            if np.isfinite(room) and room >= chosen.block_size:
                chosen = replace(chosen, kv_capacity_tokens=int(room))
        return decisions.ServedDeployment(
            self.draws(found),
            chosen,
            overhead or decisions.StepOverhead(),
            float(self.catalog.kv_bytes_per_token(found.model)),
        )

    def _question(
        self, gpu: str, model: str, context_tokens: float | None, query: dict[str, Any]
    ) -> tuple[DeploymentDraws, dict[str, Any], dict[str, Any]]:
        """Split a query into draws, context and the rest."""
        names = ("tp", "engine", "precision")
        where = {name: query.pop(name) for name in names if name in query}
        deployment = self.find(gpu, model, **where)
        if context_tokens is None:
            context: dict[str, Any] = {"context_per_request": self.typical_context(deployment)}
        else:
            context = {"context_tokens": float(context_tokens)}
        return self.draws(deployment), context, query

    def identifiability(self) -> pd.DataFrame:
        """Posterior against prior of every parameter and of the combinations that are pinned down.

        See `bayeslat.identifiability.identifiability_table`.
        """
        flat = (
            self.posterior[list(self.spec.parameters)]
            .stack(sample=("chain", "draw"))
            .transpose("sample", ...)
        )
        after = {name: flat[name].to_numpy() for name in self.spec.parameters}
        design = fleet_design(self.deployments, self.catalog)
        before = prior_draws(self.spec, design, N_PRIOR_DRAWS, seed=0)
        return identifiability_table(
            {**after, **combinations(after, design.w_1)},
            {**before, **combinations(before, design.w_1)},
            [deployment.label for deployment in self.deployments],
        )

    def cold_start(
        self,
        new: GPU | LLM | Sequence[GPU | LLM],
        *,
        steps: Observations | pd.DataFrame | None = None,
        deployments: Sequence[Deployment] | None = None,
        sampler: str = "numpyro",
        draws: int = 1000,
        seed: int = 0,
        retry: bool = True,
        progress: Callable[[str], None] | None = None,
    ) -> Self:
        """Posterior of deployments on a GPU, or of an LLM, that the fleet has not seen.

        Parameters
        ----------
        new : GPU or LLM, or several
            Datasheets of the newcomers; unknown values may be left out and widen the prediction.
        steps : Observations or DataFrame, optional
            A few steps of the newcomers to condition on.
        deployments : sequence of Deployment, optional
            What to predict; by default the steps' deployments and the newcomers crossed with the
            fleet's combinations of the rest.
        sampler, draws, seed, retry, progress
            As in `fit`; used only with steps. Shares of stray rows are estimated along, where the
            fleet's spec has them, and not kept.

        Returns
        -------
        FleetPosterior
            Of the new deployments alone. It cannot be cold-started again: ask the fleet.

        Raises
        ------
        InputError
            Where there is nothing to predict, a newcomer is no datasheet, or this posterior is
            itself a cold start.
        """
        if "intercept" not in self.posterior:
            raise InputError(
                "got a posterior that is itself a cold start, expected a fitted fleet; call"
                " cold_start on the fleet with all the new entries"
            )
        entries = _entries(new)
        catalog = self.catalog.with_entries(*entries)
        observations = _observations(steps, catalog) if steps is not None else None
        targets = tuple(deployments) if deployments else self._newcomers(entries)
        if observations is not None:
            targets = tuple(dict.fromkeys((*observations.deployments, *targets)))
        if not targets:
            raise InputError(
                "got no deployment to predict, expected new GPUs or LLMs, steps or deployments=;"
                " give at least one"
            )
        targets = tuple(sorted(targets))
        if observations is None:
            found = predicted_newcomers(self.posterior, self.spec, targets, catalog, seed=seed)
        else:
            settings = SamplerSettings(draws=draws, seed=seed, retry=retry)
            check_settings(sampler, settings)
            found = conditioned_newcomers(
                self.posterior,
                self.spec,
                targets,
                catalog,
                observations,
                self.basis,
                sampler=sampler,
                settings=settings,
                report=progress or _silent,
            )
        context = float(self.constant_data["context_per_request"].median())
        tree = newcomer_tree(
            found, observations, self.spec, catalog, context, seed=seed, sampler=sampler
        )
        tree.attrs["discrepancy_basis"] = self.tree.attrs["discrepancy_basis"]
        tokens = self.constant_data["measured_range"].sel(design_axis="total_tokens")
        tree.attrs["fleet_tokens"] = json.dumps([float(tokens.min()), float(tokens.max())])
        tree.attrs["parent"] = self.tree.attrs["data_fingerprint"]
        return type(self)(tree)

    def _newcomers(self, entries: Sequence[GPU | LLM]) -> tuple[Deployment, ...]:
        """New GPUs and LLMs crossed with the fleet's combinations of the other properties."""
        gpus = [entry.name for entry in entries if isinstance(entry, GPU)]
        llms = [entry.name for entry in entries if isinstance(entry, LLM)]
        found = []
        for deployment in self.deployments:
            for gpu in gpus or [deployment.gpu]:
                for llm in llms or [deployment.model]:
                    found.append(deployment._replace(gpu=gpu, model=llm))
        return tuple(dict.fromkeys(found)) if entries else ()

    def save(self, path: str | Path) -> None:
        """Write the posterior to a netCDF file, all or nothing.

        An existing file stays as it is until the new one is complete.
        """
        save_tree(self.tree, Path(path))


def fit(
    steps: Observations | pd.DataFrame,
    spec: ModelSpec | None = None,
    *,
    catalog: Catalog | None = None,
    sampler: str = "numpyro",
    draws: int = 1000,
    tune: int = 200,
    chains: int = 4,
    target_accept: float = 0.8,
    seed: int = 0,
    retry: bool = True,
    progress: Callable[[str], None] | None = None,
    progress_bar: bool = False,
) -> FleetPosterior:
    """Fit the hierarchical throughput-saturation model to step logs.

    Parameters
    ----------
    steps : Observations or DataFrame
        From `read_steps`, or a steps table.
    spec : ModelSpec, optional
        Terms, likelihood and priors.
    catalog : Catalog, optional
        Datasheets; the bundled ones by default.
    sampler : str
        ``"numpyro"`` (default), ``"nutpie"`` or ``"blackjax"``.
    draws, tune, chains, target_accept, seed
        Of the sampler. Runs on an accelerator where JAX sees one.
    retry : bool
        Whether a run that does not pass its verdict is followed by a longer one.
    progress : callable, optional
        Told in a few words what begins.
    progress_bar : bool
        Show the sampler's own bar.

    Returns
    -------
    FleetPosterior
        With its convergence verdict; a failed one raises nothing here, look at ``.verdict``.

    Raises
    ------
    InputError
        For steps or settings that cannot be used.
    """
    catalog = catalog or load_catalog()
    settings = SamplerSettings(
        draws=draws,
        tune=tune,
        chains=chains,
        target_accept=target_accept,
        seed=seed,
        progress=progress_bar,
        retry=retry,
    )
    check_settings(sampler, settings)
    tree = sample_fleet(
        _observations(steps, catalog),
        spec,
        catalog,
        sampler=sampler,
        settings=settings,
        report=progress or _silent,
    )
    return FleetPosterior(tree)


def load(path: str | Path) -> FleetPosterior:
    """Read a posterior that `FleetPosterior.save` wrote, or one that comes with the package.

    Parameters
    ----------
    path : str or Path
        Where it is; where nothing is, the name of a released posterior.

    Raises
    ------
    PosteriorFileError
        For a missing or damaged file, one that is no posterior, or one of another schema.
    """
    if not Path(path).exists() and str(path) in released_names():
        return load_released(str(path))
    return FleetPosterior(load_tree(Path(path)))


def load_released(name: str) -> FleetPosterior:
    """A posterior that comes with the package, such as ``"reference-fleet"`` of simulated steps.

    It starts a fleet that has no history: `FleetPosterior.cold_start` with a few steps of one's
    own.

    Raises
    ------
    PosteriorFileError
        For a name that is none, or a damaged file.
    """
    return FleetPosterior(load_released_tree(name))


def _entries(new: GPU | LLM | Sequence[GPU | LLM]) -> tuple[GPU | LLM, ...]:
    entries = (new,) if isinstance(new, GPU | LLM | str) else tuple(new)
    for entry in entries:
        if not isinstance(entry, GPU | LLM):
            raise InputError(
                f"got newcomer {entry!r}, expected a GPU or an LLM; for a name that the catalogue"
                " holds take bayeslat.load_catalog().gpu(name) or .llm(name)"
            )
    return entries


def _observations(steps: Observations | pd.DataFrame, catalog: Catalog) -> Observations:
    return steps if isinstance(steps, Observations) else validate_steps(steps, catalog=catalog)


def _named(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:MAX_NAMED])
    return shown if len(labels) <= MAX_NAMED else f"{shown}, ..."


def _silent(_: str) -> None:
    """Report nothing."""
