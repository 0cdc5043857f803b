"""Posteriors on disk: netCDF files that are written all or nothing and read with care."""

import os
from pathlib import Path
from typing import Any, Final

import xarray as xr

from bayeslat.errors import InputError, PosteriorFileError
from bayeslat.observations.files import replacing
from bayeslat.schema import SCHEMA_VERSION

__all__ = ["load_tree", "save_tree", "write_whole"]

REQUIRED_ATTRIBUTES: Final = ("schema_version", "spec", "verdict")


def save_tree(tree: xr.DataTree, path: Path, *, compressed: bool = False) -> None:
    """Write a tree; an existing file stays as it is until the new one is complete.

    Compressed it is smaller and slower to write.

    Raises
    ------
    InputError
        If the folder does not exist.
    PosteriorFileError
        If the file cannot be written.
    """
    if not path.parent.is_dir():
        raise InputError(f"got {path}, expected an existing folder {path.parent}; create it first")
    # In memory first: HDF5 does not survive a disk that is full.
    content = tree.to_netcdf(engine="h5netcdf", encoding=_encoding(tree) if compressed else None)
    write_whole(path, bytes(content))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and have it on the disk before coming back.

    Parameters
    ----------
    path : Path
        The file, in a folder that exists.
    content : bytes
        All of it.

    Raises
    ------
    PosteriorFileError
        It cannot be written; then the file is what it was before.
    """

    def write(beside: Path) -> None:
        with beside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())

    try:
        replacing(path, write)
        _sync_folder(path.parent)
    except (OSError, InputError) as fault:
        why = getattr(fault, "strerror", None) or fault
        raise PosteriorFileError(
            f"got {path}, which cannot be written ({why}), expected room in a folder that exists;"
            " make room or choose another folder"
        ) from fault


def _sync_folder(folder: Path) -> None:
    """Have a folder's list of names on the disk: a renamed file is lost with it otherwise."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _encoding(tree: xr.DataTree) -> dict[str, dict[str, Any]]:
    """Compression of every numeric variable."""
    how = {"zlib": True, "complevel": 9, "shuffle": True}
    return {
        node.path: {
            str(name): dict(how)
            for name, each in node.data_vars.items()
            if each.dtype.kind in "fiub"
        }
        for node in tree.subtree
    }


def load_tree(path: Path) -> xr.DataTree:
    """Read a tree into memory.

    Raises
    ------
    PosteriorFileError
        For a missing or damaged file, one that is no posterior, or one of another schema.
    """
    if not path.is_file():
        raise PosteriorFileError(f"got {path}, expected a saved posterior; no such file")
    try:
        with xr.open_datatree(path, engine="h5netcdf") as stored:
            tree = stored.load()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise PosteriorFileError(
            f"got {path}, expected a saved posterior, but it is damaged or no netCDF file"
            f" ({type(error).__name__}); save it again"
        ) from error
    if "posterior" not in tree.children or any(
        name not in tree.attrs for name in REQUIRED_ATTRIBUTES
    ):
        raise PosteriorFileError(
            f"got {path}, a netCDF file without a bayeslat posterior; expected one that"
            " FleetPosterior.save wrote"
        )
    version = int(tree.attrs["schema_version"])
    if version != SCHEMA_VERSION:
        raise PosteriorFileError(
            f"got {path} of schema version {version}, expected {SCHEMA_VERSION}; fit again or"
            " use the release that wrote it"
        )
    return tree
