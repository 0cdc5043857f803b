"""The static throughput-saturation model: one least-squares fit, no prior, no fleet.

    T = tau_0 + (w_0 + w_1 S) / (P_max (1 - exp(-k_B B)) (1 - exp(-k_S S))) + tau_B B + tau_S S

What people fit who have the formula and nothing else. P_max, w_0 and w_1 carry one redundant scale:
all three times the same number give the same latencies, so that only w_0 / P_max and w_1 / P_max
mean anything.
"""

from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from bayeslat.errors import InputError
from bayeslat.evaluation.base import Array
from bayeslat.evaluation.rivals.static_fit import SaturationFit
from bayeslat.evaluation.rivals.static_problem import LOSSES, Loss, Problem
from bayeslat.observations import Observations

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ThroughputSaturationModel"]

COLUMNS: Final = ("batch_size", "total_tokens", "latency_ms")


class ThroughputSaturationModel:
    """Least squares for one deployment, or for whatever steps it is given.

    The steps are cleaned, B and S divided by their medians, and the parameters found by a bounded
    trust-region search from one start: P_max the 95th percentile of S/T, k_B 0.1, k_S 0.01, w_1 the
    slope of T on S, w_0 a tenth of w_1 at the median S, tau_0 half of the least T, tau_B and tau_S
    0.001.

    Parameters
    ----------
    loss : {"linear", "soft_l1", "huber", "cauchy"}
        Of the weighted residuals, as in `scipy.optimize.least_squares`; "linear" is plain squares.
    loss_scale : float
        Weighted residual at which a robust loss turns from squares to its tail; ms without weights.
    min_latency_ms, max_latency_ms : float
        Steps outside are dropped.

    Raises
    ------
    InputError
        An unknown loss, a scale that is not positive, or bounds that leave nothing.

    Examples
    --------
    >>> fit = ThroughputSaturationModel(loss="soft_l1").fit(steps)  # doctest: +SKIP
    >>> fit.predict(batch_size=16, total_tokens=512)  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        loss: Loss = "linear",
        loss_scale: float = 1.0,
        min_latency_ms: float = 1.0,
        max_latency_ms: float = 300.0,
    ):
        if loss not in LOSSES:
            raise InputError(f"got loss {loss!r}, expected one of {', '.join(LOSSES)}; correct it")
        if not loss_scale > 0 or not 0 <= min_latency_ms < max_latency_ms:
            raise InputError(
                f"got loss_scale {loss_scale}, min_latency_ms {min_latency_ms}, max_latency_ms"
                f" {max_latency_ms}, expected a positive scale and 0 <= min < max; correct them"
            )
        self.loss: Loss = loss
        self.loss_scale = loss_scale
        self.min_latency_ms, self.max_latency_ms = min_latency_ms, max_latency_ms
        self._fitted: SaturationFit | None = None

    def fit(
        self, steps: pd.DataFrame | Observations, *, weights: ArrayLike | None = None
    ) -> SaturationFit:
        """Fit all steps with one set of parameters.

        Parameters
        ----------
        steps : DataFrame or Observations
            Columns ``batch_size``, ``total_tokens``, ``latency_ms``; others are ignored, whatever
            deployment the rows are of and however many steps they average.
        weights : array, optional
            Weight of the squared residual of each row, shape (row,); ``1 / latency_ms**2`` makes
            the errors relative.

        Returns
        -------
        SaturationFit
            The fit, which the model remembers too: its own `predict` and `plot_contour` ask the
            last one.

        Raises
        ------
        InputError
            A column is missing, weights are not what they should be, or no step is left.
        """
        frame = steps.to_frame() if isinstance(steps, Observations) else steps
        absent = [name for name in COLUMNS if name not in frame]
        if absent:
            raise InputError(
                f"got no column {', '.join(absent)}, expected {', '.join(COLUMNS)}; rename them"
            )
        table = frame[list(COLUMNS)].apply(pd.to_numeric, errors="coerce")
        rows = np.column_stack([table.to_numpy(dtype=float), _checked(weights, len(table))])
        kept, dropped = self._clean(rows)
        problem = Problem(kept, self.loss, self.loss_scale)
        self._fitted = SaturationFit(problem, *problem.solve(problem.start()), dropped)
        return self._fitted

    @property
    def fitted(self) -> SaturationFit:
        """The last fit.

        Raises
        ------
        InputError
            Nothing has been fitted.
        """
        if self._fitted is None:
            raise InputError("got a model without a fit, expected steps first; call fit(steps)")
        return self._fitted

    def predict(self, batch_size: ArrayLike, total_tokens: ArrayLike) -> float | Array:
        """See `SaturationFit.predict`."""
        return self.fitted.predict(batch_size, total_tokens)

    def plot_contour(
        self,
        batch_range: tuple[float, float] = (1, 64),
        token_range: tuple[float, float] = (1, 2048),
    ) -> "Figure":
        """See `SaturationFit.plot_contour`."""
        return self.fitted.plot_contour(batch_range, token_range)

    def _clean(self, rows: Array) -> tuple[Array, dict[str, int]]:
        """Rows that are used, and how many were dropped for each reason, the first that applies."""
        batch, tokens, latency_ms, _ = rows.T
        reasons = {
            "missing value": ~np.isfinite(rows).all(axis=1),
            "batch_size not positive": batch <= 0,
            "total_tokens not positive": tokens <= 0,
            "total_tokens below batch_size": tokens < batch,
            "latency_ms not positive": latency_ms <= 0,
            f"latency_ms below {self.min_latency_ms:g}": latency_ms < self.min_latency_ms,
            f"latency_ms above {self.max_latency_ms:g}": latency_ms > self.max_latency_ms,
        }
        kept, dropped = np.ones(len(rows), dtype=bool), {}
        for reason, wrong in reasons.items():
            if (kept & wrong).any():
                dropped[reason] = int((kept & wrong).sum())
            kept &= ~wrong
        if not kept.any():
            told = ", ".join(f"{number} {reason}" for reason, number in dropped.items())
            raise InputError(
                f"got no step to fit ({told or 'no rows'}), expected at least one; correct the rows"
                " or widen min_latency_ms and max_latency_ms"
            )
        return rows[kept], dropped


def _checked(weights: ArrayLike | None, n_rows: int) -> Array:
    if weights is None:
        return np.ones(n_rows)
    array = np.asarray(weights, dtype=float)
    is_weight = np.isfinite(array) & (array >= 0)
    if array.shape != (n_rows,) or not is_weight.all() or not array.any():
        raise InputError(
            f"got weights of shape {array.shape}, expected {n_rows} finite numbers, none negative"
            " and not all zero; give one for each row"
        )
    return array
