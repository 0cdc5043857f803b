"""What happened while a posterior was kept true."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Event"]


@dataclass(frozen=True)
class Event:
    """One thing that happened; it holds no clock time, so that a replay gives the same events.

    Parameters
    ----------
    kind : str
        "warning", "drift": a detector spoke. "continued": it spoke again while the deployment was
        still being adapted: the change goes on. "dismissed": rows since say that nothing has
        moved. "accepted", "rejected": a candidate was judged on rows held back from it. "carried":
        a deployment follows others that share its GPU or LLM. "settled": a new regime is no longer
        new. "rollback": an earlier belief was taken back.
    deployment : str
        Label of the deployment.
    n_seen : int
        Rows of this deployment that had been seen.
    version : int
        Version of the deployment's belief after the event.
    details : mapping
        JSON-able figures, by name.
    """

    kind: str
    deployment: str
    n_seen: int
    version: int
    details: Mapping[str, Any] = field(default_factory=dict)
