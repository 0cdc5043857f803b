"""A gate that asks the posterior itself, and draws of many shapes to try it on."""

from dataclasses import dataclass

import numpy as np

from bayeslat.decisions import exceedance
from bayeslat.predictive import DeploymentDraws
from bayeslat.schema import Deployment


def random_draws(seed, n=40):
    """Latency that falls in B for even seeds and is U-shaped in S for those divisible by three."""
    rng = np.random.default_rng(seed)
    typical = {
        "P_max": rng.uniform(10.0, 60.0),
        "k_B": rng.uniform(0.05, 0.2) if seed % 2 == 0 else 5.0,
        "k_S": rng.uniform(0.002, 0.05),
        "w_0": rng.uniform(20.0, 100.0) if seed % 3 == 0 else 1.0,
        "w_1": 1.0,
        "tau_0": rng.uniform(2.0, 10.0),
        "tau_B": rng.uniform(0.01, 0.5),
        "tau_S": rng.uniform(0.0005, 0.01),
        "tau_C": rng.uniform(1e-4, 1e-3),
    }
    parameters = {name: value * rng.lognormal(0.0, 0.1, n) for name, value in typical.items()}
    sigma, nu = 0.08 * rng.lognormal(0.0, 0.1, n), 3.0 + 5.0 * rng.random(n)
    return DeploymentDraws(Deployment("H100-80GB", "llama-7b"), parameters, sigma, nu, "student_t")


@dataclass(frozen=True)
class ExactGate:
    """What a scheduler asks, answered by all draws."""

    draws: DeploymentDraws
    sla_ms: float
    risk: float = 0.05
    max_batch_size: int = 256
    max_total_tokens: int = 8192

    def p_exceed(self, batch_size, total_tokens, context_tokens):
        return exceedance(
            self.draws,
            batch_size=batch_size,
            total_tokens=total_tokens,
            context_tokens=context_tokens,
            sla_ms=self.sla_ms,
        )

    def fits(self, batch_size, total_tokens, context_tokens):
        known = np.asarray(batch_size) <= self.max_batch_size
        known &= np.asarray(total_tokens) <= self.max_total_tokens
        return known & (self.p_exceed(batch_size, total_tokens, context_tokens) <= self.risk)
