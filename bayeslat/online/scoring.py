"""Scoring rows against what was predicted of each before it was seen."""

import numpy as np
from numpy.typing import NDArray

from bayeslat.online.belief import Belief
from bayeslat.online.rows import Rows
from bayeslat.online.scores import Scores

__all__ = ["score"]

type Array = NDArray[np.float64]


def score(belief: Belief, rows: Rows, *, tolerance: float) -> Scores:
    """Score rows, each by the belief after all rows before it.

    Within the block every row moves the weights of the draws at once (prequential scores, Dawid,
    1984): a belief that is unsure and learns from a row does not blame the next one for it. Under
    the model these PIT values are independent and uniform, whatever steps are asked for.

    Parameters
    ----------
    belief : Belief
        The belief before the block.
    rows : Rows
        The block.
    tolerance : float
        Relative error of a prediction that is no error, as in `Scores`.
    """
    draws, points, t = belief.sample, rows.points, rows.latency_ms
    log_density = draws.log_density(t, points)
    weights = _weights_before(log_density)

    def exceedance(limit: Array) -> Array:
        return np.clip((weights * draws.sf_draws(limit, points)).sum(axis=0), 0.0, 1.0)

    return Scores(
        latency_ms=t,
        predicted_ms=np.exp((weights * np.log(draws.location(points))).sum(axis=0)),
        pit=1.0 - exceedance(t),
        p_slower=exceedance(t / (1.0 + tolerance)),
        p_faster=1.0 - exceedance(t * (1.0 + tolerance)),
        log_score=_log_mean(log_density, weights),
        stratum=rows.stratum,
    )


def _weights_before(log_density: Array) -> Array:
    """Weights of draws given all earlier rows of the block, shape (draw, row), columns sum to 1."""
    before = np.cumsum(log_density, axis=1) - log_density
    weights = np.exp(before - before.max(axis=0))
    return weights / weights.sum(axis=0)


def _log_mean(log_values: Array, weights: Array) -> Array:
    top = log_values.max(axis=0)
    mean = (weights * np.exp(log_values - top)).sum(axis=0)
    # The draw of the highest density may have lost all its weight to the rows before.
    return top + np.log(np.maximum(mean, np.finfo(float).tiny))
