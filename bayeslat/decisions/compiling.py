"""Compiling a gate: from the posterior mixture of one deployment to `bayeslat.gate.Gate`.

The mixture is asked at nodes over (B, S) in each regime (`bayeslat.decisions.exceedance_curves`),
piece by piece between the token counts at which it has a kink. What was lost is then measured at
random steps near the SLA, which no node knows, against the exact mixture: where the gate would be
too hopeful by more than `TOLERANCE`, it takes every step to be a little longer than it is.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Final, NamedTuple

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
"""How far a gate's probability may lie below the exact one where it is checked."""


class Fineness(NamedTuple):
    """How finely the mixture is asked, and how much of it is kept.

    Parameters
    ----------
    longest : float
        Longest piece in log S; 1.4 is two length scales of the discrepancy.
    most_profiles : int
        Most profiles.
    """

    longest: float
    most_profiles: int


FINENESS: Final = (Fineness(1.4, 24), Fineness(0.7, 48))
"""The second where the first loses too much."""

LARGEST: Final = (4096, 2**20)
"""Most requests and tokens of a gate."""

NEAR: Final = 0.05
"""Kinks nearer than this to the end of a piece make no piece of their own."""

ROUNDING: Final = 2e-5
"""Rounding of coefficients, in standard deviations of the latency."""

N_CHECKED: Final = 8192
CAUTION: Final = 0.5
"""Share of the tolerance that is held at the steps checked, since others may be worse."""

MARGINS: Final = (0.0, *(4e-6 * 1.4**k for k in range(28)))
"""Margins that are tried, up to 4 % of a latency."""

LARGEST_PLAIN_MARGIN: Final = 1.3e-3
"""A larger margin costs more than a pad of `PAD_SHARE` of the risk."""

PAD_SHARE: Final = 0.1
"""Share of the risk that a pad may take up rather than a larger margin."""

FINE_ENOUGH: Final = 5e-4
"""Margin from which on a finer gate is tried."""

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
    rng = np.random.default_rng(seed)
    limits = float(sla_ms), float(risk), int(max_batch_size), int(max_total_tokens)
    coarse, fine = FINENESS
    found = _held_back(_made(draws, limits, coarse), draws, rng)
    if found.accuracy.pad > 0.0 or found.accuracy.margin > FINE_ENOUGH:
        finer = _held_back(_made(draws, limits, fine), draws, rng)
        found = min(found, finer, key=lambda one: one.accuracy.above)
    if (
        found.risk - found.accuracy.pad <= 2.0 * LEAST_LEVEL
        or found.accuracy.pad > 0.5 * found.risk
    ):
        raise InputError(
            f"got risk={found.risk:g}, at which a gate of {found.deployment} would err by"
            f" {found.accuracy.pad + TOLERANCE:.1e}: its {draws.n_draws} draws lie too far apart"
            " for their noise; raise the risk, or fit with more draws"
        )
    return found


def _made(
    draws: DeploymentDraws, limits: tuple[float, float, int, int], fineness: "Fineness"
) -> Gate:
    """A gate that is not yet checked."""
    sla_ms, _, max_batch_size, max_total_tokens = limits
    parts = _parts(draws, sla_ms, max_batch_size, max_total_tokens, fineness.longest)
    profiles, weights = reduced(draws, parts, most=fineness.most_profiles)
    finest = min(float(part.spread().min()) for part in parts)
    quantum = float(2.0 ** np.floor(np.log2(ROUNDING * finest)))
    pieces = tuple(
        Piece(part.regime, part.low, part.high, np.round(part.series(own) / quantum) * quantum)
        for part, own in zip(parts, weights, strict=True)
    )
    label, fingerprint = draws.deployment.label, draws.fingerprint
    return Gate(label, *limits, fingerprint, quantum, UNCHECKED, profiles, pieces)


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
    if largest > LARGEST[0] or max_total_tokens > LARGEST[1]:
        raise InputError(
            f"got steps of up to {largest} requests and {max_total_tokens} tokens, expected at most"
            f" {LARGEST[0]} and {LARGEST[1]}: a gate lays out tables of all; ask about less"
        )
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
    draws: DeploymentDraws,
    sla_ms: float,
    max_batch_size: int,
    max_total_tokens: int,
    longest: float,
) -> list[Part]:
    """The mixture in all regimes, without token counts at which no step keeps the SLA."""
    kinks: list[float] = []
    if draws.discrepancy is not None and draws.discrepancy.power is not None:
        kinks = [float(np.log(end)) for end in draws.discrepancy.reach if np.isfinite(end)]
    largest = float(np.log(max_batch_size))
    asked = {"largest": largest, "sla_ms": sla_ms}
    decode = [
        Part(draws, DECODE, *ends, **asked)
        for ends in _cut(0.0, max(largest, 0.1), kinks, longest=longest)
    ]
    with_prompts = (float(np.log(2.0)) - 1e-9, float(np.log(max_total_tokens)) + 1e-9)
    bounds = list(_cut(*with_prompts, kinks, largest, longest=longest))
    ratio = np.asarray(draws.parameters.get("r_C", 1.0))
    regimes = (OLDER, OWN) if (ratio != 1.0).any() else (OLDER,)
    prompts = [Part(draws, regime, *ends, **asked) for regime in regimes for ends in bounds]
    # Up to the largest batch all pieces are kept: some S is asked about at every B.
    kept = max(part.high for part in prompts if part.low <= largest or part.keeps().any())
    return decode + [part for part in prompts if part.high <= kept]


