"""The fleet as the pooling prior sees it: deployments, datasheet regressors, levels.

A pooled quantity of the deployments is linear in *features*: an intercept, the fleet's elasticities
to the datasheet regressors, and one indicator for each member of every pooling level. With
independent Gaussian weights on the features this is partial pooling, and a new GPU or LLM is
nothing but a new indicator.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bayeslat.catalog import GPU, LLM, Catalog
from bayeslat.model.priors import POOLING_LEVELS, REGRESSORS
from bayeslat.schema import Deployment

__all__ = ["REFERENCE", "FleetDesign", "Level", "fleet_design"]

REFERENCE: Final = {"compute": 312.0, "bandwidth": 2.04, "size": 7.0, "kv": 524288.0, "tp": 1.0}
"""Reference point of the priors: TFLOP/s, TB/s, billions of active parameters, bytes, ways."""

UNKNOWN_SPREAD: Final = {"compute": 1.0, "bandwidth": 0.8, "size": 1.2, "kv": 1.0}
"""Standard deviation of the logarithm of a datasheet quantity that nobody stated."""

PARALLEL_SHARE: Final = 2.0 / 3.0
"""Part of a step's work that slows with the share of compute units in use; clocks, power limits and
memory make up for the rest. Amdahl's law with it meets measured partitions better than a power."""


@dataclass(frozen=True)
class Level:
    """The members of one pooling level.

    Parameters
    ----------
    names : tuple of str
        Distinct members.
    index : array of int, shape (deployment,)
        Member that each deployment belongs to; -1 for none.
    """

    names: tuple[str, ...]
    index: NDArray[np.int64]

    @property
    def indicators(self) -> NDArray[np.float64]:
        """Indicator features, shape (deployment, member)."""
        return (self.index[:, None] == np.arange(len(self.names))).astype(float)

    @property
    def siblings(self) -> NDArray[np.float64]:
        """One where two deployments are of one member, shape (deployment, deployment)."""
        return self.indicators @ self.indicators.T


@dataclass(frozen=True)
class FleetDesign:
    """Deployments with their datasheets, ready for the pooling prior.

    Parameters
    ----------
    deployments : tuple of Deployment
        One entry a deployment, in the order of every deployment axis.
    levels : mapping of str to Level
        Members of each of `POOLING_LEVELS`.
    regressors : array, shape (deployment, regressor)
        Logarithms of the datasheet quantities over `REFERENCE`; zero where unknown.
    gpu_unknown, model_unknown : array of bool, shapes (gpu, regressor) and (model, regressor)
        Which quantities the datasheet does not state.
    w_1 : array, shape (deployment,)
        The gauge: active parameters over 7 billion, one where the size is unknown.
    """

    deployments: tuple[Deployment, ...]
    levels: Mapping[str, Level]
    regressors: NDArray[np.float64]
    gpu_unknown: NDArray[np.bool_]
    model_unknown: NDArray[np.bool_]
    w_1: NDArray[np.float64]

    @property
    def features(self) -> NDArray[np.float64]:
        """Feature matrix, shape (deployment, 1 + regressor + members of all levels)."""
        indicators = [self.levels[level].indicators for level in POOLING_LEVELS]
        return np.hstack([np.ones((len(self.deployments), 1)), self.regressors, *indicators])

    @property
    def bounds(self) -> NDArray[np.int64]:
        """Where the features of regressors and of each level begin, for `numpy.split`."""
        sizes = [1, len(REGRESSORS), *(len(self.levels[level].names) for level in POOLING_LEVELS)]
        return np.cumsum(sizes)[:-1]


def fleet_design(deployments: Sequence[Deployment], catalog: Catalog) -> FleetDesign:
    """Look every deployment up in the catalogue and lay the fleet out.

    Parameters
    ----------
    deployments : sequence of Deployment
        Distinct deployments; one that occurs twice counts as two settings of its site.
    catalog : Catalog
        Datasheets; unknown names are allowed and widen the prior.
    """
    sheets = [catalog.gpu(deployment.gpu) for deployment in deployments]
    stacks = [_stack(deployment) for deployment in deployments]
    sites = [f"{sheet.device}/{stack}" for sheet, stack in zip(sheets, stacks, strict=True)]
    levels = {
        "gpu": _level([sheet.device for sheet in sheets]),
        "setting": _level([sheet.name if sheet.device != sheet.name else "" for sheet in sheets]),
        "model": _level([deployment.model for deployment in deployments]),
        "engine": _level([deployment.engine or "unnamed" for deployment in deployments]),
        "layout": _level([_layout(deployment) for deployment in deployments]),
        "stack": _level(stacks),
        "site": _level(sites),
    }
    gpu_values = np.array([_gpu_regressors(sheet) for sheet in sheets])
    model_values = np.array([_model_regressors(catalog.llm(item.model)) for item in deployments])
    values = gpu_values + model_values
    values[:, REGRESSORS.index("tp")] = [np.log(deployment.tp) for deployment in deployments]
    return FleetDesign(
        deployments=tuple(deployments),
        levels=levels,
        regressors=np.nan_to_num(values, nan=0.0),
        gpu_unknown=_of_members(np.isnan(gpu_values), levels["gpu"]),
        model_unknown=_of_members(np.isnan(model_values), levels["model"]),
        w_1=np.exp(np.nan_to_num(values[:, REGRESSORS.index("size")], nan=0.0)),
    )


def _level(names: Sequence[str]) -> Level:
    members = tuple(sorted(set(names) - {""}))
    return Level(members, np.array([members.index(name) if name else -1 for name in names]))


def _stack(deployment: Deployment) -> str:
    """What a deployment is, whatever the device."""
    return deployment._replace(gpu="").label


def _layout(deployment: Deployment) -> str:
    """An engine on several devices; nothing on a single one."""
    if deployment.tp == 1:
        return ""
    return f"{deployment.engine or 'unnamed'}, tp {deployment.tp}"


def _of_members(values: NDArray[np.bool_], level: Level) -> NDArray[np.bool_]:
    """One row a member, from one row a deployment."""
    first = [int(np.flatnonzero(level.index == member)[0]) for member in range(len(level.names))]
    return values[first]


def _gpu_regressors(gpu: GPU) -> list[float]:
    slowed = (1.0 - PARALLEL_SHARE) + PARALLEL_SHARE / gpu.sm_share
    known = {"compute": gpu.peak_tflops, "bandwidth": gpu.bandwidth_tbs}
    row = _log_ratios(known)
    row[REGRESSORS.index("share")] = -float(np.log(slowed))
    return row


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
