"""Compiled survival function and quantile of the posterior mixture.

P(T > t) is a mean over draws of the noise's survival function at z = (t / mu - 1) / sigma. A point
is handled at a time, in rows over the draws: latency mu and relative scale sigma of every draw,
then z = x slope - offset with x = t, or x = log t for noise on the log scale. Three facts make it
cheap: the loops over a row are plain enough for the compiler to take several draws at once, which
is why exponential and logarithm are written down here; the survival function of the standard
variate depends on the draw only through nu, so it is tabulated once a draw, over
v = 1 - (1 + |z|)^(-1/2), and read by cubic Hermite interpolation; and the slope of that cubic is
the density, with which a quantile is found in about three evaluations. The absolute error of a
tabulated probability is below ERROR, see the tests. All of it is one module because numba's cache
on disk does not notice changes of what a function calls in another.

Arguments that the compiled functions share:

* `columns`, shape (tile, row, TILE), from `tiled`: the parameters in the order of
  `bayeslat.schema.PARAMETERS`, then the rows that are named below them;
* `weights`, shape (tile, feature, TILE), from `tiled` as well, and `features`, shape (point,
  feature), of the discrepancy; `n_draws` says how many draws the tiles hold;
* `steps`, shape (row, point), with the rows BATCH to NOISE_3;
* `sharp`: whether any draw has m_S other than one;
* `tables` from `tail_table`; `log_scale` of the noise; `t` and `q` of shape (point,).
"""

from math import factorial
from typing import Any, Final

import numba
import numpy as np
from numpy.typing import NDArray

from bayeslat.noise import NoiseFamily

__all__ = [
    "ERROR",
    "N_CELLS",
    "locate",
    "log_densities",
    "ppf_mean",
    "sf_blends",
    "sf_draws",
    "sf_mean",
    "tail_table",
    "tiled",
]

type Array = NDArray[np.float64]

(
    P_MAX,
    K_B,
    K_S,
    W_0,
    W_1,
    TAU_0,
    TAU_B,
    TAU_S,
    TAU_C,
    GAMMA_B,
    GAMMA_S,
    M_S,
    R_F,
    R_B,
    R_C,
    LOG_K_S,
    LOG_R_F,
    LOG_R_B,
    SLOPE_1,
    SLOPE_2,
    SLOPE_3,
    SIGMA,
    SCALE,
) = range(23)
"""Rows of `columns`; the slopes are those of log noise, and SCALE is the prior standard deviation
of the discrepancy."""

BATCH, TOKENS, CONTEXT, AVERAGED, MISSING, NOISE_1, NOISE_2, NOISE_3 = range(8)
"""Rows of `steps`; MISSING is the share of the discrepancy's variance that its features miss, and
the last are the features of log noise."""

CENTRE, SPREAD, RESOLUTION, X, LOW, HIGH, X_BEFORE, Y_BEFORE, G_BEFORE, N_STATES = range(10)
"""What the search of a quantile remembers: what `_spread` says of the mixture, x and its bracket,
and the step before; g is the derivative of x by y."""

TILE: Final = 128
"""Draws that are handled together for many points: their rows and tables stay in the cache."""

HELD: Final = 64
"""Points whose rows over all draws are held in memory at once, for quantiles."""

N_CELLS: Final = 256
"""Cells of the table over v in [0, 1]."""

ERROR: Final = 1e-7
"""Bound on the absolute error of a tabulated survival function, for nu > 1."""

MAX_STEPS: Final = 200
"""Bound on the steps of a quantile's search, which takes two or three."""

PATIENCE: Final = 8
"""Steps after which every other one halves the bracket, whatever Newton's method proposes."""

TOLERANCE: Final = 1e-9
"""Bound on the error of the last Newton step, as a share of the quantile or, where that is less, of
the mixture's spread. The cubic correction leaves far less of it, see the tests."""

LEAST: Final = 1e-14
"""Relative width of a bracket that ends a search in any case."""

LEAST_POWER: Final = -40.0
"""Bound on the logarithm of (k S)^m_S: beyond it the saturation is told from neither limit."""

