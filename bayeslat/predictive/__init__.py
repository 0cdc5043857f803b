"""From posterior draws to predictive distributions of latency."""

from bayeslat.predictive.distribution import LatencyDistribution
from bayeslat.predictive.draws import DeploymentDraws
from bayeslat.predictive.estimate import Estimate
from bayeslat.predictive.labelled import deployment_draws

__all__ = ["DeploymentDraws", "Estimate", "LatencyDistribution", "deployment_draws"]
