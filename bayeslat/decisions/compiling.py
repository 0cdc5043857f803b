"""Compiling a gate: from the posterior mixture of one deployment to `bayeslat.gate.Gate`.

The mixture is asked at nodes over (B, S) in each regime (`bayeslat.decisions.exceedance_curves`),
piece by piece between the token counts at which it has a kink. What was lost is then measured at
random steps near the SLA, which no node knows, against the exact mixture: where the gate would be
too hopeful by more than `TOLERANCE`, it takes every step to be a little longer than it is.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bayeslat.decisions.arguments import check_count
from bayeslat.decisions.exceedance_curves import LEAST_LEVEL, Part, reduced
from bayeslat.decisions.inversion import exceedance
from bayeslat.errors import InputError
from bayeslat.gate import Accuracy, Gate, Piece
from bayeslat.gate.series import DECODE, OLDER, OWN
from bayeslat.predictive import DeploymentDraws
from bayeslat.predictive.draws import Points
from bayeslat.predictive.estimate import check_probability

__all__ = ["TOLERANCE", "compile_gate"]

type Array = NDArray[np.float64]

TOLERANCE: Final = 1e-4
"""How far a gate's probability may lie below the exact one."""

LONGEST: Final = 1.4
"""Longest piece in log S: two length scales of the discrepancy."""

NEAR: Final = 0.05
"""Kinks nearer than this to the end of a piece make no piece of their own."""

ROUNDING: Final = 2e-5
"""Rounding of coefficients, in standard deviations of the latency."""

N_CHECKED: Final = 8192
CAUTION: Final = 0.5
"""Share of the tolerance that is held at the steps checked, since others may be worse."""

MARGINS: Final = (0.0, *(4e-6 * 1.4**k for k in range(18)))
"""Margins that are tried, up to 0.12 % of a latency."""

UNCHECKED: Final = Accuracy(0, 0.0, 0.0, 0.0, 0.0)


def compile_gate(
    draws: DeploymentDraws,
    *,
    sla_ms: float,
    risk: float,
    max_batch_size: int = 256,
    max_total_tokens: int = 8192,
    seed: int = 0,
) -> Gate:
    """Compile P(latency > SLA) <= risk of one deployment.

    Parameters
    ----------
    draws : DeploymentDraws
        Posterior draws of the deployment.
    sla_ms : float
        Limit of a step's latency in milliseconds.
    risk : float
        Admitted probability of exceeding it, from 0.0001 to 0.9999.
    max_batch_size, max_total_tokens : int
        Largest B and S that will be asked about: those of the engine.
    seed : int
        Of the steps at which the gate is checked.

    Returns
    -------
    Gate

    Raises
    ------
    InputError
        An argument out of its range, or an SLA that no decode step keeps at this risk.
    """
    _check(draws, sla_ms, risk, max_batch_size, max_total_tokens)
    parts = _parts(draws, sla_ms, max_batch_size, max_total_tokens)
    profiles, weights = reduced(draws, parts)
    finest = min(float(part.spread().min()) for part in parts)
    quantum = float(2.0 ** np.floor(np.log2(ROUNDING * finest)))
    pieces = tuple(
        Piece(part.regime, part.low, part.high, np.round(part.series(own) / quantum) * quantum)
        for part, own in zip(parts, weights, strict=True)
    )
    gate = Gate(
        draws.deployment.label,
        float(sla_ms),
        float(risk),
        int(max_batch_size),
        int(max_total_tokens),
        draws.fingerprint,
        quantum,
        UNCHECKED,
        profiles,
        pieces,
    )
    return _held_back(gate, draws, np.random.default_rng(seed))


def _check(
    draws: DeploymentDraws, sla_ms: float, risk: float, max_batch_size: int, max_total_tokens: int
) -> None:
    check_probability("risk", risk)
    if not 1e-4 <= risk <= 1.0 - 1e-4:
        raise InputError(
            f"got risk={risk:g}, expected one from 0.0001 to 0.9999, which thousands of draws can"
            " tell; choose such a risk"
        )
    largest = check_count("max_batch_size", max_batch_size, at_least=1)
    check_count("max_total_tokens", max_total_tokens, at_least=max(2, largest))
    batch = np.arange(1, largest + 1)
    least = float(
        np.min(
            exceedance(
                draws, batch_size=batch, total_tokens=batch, context_tokens=batch, sla_ms=sla_ms
            )
        )
    )
    if least > risk:
        one = np.ones(1)
        floor = draws.ppf_mean(np.array([1.0 - risk]), Points(one, one, one))[0]
        raise InputError(
            f"got sla_ms={sla_ms:g}, which every decode step of {draws.deployment.label} exceeds"
            f" with a probability of {least:.3g} or more, expected an SLA that some step keeps at"
            f" risk {risk:g}: a single token alone needs {floor:.3g} ms; raise the SLA or the risk"
        )


