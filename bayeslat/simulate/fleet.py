"""A simulated fleet whose latency distribution is known exactly.

Nothing here was measured: tables carry the engine name "simulated". The truth comes from
`bayeslat.simulate.mechanism` and `bayeslat.simulate.jitter`, neither of which is the saturation
formula, so a prediction that agrees with it has earned that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from bayeslat.catalog import GPU, LLM, Catalog, load_catalog
from bayeslat.errors import InputError, UnknownDeploymentError
from bayeslat.schema import Deployment
from bayeslat.simulate.jitter import StepJitter
from bayeslat.simulate.mechanism import StepMechanism, draw_mechanism, kv_capacity
from bayeslat.simulate.workload import DEFAULT_MIX, draw_workload

__all__ = ["ENGINE", "SimulatedFleet", "simulate_fleet"]

ENGINE: Final = "simulated"
"""Value of the engine column of every simulated step."""

_LEAST_CAPACITY: Final = 8_192
_MOST_WEIGHTS: Final = 0.7


@dataclass(frozen=True)
class _Truth:
    mechanism: StepMechanism
    jitter: StepJitter


@dataclass(frozen=True)
class SimulatedFleet:
    """Simulated steps, and the distribution that they were drawn from.

    Attributes
    ----------
    steps : pandas.DataFrame
        Canonical steps table; its engine column says "simulated".
    truth : mapping of Deployment to mechanism and jitter
        What the methods below evaluate.
    """

    steps: pd.DataFrame
    truth: Mapping[Deployment, _Truth]

    def latency(
        self,
        gpu: str,
        model: str,
        *,
        batch_size: ArrayLike,
        total_tokens: ArrayLike,
        context_tokens: ArrayLike = 0,
        tp: int | None = None,
        size: int = 1,
        seed: int = 0,
    ) -> NDArray[np.float64]:
        """Draw simulated step latencies.

        Parameters
        ----------
        gpu, model, tp
            A deployment of the fleet; `tp` may be left out where the fleet has one for the pair.
        batch_size, total_tokens, context_tokens : array_like
            B, S and C, broadcast against each other; C below S counts as S.
        size : int
            Draws for each of them.
        seed : int
            Seed of the draws.

        Returns
        -------
        ndarray
            Milliseconds, of shape (size, *broadcast shape).

        Raises
        ------
        UnknownDeploymentError
            The fleet has no such deployment.
        """
        truth = self._find(gpu, model, tp)
        typical = truth.mechanism.typical_ms(batch_size, total_tokens, context_tokens)
        ratios = truth.jitter.rvs(np.random.default_rng(seed), (size, *typical.shape))
        return typical * ratios

    def mean(
        self,
        gpu: str,
        model: str,
        *,
        batch_size: ArrayLike,
        total_tokens: ArrayLike,
        context_tokens: ArrayLike = 0,
        tp: int | None = None,
    ) -> NDArray[np.float64]:
        """Exact expected latency of a simulated step, ms; arguments as in `latency`."""
        truth = self._find(gpu, model, tp)
        typical = truth.mechanism.typical_ms(batch_size, total_tokens, context_tokens)
        return typical * truth.jitter.mean

    def sf(
        self,
        t_ms: ArrayLike,
        gpu: str,
        model: str,
        *,
        batch_size: ArrayLike,
        total_tokens: ArrayLike,
        context_tokens: ArrayLike = 0,
        tp: int | None = None,
    ) -> NDArray[np.float64]:
        """Exact P(T > t) of a simulated step, in closed form.

        `t_ms` broadcasts against the design; the other arguments are those of `latency`.
        """
        truth = self._find(gpu, model, tp)
        typical = truth.mechanism.typical_ms(batch_size, total_tokens, context_tokens)
        return truth.jitter.sf(np.asarray(t_ms, dtype=float) / typical)

    def ppf(
        self,
        q: ArrayLike,
        gpu: str,
        model: str,
        *,
        batch_size: ArrayLike,
        total_tokens: ArrayLike,
        context_tokens: ArrayLike = 0,
        tp: int | None = None,
    ) -> NDArray[np.float64]:
        """Quantile of a simulated step's latency, ms: the inverse of `sf` to double precision.

        `q` broadcasts against the design; the other arguments are those of `latency`.

        Raises
        ------
        InputError
            A probability is not strictly between 0 and 1.
        """
        q = np.asarray(q, dtype=float)
        if not ((q > 0) & (q < 1)).all():
            raise InputError(f"q: got {q!r}, expected probabilities between 0 and 1; correct them")
        truth = self._find(gpu, model, tp)
        typical = truth.mechanism.typical_ms(batch_size, total_tokens, context_tokens)
        return typical * truth.jitter.ppf(q)

    def _find(self, gpu: str, model: str, tp: int | None) -> _Truth:
        found = [
            truth
            for deployment, truth in self.truth.items()
            if deployment[:2] == (gpu, model) and tp in (None, deployment.tp)
        ]
        if len(found) != 1:
            known = ", ".join(deployment.label for deployment in self.truth)
            asked = f"gpu {gpu!r}, model {model!r}, tp {tp!r}"
            raise UnknownDeploymentError(f"got {asked}, expected one of {known}; correct the names")
        return found[0]


def simulate_fleet(
    *,
    gpus: tuple[str, ...] = ("A100-40GB", "A100-80GB", "H100-80GB"),
    models: tuple[str, ...] = ("llama-7b", "llama-13b", "llama-70b"),
    rows_per_deployment: int = 300,
    tp: int | None = None,
    mix: Mapping[str, float] = DEFAULT_MIX,
    context: bool = True,
    seed: int = 0,
    catalog: Catalog | None = None,
) -> SimulatedFleet:
    """Simulate the step log of a fleet with known truth.

    Parameters
    ----------
    gpus, models : tuple of str
        Names in the catalogue; every pair is one deployment.
    rows_per_deployment : int
        Steps of each.
    tp : int, optional
        Tensor-parallel degree of all; by default the least power of two at which the 16-bit
        weights fill no more than 70 % of the memory.
    mix : mapping of str to float
        Weights of "decode", "mixed" and "prefill" steps.
    context : bool
        Whether the log records the context; if not, the column is NaN and the effect stays.
    seed : int
        Seed of the truth and of the steps. A deployment's truth and steps do not depend on which
        others are in the fleet.
    catalog : Catalog, optional
        Datasheets; the bundled ones by default.

    Returns
    -------
    SimulatedFleet
        The steps and their exact distribution.

    Raises
    ------
    InputError
        A GPU or model without datasheet, no rows, a model too large for the GPUs, a wrong mix.
    """
    if rows_per_deployment < 1 or not gpus or not models:
        raise InputError(
            f"simulate: got {len(gpus)} GPUs, {len(models)} models and {rows_per_deployment} rows, "
            f"expected at least one of each; raise the number that is zero"
        )
    catalog = catalog or load_catalog()
    truth, tables = {}, []
    for gpu, llm in product(map(catalog.gpu, gpus), map(catalog.llm, models)):
        degree = tp if tp is not None else _least_tp(gpu, llm)
        deployment = Deployment(gpu.name, llm.name, degree, ENGINE)
        mechanism = draw_mechanism(gpu, llm, tp=degree, seed=seed)
        rng = np.random.default_rng([seed, *deployment.label.encode()])
        truth[deployment] = _Truth(mechanism, StepJitter(body_sd=rng.uniform(0.03, 0.05)))
        tables.append(_simulate_steps(deployment, truth[deployment], rng, rows_per_deployment, mix))
    steps = pd.concat(tables, ignore_index=True)
    if not context:
        steps["context_tokens"] = np.nan
    return SimulatedFleet(steps, MappingProxyType(truth))


def _least_tp(gpu: GPU, llm: LLM) -> int:
    if gpu.memory_gb is None or llm.parameters_b is None:
        return 1
    devices = 2 * llm.parameters_b / (_MOST_WEIGHTS * gpu.memory_gb)
    return int(2 ** max(0, np.ceil(np.log2(devices))))


def _simulate_steps(
    deployment: Deployment,
    truth: _Truth,
    rng: np.random.Generator,
    rows: int,
    mix: Mapping[str, float],
) -> pd.DataFrame:
    mechanism = truth.mechanism
    capacity = kv_capacity(mechanism.gpu, mechanism.llm, tp=deployment.tp)
    if capacity < _LEAST_CAPACITY:
        raise InputError(
            f"{deployment.label}: got memory for {max(capacity, 0):.0f} KV positions beside the "
            f"weights, expected at least {_LEAST_CAPACITY}; raise tp"
        )
    work = draw_workload(rng, rows, mix=mix, capacity=capacity)
    typical = mechanism.typical_ms(work.batch_size, work.total_tokens, work.context_tokens)
    return pd.DataFrame(
        {
            **deployment._asdict(),
            **work._asdict(),
            "latency_ms": typical * truth.jitter.rvs(rng, typical.shape),
            "n_averaged": 1,
        }
    )
