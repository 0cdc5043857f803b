"""The posteriors that every contestant starts from, with the rows behind them."""

from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import pandas as pd

import bayeslat as bl
from adaptation.replay import recorded_rows, split_rows
from adaptation.rivals.fixed import Fixed
from bayeslat.simulate import SimulatedFleet

__all__ = ["Recorded", "Simulated", "recorded_base", "simulated_base"]

GPUS: Final = ("A100-80GB", "H100-80GB")
MODELS: Final = ("llama-7b", "llama-13b")
DRAWS: Final = 1000
"""As many as online adaptation carries along."""


class Simulated(NamedTuple):
    """The released posterior of simulated steps, and the truth that they were drawn from."""

    base: Fixed
    truth: SimulatedFleet


class Recorded(NamedTuple):
    """A posterior of some recorded steps, those steps, and the others."""

    base: Fixed
    known: pd.DataFrame
    rest: pd.DataFrame


@cache
def simulated_base() -> Simulated:
    """The released reference fleet; its rows are those of `simulate_fleet()`.

    Rows come of four of its deployments: the others keep the base's belief, or are told of a change
    by their neighbours.
    """
    fleet = bl.load_released("reference-fleet").thin(DRAWS)
    return Simulated(Fixed(fleet), bl.simulate_fleet(gpus=GPUS, models=MODELS))


@cache
def recorded_base(data: Path, folder: Path) -> Recorded:
    """The recorded rows of `adaptation.replay`, a part of them fitted; kept in a folder.

    Raises
    ------
    InputError
        The file of recorded steps is not there.
    """
    known, rest = split_rows(recorded_rows(data))
    observations = bl.validate_steps(known)
    path = folder / f"replay-{observations.fingerprint[:16]}.nc"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        bl.fit(observations, draws=500).save(path)
    return Recorded(Fixed(bl.load(path).thin(DRAWS)), known, rest)
