"""Made rows of one deployment, predicted rightly or wrong by a factor."""

import numpy as np
from scipy import stats

from bayeslat.online.scores import Scores


def scores(n: int, seed: int, slower: float = 1.0) -> Scores:
    """Rows that are predicted rightly with 5 % lognormal noise, but for a factor."""
    rng = np.random.default_rng([seed, 12])
    z = rng.normal(size=n)
    predicted = rng.uniform(5.0, 50.0, n)
    measured = slower * predicted * np.exp(0.05 * z)
    pit = stats.norm.cdf(np.log(measured / predicted) / 0.05)
    log_score = stats.lognorm.logpdf(measured, 0.05, scale=predicted)
    return Scores(measured, predicted, pit, pit, pit, log_score, np.zeros(n, dtype=np.int64))
