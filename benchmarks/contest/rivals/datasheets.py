"""What the rivals know of a step and of a deployment: the same as bayeslat, as plain features."""

from functools import cache
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import bayeslat as bl
from bayeslat.catalog import Catalog
from bayeslat.schema import PHASES
from contest.splits import deployment_of

__all__ = ["ENGINES", "FEATURES", "catalog", "datasheet", "step_features"]

type Array = NDArray[np.float64]

ENGINES: Final = ("muxserve", "vllm", "tgis", "vllm-0.19-kernels")

FEATURES: Final = (
    "log_batch_size",
    "log_total_tokens",
    "log_context",
    "tokens_per_request",
    "phase",
    "tp",
    "log_peak",
    "log_bandwidth",
    "log_active",
    "engine",
)
"""Columns of `step_features`."""


@cache
def catalog() -> Catalog:
    """The bundled datasheets."""
    return bl.load_catalog()


def datasheet(frame: pd.DataFrame) -> pd.DataFrame:
    """Datasheet quantities of every deployment in the frame, one row a label, not logarithms.

    Columns: peak (TFLOP/s of the share in use), bandwidth (TB/s), active (billions of
    parameters), weights (GB), kv (bytes a position), tp.
    """
    rows = {}
    for label, deployment in deployment_of(frame).items():
        gpu, llm = catalog().gpu(deployment.gpu), catalog().llm(deployment.model)
        rows[label] = {
            "peak": gpu.effective_tflops,
            "bandwidth": gpu.bandwidth_tbs,
            "active": llm.active_b,
            "weights": 2.0 * llm.parameters_b,
            "kv": llm.kv_bytes_per_position(),
            "tp": deployment.tp,
        }
    return pd.DataFrame.from_dict(rows, orient="index").astype(float)


def step_features(frame: pd.DataFrame) -> Array:
    """Features of every step, shape (row, feature); the columns are `FEATURES`."""
    sheet = datasheet(frame).loc[frame["deployment"]]
    batch, tokens = frame["batch_size"].to_numpy(), frame["total_tokens"].to_numpy()
    columns = (
        np.log(batch),
        np.log(tokens),
        np.log1p(frame["context_tokens"].to_numpy()),
        tokens / batch,
        _codes(frame["phase"], PHASES),
        sheet["tp"].to_numpy(),
        np.log(sheet["peak"].to_numpy()),
        np.log(sheet["bandwidth"].to_numpy()),
        np.log(sheet["active"].to_numpy()),
        _codes(frame["engine"], ENGINES),
    )
    return np.column_stack(columns).astype(float)


def _codes(names: pd.Series, known: tuple[str, ...]) -> NDArray[np.int64]:
    """Position of each name in `known`, -1 for one that is not."""
    return pd.Categorical(names, categories=list(known)).codes