_LOG2_E: Final = 1.4426950408889634
_LN2_HIGH: Final = 6.93147180369123816490e-01
_LN2_LOW: Final = 1.90821492927058770002e-10
"""Two parts of log 2: whole multiples of the first, up to 2^11, are exact."""
_LN2: Final = 0.6931471805599453
_SQRT_HALF_BITS: Final = 0x3FE6A09E667F3BCD
"""The bits of sqrt(1/2) as a double."""
_EXP_BOUND: Final = 700.0
_TAYLOR: Final = tuple(1.0 / factorial(k) for k in range(13, 0, -1))
_ARTANH: Final = tuple(1.0 / k for k in range(23, 1, -2))

_OPTIONS: Final[dict[str, Any]] = {"cache": True, "nogil": True, "error_model": "numpy"}
_rowwise: Any = numba.njit(fastmath={"contract"}, **_OPTIONS)
# A sum in any order is what lets the compiler keep several partial sums.
_sum: Any = numba.njit(fastmath={"contract", "reassoc", "nsz"}, **_OPTIONS)


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
    array, shape (draw, N_CELLS + 1, 2)
        P(Z > z) and its derivative with respect to v, times the width of a cell. Slopes are held to
        three times the gentler of the neighbouring secants, which keeps the cubics from rising
        (Fritsch and Carlson, 1980); only the far tail has slopes beyond.
    """
    root = 1.0 - np.arange(N_CELLS) / N_CELLS
    z = 1.0 / root**2 - 1.0
    table = np.zeros((nu.size, N_CELLS + 1, 2))
    table[:, :-1, 0] = family.standard_sf(z, nu[:, None])
    secant = np.diff(table[:, :, 0], axis=1)
    gentler = np.maximum(secant, np.pad(secant, ((0, 0), (1, 0)), mode="edge")[:, :-1])
    slope = -family.standard_pdf(z, nu[:, None]) * 2.0 / root**3 / N_CELLS
    table[:, :-1, 1] = np.maximum(slope, 3.0 * gentler)
    return table


def tiled(rows: Array) -> Array:
    """Rows of shape (row, draw) cut into tiles, shape (tile, row, TILE); the last draw fills up."""
    n_rows, n_draws = rows.shape
    n_tiles = -(-n_draws // TILE)
    padded = np.pad(rows, ((0, 0), (0, n_tiles * TILE - n_draws)), mode="edge")
    return np.ascontiguousarray(padded.reshape(n_rows, n_tiles, TILE).swapaxes(0, 1))


@_rowwise
def _exp_parts(x):
    """(exp(r), less one, and 2^n) with x = r + n log 2, for |x| held to `_EXP_BOUND`."""
    x = min(max(x, -_EXP_BOUND), _EXP_BOUND)
    n = np.floor(x * _LOG2_E + 0.5)
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    less_one = 0.0
    for coefficient in _TAYLOR:
        less_one = (less_one + coefficient) * r
    bits = np.int64((np.int64(n) + 1023) << 52)
    return less_one, bits.view(np.float64)


@_rowwise
def _exp(x):
    less_one, scale = _exp_parts(x)
    return less_one * scale + scale


@_rowwise
def _expm1(x):
    less_one, scale = _exp_parts(x)
    return less_one * scale + (scale - 1.0)


@_rowwise
def _log(x):
    """Logarithm of a positive normal number: x = 2^n m with m in [sqrt(1/2), sqrt(2))."""
    bits = np.float64(x).view(np.int64)
    n = np.int64(bits - _SQRT_HALF_BITS) >> 52
    mantissa = np.int64(bits - (n << 52)).view(np.float64)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    series = 0.0
    for coefficient in _ARTANH:
        series = (series + coefficient) * square
    return n * _LN2 + 2.0 * (s + s * series)


@_rowwise
def _power(log_base, exponent, out):
    """Fill `out` with base^exponent."""
    for m in range(out.size):
        out[m] = _exp(exponent * log_base[m])


@_rowwise
def _divide_by_saturation(rate, floor, tokens, out):
    """Divide `out` by 1 - exp(-k S) with k = k_S / floor."""
    for m in range(out.size):
        out[m] /= -_expm1(-rate[m] / floor[m] * tokens)


@_rowwise
def _divide_by_sharp_saturation(log_rate, log_floor, sharpness, share, log_tokens, out):
    """Divide `out` by (1 - exp(-(k S)^m_S))^(1 / m_S), as `bayeslat.saturation` does."""
    for m in range(out.size):
        power = sharpness[m] * (log_rate[m] - share * log_floor[m] + log_tokens)
        held = max(power, LEAST_POWER)
        inner = _log(-_expm1(-_exp(min(held, -LEAST_POWER))))
        out[m] *= _exp((held - power - inner) / sharpness[m])


@_rowwise
def _work(p_max, w_0, w_1, tokens, out):
    """Fill `out` with the time of the work at full saturation."""
    for m in range(out.size):
        out[m] = (w_0[m] + w_1[m] * tokens) / p_max[m]


@_rowwise
def _scale_by_batch(rate, gamma_b, gamma_s, batch, tokens, out):
    """Multiply `out` by the interference over the batch factor."""
    for m in range(out.size):
        interference = 1.0 + gamma_b[m] * batch + gamma_s[m] * tokens
        out[m] *= interference / -_expm1(-rate[m] * batch)


@_rowwise
def _add_scaled(amount, first, first_ratio, second, second_ratio, out):
    """Add first first_ratio + amount second second_ratio to `out`."""
    for m in range(out.size):
        out[m] += first[m] * first_ratio[m] + amount * second[m] * second_ratio[m]


@_rowwise
def _add_linear(tau_s, tau_c, tokens, context, out):
    """Add the terms of tokens and context to `out`."""
    for m in range(out.size):
        out[m] += tau_s[m] * tokens + tau_c[m] * context


@_rowwise
def _add_prefill_context(tau_c, ratio, context, out):
    """Add what context costs beside a prefill and not in a decode step."""
    for m in range(out.size):
        out[m] += tau_c[m] * (ratio[m] - 1.0) * context


@_rowwise
def _fill_formula(columns, sharp, step, floor, requests, mu):
    """Fill `mu` with the formula of `bayeslat.saturation` at one step."""
    batch, tokens = step[BATCH], step[TOKENS]
    share = 1.0 - batch / tokens
    _power(columns[LOG_R_F], share, floor)
    _power(columns[LOG_R_B], share, requests)
    _work(columns[P_MAX], columns[W_0], columns[W_1], tokens, mu)
    if sharp:
        log_rate, log_floor = columns[LOG_K_S], columns[LOG_R_F]
        _divide_by_sharp_saturation(log_rate, log_floor, columns[M_S], share, np.log(tokens), mu)
    else:
        _divide_by_saturation(columns[K_S], floor, tokens, mu)
    _scale_by_batch(columns[K_B], columns[GAMMA_B], columns[GAMMA_S], batch, tokens, mu)
    _add_scaled(batch, columns[TAU_0], floor, columns[TAU_B], requests, mu)
    _add_linear(columns[TAU_S], columns[TAU_C], tokens, step[CONTEXT], mu)
    if tokens > batch and step[CONTEXT] > tokens:
        _add_prefill_context(columns[TAU_C], columns[R_C], step[CONTEXT], mu)


@_rowwise
def _scale_by_discrepancy(weights, features, delta, mu):
    """Multiply `mu` by exp(delta), delta the features times the weights."""
    delta[:] = 0.0
    for j in range(features.size):
        feature, weight = features[j], weights[j]
        for m in range(delta.size):
            delta[m] += feature * weight[m]
    for m in range(mu.size):
        mu[m] *= _exp(delta[m])


@_rowwise
def _fill_scale(columns, step, sigma):
    """Fill `sigma` with the relative scale of the noise and of what the discrepancy misses."""
    slope_1, slope_2, slope_3 = columns[SLOPE_1], columns[SLOPE_2], columns[SLOPE_3]
    own, missed, averaged, missing = columns[SIGMA], columns[SCALE], step[AVERAGED], step[MISSING]
    noise_1, noise_2, noise_3 = step[NOISE_1], step[NOISE_2], step[NOISE_3]
    for m in range(sigma.size):
        louder = noise_1 * slope_1[m] + noise_2 * slope_2[m] + noise_3 * slope_3[m]
        noise, rest = own[m] * _exp(louder), missed[m]
        sigma[m] = np.sqrt(noise * noise / averaged + missing * rest * rest)


@_rowwise
def _locate(columns, weights, sharp, step, features, scratch, mu, sigma):
    """Fill `mu` and `sigma`, shape (draw,), of one step."""
    _fill_formula(columns, sharp, step, scratch[0], scratch[1], mu)
    if features.size > 0:
        _scale_by_discrepancy(weights, features, scratch[0], mu)
    _fill_scale(columns, step, sigma)


@_rowwise
def locate(columns, weights, n_draws, sharp, steps, features):
    """Latency in milliseconds and relative scale of every draw, each of shape (point, draw)."""
    shape = (steps.shape[1], n_draws)
    mu, sigma, scratch = np.empty(shape), np.empty(shape), np.empty((2, TILE))
    for tile in range(columns.shape[0]):
        first, draws = tile * TILE, (columns[tile], weights[tile])
        for i in range(shape[0]):
            out, scale = mu[i][first : first + TILE], sigma[i][first : first + TILE]
            _locate(*draws, sharp, steps[:, i], features[i], scratch, out, scale)
    return mu, sigma


@_rowwise
def _standardise(log_scale, mu, sigma):
    """Turn mu and sigma in place into slope and offset of z = x slope - offset."""
    for m in range(mu.size):
        offset = (_log(mu[m]) if log_scale else 1.0) / sigma[m]
        mu[m] = 1.0 / (sigma[m] if log_scale else mu[m] * sigma[m])
        sigma[m] = offset


@_rowwise
def _places(slope, offset, x, place):
    """Fill `place` with the signed positions of z in the table, in cells."""
    for m in range(place.size):
        z = x * slope[m] - offset[m]
        place[m] = np.copysign((1.0 - 1.0 / np.sqrt(1.0 + abs(z))) * N_CELLS, z)


@_rowwise
def _read(nodes, m, place):
    """P(Z > z) of draw m, and its derivative by |z|, from the table laid out flat."""
    position = abs(place)
    cell = max(min(int(position), N_CELLS - 1), 0)  # a place that is no number stays inside
    s = position - cell
    # An index that cannot be negative spares a test in each of the four reads.
    k = np.uint64(2 * (m * (N_CELLS + 1) + cell))
    left, d_left = nodes[k], nodes[k + np.uint64(1)]
    right, d_right = nodes[k + np.uint64(2)], nodes[k + np.uint64(3)]
    curve = 3.0 * (right - left) - 2.0 * d_left - d_right
    twist = 2.0 * (left - right) + d_left + d_right
    upper = left + s * (d_left + s * (curve + s * twist))
    root = 1.0 - position * (1.0 / N_CELLS)
    fall = (d_left + s * (2.0 * curve + 3.0 * s * twist)) * (0.5 * N_CELLS) * root * root * root
    return (upper if place >= 0.0 else 1.0 - upper), fall


@_sum
def _evaluate(nodes, slope, offset, x, place):
    """Sums over draws of P(X > x) and of its density by x."""
    _places(slope, offset, x, place)
    total, density = 0.0, 0.0
    for m in range(place.size):
        upper, fall = _read(nodes, m, place[m])
        total += upper
        density -= fall * slope[m]
    return total, density


@_rowwise
def _abscissa(log_scale, t):
    """The x of a latency. Below zero is none, and at zero none on the log scale."""
    if t < 0.0 or (log_scale and t == 0.0):
        return -np.inf
    return np.log(t) if log_scale else t


@_rowwise
def sf_mean(columns, weights, n_draws, sharp, steps, features, tables, log_scale, t):
    """Mean over draws of P(T > t), shape (point,)."""
    result, scratch, rows = np.zeros(t.size), np.empty((2, TILE)), np.empty((3, TILE))
    for tile in range(columns.shape[0]):
        size = min(TILE, n_draws - tile * TILE)
        nodes, draws = tables[tile * TILE :][:size].reshape(-1), (columns[tile], weights[tile])
        mu, sigma, place = rows[0][:size], rows[1][:size], rows[2][:size]
        for i in range(t.size):
            _locate(*draws, sharp, steps[:, i], features[i], scratch, mu, sigma)
            _standardise(log_scale, mu, sigma)
            result[i] += _evaluate(nodes, mu, sigma, _abscissa(log_scale, t[i]), place)[0]
    return result / n_draws


@_rowwise
def sf_draws(columns, weights, n_draws, sharp, steps, features, tables, log_scale, t):
    """P(T > t) of every draw, shape (point, draw)."""
    mu, sigma = locate(columns, weights, n_draws, sharp, steps, features)
    nodes, place = tables.reshape(-1), np.empty(n_draws)
    for i in range(t.size):
        _standardise(log_scale, mu[i], sigma[i])
        _places(mu[i], sigma[i], _abscissa(log_scale, t[i]), place)
        for m in range(n_draws):
            mu[i, m] = _read(nodes, m, place[m])[0]
    return mu


@_rowwise
def log_densities(columns, weights, n_draws, sharp, steps, features, dof, constant, log_scale, t):
    """Log density of a latency in every draw, 1/ms, shape (point, draw).

    `dof`, shape (draw,), are degrees of freedom, infinite for the normal families, and `constant`
    the logarithm of the standard variate's density at zero.
    """
    mu, sigma = locate(columns, weights, n_draws, sharp, steps, features)
    heavy = np.isfinite(dof[0])
    for i in range(t.size):
        x, here, scale = _abscissa(log_scale, t[i]), mu[i], sigma[i]
        for m in range(n_draws):
            unit = scale[m] if log_scale else here[m] * scale[m]
            z = (x - (_log(here[m]) if log_scale else here[m])) / unit
            if heavy:
                fall = 0.5 * (dof[m] + 1.0) * _log(1.0 + z * z / dof[m])
            else:
                fall = 0.5 * z * z
            here[m] = constant[m] - fall - _log(unit * t[i] if log_scale else unit)
    return mu


@_rowwise
def _blend(share, one, other, out):
    """Fill `out` with (1 - share) one + share other, or with what goes on below a share of zero."""
    if share >= 0.0:
        for m in range(out.size):
            out[m] = (1.0 - share) * one[m] + share * other[m]
    else:
        for m in range(out.size):
            bend = share * (other[m] / one[m] - 1.0)
            out[m] = one[m] * _exp(bend - 0.5 * bend * bend)


@_rowwise
def sf_blends(first, second, sigma, tables, log_scale, x, share):
    """Mean over draws of P(X > x) where latency is (1 - share) first + share second in each draw.

    `first`, `second` and `sigma` have shape (point, draw); `x`, `share` and the result have shape
    (point, level). X is latency, or its logarithm where the noise is on that scale. With a negative
    share the logarithm of the blend goes on as the parabola that touches it at zero, so that the
    latency stays positive.
    """
    result, rows = np.zeros(x.shape), np.empty((3, TILE))
    for start in range(0, first.shape[1], TILE):
        nodes = tables[start : start + TILE].reshape(-1)
        for i in range(x.shape[0]):
            one, other = first[i][start : start + TILE], second[i][start : start + TILE]
            mu, scale, place = rows[0][: one.size], rows[1][: one.size], rows[2][: one.size]
            for j in range(x.shape[1]):
                _blend(share[i, j], one, other, mu)
                scale[:] = sigma[i][start : start + TILE]
                _standardise(log_scale, mu, scale)
                result[i, j] += _evaluate(nodes, mu, scale, x[i, j], place)[0]
    return result / first.shape[1]


@_sum
def _spread(slope, offset):
    """Mean, spread and resolution of the mixture in x, from the draws' centres and widths.

    The spread takes the noise's scale for its deviation. The resolution, the scale on which the
    mixture's density may change, is the width of the narrow draws.
    """
    mean, square, noise, narrow = 0.0, 0.0, 0.0, 0.0
    centre = offset[0] / slope[0]
    for m in range(slope.size):
        width = 1.0 / slope[m]
        beside = offset[m] * width - centre
        mean += beside
        square += beside * beside
        noise += width * width
        narrow += slope[m] * slope[m]
    mean /= slope.size
    spread = np.sqrt(max(square / slope.size - mean * mean, 0.0) + noise / slope.size)
    return centre + mean, spread, np.sqrt(slope.size / narrow)


@_rowwise
def _steepened(upper, density, target):
    """Logarithm of the smaller tail over its target, and its derivative by x; it falls in x."""
    if target <= 0.5:
        return np.log(upper / target), -density / upper
    lower = 1.0 - upper
    return np.log((1.0 - target) / lower), -density / lower


@_rowwise
def _correction(x, y, g, x_before, y_before, g_before):
    """What the cubic x(y) through two points with their dx/dy adds to Newton's step -g y.

    No number where it is no correction but another proposal, as from points that are far apart.
    """
    apart = y - y_before
    secant = (x - x_before) / apart
    curve = (g - secant) / apart
    twist = (g + g_before - 2.0 * secant) / (apart * apart)
    correction = y * y * (curve - twist * y_before)
    return correction if abs(correction) <= 0.5 * abs(g * y) else np.nan


@_rowwise
def _within(x, proposal, low, high, width, halve):
    """The proposal if it is near and between the bounds, else what surely makes progress."""
    if low < proposal < high and abs(proposal - x) <= width and not halve:
        return proposal
    if low == -np.inf:
        return high - width
    return low + width if high == np.inf else 0.5 * (low + high)


@_rowwise
def _advance(search, upper, density, target, unit, step):
    """One step of a search from P(X > x) and the density there; whether it has ended."""
    x = search[X]
    search[LOW if upper > target else HIGH] = x
    low, high = search[LOW], search[HIGH]
    y, fall = _steepened(upper, density, target)
    if y == 0.0 or high - low <= LEAST * abs(x):
        return True
    g = 1.0 / fall
    correction = _correction(x, y, g, search[X_BEFORE], search[Y_BEFORE], search[G_BEFORE])
    search[X_BEFORE], search[Y_BEFORE], search[G_BEFORE] = x, y, g
    proposal = x - g * y + (correction if np.isfinite(correction) else 0.0)
    # The error of Newton's step itself is about its square over the resolution.
    bound = TOLERANCE * min(search[SPREAD], unit if unit > 0.0 else abs(x))
    small = g * y * g * y <= bound * search[RESOLUTION]
    if small and np.isfinite(correction) and low <= proposal <= high:
        search[X] = proposal
        return True
    halve = step > PATIENCE and step % 2 == 0
    width = search[SPREAD] * 2.0**step  # where the density vanishes Newton's steps have no bound
    search[X] = _within(x, proposal, low, high, width, halve)
    return False


@_rowwise
def _begin(slope, offset, start, search):
    """Set a search up at `start`, in units of the mixture's spread about its mean."""
    search[CENTRE], search[SPREAD], search[RESOLUTION] = _spread(slope, offset)
    search[X] = search[CENTRE] + start * search[SPREAD]
    search[LOW], search[HIGH] = -np.inf, np.inf
    search[X_BEFORE], search[Y_BEFORE], search[G_BEFORE] = np.nan, np.nan, np.nan


