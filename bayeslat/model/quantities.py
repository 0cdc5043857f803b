"""The quantities that deployments share strength in, and the formula's parameters behind them.

What data pin down is not P_max or tau_0 but the slope in S and the floor at small load, and how
each splits in two. Deployments are therefore pooled in these quantities. With a = w_1 / P_max::

    slope  b = a + tau_S          tau_S = f b      a       = (1 - f) b
    floor  F = tau_0 + a / k_S    tau_0 = g F      a / k_S = (1 - g) F
    overhead = w_0 / w_1, in tokens
    tau_B_prefill = tau_B r_B, what a request costs in a prefill

in logarithms of slope, floor, overhead and tau_B_prefill and logits of the shares f and g; every
other parameter in its own logarithm. The map is a bijection of the formula's parameters once w_1 is
fixed, and the quantities are those that datasheets predict: latency of large steps follows the
slope, that of small ones the floor.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final

import numpy as np

__all__ = [
    "LOGIT_QUANTITIES",
    "QUANTITY_OF",
    "QUANTITY_UNITS",
    "from_parameters",
    "link",
    "to_parameters",
]

QUANTITY_OF: Final = {
    "P_max": "slope",
    "k_B": "k_B",
    "k_S": "floor_share",
    "w_0": "overhead",
    "tau_0": "floor",
    "tau_B": "tau_B",
    "tau_S": "slope_share",
    "tau_C": "tau_C",
    "gamma_B": "gamma_B",
    "gamma_S": "gamma_S",
    "m_S": "m_S",
    "r_F": "r_F",
    "r_B": "tau_B_prefill",
    "r_C": "r_C",
}
"""The pooled quantity that stands in the place of each free parameter."""

LOGIT_QUANTITIES: Final = ("floor_share", "slope_share")
"""Quantities in (0, 1), pooled on the logit; all others are positive and pooled on the log."""

QUANTITY_UNITS: Final = {
    "slope": "ms/token",
    "k_B": "1/request",
    "floor_share": "1",
    "overhead": "tokens",
    "floor": "ms",
    "tau_B": "ms/request",
    "slope_share": "1",
    "tau_C": "ms/position",
    "gamma_B": "1/request",
    "gamma_S": "1/token",
    "m_S": "1",
    "r_F": "1",
    "tau_B_prefill": "ms/request",
    "r_C": "1",
}
"""Unit of each quantity."""


def link(name: str, value: float) -> float:
    """A quantity on the scale on which it is pooled: logarithm, or logit of a share."""
    return float(np.log(value / (1.0 - value)) if name in LOGIT_QUANTITIES else np.log(value))


def to_parameters(
    quantities: Mapping[str, Any], w_1: Any, *, xp: ModuleType = np
) -> dict[str, Any]:
    """Pooled quantities to the formula's parameters.

    Parameters
    ----------
    quantities : mapping of str to array
        Logarithms and logits by the name of the quantity; they broadcast.
    w_1 : array
        The gauge.
    xp : module
        Array namespace: numpy, ``jax.numpy`` or ``pytensor.tensor``.

    Returns
    -------
    dict of str to array
        Parameters in the formula's units, w_1 included.
    """
    slope = xp.exp(quantities["slope"])
    floor = xp.exp(quantities["floor"])
    parameters = {"w_1": w_1}
    saturating = slope
    if "slope_share" in quantities:
        parameters["tau_S"] = slope * _sigmoid(quantities["slope_share"], xp)
        saturating = slope * _sigmoid(-quantities["slope_share"], xp)
    parameters["P_max"] = w_1 / saturating
    parameters["tau_0"] = floor * _sigmoid(quantities["floor_share"], xp)
    parameters["k_S"] = saturating / (floor * _sigmoid(-quantities["floor_share"], xp))
    if "overhead" in quantities:
        parameters["w_0"] = xp.exp(quantities["overhead"]) * w_1
    for name, quantity in QUANTITY_OF.items():
        if name == quantity and quantity in quantities:
            parameters[name] = xp.exp(quantities[quantity])
    if "tau_B_prefill" in quantities:
        parameters["r_B"] = xp.exp(quantities["tau_B_prefill"] - quantities["tau_B"])
    return parameters


def from_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `to_parameters`: the formula's parameters to logarithms and logits.

    Parameters
    ----------
    parameters : mapping of str to array
        In the formula's units, w_1 included; they broadcast.
    """
    w_1, tau_0, tau_S = (parameters.get(name, 0.0) for name in ("w_1", "tau_0", "tau_S"))
    saturating = w_1 / parameters["P_max"]
    hidden = saturating / parameters["k_S"]
    quantities = {
        "slope": np.log(saturating + tau_S),
        "floor": np.log(tau_0 + hidden),
        "floor_share": np.log(tau_0 / hidden),
    }
    if "tau_S" in parameters:
        quantities["slope_share"] = np.log(tau_S / saturating)
    if "w_0" in parameters:
        quantities["overhead"] = np.log(parameters["w_0"] / w_1)
    for name, quantity in QUANTITY_OF.items():
        if name == quantity and name in parameters:
            quantities[name] = np.log(parameters[name])
    if "r_B" in parameters:
        quantities["tau_B_prefill"] = np.log(parameters["tau_B"] * parameters["r_B"])
    return quantities


def _sigmoid(x: Any, xp: ModuleType) -> Any:
    return 1.0 / (1.0 + xp.exp(-x))
