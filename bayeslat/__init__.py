"""Bayesian modelling of LLM-inference latency: step logs in, P(latency > SLA) out.

The public names. Each is imported when it is first used, so that ``bayeslat --help`` does not wait
for the samplers.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bayeslat.catalog import GPU, LLM, Catalog, load_catalog
    from bayeslat.checks import leave_one_out
    from bayeslat.decisions import (
        Fallback,
        FeasibleRegion,
        FeasibleSet,
        LargestTokens,
        LogLatency,
        LogQuantile,
        Policy,
        ServedDeployment,
        ServiceObjective,
        StepOverhead,
        StepSpace,
        Tenant,
        standard_policies,
    )
    from bayeslat.engine import EngineSettings, ServingRecords, Workload
    from bayeslat.errors import (
        BayeslatError,
        CatalogError,
        ConvergenceError,
        InputError,
        PosteriorFileError,
        StaleGateError,
        UnknownDeploymentError,
    )
    from bayeslat.gate import Gate
    from bayeslat.inference.convergence import ConvergenceVerdict
    from bayeslat.model import ModelSpec, Prior, ScalePrior, build_model
    from bayeslat.observations import (
        Observations,
        ObservationWarning,
        Quarantine,
        UnitWarning,
        concat,
        read_steps,
        validate_steps,
        write_steps,
    )
    from bayeslat.posterior import FleetPosterior, fit, load, load_released
    from bayeslat.predictive import Estimate, LatencyDistribution, SampledDistribution
    from bayeslat.profiling import DeviceProfile, profile_device
    from bayeslat.report import write_report
    from bayeslat.schema import Deployment
    from bayeslat.simulate import SimulatedFleet, simulate_fleet

__all__ = [
    "GPU",
    "LLM",
    "BayeslatError",
    "Catalog",
    "CatalogError",
    "ConvergenceError",
    "ConvergenceVerdict",
    "Deployment",
    "DeviceProfile",
    "EngineSettings",
    "Estimate",
    "Fallback",
    "FeasibleRegion",
    "FeasibleSet",
    "FleetPosterior",
    "Gate",
    "InputError",
    "LargestTokens",
    "LatencyDistribution",
    "LogLatency",
    "LogQuantile",
    "ModelSpec",
    "ObservationWarning",
    "Observations",
    "Policy",
    "PosteriorFileError",
    "Prior",
    "Quarantine",
    "SampledDistribution",
    "ScalePrior",
    "ServedDeployment",
    "ServiceObjective",
    "ServingRecords",
    "SimulatedFleet",
    "StaleGateError",
    "StepOverhead",
    "StepSpace",
    "Tenant",
    "UnitWarning",
    "UnknownDeploymentError",
    "Workload",
    "__version__",
    "build_model",
    "concat",
    "fit",
    "leave_one_out",
    "load",
    "load_catalog",
    "load_released",
    "profile_device",
    "read_steps",
    "simulate_fleet",
    "standard_policies",
    "validate_steps",
    "write_report",
    "write_steps",
]

_HOMES = {
    "Catalog": "bayeslat.catalog",
    "GPU": "bayeslat.catalog",
    "LLM": "bayeslat.catalog",
    "load_catalog": "bayeslat.catalog",
    "leave_one_out": "bayeslat.checks",
    "Fallback": "bayeslat.decisions",
    "FeasibleRegion": "bayeslat.decisions",
    "FeasibleSet": "bayeslat.decisions",
    "Policy": "bayeslat.decisions",
    "LargestTokens": "bayeslat.decisions",
    "LogLatency": "bayeslat.decisions",
    "LogQuantile": "bayeslat.decisions",
    "ServedDeployment": "bayeslat.decisions",
    "ServiceObjective": "bayeslat.decisions",
    "StepOverhead": "bayeslat.decisions",
    "StepSpace": "bayeslat.decisions",
    "Tenant": "bayeslat.decisions",
    "standard_policies": "bayeslat.decisions",
    "EngineSettings": "bayeslat.engine",
    "ServingRecords": "bayeslat.engine",
    "Workload": "bayeslat.engine",
    "BayeslatError": "bayeslat.errors",
    "CatalogError": "bayeslat.errors",
    "ConvergenceError": "bayeslat.errors",
    "InputError": "bayeslat.errors",
    "PosteriorFileError": "bayeslat.errors",
    "StaleGateError": "bayeslat.errors",
    "UnknownDeploymentError": "bayeslat.errors",
    "Gate": "bayeslat.gate",
    "ConvergenceVerdict": "bayeslat.inference.convergence",
    "ModelSpec": "bayeslat.model",
    "Prior": "bayeslat.model",
    "ScalePrior": "bayeslat.model",
    "build_model": "bayeslat.model",
    "ObservationWarning": "bayeslat.observations",
    "Observations": "bayeslat.observations",
    "Quarantine": "bayeslat.observations",
    "UnitWarning": "bayeslat.observations",
    "concat": "bayeslat.observations",
    "read_steps": "bayeslat.observations",
    "validate_steps": "bayeslat.observations",
    "write_steps": "bayeslat.observations",
    "FleetPosterior": "bayeslat.posterior",
    "fit": "bayeslat.posterior",
    "load": "bayeslat.posterior",
    "load_released": "bayeslat.posterior",
    "Estimate": "bayeslat.predictive",
    "LatencyDistribution": "bayeslat.predictive",
    "SampledDistribution": "bayeslat.predictive",
    "DeviceProfile": "bayeslat.profiling",
    "profile_device": "bayeslat.profiling",
    "write_report": "bayeslat.report",
    "Deployment": "bayeslat.schema",
    "SimulatedFleet": "bayeslat.simulate",
    "simulate_fleet": "bayeslat.simulate",
}

__version__ = version("bayeslat")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
