"""Default priors of the hierarchical model, each with its reason.

Priors are those of the pooled quantities (`bayeslat.model.quantities`). The reference point of
every prior is a 7-billion-parameter dense model at tensor parallelism 1 on one 312 TFLOP/s,
2.04 TB/s accelerator with 512 KiB of KV cache per position. `median` is the value there, `spread`
the standard deviation of its logarithm (of its logit, for a share), and `elasticity` says with
which power the quantity follows each datasheet quantity. The powers are below one because measured
latency is: prefill follows peak compute to about -0.7 and model size to +0.9, decode follows
bandwidth to about -0.55 and model size to +0.57; launch overheads and imperfect overlap take the
rest. They are means of Gaussian priors with standard deviation `ELASTICITY_SPREAD`, so that a fleet
can correct them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from bayeslat.errors import InputError

__all__ = [
    "DEFAULT_PRIORS",
    "DISCREPANCY_OWN",
    "DISCREPANCY_SETTING",
    "DISCREPANCY_STACK",
    "ELASTICITY_SPREAD",
    "MIN_OWN_DISCREPANCY",
    "NOISE_GPU_SPREAD",
    "NOISE_MEAN",
    "NOISE_SCALE",
    "NOISE_SLOPE_MEAN_SPREADS",
    "NOISE_SLOPE_SPREADS",
    "OWN_SPREAD",
    "POOLING_LEVELS",
    "REGRESSORS",
    "STRAY_LOG_ODDS",
    "Prior",
    "ScalePrior",
]

REGRESSORS: Final = ("compute", "share", "bandwidth", "size", "kv", "tp")
"""Datasheet quantities, as logarithms relative to the reference point."""

POOLING_LEVELS: Final = ("gpu", "setting", "model", "engine", "layout", "stack", "site")
"""Levels at which a quantity may stray from its datasheet mean: the device, a setting of it (a
share of its compute units), the LLM, the serving engine, its tensor-parallel layout (the engine on
so many devices, with its links and collectives, whatever the LLM), the software stack (engine, LLM,
tensor parallelism and precision) whatever the device, and the site (a stack on a device, whatever
the setting)."""

OWN_SPREAD: Final = 0.05
"""Standard deviation of what each deployment adds to all that, so that no two are nearer than 7 %.
Without it a small scale of sites leaves a quantity that the data do not inform almost no room, and
samplers diverge in that neck."""

ELASTICITY_SPREAD: Final = 0.2
"""Prior standard deviation of every elasticity that a quantity has."""

NOISE_MEAN: Final = (0.05, 0.7)
"""Median of the relative noise of a fleet, and the standard deviation of its logarithm."""

NOISE_SCALE: Final = (0.5, 0.4)
"""Median of the standard deviation of log noise over deployments, and that of its logarithm."""

NOISE_GPU_SPREAD: Final = 0.4
"""Standard deviation of a GPU's part in the log noise: hosts, drivers and clocks come with it. Too
few GPUs are in most fleets to estimate it, and a GPU that nobody measured needs it."""

NOISE_SLOPE_MEAN_SPREADS: Final = (0.5, 0.1, 0.1)
NOISE_SLOPE_SPREADS: Final = (0.5, 0.2, 0.2)
"""How log noise follows `bayeslat.noise.NOISE_FEATURES`: standard deviations of a fleet's mean
slopes, and of those of a deployment around them. Logs differ in the noise of a prefill more than in
anything: where prefills queue behind each other it is several times that of decode steps. With the
token count noise rises in some and falls in others, seldom faster than by its square root."""

DISCREPANCY_STACK: Final = (0.04, 0.4)
DISCREPANCY_OWN: Final = (0.03, 0.4)
"""Size of the discrepancy that deployments of a stack share, and of what each adds: median of its
standard deviation (a few per cent), and the standard deviation of the logarithm of that. Larger
values let it take over what the formula says, and the formula no longer rules far from data."""

DISCREPANCY_SETTING: Final = 0.2
"""Part of a deployment's own variance of the discrepancy that the settings of a site do not share:
a share of a device runs the same kernels."""

MIN_OWN_DISCREPANCY: Final = 1e-3**2
"""Least variance of a deployment's own discrepancy: its scale may come near zero."""

STRAY_LOG_ODDS: Final = (-4.0, 2.0)
"""Mean and standard deviation of the log odds of a stray row: two rows in a hundred, seldom more
than half."""


