"""From posterior draws to predictive distributions of latency."""

from bayeslat.predictive.distribution import LatencyDistribution
from bayeslat.predictive.draws import DeploymentDraws
from bayeslat.predictive.estimate import Estimate
from bayeslat.predictive.labelled import deployment_draws
from bayeslat.predictive.sampled import SampledDistribution

__all__ = [
    "DeploymentDraws",
    "Estimate",
    "LatencyDistribution",
    "SampledDistribution",
    "deployment_draws",
]
