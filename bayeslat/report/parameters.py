"""Parameters of every deployment: what the data decided, and what only the prior says."""

from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from bayeslat import plots
from bayeslat.identifiability import COMBINATIONS
from bayeslat.posterior import FleetPosterior
from bayeslat.report.pictures import Picture, drawn
from bayeslat.schema import PARAMETER_UNITS

__all__ = ["MEANINGS", "Parameters", "Quantity", "parameters"]

MEANINGS: Final = {
    "P_max": "throughput of a very large step, in tokens of a 7-billion-parameter LLM",
    "k_B": "how soon more requests in a step fill the device",
    "k_S": "how soon more tokens in a step fill the device",
    "w_0": "work of a step that does not depend on its tokens",
    "tau_0": "time that every step takes",
    "tau_B": "time that each request adds",
    "tau_S": "time that each token adds, whatever the throughput",
    "tau_C": "time that each attended position adds: reading the KV cache",
    "gamma_B": "how much requests slow down the work of others",
    "gamma_S": "how much tokens slow down the work of others",
    "m_S": "how sharp the knee between small and large steps is",
    "r_F": "least time of a prefill step, relative to a decode step",
    "r_B": "time that each request adds to a prefill step, relative to a decode step",
    "r_C": "time of an attended position where prompts are computed, relative to a decode step",
    **{name: text.partition(": ")[2] for name, text in COMBINATIONS.items()},
    "overhead": "time of the work that does not depend on tokens",
}
"""What each quantity stands for, in a few words."""

UNITS: Final = {**PARAMETER_UNITS, "slope": "ms/token", "floor": "ms", "overhead": "ms"}


@dataclass(frozen=True)
class Quantity:
    """A parameter or a combination of them, over all deployments.

    Attributes
    ----------
    name, meaning, unit : str
        What it is.
    informed : int
        Deployments whose data decided it.
    lowest, highest : float
        Range of its medians.
    """

    name: str
    meaning: str
    unit: str
    informed: int
    lowest: float
    highest: float


@dataclass(frozen=True)
class Parameters:
    """All parameters: over the fleet, of each deployment, and as a picture."""

    quantities: tuple[Quantity, ...]
    deployments: dict[str, list[dict[str, Any]]]
    picture: Picture


def parameters(fleet: FleetPosterior) -> Parameters:
    """Posterior against prior of every parameter."""
    table = fleet.identifiability()
    table["unit"] = [UNITS.get(name, "") for name in table["quantity"]]
    quantities = tuple(
        _quantity(str(name), rows) for name, rows in table.groupby("quantity", sort=False)
    )
    deployments = {
        str(label): [
            {str(key): value for key, value in row.items()} for row in rows.to_dict("records")
        ]
        for label, rows in table.groupby("deployment", sort=False)
    }
    informed = int(table["informed"].sum())
    picture = drawn(
        plots.plot_parameters(table),
        f"Medians and 90 % intervals of {len(quantities)} quantities, a panel for each and a line"
        f" for each deployment; {informed} of {len(table)} were decided by the data, the others are"
        " hollow and grey.",
    )
    return Parameters(quantities, deployments, picture)


def _quantity(name: str, rows: pd.DataFrame) -> Quantity:
    return Quantity(
        name,
        MEANINGS.get(name, ""),
        UNITS.get(name, ""),
        int(rows["informed"].sum()),
        float(rows["median"].min()),
        float(rows["median"].max()),
    )
