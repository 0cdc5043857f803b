"""Names and units that every stage shares: columns, dimensions, parameters, groups.

A name that stands here is a promise to users' files and notebooks; `tests/test_schema.py` locks
them, so that a rename is a decision and never an accident. Units are part of the column names.
"""

from typing import Final, NamedTuple

__all__ = [
    "BASE_PARAMETERS",
    "DEPLOYMENT_COLUMNS",
    "OPTIONAL_COLUMNS",
    "OPTIONAL_PARAMETERS",
    "PARAMETERS",
    "PARAMETER_UNITS",
    "PHASES",
    "REQUIRED_COLUMNS",
    "SCHEMA_VERSION",
    "TIMING_SCOPES",
    "Deployment",
]

SCHEMA_VERSION: Final = 6
"""Version of the saved posterior; raised when a reader of the old files would misread the new."""

REQUIRED_COLUMNS: Final = ("gpu", "model", "batch_size", "total_tokens", "latency_ms")
"""Columns that a steps table must have."""

OPTIONAL_COLUMNS: Final = {
    "tp": 1,
    "engine": "",
    "precision": "",
    "phase": "",
    "context_tokens": float("nan"),
    "timestamp": float("nan"),
    "n_averaged": 1,
    "replicate": 0,
}
"""Columns that a steps table may have, with the value that stands for "not given"."""

DEPLOYMENT_COLUMNS: Final = ("gpu", "model", "tp", "engine", "precision")
"""Columns whose combination is one deployment."""

PHASES: Final = ("decode", "prefill", "mixed", "")
"""Values of the phase column; the empty string is "not stated"."""

TIMING_SCOPES: Final = ("gpu_forward", "cycle", "client_itl", "unknown")
"""What a recorded latency spans; records of different scopes are never mixed."""

BASE_PARAMETERS: Final = ("P_max", "k_S", "tau_0")
"""Parameters of the saturation formula that every model has (w_1 is fixed by the gauge)."""

OPTIONAL_PARAMETERS: Final = (
    "k_B",
    "w_0",
    "tau_B",
    "tau_S",
    "tau_C",
    "gamma_B",
    "gamma_S",
    "m_S",
    "r_F",
    "r_B",
    "r_C",
)
"""Parameters of terms that a `ModelSpec` may leave out."""

PARAMETERS: Final = (
    "P_max",
    "k_B",
    "k_S",
    "w_0",
    "w_1",
    "tau_0",
    "tau_B",
    "tau_S",
    "tau_C",
    "gamma_B",
    "gamma_S",
    "m_S",
    "r_F",
    "r_B",
    "r_C",
)
"""Every parameter of the formula, in the order in which tables show them."""

PARAMETER_UNITS: Final = {
    "P_max": "work units/ms",
    "k_B": "1/request",
    "k_S": "1/token",
    "w_0": "work units",
    "w_1": "work units/token",
    "tau_0": "ms",
    "tau_B": "ms/request",
    "tau_S": "ms/token",
    "tau_C": "ms/position",
    "gamma_B": "1/request",
    "gamma_S": "1/token",
    "m_S": "1",
    "r_F": "1",
    "r_B": "1",
    "r_C": "1",
}
"""Unit of each parameter; a work unit is one token of the 7-billion-parameter reference model."""


class Deployment(NamedTuple):
    """One (gpu, model, tp, engine, precision): what shares one set of parameters."""

    gpu: str
    model: str
    tp: int = 1
    engine: str = ""
    precision: str = ""

    @property
    def label(self) -> str:
        """The deployment as one string, for example ``H100-80GB/llama-70b/tp4/vllm``."""
        parts = [self.gpu, self.model, f"tp{self.tp}", self.engine, self.precision]
        return "/".join(part for part in parts if part)
