"""Changes of the latency law of a simulated fleet, whose truth is known and is not the formula."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from adaptation.streams import TICK, Stream
from bayeslat.catalog import load_catalog
from bayeslat.schema import Deployment
from bayeslat.simulate import SimulatedFleet
from bayeslat.simulate.mechanism import StepMechanism, kv_capacity
from bayeslat.simulate.workload import DEFAULT_MIX, draw_workload

__all__ = ["SCENARIOS", "TUNING", "Scenario", "simulated_stream"]

type Array = NDArray[np.float64]
type Law = Callable[[StepMechanism, Mapping[str, Array], Array], Array]

GAP_S: Final = 0.02
"""Mean time between two rows of the stream, seconds."""

PROBES: Final = 300
"""Fresh steps on which a belief is judged."""

DECODE_HEAVY: Final = {"decode": 0.9, "mixed": 0.08, "prefill": 0.02}
SWAPPED: Final = ("llama-7b", "llama-13b")


def same(mechanism: StepMechanism, step: Mapping[str, Array], since: Array) -> Array:
    """The law as it was."""
    return mechanism.typical_ms(**step)


def scaled(by: float, *, over: int = 0, until: float = np.inf) -> Law:
    """A law that is 1 + by of the old one: at once, or rising over some rows, or for a while."""

    def law(mechanism: StepMechanism, step: Mapping[str, Array], since: Array) -> Array:
        risen = np.clip((since + 1) / over, 0.0, 1.0) if over else np.ones_like(since)
        factor = 1.0 + by * np.where(since < until, risen, 0.0)
        return factor * mechanism.typical_ms(**step)

    return law


def other_llm(mechanism: StepMechanism, step: Mapping[str, Array], since: Array) -> Array:
    """The law of a larger LLM behind the same name."""
    swapped = replace(mechanism, llm=load_catalog().llm(SWAPPED[1]))
    return swapped.typical_ms(**step)


def slower_compute(mechanism: StepMechanism, step: Mapping[str, Array], since: Array) -> Array:
    """Only matrix products become slower, by 30 %."""
    efficiency = mechanism.compute_efficiency / 1.3
    return replace(mechanism, compute_efficiency=efficiency).typical_ms(**step)


def dearer_context(mechanism: StepMechanism, step: Mapping[str, Array], since: Array) -> Array:
    """Every attended position costs as much as two."""
    return mechanism.typical_ms(**{**step, "context_tokens": 2.0 * step["context_tokens"]})


@dataclass(frozen=True)
class Scenario:
    """One change of the world.

    Attributes
    ----------
    name, title : str
        For tables.
    law : callable
        Typical latency, ms, from the mechanism, the steps and the rows since the change.
    gpu, model : str, optional
        Which deployments change; None is any.
    mix : mapping of str to float
        Phases of the steps after the change.
    burst : int
        Rows after the change in which a share of the rows takes a multiple of its time.
    before, after : int
        Rows of each deployment before and after the change.
    tick : int
        Rows of each deployment between two judgements.
    changes : bool
        Whether the latency law changes, as against what is asked of it.
    """

    name: str
    title: str
    law: Law = same
    gpu: str | None = None
    model: str | None = None
    mix: Mapping[str, float] | None = None
    burst: int = 0
    before: int = 400
    after: int = 1000
    tick: int = TICK
    changes: bool = True

    @property
    def rows(self) -> int:
        """Rows of each deployment."""
        return self.before + self.after

    @property
    def happens(self) -> bool:
        """Whether anything is different afterwards."""
        return self.changes or self.burst > 0 or self.mix is not None

    def moves(self, deployment: Deployment) -> bool:
        """Whether the change is one of this deployment."""
        return self.gpu in (None, deployment.gpu) and self.model in (None, deployment.model)


BURST_SHARE: Final = 0.1
BURST_FACTOR: Final = 5.0

SCENARIOS: Final = (
    Scenario("stationary", "nothing changes", changes=False),
    Scenario("workload", "workload alone: nine steps in ten become decodes", mix=DECODE_HEAVY,
             changes=False),
    Scenario("swap", "llama-13b behind the name of llama-7b", other_llm, gpu="H100-80GB",
             model=SWAPPED[0]),
    Scenario("slow-down", "15 % slow-down of one GPU type", scaled(0.15), gpu="A100-80GB"),
    Scenario("thermal", "slow drift of one GPU type, 0 to +20 % over 5,000 rows",
             scaled(0.20, over=5000), gpu="A100-80GB", before=300, after=5400,
             tick=200),
    Scenario("burst", "burst of outliers: 10 % of 500 rows at 5x", gpu="H100-80GB", burst=500,
             changes=False),
    Scenario("compute", "matrix products of one GPU type 30 % slower", slower_compute,
             gpu="A100-80GB"),
    Scenario("context", "attended positions of one GPU type cost twice as much", dearer_context,
             gpu="A100-80GB"),
    Scenario("return", "15 % slow-down of one GPU type for 600 rows, then back",
             scaled(0.15, until=600), gpu="A100-80GB"),
)  # fmt: skip
"""What is scored."""

TUNING: Final = (
    Scenario("tuning", "10 % speed-up of one deployment", scaled(-0.10), gpu="A100-40GB",
             model="llama-13b"),
    Scenario("tuning-still", "nothing changes", gpu="A100-40GB", model="llama-13b", changes=False),
)  # fmt: skip
"""What the rivals' settings were chosen on; never scored."""


