"""Step logs in, observations out: readers, cleaning, quarantine.

The only place that sees foreign formats. `read_steps` reads a file, `validate_steps` checks a
DataFrame; both give `Observations`, whose `Quarantine` tells what was not used and why.
"""

from bayeslat.observations.cleaning import validate_steps
from bayeslat.observations.plausibility import ObservationWarning, UnitWarning
from bayeslat.observations.read import READERS, read_steps
from bayeslat.observations.table import Observations, Quarantine, concat
from bayeslat.observations.write import write_steps

__all__ = [
    "READERS",
    "ObservationWarning",
    "Observations",
    "Quarantine",
    "UnitWarning",
    "concat",
    "read_steps",
    "validate_steps",
    "write_steps",
]
