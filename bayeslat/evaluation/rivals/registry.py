"""The rivals under their names, as a command line knows them."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final

from bayeslat.catalog import Catalog, load_catalog
from bayeslat.errors import InputError
from bayeslat.evaluation.base import Contender
from bayeslat.evaluation.rivals.boosted import BoostedResidual
from bayeslat.evaluation.rivals.least_squares import SaturationWithContext, StaticSaturation
from bayeslat.evaluation.rivals.packages import missing_package
from bayeslat.evaluation.rivals.polynomial import Polynomial
from bayeslat.evaluation.rivals.ridge import BayesianRidgeRival
from bayeslat.evaluation.rivals.rooflines import RooflineDatasheet, RooflineKnee
from bayeslat.evaluation.rivals.table import ProfileTable
from bayeslat.evaluation.rivals.trees import LightGBM, RandomForest, XGBoost

__all__ = ["RIVALS", "all_rivals", "missing"]

RIVALS: Final[Mapping[str, Callable[[Catalog], Contender]]] = MappingProxyType(
    {
        "linear": lambda catalog: Polynomial(catalog, 1),
        "quadratic": lambda catalog: Polynomial(catalog, 2),
        "table": ProfileTable,
        "roofline-datasheet": RooflineDatasheet,
        "roofline-knee": RooflineKnee,
        "saturation": StaticSaturation,
        "saturation-context": SaturationWithContext,
        "bayesian-ridge": BayesianRidgeRival,
        "random-forest": RandomForest,
        "lightgbm": LightGBM,
        "xgboost": XGBoost,
        "boosted-residual": BoostedResidual,
    }
)
"""Slug of each rival to what makes a fresh one from datasheets, in the order of tables."""

PACKAGES: Final = {
    "bayesian-ridge": "sklearn",
    "random-forest": "sklearn",
    "lightgbm": "lightgbm",
    "xgboost": "xgboost",
    "boosted-residual": "lightgbm",
}
"""Slug to the package that the rival needs and that may not be installed."""


def all_rivals(
    names: Iterable[str] | None = None, *, catalog: Catalog | None = None
) -> tuple[Contender, ...]:
    """Fresh rivals, in the order asked for.

    Parameters
    ----------
    names
        Their slugs, keys of `RIVALS`; all by default.
    catalog
        Datasheets; the bundled ones by default.

    Raises
    ------
    InputError
        A name that no rival has.
    """
    chosen = tuple(RIVALS if names is None else names)
    for name in chosen:
        _require_known(name)
    sheets = load_catalog() if catalog is None else catalog
    return tuple(RIVALS[name](sheets) for name in chosen)


def missing(name: str) -> str | None:
    """Package that a rival needs and that is not installed, or `None`.

    Parameters
    ----------
    name
        Slug of the rival.

    Raises
    ------
    InputError
        A name that no rival has.
    """
    _require_known(name)
    return missing_package(PACKAGES[name]) if name in PACKAGES else None


def _require_known(name: str) -> None:
    if name not in RIVALS:
        raise InputError(
            f"got rival {name!r}, expected one of {', '.join(RIVALS)}; choose among these"
        )
