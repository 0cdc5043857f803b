"""One deployment as its users feel it: phases, chunks, queues and loads from one object."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from bayeslat.decisions import chunks, phases, queues, services, steady
from bayeslat.decisions.loads import Disaggregation, LoadCurve, compare_disaggregation, load_curve
from bayeslat.decisions.policies import Policy, PolicyComparison, compare_policies
from bayeslat.decisions.scheduling import SchedulerComparison, compare_schedulers
from bayeslat.decisions.serving import ServiceObjective, StepOverhead, serve
from bayeslat.engine import EngineSettings, ServingRecords, Transfer, Workload
from bayeslat.errors import InputError
from bayeslat.predictive import DeploymentDraws

__all__ = ["ServedDeployment"]


@dataclass(frozen=True, eq=False)
class ServedDeployment:
    """A deployment with the engine around its steps; `FleetPosterior.serving` makes one.

    Parameters
    ----------
    draws : DeploymentDraws
        Posterior draws of the deployment.
    settings : EngineSettings
        Scheduling of its engine, the size of its KV cache included.
    overhead : StepOverhead
        Prior of the time between two steps, which step logs do not hold.
    kv_bytes_per_token : float
        Bytes of cache of one position; NaN where the LLM's shape is unknown.
    """

    draws: DeploymentDraws
    settings: EngineSettings = field(default_factory=EngineSettings)
    overhead: StepOverhead = field(default_factory=StepOverhead)
    kv_bytes_per_token: float = np.nan

    def __repr__(self) -> str:
        return f"ServedDeployment({self.draws.deployment.label}, {self.settings}, {self.overhead})"

    def with_settings(self, **changes: Any) -> Self:
        """The same with other scheduling; keywords of `EngineSettings`."""
        return replace(self, settings=replace(self.settings, **changes))

    def request_phases(
        self,
        *,
        prompt_tokens: int,
        output_tokens: int,
        running: int = 1,
        chunk_tokens: int | None = None,
        context_per_request: float | None = None,
        **sampling: Any,
    ) -> phases.RequestPhases:
        """Prefill, TTFT, TPOT and E2E of a request; see `bayeslat.decisions.phases.request_phases`.

        Parameters
        ----------
        prompt_tokens, output_tokens : int
            Of the request.
        running : int
            Requests in each decode step, this one included.
        chunk_tokens : int, optional
            Most tokens of the prompt in one step.
        context_per_request : float, optional
            Positions of each running request; by default this request's own.
        **sampling
            As in `bayeslat.decisions.steps.Sampling`.
        """
        return phases.request_phases(
            self.draws,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            batch_size=running,
            chunk_tokens=chunk_tokens,
            context_per_request=context_per_request,
            **(self._gap() | sampling),
        )

    def steady_load(
        self,
        *,
        arrivals_per_s: float,
        prompt_tokens: int,
        output_tokens: int,
        chunk_tokens: int | None = None,
    ) -> steady.SteadyLoad:
        """What a load settles at: running requests, step time, whether it is sustained.

        As many requests run as places and the KV cache allow, each holding its prompt and, on
        average, half of its output; see `bayeslat.decisions.steady.steady_load`.
        """
        return steady.steady_load(
            self.draws,
            arrivals_per_s=arrivals_per_s,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            chunk_tokens=chunk_tokens,
            max_running=self._most_running(prompt_tokens + 0.5 * output_tokens),
            **self._gap(),
        )

    def chunk_tradeoff(self, **question: Any) -> chunks.ChunkTradeoff:
        """Prefill against decode jitter; see `bayeslat.decisions.chunks.chunk_tradeoff`.

        The overhead is the median of its prior.
        """
        question = {"step_overhead_ms": self.overhead.median_ms} | question
        return chunks.chunk_tradeoff(self.draws, **question)

    def best_chunk(self, **question: Any) -> chunks.ChunkChoice:
        """The chunk that keeps a TPOT limit; see `bayeslat.decisions.chunks.best_chunk`.

        The overhead is the median of its prior.
        """
        question = {"step_overhead_ms": self.overhead.median_ms} | question
        return chunks.best_chunk(self.draws, **question)

    def batch_service(
        self, *, prompt_tokens: int, output_tokens: int = 1, max_batch: int = 1, **options: Any
    ) -> services.BatchService:
        """Service of whole batches; see `bayeslat.decisions.services.batch_service`."""
        return services.batch_service(
            self.draws,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            max_batch=max_batch,
            max_num_batched_tokens=self.settings.max_num_batched_tokens,
            overhead=self.overhead,
            **options,
        )

    def queue(
        self,
        *,
        arrivals_per_s: ArrayLike,
        prompt_tokens: int,
        output_tokens: int = 1,
        **options: Any,
    ) -> queues.PosteriorQueue:
        """Requests served one at a time; see `bayeslat.decisions.queues.posterior_queue`.

        Further keywords are those of `batch_service`.
        """
        service = self.batch_service(
            prompt_tokens=prompt_tokens, output_tokens=output_tokens, **options
        )
        return queues.posterior_queue(service, arrivals_per_s=arrivals_per_s)

    def compare_policies(
        self,
        policies: Sequence[Policy],
        *,
        arrivals_per_s: Sequence[float],
        prompt_tokens: int,
        output_tokens: int = 1,
        **options: Any,
    ) -> PolicyComparison:
        """Ways of batching over loads; see `bayeslat.decisions.policies.compare_policies`."""
        service = self.batch_service(
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            max_batch=max((policy.max_batch for policy in policies), default=1),
        )
        return compare_policies(service, policies, arrivals_per_s=arrivals_per_s, **options)

    def simulate(self, workload: Workload, **options: Any) -> ServingRecords:
        """Serve a workload; see `bayeslat.decisions.serving.serve`."""
        return serve(self.draws, workload, self.settings, overhead=self.overhead, **options)

    def compare_schedulers(
        self,
        workload: Workload | Sequence[Workload],
        *,
        sla_ms: float,
        risk: float,
        objective: ServiceObjective,
        **options: Any,
    ) -> SchedulerComparison:
        """Schedulers on the same requests; see `bayeslat.decisions.scheduling`."""
        return compare_schedulers(
            self.draws,
            workload,
            self.settings,
            sla_ms=sla_ms,
            risk=risk,
            objective=objective,
            overhead=self.overhead,
            **options,
        )

    def load_curve(
        self,
        workload: Workload,
        *,
        arrivals_per_s: Sequence[float],
        objective: ServiceObjective,
        **options: Any,
    ) -> LoadCurve:
        """Latency and goodput over loads; see `bayeslat.decisions.loads.load_curve`."""
        return load_curve(
            self.draws,
            workload,
            self.settings,
            arrivals_per_s=arrivals_per_s,
            objective=objective,
            overhead=self.overhead,
            **options,
        )

    def compare_disaggregation(
        self,
        workload: Workload,
        *,
        bandwidth_gbs: float,
        arrivals_per_s: Sequence[float],
        objective: ServiceObjective,
        prefill: Self | None = None,
        **options: Any,
    ) -> Disaggregation:
        """Prefill apart or not; see `bayeslat.decisions.loads.compare_disaggregation`.

        Parameters
        ----------
        workload, arrivals_per_s, objective, **options
            As there.
        bandwidth_gbs : float
            Of the link that moves the cache, GB/s.
        prefill : ServedDeployment, optional
            What prefill engines are; by default the same as this.

        Raises
        ------
        InputError
            The shape of the LLM's cache is not known.
        """
        if not np.isfinite(self.kv_bytes_per_token):
            raise InputError(
                f"got {self.draws.deployment.model}, whose bytes of cache a token no datasheet"
                " tells, expected layers and KV heads of the LLM; add them to your catalogue"
            )
        first = prefill or self
        return compare_disaggregation(
            first.draws,
            self.draws,
            workload,
            self.settings,
            prefill_settings=first.settings,
            prefill_overhead=first.overhead,
            transfer=Transfer(self.kv_bytes_per_token, bandwidth_gbs),
            arrivals_per_s=arrivals_per_s,
            objective=objective,
            overhead=self.overhead,
            **options,
        )

    def _most_running(self, positions: float) -> int:
        """Requests of so many positions each that places and cache allow."""
        room = self.settings.kv_capacity_tokens
        if room is None:
            return self.settings.max_num_seqs
        return max(1, min(self.settings.max_num_seqs, int(room / positions)))

    def _gap(self) -> dict[str, Any]:
        """The overhead in every posterior draw, as phases take it."""
        return {"step_overhead_ms": self.overhead.draws(self.draws.n_draws)}