@_rowwise
def _evaluate_all(tables, slope, offset, searches, active, result):
    """Fill `result` with P(X > x) and the density of the active searches, tile by tile."""
    result[:] = 0.0
    place = np.empty(TILE)
    for first in range(0, slope.shape[1], TILE):
        nodes = tables[first : first + TILE].reshape(-1)
        for i in active:
            part, beside = slope[i][first : first + TILE], offset[i][first : first + TILE]
            upper, density = _evaluate(nodes, part, beside, searches[i, X], place[: part.size])
            result[i, 0] += upper / slope.shape[1]
            result[i, 1] += density / slope.shape[1]


@_rowwise
def _search(tables, slope, offset, target, start, unit):
    """Solve P(X > x) = target for every row: Newton's method, corrected, within a bracket."""
    searches, result = np.empty((target.size, N_STATES)), np.empty((target.size, 2))
    active = np.arange(target.size)
    for i in active:
        _begin(slope[i], offset[i], start, searches[i])
    for step in range(MAX_STEPS):
        _evaluate_all(tables, slope, offset, searches, active, result)
        left = 0
        for i in active:
            if not _advance(searches[i], result[i, 0], result[i, 1], target[i], unit, step):
                active[left] = i
                left += 1
        active = active[:left]
        if left == 0:
            break
    return searches


@_rowwise
def ppf_mean(columns, weights, n_draws, sharp, steps, features, tables, log_scale, q):
    """Quantile of the mixture at each point, shape (point,).

    Searches begin where one of those before ended, in units of the mixture's spread.
    """
    result, start, unit = np.empty(q.size), 0.0, 1.0 if log_scale else 0.0
    for first in range(0, q.size, HELD):
        part = slice(first, min(first + HELD, q.size))
        mu, sigma = locate(columns, weights, n_draws, sharp, steps[:, part], features[part])
        for i in range(mu.shape[0]):
            _standardise(log_scale, mu[i], sigma[i])
        searches = _search(tables, mu, sigma, 1.0 - q[part], start, unit)
        last = searches[-1]
        start = (last[X] - last[CENTRE]) / last[SPREAD]
        start = start if np.isfinite(start) else 0.0
        for i in range(mu.shape[0]):
            x = searches[i, X]
            result[first + i] = np.exp(x) if log_scale else max(x, 0.0)
    return result
