"""What the data told about each parameter: posterior against prior, on the log scale.

The contraction of a parameter is one minus the ratio of posterior to prior variance of its
logarithm: near one where the data decide, near zero where the posterior repeats the prior. Several
parameters of the formula are confounded, so the table also holds the combinations that the data do
pin down.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["COMBINATIONS", "INFORMED_CONTRACTION", "combinations", "identifiability_table"]

type Array = NDArray[np.float64]

INFORMED_CONTRACTION: Final = 0.5
"""Contraction below which a parameter counts as not informed by the data."""

COMBINATIONS: Final = {
    "slope": "w_1/P_max + tau_S, ms/token: what one more token costs a large step",
    "floor": "tau_0 + w_1/(P_max k_S), ms: what a small step costs",
    "overhead": "w_0/P_max, ms",
}
"""Combinations of parameters with their meaning."""


def combinations(parameters: Mapping[str, Array], w_1: Array) -> dict[str, Array]:
    """The identified combinations of draws of parameters; shapes broadcast.

    Parameters
    ----------
    parameters : mapping of str to array
        Draws in the formula's units.
    w_1 : array
        The gauge, broadcast against the parameters.
    """
    saturating = w_1 / parameters["P_max"]
    found = {
        "slope": saturating + parameters.get("tau_S", 0.0),
        "floor": parameters["tau_0"] + saturating / parameters["k_S"],
    }
    if "w_0" in parameters:
        found["overhead"] = parameters["w_0"] / parameters["P_max"]
    return found


def identifiability_table(
    posterior: Mapping[str, Array], prior: Mapping[str, Array], deployments: list[str]
) -> pd.DataFrame:
    """Posterior against prior of every quantity and deployment.

    Parameters
    ----------
    posterior, prior : mapping of str to array, shape (draw, deployment)
        Positive draws of each quantity.
    deployments : list of str
        Labels of the last axis.

    Returns
    -------
    DataFrame
        Columns ``deployment``, ``quantity``, ``median``, ``lower``, ``upper`` (90 % interval),
        ``prior_sd_log``, ``posterior_sd_log``, ``contraction``, ``informed``.
    """
    rows = []
    for name, draws in posterior.items():
        lower, median, upper = np.quantile(draws, [0.05, 0.5, 0.95], axis=0)
        after, before = np.log(draws).std(axis=0), np.log(prior[name]).std(axis=0)
        contraction = 1.0 - np.square(after / before)
        for position, label in enumerate(deployments):
            rows.append(
                {
                    "deployment": label,
                    "quantity": name,
                    "median": median[position],
                    "lower": lower[position],
                    "upper": upper[position],
                    "prior_sd_log": before[position],
                    "posterior_sd_log": after[position],
                    "contraction": contraction[position],
                    "informed": bool(contraction[position] >= INFORMED_CONTRACTION),
                }
            )
    return pd.DataFrame(rows)