@dataclass(frozen=True, eq=False)
class _World:
    """A scenario played on a simulated fleet."""

    scenario: Scenario
    fleet: SimulatedFleet
    seed: int

    def rows(self, deployment: Deployment) -> pd.DataFrame:
        """All rows of one deployment, in time."""
        rng = self._rng(deployment, 0)
        scenario = self.scenario
        before = self._steps(deployment, rng, scenario.before, DEFAULT_MIX)
        after = self._steps(deployment, rng, scenario.after, self._mix(deployment))
        steps = pd.concat([before, after], ignore_index=True)
        number = np.arange(len(steps))
        latency = self._latency(deployment, steps, number, rng)
        in_burst = scenario.moves(deployment) & (number >= scenario.before)
        in_burst &= number < scenario.before + scenario.burst
        hit = in_burst & (rng.random(number.size) < BURST_SHARE)
        return steps.assign(latency_ms=latency * np.where(hit, BURST_FACTOR, 1.0))

    def probe(self, deployment: Deployment, seen: int) -> pd.DataFrame:
        """Fresh steps under the law in force after `seen` rows; the same steps at every time."""
        moved = seen >= self.scenario.before
        mix = self._mix(deployment) if moved else DEFAULT_MIX
        steps = self._steps(deployment, self._rng(deployment, 1), PROBES, mix)
        number = np.full(len(steps), seen)
        return steps.assign(
            latency_ms=self._latency(deployment, steps, number, self._rng(deployment, 2, seen))
        )

    def factor(self, deployment: Deployment, steps: pd.DataFrame, seen: Any) -> Array:
        """Typical latency after `seen` rows, relative to that at the end of the stream."""
        number, last = np.broadcast_to(seen, len(steps)), np.full(len(steps), self.scenario.rows)
        return self._typical(deployment, steps, number) / self._typical(deployment, steps, last)

    def _rng(self, deployment: Deployment, *purpose: int) -> np.random.Generator:
        names = f"{self.scenario.name} {deployment.label}".encode()
        return np.random.default_rng([self.seed, zlib.crc32(names), *purpose])

    def _mix(self, deployment: Deployment) -> Mapping[str, float]:
        mix = self.scenario.mix
        return mix if mix is not None and self.scenario.moves(deployment) else DEFAULT_MIX

    def _steps(
        self, deployment: Deployment, rng: np.random.Generator, n: int, mix: Mapping[str, float]
    ) -> pd.DataFrame:
        """Steps that fit beside the weights, of whichever LLM is larger."""
        mechanism = self.fleet.truth[deployment].mechanism
        llms = {mechanism.llm.name, *(SWAPPED if self.scenario.law is other_llm else ())}
        capacity = min(
            kv_capacity(mechanism.gpu, load_catalog().llm(name), tp=deployment.tp) for name in llms
        )
        work = draw_workload(rng, n, mix=mix, capacity=capacity)
        return pd.DataFrame({**deployment._asdict(), **work._asdict(), "n_averaged": 1})

    def _typical(self, deployment: Deployment, steps: pd.DataFrame, number: Any) -> Array:
        mechanism, scenario = self.fleet.truth[deployment].mechanism, self.scenario
        step = {
            name: steps[name].to_numpy(dtype=float)
            for name in ("batch_size", "total_tokens", "context_tokens")
        }
        since = np.asarray(number, dtype=float) - scenario.before
        before = mechanism.typical_ms(**step)
        if not scenario.moves(deployment):
            return before
        return np.where(since < 0, before, scenario.law(mechanism, step, since))

    def _latency(
        self, deployment: Deployment, steps: pd.DataFrame, number: Any, rng: np.random.Generator
    ) -> Array:
        typical = self._typical(deployment, steps, number)
        return typical * self.fleet.truth[deployment].jitter.rvs(rng, typical.shape)


def simulated_stream(
    scenario: Scenario, fleet: SimulatedFleet, *, seed: int, n_tracked: int = 2
) -> Stream:
    """Play a scenario on a simulated fleet.

    Parameters
    ----------
    scenario : Scenario
        What happens.
    fleet : SimulatedFleet
        Whose truth stands for the world before the change.
    seed : int
        Of the rows; the truth is the fleet's.
    n_tracked : int
        Most deployments that are judged: the first of those that the scenario is about.
    """
    world = _World(scenario, fleet, seed)
    tables = [world.rows(deployment) for deployment in fleet.truth]
    rng = np.random.default_rng([seed, zlib.crc32(scenario.name.encode())])
    n = scenario.rows
    turns = np.argsort(rng.random((n, len(tables))), axis=1)
    order = (turns * n + np.arange(n)[:, None]).ravel()
    steps = pd.concat(tables, ignore_index=True).iloc[order].reset_index(drop=True)
    steps["timestamp"] = 1.7e9 + np.cumsum(rng.exponential(GAP_S, len(steps)))
    about = tuple(filter(scenario.moves, fleet.truth))
    return Stream(
        scenario.name,
        seed,
        steps,
        about[:n_tracked],
        world,
        onset=scenario.before if scenario.happens else None,
        moved=about if scenario.changes else (),
        disturbed=about if scenario.changes or scenario.burst else (),
        tick=scenario.tick,
    )
