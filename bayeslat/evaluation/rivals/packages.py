"""Packages that only some rivals need, and that an installation may therefore lack."""

from importlib.util import find_spec
from typing import Final

from bayeslat.errors import InputError

__all__ = ["missing_package", "require"]

DISTRIBUTIONS: Final = {
    "sklearn": "scikit-learn",
    "lightgbm": "lightgbm",
    "xgboost": "xgboost",
}
"""Import name to the name under which a package is installed."""


def missing_package(*modules: str) -> str | None:
    """Name, as one installs it, of the first of these packages that is not there; else `None`."""
    absent = (module for module in modules if find_spec(module) is None)
    return next((DISTRIBUTIONS[module] for module in absent), None)


def require(module: str, *, rival: str) -> None:
    """Stop with one line where a package is not there.

    Parameters
    ----------
    module
        Import name, one of `DISTRIBUTIONS`.
    rival
        Name of the contender that needs it.

    Raises
    ------
    InputError
        The package is not installed.
    """
    package = missing_package(module)
    if package is not None:
        raise InputError(
            f"got no {package}, expected it for the rival {rival!r}; install bayeslat[rivals]"
        )
