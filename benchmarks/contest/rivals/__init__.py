"""The rivals, each under its name; those that fit the same formula share the fits."""

from contest.rivals.formula import Fitter
from contest.rivals.least_squares import FormulaRival, PooledMemory
from contest.rivals.residual import BoostedResidual
from contest.rivals.residuals import PointRival
from contest.rivals.simple import Knee, Polynomial
from contest.rivals.trees import Forest, LightGBM, QuantileTrees, XGBoost

__all__ = ["all_rivals"]

type Rival = PointRival | QuantileTrees | Forest


def all_rivals() -> tuple[Rival, ...]:
    """Fresh rivals, in the order of the tables."""
    with_context = PooledMemory(Fitter(with_context=True))
    return (
        Polynomial(1),
        Polynomial(2),
        Knee(),
        FormulaRival("formula LSQ", PooledMemory(Fitter(with_context=False))),
        FormulaRival("formula+context LSQ", with_context),
        Forest(),
        LightGBM(),
        XGBoost(),
        BoostedResidual(with_context),
    )
