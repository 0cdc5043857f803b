"""Compiled survival function and quantile of the posterior mixture.

P(T > t) is a mean over draws of the noise's survival function at z = (t / mu - 1) / sigma. Two
facts make it cheap: the saturation factors depend on B or S alone, so each distinct value is
computed once a draw, and the survival function of the standard variate depends on the draw only
through nu, so it is tabulated once a draw, over w = |z| / (1 + |z|), and read by cubic Hermite
interpolation; beyond the last node it falls as the power z^-nu. The absolute error is below
ERROR, see the tests.

`parameters` has shape (draw, 11) in the order of `bayeslat.schema.PARAMETERS`; `sigma` and `nu`
have shape (draw,); `tables` comes from `tail_table`; `t`, `batch`, `tokens` and `context` have
shape (point,); `levels` holds the distinct batch sizes, the index of each point's batch size among
them, and the same for the tokens.
"""

from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from bayeslat.noise import NoiseFamily

__all__ = ["ERROR", "N_CELLS", "ppf_mean", "sf_draws", "sf_few", "sf_mean", "tail_table"]

type Array = NDArray[np.float64]

N_CELLS: Final = 512
"""Cells of the table over w in [0, 1]."""

Z_LAST: Final = N_CELLS - 1.0
"""Last node of the table; from here on the tail is a power of z."""

MAX_STEPS: Final = 100
"""Bound on the steps of a quantile's search, which takes about eight."""

ERROR: Final = 1e-7
"""Bound on the absolute error of a tabulated survival function, for nu > 1."""

X_TOLERANCE: Final = 1e-12
"""Relative width of the bracket at which the search of a quantile ends."""

F_TOLERANCE: Final = 1e-13
"""Error in probability at which it ends."""


def tail_table(family: NoiseFamily, nu: Array) -> Array:
    """Survival function and slope of the standard variate at the table's nodes.

    Parameters
    ----------
    family : NoiseFamily
        A family whose standard variate is symmetric about zero.
    nu : array, shape (draw,)
        Shape parameter of each draw.

    Returns
    -------
    array, shape (draw, N_CELLS, 2)
        P(Z > z) and its derivative with respect to w, times the width of a cell.
    """
    w = np.arange(N_CELLS) / N_CELLS
    z = w / (1.0 - w)
    table = np.empty((nu.size, N_CELLS, 2))
    table[:, :, 0] = family.standard_sf(z, nu[:, None])
    table[:, :, 1] = -family.standard_pdf(z, nu[:, None]) * (1.0 + z) ** 2 / N_CELLS
    return table


@numba.njit(cache=True, nogil=True, inline="always")
def _tail(table, nu, z):
    """P(Z > z) from one draw's table."""
    a = abs(z)
    if a < Z_LAST:
        position = (1.0 - 1.0 / (1.0 + a)) * N_CELLS
        cell = min(int(position), N_CELLS - 2)
        s = position - cell
        left, right = table[cell, 0], table[cell + 1, 0]
        d_left, d_right = table[cell, 1], table[cell + 1, 1]
        curve = 3.0 * (right - left) - 2.0 * d_left - d_right
        twist = 2.0 * (left - right) + d_left + d_right
        upper = left + s * (d_left + s * (curve + s * twist))
    else:
        upper = table[N_CELLS - 1, 0] * (Z_LAST / a) ** nu
    return upper if z >= 0.0 else 1.0 - upper


@numba.njit(cache=True, nogil=True, inline="always")
def _exceed(table, sigma, nu, log_scale, mu, t):
    """P(T > t) of one draw whose latency has location mu."""
    if t <= 0.0:
        # Clipped at zero: a latency is never below it, and may be zero itself.
        return 1.0 if (t < 0.0 or log_scale) else _tail(table, nu, -1.0 / sigma)
    if log_scale:
        return _tail(table, nu, np.log(t / mu) / sigma)
    return _tail(table, nu, (t / mu - 1.0) / sigma)


@numba.njit(cache=True, nogil=True, inline="always")
def _inverse_saturation(rate, amount):
    """1 / (1 - exp(-rate * amount))."""
    return -1.0 / np.expm1(-rate * amount)


@numba.njit(cache=True, nogil=True, inline="always")
def _location(p, batch, tokens, context, inverse_factors):
    """The formula of `bayeslat.saturation` with the saturation factors already inverted."""
    processing = (p[3] + p[4] * tokens) / p[0] * inverse_factors
    interference = 1.0 + p[9] * batch + p[10] * tokens
    return p[5] + processing * interference + p[6] * batch + p[7] * tokens + p[8] * context


@numba.njit(cache=True, nogil=True)
def _one_draw(p, sigma, nu, table, log_scale, t, batch, tokens, context, levels, scratch, out):
    """Survival function of one draw at every point."""
    batch_levels, batch_index, token_levels, token_index = levels
    batch_factor, token_factor = scratch
    for i in range(batch_levels.size):
        batch_factor[i] = _inverse_saturation(p[1], batch_levels[i])
    for i in range(token_levels.size):
        token_factor[i] = _inverse_saturation(p[2], token_levels[i])
    for i in range(t.size):
        inverse_factors = batch_factor[batch_index[i]] * token_factor[token_index[i]]
        mu = _location(p, batch[i], tokens[i], context[i], inverse_factors)
        out[i] = _exceed(table, sigma, nu, log_scale, mu, t[i])


