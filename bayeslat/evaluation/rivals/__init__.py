"""What users would predict latencies with otherwise, all behind the protocol of a contender."""

from bayeslat.evaluation.rivals.registry import RIVALS, all_rivals, missing
from bayeslat.evaluation.rivals.static import ThroughputSaturationModel
from bayeslat.evaluation.rivals.static_fit import SaturationBootstrap, SaturationFit

__all__ = [
    "RIVALS",
    "SaturationBootstrap",
    "SaturationFit",
    "ThroughputSaturationModel",
    "all_rivals",
    "missing",
]
