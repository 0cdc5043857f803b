"""Default priors of the hierarchical model, each with its reason.

The reference point of every prior is a 7-billion-parameter dense model at tensor parallelism 1 on
one 312 TFLOP/s, 2.04 TB/s accelerator with 512 KiB of KV cache per position. `median` is the value
there, `spread` the standard deviation of its logarithm, and `elasticity` says with which power the
parameter follows each datasheet quantity. The powers are below one because measured latency is:
prefill follows peak compute to about -0.7 and model size to +0.9, decode follows bandwidth to about
-0.55 and model size to +0.57; launch overheads and imperfect overlap take the rest. They are means
of Gaussian priors with standard deviation `ELASTICITY_SPREAD`, so that a fleet can correct them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from bayeslat.errors import InputError

__all__ = [
    "DEFAULT_PRIORS",
    "ELASTICITY_SPREAD",
    "NOISE_GPU_SPREAD",
    "NOISE_MEAN",
    "NOISE_SCALE",
    "REGRESSORS",
    "Prior",
    "ScalePrior",
]

REGRESSORS: Final = ("compute", "bandwidth", "size", "kv", "tp")
"""Datasheet quantities, as logarithms relative to the reference point."""

ELASTICITY_SPREAD: Final = 0.2
"""Prior standard deviation of every elasticity that a parameter has."""

NOISE_MEAN: Final = (0.05, 0.7)
"""Median of the relative noise of a fleet, and the standard deviation of its logarithm."""

NOISE_SCALE: Final = (0.5, 0.4)
"""Median of the standard deviation of log noise over deployments, and that of its logarithm."""

NOISE_GPU_SPREAD: Final = 0.4
"""Standard deviation of a GPU's part in the log noise: hosts, drivers and clocks come with it. Too
few GPUs are in most fleets to estimate it, and a GPU that nobody measured needs it."""


@dataclass(frozen=True)
class ScalePrior:
    """Prior of one pooling scale: lognormal, or a constant where `spread` is zero.

    Parameters
    ----------
    median : float
        Median of the scale, in units of the logarithm of the parameter.
    spread : float
        Standard deviation of the logarithm of the scale; 0 fixes the scale at its median.
    """

    median: float
    spread: float = 0.5

    def __post_init__(self) -> None:
        if not (self.median > 0 and self.spread >= 0):
            raise InputError(
                f"got ScalePrior(median={self.median}, spread={self.spread}), expected median > 0"
                " and spread >= 0 (0 fixes the scale); give positive numbers"
            )


@dataclass(frozen=True)
class Prior:
    """Prior of the logarithm of one positive parameter over the fleet.

    Parameters
    ----------
    median : float
        Median of the fleet-wide value at the reference point, in the parameter's unit.
    spread : float
        Standard deviation of the logarithm of the fleet-wide value.
    elasticity : mapping of str to float
        Power with which the parameter follows each of `REGRESSORS`; absent means zero.
    gpu, model, deployment : ScalePrior
        How far GPUs, LLMs and deployments stray from the datasheet's word; deployments by 5 % more
        (in quadrature), see `bayeslat.model.pooling.MIN_OWN_VARIANCE`.
    """

    median: float
    spread: float
    elasticity: Mapping[str, float] = field(default_factory=dict)
    gpu: ScalePrior = ScalePrior(0.20)
    model: ScalePrior = ScalePrior(0.20)
    deployment: ScalePrior = ScalePrior(0.12)

    def __post_init__(self) -> None:
        if not (self.median > 0 and self.spread > 0):
            raise InputError(
                f"got Prior(median={self.median}, spread={self.spread}), expected two positive"
                " numbers: the median in the parameter's unit and the spread of its logarithm"
            )
        unknown = set(self.elasticity) - set(REGRESSORS)
        if unknown:
            raise InputError(
                f"got elasticity for {sorted(unknown)}, expected some of {list(REGRESSORS)};"
                " correct the name"
            )
        object.__setattr__(self, "elasticity", MappingProxyType(dict(self.elasticity)))


_FIXED_LARGE = ScalePrior(0.20, spread=0.0)
_FIXED_SMALL = ScalePrior(0.12, spread=0.0)

DEFAULT_PRIORS: Final[Mapping[str, Prior]] = MappingProxyType(
    {
        # 2 x 7e9 FLOPs a token at 312 TFLOP/s and 40 % utilisation: 9 tokens/ms.
        "P_max": Prior(9.0, 0.7, {"compute": 0.72, "size": 0.08, "tp": 0.75}),
        # Most data have no batch factor at all: at k_B = 2 it is 0.86 for one request, 0.98 for
        # two. Scales are fixed because the data rarely identify k_B (see `ModelSpec`).
        "k_B": Prior(2.0, 1.0, gpu=_FIXED_LARGE, model=_FIXED_LARGE, deployment=_FIXED_SMALL),
        # w_1 / (P_max k_S) is the floor of small steps, about the time to read the weights once:
        # 0.11 ms a token over 11 ms. Its scales are fixed because a knee that may lie anywhere
        # trades places with tau_0: two ways to the same latencies, and two modes.
        "k_S": Prior(
            0.01,
            0.8,
            {"compute": -0.72, "bandwidth": 0.55, "size": 0.35, "tp": -0.25},
            gpu=_FIXED_LARGE,
            model=_FIXED_LARGE,
            deployment=_FIXED_SMALL,
        ),
        # At one token the overhead costs w_0 / (P_max k_S), as much as w_0 / w_1 tokens of the
        # floor: a tenth of a token is a tenth of the floor. A token, 3.3 spreads away, would double
        # the latency of single requests.
        "w_0": Prior(
            0.1,
            0.7,
            {"size": 0.92},
            gpu=_FIXED_LARGE,
            model=_FIXED_LARGE,
            deployment=_FIXED_SMALL,
        ),
        # Launches, scheduling and sampling of a step.
        "tau_0": Prior(3.0, 1.0, {"bandwidth": -0.55, "size": 0.57, "tp": -0.5}),
        # Per-request work outside the matrix products: attention launches, sampling, bookkeeping.
        "tau_B": Prior(0.05, 1.0, {"bandwidth": -0.55, "size": 0.57, "tp": -0.5}),
        # The part of the token slope that does not saturate; confounded with w_1 / P_max.
        "tau_S": Prior(
            0.01,
            1.0,
            {"compute": -0.72, "size": 0.92, "tp": -0.75},
            gpu=_FIXED_LARGE,
            model=_FIXED_LARGE,
            deployment=_FIXED_SMALL,
        ),
        # One position's KV cache over the bandwidth: 512 KiB / 2.04 TB/s = 2.6e-4 ms.
        "tau_C": Prior(3e-4, 0.8, {"bandwidth": -0.9, "kv": 0.9, "tp": -0.9}),
        # Interference of a mixed step: one per mille per request, 1e-5 per token.
        "gamma_B": Prior(1e-3, 1.0),
        "gamma_S": Prior(1e-5, 1.0),
    }
)
"""Default prior of every free parameter."""
