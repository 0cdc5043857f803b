"""A state that stands in for the real one: quick, and as frail as its batches ask it to be."""

import hashlib
import os
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bayeslat.errors import InputError
from bayeslat.online.events import Event
from bayeslat.online.files import load_value, register, save_value
from bayeslat.online.monitor import Monitor
from bayeslat.online.worker import Calls
from bayeslat.schema import Deployment

CHIP = Deployment("chip", "llm")


@register
@dataclass(frozen=True, eq=False)
class Held:
    """State of the only deployment."""

    n_seen: int = 0
    version: int = 0
    level: str = "quiet"
    monitor: Monitor = field(default_factory=Monitor.empty)
    rows: tuple[Any, ...] = ()


@register
@dataclass(frozen=True, eq=False)
class StandIn:
    """Remembers what it saw, in which order, as a digest; a hundred rows make a version."""

    digest: str = ""
    in_force: str = ""
    held: Held = field(default_factory=Held)
    settings: str = "plain"
    events: tuple[Event, ...] = ()
    quarantine: dict[str, int] = field(default_factory=dict)
    ballast: Any = None

    deployments = (CHIP,)
    unknown = {"chip/other": 3}  # noqa: RUF012

    def of(self, deployment: Deployment) -> Held:
        return self.held

    @property
    def n_seen(self) -> int:
        return self.held.n_seen

    @property
    def version(self) -> int:
        return self.held.version

    @property
    def fleet(self) -> tuple[int, str]:
        return self.version, self.in_force


def observe(state: StandIn, steps: pd.DataFrame) -> StandIn:
    obey(str(steps["engine"].iloc[0]) if "engine" in steps else "")
    digest = hashlib.sha256(state.digest.encode() + steps["latency_ms"].to_numpy().tobytes())
    n_seen = state.n_seen + len(steps)
    version = max(n_seen // 100, state.version)
    held = replace(state.held, n_seen=n_seen, version=version)
    events = (Event("accepted", CHIP.label, n_seen, version),) if version > state.version else ()
    in_force = digest.hexdigest() if events else state.in_force
    return replace(state, digest=digest.hexdigest(), in_force=in_force, held=held, events=events)


def obey(order: str) -> None:
    """Do what a batch asks for: the first word says what, the second where to leave a mark."""
    kind, _, mark = order.partition(" ")
    if mark:
        if Path(mark).exists():
            return
        Path(mark).touch()
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "raise":
        raise ValueError("this batch is poison")
    elif kind == "refuse":
        raise InputError("got nothing good, expected something better")
    elif kind == "hang":
        time.sleep(60.0)
    elif kind == "slow":
        time.sleep(0.5)
    elif kind == "print":
        print("what libraries print is no answer", flush=True)


def rollback(state: StandIn, deployment: Deployment) -> StandIn:
    digest = hashlib.sha256(state.digest.encode() + b"rollback").hexdigest()
    held = replace(state.held, version=state.version + 1)
    event = Event("rollback", deployment.label, state.n_seen, held.version)
    return replace(state, digest=digest, in_force=digest, held=held, events=(event,))


def save(state: StandIn, path: Path) -> None:
    if (path.parent / "no room").exists():
        raise OSError(28, "No space left on device")
    save_value(state, path)


def load(path: Path) -> StandIn:
    return load_value(path)


def pack(state: StandIn) -> tuple[int, str]:
    return state.fleet


def unpack(fleet: tuple[int, str]) -> tuple[int, str]:
    return fleet


CALLS = Calls(observe, rollback, save, load, pack, unpack)


def batch(number: int, n: int = 30, order: str = "") -> pd.DataFrame:
    """Rows of one batch; the order is for the worker that takes them in."""
    return pd.DataFrame(
        {
            "gpu": CHIP.gpu,
            "model": CHIP.model,
            "batch_size": 1,
            "total_tokens": 1,
            "latency_ms": np.random.default_rng([number, 5]).uniform(1.0, 2.0, n),
            "engine": order,
        }
    )


def undisturbed(batches: list[pd.DataFrame]) -> StandIn:
    """The state after the batches, without any runner."""
    state = StandIn()
    for steps in batches:
        state = observe(state, steps.assign(engine=""))
    return state