def _parts(
    draws: DeploymentDraws, sla_ms: float, max_batch_size: int, max_total_tokens: int
) -> list[Part]:
    """The mixture in all regimes, without token counts at which no step keeps the SLA."""
    kinks: list[float] = []
    if draws.discrepancy is not None and draws.discrepancy.power is not None:
        kinks = [float(np.log(end)) for end in draws.discrepancy.reach if np.isfinite(end)]
    largest = float(np.log(max_batch_size))
    asked = {"largest": largest, "sla_ms": sla_ms}
    decode = [
        Part(draws, DECODE, low, high, **asked) for low, high in _cut(0.0, max(largest, 0.1), kinks)
    ]
    with_prompts = (float(np.log(2.0)) - 1e-9, float(np.log(max_total_tokens)) + 1e-9)
    bounds = list(_cut(*with_prompts, [*kinks, largest]))
    ratio = np.asarray(draws.parameters.get("r_C", 1.0))
    regimes = (OLDER, OWN) if (ratio != 1.0).any() else (OLDER,)
    prompts = [Part(draws, regime, *ends, **asked) for regime in regimes for ends in bounds]
    # Up to the largest batch all pieces are kept: some S is asked about at every B.
    kept = max(part.high for part in prompts if part.low <= largest or part.keeps().any())
    return decode + [part for part in prompts if part.high <= kept]


def _cut(low: float, high: float, kinks: list[float]) -> Iterator[tuple[float, float]]:
    """Cut an interval at the kinks that lie within it, and into pieces of at most `LONGEST`."""
    inner = sorted({kink for kink in kinks if low + NEAR < kink < high - NEAR})
    bounds = [low, *inner, high]
    for left, right in pairwise(bounds):
        n = int(np.ceil((right - left) / LONGEST))
        cuts = np.linspace(left, right, n + 1).tolist()
        yield from pairwise(cuts)


def _held_back(gate: Gate, draws: DeploymentDraws, rng: np.random.Generator) -> Gate:
    """The gate with its accuracy, and with what it needs to be nowhere too hopeful.

    Errors of the interpolation are small shifts of latency, which a margin covers; beyond it, what
    single draws do far in a tail is covered by a pad.
    """
    steps = _near_the_limit(gate, rng)
    exact = draws.sf_mean(np.full(steps[0].size, gate.sla_ms), Points(*steps))
    for margin in MARGINS:
        error = replace(gate, accuracy=replace(UNCHECKED, margin=margin)).p_exceed(*steps) - exact
        pad = max(-float(error.min()) - CAUTION * TOLERANCE, 0.0)
        if pad == 0.0:
            break
    error = np.minimum(error + pad, 1.0 - exact)
    below, above = max(-float(error.min()), 0.0), max(float(error.max()), 0.0)
    if gate.risk - pad <= 2.0 * LEAST_LEVEL:
        raise InputError(
            f"got risk={gate.risk:g}, which a gate from {draws.n_draws} draws cannot tell (it errs"
            f" by {pad + TOLERANCE:.1e}), expected a larger risk; fit with more draws or raise it"
        )
    return replace(gate, accuracy=Accuracy(exact.size, below, above, margin, pad))


def _near_the_limit(gate: Gate, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Random steps, a third of them decodes, most with an exceedance that is neither 0 nor 1."""
    n = N_CHECKED
    batch = np.floor(np.exp(rng.uniform(0.0, np.log(gate.max_batch_size + 1), n)))
    most = np.log((gate.max_total_tokens + 1) / batch)
    tokens = np.where(
        rng.random(n) < 1 / 3, batch, np.floor(batch * np.exp(rng.uniform(size=n) * most))
    )
    older, own = gate.largest_context(batch, tokens)
    likely = np.maximum(older, own).astype(float)
    context = np.where(likely > 0, likely, tokens) * np.exp(rng.normal(0.0, 0.15, n))
    context = np.where(rng.random(n) < 0.3, tokens * np.exp(rng.exponential(2.0, n)), context)
    context = np.where(rng.random(n) < 0.1, tokens, context)
    return batch, tokens, np.minimum(np.round(context), 1e9)