@numba.njit(cache=True, nogil=True)
def sf_mean(parameters, sigma, nu, tables, log_scale, t, batch, tokens, context, levels):
    """Mean over draws of P(T > t), shape (point,)."""
    total, out = np.zeros(t.size), np.empty(t.size)
    scratch = (np.empty(levels[0].size), np.empty(levels[2].size))
    for m in range(sigma.size):
        _one_draw(
            parameters[m],
            sigma[m],
            nu[m],
            tables[m],
            log_scale,
            t,
            batch,
            tokens,
            context,
            levels,
            scratch,
            out,
        )
        total += out
    return total / sigma.size


@numba.njit(cache=True, nogil=True)
def sf_draws(parameters, sigma, nu, tables, log_scale, t, batch, tokens, context, levels):
    """P(T > t) of every draw, shape (draw, point)."""
    result = np.empty((sigma.size, t.size))
    scratch = (np.empty(levels[0].size), np.empty(levels[2].size))
    for m in range(sigma.size):
        _one_draw(
            parameters[m],
            sigma[m],
            nu[m],
            tables[m],
            log_scale,
            t,
            batch,
            tokens,
            context,
            levels,
            scratch,
            result[m],
        )
    return result


@numba.njit(cache=True, nogil=True)
def _excess(sigma, nu, tables, log_scale, mu, t, target):
    """P(T > t) of the mixture at one point, less its target."""
    total = 0.0
    for m in range(sigma.size):
        total += _exceed(tables[m], sigma[m], nu[m], log_scale, mu[m], t)
    return total / sigma.size - target


@numba.njit(cache=True, nogil=True)
def _bracket(sigma, nu, tables, log_scale, mu, target):
    """Latencies around the quantile, with their excess: (low, f_low, high, f_high)."""
    low = high = mu.mean()
    width = (mu * sigma).mean()
    f_low = f_high = _excess(sigma, nu, tables, log_scale, mu, low, target)
    while f_high > 0.0:
        low, f_low = high, f_high
        high, width = high + width, 2.0 * width
        f_high = _excess(sigma, nu, tables, log_scale, mu, high, target)
    while f_low <= 0.0 and low > 0.0:
        high, f_high = low, f_low
        low, width = max(low - width, 0.0), 2.0 * width
        f_low = _excess(sigma, nu, tables, log_scale, mu, low, target)
    return low, f_low, high, f_high


@numba.njit(cache=True, nogil=True)
def _quantile(sigma, nu, tables, log_scale, mu, target):
    """Latency whose exceedance is `target`, by the Illinois form of false position."""
    low, f_low, high, f_high = _bracket(sigma, nu, tables, log_scale, mu, target)
    if f_low <= 0.0:
        return low  # the mass at zero alone holds this quantile
    side = 0
    t = high
    for _ in range(MAX_STEPS):
        if high - low <= X_TOLERANCE * high:
            break
        t = low + (high - low) * f_low / (f_low - f_high)
        f = _excess(sigma, nu, tables, log_scale, mu, t, target)
        if abs(f) <= F_TOLERANCE:
            break
        if f > 0.0:
            low, f_low = t, f
            f_high *= 0.5 if side > 0 else 1.0
            side = 1
        else:
            high, f_high = t, f
            f_low *= 0.5 if side < 0 else 1.0
            side = -1
    return t


@numba.njit(cache=True, nogil=True)
def _locations(parameters, batch, tokens, context, mu):
    """Fill `mu`, shape (draw,), with the latency of one point."""
    for m in range(mu.size):
        p = parameters[m]
        factors = _inverse_saturation(p[1], batch) * _inverse_saturation(p[2], tokens)
        mu[m] = _location(p, batch, tokens, context, factors)


@numba.njit(cache=True, nogil=True)
def sf_few(parameters, sigma, nu, tables, log_scale, t, batch, tokens, context):
    """As `sf_mean`, point by point: faster where few points share a saturation factor."""
    result, mu = np.empty(t.size), np.empty(sigma.size)
    for i in range(t.size):
        _locations(parameters, batch[i], tokens[i], context[i], mu)
        result[i] = _excess(sigma, nu, tables, log_scale, mu, t[i], 0.0)
    return result


@numba.njit(cache=True, nogil=True)
def ppf_mean(parameters, sigma, nu, tables, log_scale, q, batch, tokens, context):
    """Quantile of the mixture at each point, shape (point,)."""
    result, mu = np.empty(q.size), np.empty(sigma.size)
    for i in range(q.size):
        _locations(parameters, batch[i], tokens[i], context[i], mu)
        result[i] = _quantile(sigma, nu, tables, log_scale, mu, 1.0 - q[i])
    return result