def _cut(
    low: float, high: float, kinks: list[float], *always: float, longest: float
) -> Iterator[tuple[float, float]]:
    """Cut an interval at what lies within it, kinks only well within, and into short pieces."""
    inner = {kink for kink in kinks if low + NEAR < kink < high - NEAR}
    inner |= {end for end in always if low + 1e-6 < end < high - 1e-6}
    for left, right in pairwise([low, *sorted(inner), high]):
        cuts = np.linspace(left, right, int(np.ceil((right - left) / longest)) + 1).tolist()
        yield from pairwise(cuts)


def _held_back(gate: Gate, draws: DeploymentDraws, rng: np.random.Generator) -> Gate:
    """The gate with its accuracy, and with what it needs to be nowhere too hopeful.

    Errors of the interpolation are small shifts of latency, which a margin covers. What single
    draws do far in a tail no small margin does, but a pad on the probability; it may take up a
    tenth of the risk, and more only where no margin helps. Other steps than those that decided are
    asked before that is believed.
    """
    steps, others = _near_the_limit(gate, rng), _near_the_limit(gate, rng)
    exact, exact_others = _exact(gate, draws, steps), _exact(gate, draws, others)
    pads = [_shortfall(_with(gate, margin, 0.0), steps, exact) for margin in MARGINS]
    plain = [k for k, pad in enumerate(pads) if pad == 0.0 and MARGINS[k] <= LARGEST_PLAIN_MARGIN]
    padded = [k for k, pad in enumerate(pads) if pad <= PAD_SHARE * gate.risk]
    chosen = (plain or padded or [len(pads) - 1])[0]
    held = _with(gate, MARGINS[chosen], pads[chosen])
    more = 1.5 * _shortfall(held, others, exact_others)
    held = _with(gate, MARGINS[chosen], pads[chosen] + more)
    error = np.concatenate([held.p_exceed(*steps) - exact, held.p_exceed(*others) - exact_others])
    below, above = max(-float(error.min()), 0.0), max(float(error.max()), 0.0)
    accuracy = replace(held.accuracy, n_checked=error.size, below=below, above=above)
    return replace(held, accuracy=accuracy)


def _with(gate: Gate, margin: float, pad: float) -> Gate:
    return replace(gate, accuracy=replace(UNCHECKED, margin=margin, pad=pad))


def _exact(gate: Gate, draws: DeploymentDraws, steps: tuple[Array, ...]) -> Array:
    return draws.sf_mean(np.full(steps[0].size, gate.sla_ms), Points(*steps))


def _shortfall(gate: Gate, steps: tuple[Array, ...], exact: Array) -> float:
    """How far the gate is too hopeful at some steps, beyond what it is allowed."""
    error = gate.p_exceed(*steps) - exact
    return max(-float(error.min()) - CAUTION * TOLERANCE, 0.0)


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
    beside = np.exp(rng.normal(0.0, 0.15, n)) * (rng.random(n) < 0.7)
    context = np.where(likely > 0, likely, tokens) * np.where(beside > 0.0, beside, 1.0)
    context = np.where(rng.random(n) < 0.3, tokens * np.exp(rng.exponential(2.0, n)), context)
    context = np.where(rng.random(n) < 0.1, tokens, context)
    return batch, tokens, np.minimum(np.round(context), 1e9)
