"""The error family: every message says what was found, what was expected and what to do.

Each class also derives from the builtin that a caller would catch who has never heard of bayeslat.
The command line turns any `BayeslatError` into one line on standard error and exit code 2.
"""

__all__ = [
    "BayeslatError",
    "CatalogError",
    "ConvergenceError",
    "InputError",
    "PosteriorFileError",
    "StaleGateError",
    "UnknownDeploymentError",
]


class BayeslatError(Exception):
    """Base of every error that bayeslat raises on purpose."""


class InputError(BayeslatError, ValueError):
    """A step log, a table or an argument is not what it should be."""


class CatalogError(BayeslatError, ValueError):
    """A datasheet file or entry cannot be used."""


class UnknownDeploymentError(BayeslatError, KeyError):
    """A posterior was asked about a deployment that it does not hold."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument, quotes and all; a message is for reading.
        return str(self.args[0]) if self.args else ""


class PosteriorFileError(BayeslatError, OSError):
    """A saved posterior is missing, damaged or of a schema that this version does not read."""


class StaleGateError(BayeslatError, RuntimeError):
    """A compiled gate belongs to another posterior than the one it is used with."""


class ConvergenceError(BayeslatError, RuntimeError):
    """Sampling did not pass its convergence checks and the caller asked not to go on."""
