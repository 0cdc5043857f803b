"""The throughput-saturation formula and its derivatives.

One step with B requests, S tokens and C attended KV positions takes, in milliseconds::

    Thr  = P_max (1 - exp(-k_B B)) (1 - exp(-(k S)^m_S))^(1 / m_S),   k = k_S / r_F^h
    Work = w_0 + w_1 S
    T    = tau_0 r_F^h + Work / Thr * (1 + gamma_B B + gamma_S S)
           + tau_B r_B^h B + tau_S S + tau_C (r_C if S > B and C > S) C

with h = 1 - B / S, the share of tokens beyond the one that every request computes: zero in a decode
step and nearly one in a prefill. ``m_S`` says how sharp the knee between floor and slope is: one is
the exponential, large values are the corner of a roofline. ``r_F`` and ``r_B`` are what the floor
and the cost of a request are in a prefill, relative to a decode step. ``r_C`` is what an attended
position costs, relative to a decode step, in a step that computes a prompt and attends to more than
its own tokens (chunks of a prompt, decodes riding along): such steps attend with other kernels,
however small the prefill's share.

Parameters come as a mapping from name to array. ``P_max``, ``k_S``, ``w_1`` and ``tau_0`` are
required; a term whose parameter is absent is left out of the formula (``k_B`` absent: the batch
factor is one; ``m_S``, ``r_F``, ``r_B``, ``r_C`` absent: they are one). Parameters and design
broadcast against each other, and the array namespace ``xp`` may be numpy, ``jax.numpy`` or
``pytensor.tensor``: the formula is written once for all three.

T is not monotone: in B it falls while the batch factor rises and then grows with ``tau_B``, and in
S it is U-shaped when ``w_0 > 0``. Inversion must therefore return sets, never one root.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["context_ratio", "latency", "prefill_share", "sensitivity", "throughput", "work"]

type Parameters = Mapping[str, Any]

LEAST_POWER = -30.0
"""Logarithm of x^m from which (1 - exp(-x^m))^(1/m) equals x, and beyond its negative one."""


def prefill_share(batch_size: Any, total_tokens: Any) -> Any:
    """Share h = 1 - B / S of the tokens beyond the one that every request computes, in [0, 1)."""
    return 1.0 - batch_size / total_tokens


def context_ratio(
    r_C: Any, batch_size: Any, total_tokens: Any, context_tokens: Any, *, xp: ModuleType = np
) -> Any:
    """Cost of an attended position relative to a decode step: r_C where S > B and C > S."""
    computes_prompts, attends_to_older = total_tokens > batch_size, context_tokens > total_tokens
    return xp.where(computes_prompts & attends_to_older, r_C, 1.0)


def throughput(
    parameters: Parameters, batch_size: Any, total_tokens: Any, *, xp: ModuleType = np
) -> Any:
    """Saturating throughput Thr(B, S).

    Parameters
    ----------
    parameters : mapping of str to array
        ``P_max`` (work units/ms), ``k_S`` (1/token) and optionally ``k_B`` (1/request), ``m_S``
        and ``r_F``.
    batch_size, total_tokens : array
        B requests and S tokens of the step, broadcast against the parameters.
    xp : module
        Array namespace: numpy, ``jax.numpy`` or ``pytensor.tensor``.

    Returns
    -------
    array
        Work units per millisecond.
    """
    rate = _token_rate(parameters, batch_size, total_tokens, xp)
    if "m_S" in parameters:
        saturated = _sharp_saturation(rate, total_tokens, parameters["m_S"], xp)
    else:
        saturated = _saturation(rate, total_tokens, xp)
    saturated = parameters["P_max"] * saturated
    if "k_B" in parameters:
        saturated = saturated * _saturation(parameters["k_B"], batch_size, xp)
    return saturated


def work(parameters: Parameters, total_tokens: Any) -> Any:
    """Work(S) = w_0 + w_1 S, in work units; ``w_0`` absent counts as zero."""
    linear = parameters["w_1"] * total_tokens
    return parameters["w_0"] + linear if "w_0" in parameters else linear


def latency(
    parameters: Parameters,
    batch_size: Any,
    total_tokens: Any,
    context_tokens: Any = 0.0,
    *,
    xp: ModuleType = np,
) -> Any:
    """Step latency T(B, S, C) in milliseconds.

    Parameters
    ----------
    parameters : mapping of str to array
        See the module's text; units in `bayeslat.schema.PARAMETER_UNITS`.
    batch_size, total_tokens, context_tokens : array
        B requests, S tokens, C attended KV positions, broadcast against the parameters.
    xp : module
        Array namespace: numpy, ``jax.numpy`` or ``pytensor.tensor``.

    Returns
    -------
    array
        Milliseconds, of the broadcast shape.
    """
    processing = work(parameters, total_tokens) / throughput(
        parameters, batch_size, total_tokens, xp=xp
    )
    share = prefill_share(batch_size, total_tokens)
    constant = parameters["tau_0"]
    if "r_F" in parameters:
        constant = constant * _power(parameters["r_F"], share, xp)
    requests = batch_size
    if "r_B" in parameters:
        requests = batch_size * _power(parameters["r_B"], share, xp)
    total = constant + processing * _interference(parameters, batch_size, total_tokens)
    positions = context_tokens
    if "r_C" in parameters:
        positions = context_tokens * context_ratio(
            parameters["r_C"], batch_size, total_tokens, context_tokens, xp=xp
        )
    for name, amount in (
        ("tau_B", requests),
        ("tau_S", total_tokens),
        ("tau_C", positions),
    ):
        if name in parameters:
            total = total + parameters[name] * amount
    return total


def sensitivity(
    parameters: Parameters,
    batch_size: Any,
    total_tokens: Any,
    context_tokens: Any = np.inf,
    *,
    xp: ModuleType = np,
) -> dict[str, Any]:
    """Analytic derivatives of T with respect to B, S and C.

    Parameters
    ----------
    parameters, batch_size, total_tokens, xp
        As in `latency`.
    context_tokens : array
        C, of which only counts whether it exceeds S, where ``r_C`` is in the model: T then jumps at
        S = B and at C = S, and the derivatives are those on either side.

    Returns
    -------
    dict of str to array
        ``batch_size`` (ms/request), ``total_tokens`` (ms/token), ``context_tokens`` (ms/position).
    """
    thr = throughput(parameters, batch_size, total_tokens, xp=xp)
    processing = work(parameters, total_tokens) / thr
    factor = _interference(parameters, batch_size, total_tokens)
    elasticity = _token_elasticity(parameters, batch_size, total_tokens, xp)
    requests, by_share = _share_terms(parameters, batch_size, total_tokens, xp)
    if "r_F" in parameters:
        by_share = by_share + processing * factor * elasticity * xp.log(parameters["r_F"])
    # By B and S with the share h held, and then through h = 1 - B / S.
    by_batch = processing * parameters.get("gamma_B", 0.0) + requests
    if "k_B" in parameters:
        by_batch = by_batch - processing * factor * _log_slope(parameters["k_B"], batch_size, xp)
    by_tokens = (
        factor * parameters["w_1"] / thr
        + processing * (parameters.get("gamma_S", 0.0) - factor * elasticity / total_tokens)
        + parameters.get("tau_S", 0.0)
    )
    by_context = parameters.get("tau_C", 0.0) + 0.0 * by_tokens
    if "r_C" in parameters:
        ratio = parameters["r_C"]
        by_context = by_context * context_ratio(
            ratio, batch_size, total_tokens, context_tokens, xp=xp
        )
    return {
        "batch_size": by_batch - by_share / total_tokens,
        "total_tokens": by_tokens + by_share * batch_size / total_tokens**2,
        "context_tokens": by_context,
    }


def _share_terms(
    parameters: Parameters, batch_size: Any, total_tokens: Any, xp: ModuleType
) -> tuple[Any, Any]:
    """Cost tau_B r_B^h of a request, and the derivative of floor and requests by the share h."""
    share = prefill_share(batch_size, total_tokens)
    request = parameters.get("tau_B", 0.0)
    by_share: Any = 0.0
    if "r_B" in parameters:
        request = request * _power(parameters["r_B"], share, xp)
        by_share = request * batch_size * xp.log(parameters["r_B"])
    if "r_F" in parameters:
        floor = parameters["tau_0"] * _power(parameters["r_F"], share, xp)
        by_share = by_share + floor * xp.log(parameters["r_F"])
    return request, by_share


def _token_elasticity(
    parameters: Parameters, batch_size: Any, total_tokens: Any, xp: ModuleType
) -> Any:
    """Derivative of the token factor's logarithm by log(k S): from one at no load to zero."""
    amount = _token_rate(parameters, batch_size, total_tokens, xp) * total_tokens
    if "m_S" in parameters:
        power = parameters["m_S"] * xp.log(amount)
        amount = xp.exp(xp.minimum(xp.maximum(power, LEAST_POWER), -LEAST_POWER))
    return amount * xp.exp(-amount) / _saturation(amount, 1.0, xp)


