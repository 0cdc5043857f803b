"""The fleet as the pooling prior sees it: deployments, datasheet regressors, levels.

A log-parameter of the deployments is linear in *features*: an intercept, the fleet's elasticities
to the datasheet regressors, one indicator a GPU and one an LLM. With independent Gaussian weights
on the features this is partial pooling, and a new GPU or LLM is nothing but a new indicator.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bayeslat.catalog import GPU, LLM, Catalog
from bayeslat.model.priors import REGRESSORS
from bayeslat.schema import Deployment

__all__ = ["REFERENCE", "WORK_UNIT_PARAMETERS", "FleetDesign", "fleet_design"]

REFERENCE: Final = {"compute": 312.0, "bandwidth": 2.04, "size": 7.0, "kv": 524288.0, "tp": 1.0}
"""Reference point of the priors: TFLOP/s, TB/s, billions of active parameters, bytes, ways."""

UNKNOWN_SPREAD: Final = {"compute": 1.0, "bandwidth": 0.8, "size": 1.2, "kv": 1.0}
"""Standard deviation of the logarithm of a datasheet quantity that nobody stated."""

WORK_UNIT_PARAMETERS: Final = ("P_max", "w_0")
"""Parameters measured in work units, which an LLM of unknown size moves by its unknown gauge."""


@dataclass(frozen=True)
class FleetDesign:
    """Deployments with their datasheets, ready for the pooling prior.

    Parameters
    ----------
    deployments : tuple of Deployment
        One entry a deployment, in the order of every deployment axis.
    gpus, models : tuple of str
        Distinct names, in the order of the gpu and model axes.
    gpu_index, model_index : array of int, shape (deployment,)
        Which GPU and LLM each deployment has.
    regressors : array, shape (deployment, regressor)
        Logarithms of the datasheet quantities over `REFERENCE`; zero where unknown.
    gpu_unknown, model_unknown : array of bool, shapes (gpu, regressor) and (model, regressor)
        Which quantities the datasheet does not state.
    w_1 : array, shape (deployment,)
        The gauge: active parameters over 7 billion, one where the size is unknown.
    """

    deployments: tuple[Deployment, ...]
    gpus: tuple[str, ...]
    models: tuple[str, ...]
    gpu_index: NDArray[np.int64]
    model_index: NDArray[np.int64]
    regressors: NDArray[np.float64]
    gpu_unknown: NDArray[np.bool_]
    model_unknown: NDArray[np.bool_]
    w_1: NDArray[np.float64]

    @property
    def features(self) -> NDArray[np.float64]:
        """Feature matrix, shape (deployment, 1 + regressor + gpu + model)."""
        return np.hstack(
            [
                np.ones((len(self.deployments), 1)),
                self.regressors,
                np.eye(len(self.gpus))[self.gpu_index],
                np.eye(len(self.models))[self.model_index],
            ]
        )


def fleet_design(deployments: Sequence[Deployment], catalog: Catalog) -> FleetDesign:
    """Look every deployment up in the catalogue and lay the fleet out.

    Parameters
    ----------
    deployments : sequence of Deployment
        Distinct deployments.
    catalog : Catalog
        Datasheets; unknown names are allowed and widen the prior.
    """
    gpus = tuple(sorted({deployment.gpu for deployment in deployments}))
    models = tuple(sorted({deployment.model for deployment in deployments}))
    gpu_index = np.array([gpus.index(deployment.gpu) for deployment in deployments])
    model_index = np.array([models.index(deployment.model) for deployment in deployments])
    gpu_values = np.array([_gpu_regressors(catalog.gpu(name)) for name in gpus])
    model_values = np.array([_model_regressors(catalog.llm(name)) for name in models])
    tp_values = np.array([np.log(deployment.tp) for deployment in deployments])
    values = gpu_values[gpu_index] + model_values[model_index]
    values[:, REGRESSORS.index("tp")] = tp_values
    size = values[:, REGRESSORS.index("size")]
    gpu_unknown = np.isnan(gpu_values)
    model_unknown = np.isnan(model_values)
    return FleetDesign(
        deployments=tuple(deployments),
        gpus=gpus,
        models=models,
        gpu_index=gpu_index,
        model_index=model_index,
        regressors=np.nan_to_num(values, nan=0.0),
        gpu_unknown=gpu_unknown,
        model_unknown=model_unknown,
        w_1=np.exp(np.nan_to_num(size, nan=0.0)),
    )


def _gpu_regressors(gpu: GPU) -> list[float]:
    known = {"compute": gpu.effective_tflops, "bandwidth": gpu.bandwidth_tbs}
    return _log_ratios(known)


def _model_regressors(llm: LLM) -> list[float]:
    return _log_ratios({"size": llm.active_b, "kv": llm.kv_bytes_per_position()})


def _log_ratios(values: dict[str, float | None]) -> list[float]:
    """Log of each regressor over its reference; NaN where unknown, zero where it has no say."""
    row = []
    for name in REGRESSORS:
        if name not in values:
            row.append(0.0)
        else:
            value = values[name]
            row.append(np.nan if value is None else float(np.log(value / REFERENCE[name])))
    return row