@dataclass(frozen=True)
class ScalePrior:
    """Prior of one pooling scale: lognormal, or a constant where `spread` is zero.

    Parameters
    ----------
    median : float
        Median of the scale, in units of the logarithm (or logit) of the quantity.
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
    """Prior of one pooled quantity over the fleet.

    Parameters
    ----------
    median : float
        Median of the fleet-wide value at the reference point, in the quantity's unit.
    spread : float
        Standard deviation of the logarithm (or logit) of the fleet-wide value.
    elasticity : mapping of str to float
        Power with which the quantity follows each of `REGRESSORS`; absent means zero.
    gpu, setting, model, engine, layout, stack, site : ScalePrior
        How far each level of `POOLING_LEVELS` strays from the datasheet's word; each deployment
        adds `OWN_SPREAD`.
    """

    median: float
    spread: float
    elasticity: Mapping[str, float] = field(default_factory=dict)
    gpu: ScalePrior = ScalePrior(0.20)
    setting: ScalePrior = ScalePrior(0.07, spread=0.0)
    model: ScalePrior = ScalePrior(0.20)
    engine: ScalePrior = ScalePrior(0.40, spread=0.0)
    layout: ScalePrior = ScalePrior(0.20, spread=0.0)
    stack: ScalePrior = ScalePrior(0.15)
    site: ScalePrior = ScalePrior(0.08)

    def __post_init__(self) -> None:
        if not (self.median > 0 and self.spread > 0):
            raise InputError(
                f"got Prior(median={self.median}, spread={self.spread}), expected two positive"
                " numbers: the median in the quantity's unit and the spread of its logarithm"
            )
        unknown = set(self.elasticity) - set(REGRESSORS)
        if unknown:
            raise InputError(
                f"got elasticity for {sorted(unknown)}, expected some of {list(REGRESSORS)};"
                " correct the name"
            )
        object.__setattr__(self, "elasticity", MappingProxyType(dict(self.elasticity)))

    def scale(self, level: str) -> ScalePrior:
        """The prior of the pooling scale at one of `POOLING_LEVELS`."""
        found: ScalePrior = getattr(self, level)
        return found


def _held(median: float, spread: float, engine: float = 0.40) -> Prior:
    """A quantity that data seldom tell from its rivals: its scales are constants."""
    return Prior(
        median,
        spread,
        engine=ScalePrior(engine, spread=0.0),
        gpu=ScalePrior(0.20, spread=0.0),
        model=ScalePrior(0.20, spread=0.0),
        stack=ScalePrior(0.15, spread=0.0),
        site=ScalePrior(0.08, spread=0.0),
    )


def _per_request(median: float) -> Prior:
    """What one more request costs; engines differ in it more than in anything."""
    return Prior(
        median,
        1.0,
        {"bandwidth": -0.55, "size": 0.57, "tp": -0.5},
        engine=ScalePrior(0.80, spread=0.0),
    )


DEFAULT_PRIORS: Final[Mapping[str, Prior]] = MappingProxyType(
    {
        # 2 x 7e9 FLOPs a token at 312 TFLOP/s and 40 % utilisation are 0.11 ms a token. A share of
        # the compute units slows by Amdahl's law, already in the regressor: its power is one.
        "slope": Prior(0.12, 0.7, {"compute": -0.72, "share": -1.0, "size": 0.92, "tp": -0.75}),
        # Reading the weights once, 14 GB at 2.04 TB/s and 60 %, is 11 ms, or launching the kernels.
        "floor": Prior(12.0, 0.7, {"share": -0.15, "bandwidth": -0.55, "size": 0.57, "tp": -0.4}),
        # How much of the floor stays when the knee is passed: one host-bound engine in four.
        "floor_share": _held(0.27, 1.0, engine=1.0),
        # The part of the token slope that no saturation touches; confounded with the rest of it.
        "slope_share": _held(0.08, 1.0),
        # Most data have no batch factor at all: at k_B = 2 it is 0.86 for one request, 0.98 for
        # two.
        "k_B": _held(2.0, 1.0),
        # At one token the overhead costs as much as that many tokens of the floor: a tenth of a
        # token is a tenth of the floor. A token would double the latency of single requests.
        "overhead": _held(0.1, 0.7),
        # Per-request work outside the matrix products: attention launches, sampling, bookkeeping.
        "tau_B": _per_request(0.05),
        # One position's KV cache over the bandwidth: 512 KiB / 2.04 TB/s = 2.6e-4 ms.
        "tau_C": Prior(3e-4, 0.8, {"bandwidth": -0.9, "kv": 0.9, "tp": -0.9}),
        # Interference of a mixed step: one per mille per request, 1e-5 per token.
        "gamma_B": Prior(1e-3, 1.0),
        "gamma_S": Prior(1e-5, 1.0),
        # Between the exponential knee (1) and the corner of a roofline (large).
        "m_S": Prior(1.5, 0.5),
        # Prefills launch more kernels and cannot replay a captured graph.
        "r_F": Prior(1.3, 0.4, gpu=ScalePrior(0.1), model=ScalePrior(0.1), stack=ScalePrior(0.1)),
        # A prefill begins requests: it admits them and maps their memory.
        "tau_B_prefill": _per_request(0.08),
        # Beside a prefill attention runs in other kernels, and a prompt attends with every token.
        "r_C": _held(1.5, 0.5),
    }
)
"""Default prior of every pooled quantity."""
