"""States in files, whole or not at all, each with a note beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import xarray as xr
from numpy.typing import NDArray

from bayeslat.errors import PosteriorFileError
from bayeslat.online.files import load_extra, load_value, save_value
from bayeslat.online.state import OnlineState
from bayeslat.posterior import FleetPosterior

__all__ = ["load", "load_extra", "save"]


@dataclass(frozen=True)
class _Variable:
    dims: tuple[str, ...]
    values: NDArray[Any]
    is_coordinate: bool


@dataclass(frozen=True)
class _SavedState:
    """An `OnlineState` whose posterior is arrays and names."""

    groups: Mapping[str, Mapping[str, _Variable]]
    attributes: Mapping[str, Any]
    rest: Mapping[str, Any]


def save(state: OnlineState, path: str | Path, extra: Mapping[str, Any] | None = None) -> None:
    """Write a state to a file; an existing one stays until the new one is complete.

    Parameters
    ----------
    state : OnlineState
        The state.
    path : str or Path
        Where to.
    extra : mapping, optional
        A note of JSON-able values, which `load_extra` reads alone.

    Raises
    ------
    InputError
        If the folder does not exist.
    """
    rest = {item.name: getattr(state, item.name) for item in fields(state) if item.name != "base"}
    groups = {
        name: {str(key): _taken_apart(each, key) for key, each in node.variables.items()}
        for name, node in state.base.tree.children.items()
    }
    save_value(
        _SavedState(groups, {str(key): each for key, each in state.base.tree.attrs.items()}, rest),
        path,
        extra,
    )


def load(path: str | Path) -> OnlineState:
    """Read a state that `save` wrote: the same, bit for bit.

    Raises
    ------
    PosteriorFileError
        For a missing or damaged file, or one that holds something else.
    """
    found = load_value(path)
    if not isinstance(found, _SavedState):
        raise PosteriorFileError(
            f"got {path}, which holds a {type(found).__name__}; expected a state that"
            " bayeslat.online.save wrote"
        )
    tree = xr.DataTree.from_dict(
        {
            name: xr.Dataset(
                {k: (v.dims, v.values) for k, v in group.items() if not v.is_coordinate},
                coords={k: (v.dims, v.values) for k, v in group.items() if v.is_coordinate},
            )
            for name, group in found.groups.items()
        }
    )
    tree.attrs = dict(found.attributes)
    return OnlineState(FleetPosterior(tree), **found.rest)


def _taken_apart(variable: xr.Variable, name: object) -> _Variable:
    return _Variable(
        tuple(map(str, variable.dims)),
        variable.to_numpy(),
        isinstance(variable, xr.IndexVariable) or str(name).startswith("deployment_"),
    )
