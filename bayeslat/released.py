"""Posteriors that come with the package: fewer draws in single precision, and a card for each.

The card says what a file was made from and how: fingerprints of data and file, sources with their
licences, spec, versions, verdict and scores. It holds parameters and no data.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from bayeslat.errors import PosteriorFileError
from bayeslat.storage import load_tree, save_tree

__all__ = ["card_of", "load_released_tree", "released_names", "write_released"]

FILE: Final = "posterior.nc"
CARD: Final = "card.json"
PACKAGE: Final = Path(__file__).parent

GROUPS: Final = ("posterior", "constant_data")
"""What questions need; how the sampler went is in the verdict."""


def _folder() -> Path:
    """Beside the modules once installed, beside the package in a checkout."""
    installed = PACKAGE / "models"
    return installed if installed.is_dir() else PACKAGE.parent / "models"


def released_names() -> tuple[str, ...]:
    """Names that `bayeslat.load_released` takes."""
    return tuple(sorted(path.parent.name for path in _folder().glob(f"*/{CARD}")))


def card_of(name: str) -> dict[str, Any]:
    """The card of a released posterior.

    Raises
    ------
    PosteriorFileError
        For a name that is none.
    """
    if name not in released_names():
        raise PosteriorFileError(
            f"got released posterior {name!r}, expected one of {list(released_names())};"
            " correct the name, or give the path of a saved posterior"
        )
    card: dict[str, Any] = json.loads((_folder() / name / CARD).read_text(encoding="utf-8"))
    return card


def load_released_tree(name: str) -> xr.DataTree:
    """The tree of a released posterior, in double precision.

    Raises
    ------
    PosteriorFileError
        For a name that is none, or a file that is not the one its card describes.
    """
    card = card_of(name)
    path = _folder() / name / FILE
    if not path.is_file() or _sha256(path) != card["file"]["sha256"]:
        raise PosteriorFileError(
            f"got {path}, expected the file that {CARD} beside it describes; install bayeslat again"
        )
    return load_tree(path).map_over_datasets(_as_double)


def write_released(
    tree: xr.DataTree,
    name: str,
    *,
    draws: int,
    described: dict[str, Any],
    folder: Path | None = None,
) -> Path:
    """Write a posterior and its card.

    Parameters
    ----------
    tree : DataTree
        Of a fitted fleet.
    name : str
        Its name.
    draws : int
        Draws to keep of each chain, evenly spaced.
    described : dict
        What the tree does not say of itself: sources and licences, scores, the rebuild command.
    folder : Path, optional
        Where the folder of that name is made; that of the package by default.

    Returns
    -------
    Path
        The folder written.
    """
    place = (folder or _folder()) / name
    place.mkdir(parents=True, exist_ok=True)
    kept = xr.DataTree.from_dict(
        {group: _thinned(tree[group].to_dataset(), draws) for group in GROUPS}
    )
    # Where the file lay on somebody's machine is nobody else's business.
    source = " + ".join(Path(part).name for part in tree.attrs["data_source"].split(" + "))
    kept.attrs = {**tree.attrs, "data_source": source}
    save_tree(kept, place / FILE, compressed=True)
    verdict = tree.attrs["verdict"]
    card = {
        "name": name,
        **described,
        "data": {
            "data_fingerprint": kept.attrs["data_fingerprint"],
            "data_source": source,
            "n_rows": int(kept.attrs["n_rows"]),
        },
        "draws": {axis: int(kept["posterior"].sizes[axis]) for axis in ("chain", "draw")},
        "verdict": json.loads(verdict) if verdict else None,
        "spec": json.loads(tree.attrs["spec"]),
        "versions": json.loads(tree.attrs["versions"]),
        "seed": int(tree.attrs["seed"]),
        "created": tree.attrs["created"],
        "file": {
            "sha256": _sha256(place / FILE),
            "bytes": (place / FILE).stat().st_size,
        },
    }
    text = json.dumps(card, indent=2, default=float) + "\n"
    part = place / f".{CARD}.part"
    part.write_text(text, encoding="utf-8")
    part.replace(place / CARD)
    return place


def _thinned(dataset: xr.Dataset, draws: int) -> xr.Dataset:
    if "draw" in dataset.dims:
        pick = np.linspace(0, dataset.sizes["draw"] - 1, min(draws, dataset.sizes["draw"]))
        dataset = dataset.isel(draw=pick.astype(int)).assign_coords(draw=np.arange(pick.size))
        doubles = [name for name, each in dataset.data_vars.items() if each.dtype == np.float64]
        dataset = dataset.assign({name: dataset[name].astype(np.float32) for name in doubles})
    return dataset


def _as_double(dataset: xr.Dataset) -> xr.Dataset:
    singles = [name for name, each in dataset.data_vars.items() if each.dtype == np.float32]
    return dataset.assign({name: dataset[name].astype(np.float64) for name in singles})


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