def _token_rate(parameters: Parameters, batch_size: Any, total_tokens: Any, xp: ModuleType) -> Any:
    """Rate k = k_S / r_F^h at which tokens fill the device, in 1/token."""
    if "r_F" not in parameters:
        return parameters["k_S"]
    share = prefill_share(batch_size, total_tokens)
    return parameters["k_S"] / _power(parameters["r_F"], share, xp)


def _power(base: Any, exponent: Any, xp: ModuleType) -> Any:
    """base^exponent of a positive base; compiled, a general power takes ten times as long."""
    return xp.exp(exponent * xp.log(base))


def _saturation(rate: Any, amount: Any, xp: ModuleType) -> Any:
    """1 - exp(-rate * amount) without cancellation for small arguments."""
    return -xp.expm1(-rate * amount)


def _sharp_saturation(rate: Any, amount: Any, sharpness: Any, xp: ModuleType) -> Any:
    """(1 - exp(-x^m))^(1/m) with x = rate * amount, at any x and m without under- or overflow."""
    power = sharpness * xp.log(rate * amount)
    held = xp.maximum(power, LEAST_POWER)  # below, x^m is not told from zero: the result is x
    inner = xp.log(-xp.expm1(-xp.exp(xp.minimum(held, -LEAST_POWER))))
    return xp.exp((inner + power - held) / sharpness)


def _log_slope(rate: Any, amount: Any, xp: ModuleType) -> Any:
    """Derivative of log(1 - exp(-rate * amount)) with respect to the amount; never overflows."""
    return rate * xp.exp(-rate * amount) / _saturation(rate, amount, xp)


def _interference(parameters: Parameters, batch_size: Any, total_tokens: Any) -> Any:
    """1 + gamma_B B + gamma_S S, or one where neither term is in the model."""
    factor: Any = 1.0
    if "gamma_B" in parameters:
        factor = factor + parameters["gamma_B"] * batch_size
    if "gamma_S" in parameters:
        factor = factor + parameters["gamma_S"] * total_tokens
    return factor
