"""Files: nothing existing is lost, and every unreadable file says why."""

from pathlib import Path

import pytest
import xarray as xr

import bayeslat as bl
from bayeslat.errors import InputError, PosteriorFileError
from bayeslat.storage import load_tree, save_tree


def test_saved_posterior_reads_back_equal(tiny_fleet, tiny_file):
    again = bl.load(tiny_file)
    xr.testing.assert_identical(again.posterior, tiny_fleet.posterior)
    assert again.tree.attrs == tiny_fleet.tree.attrs
    assert again.deployments == tiny_fleet.deployments
    assert again.spec == tiny_fleet.spec
    assert again.verdict == tiny_fleet.verdict


def test_a_failed_write_leaves_the_existing_file(tiny_fleet, tmp_path, monkeypatch):
    path = tmp_path / "fleet.nc"
    path.write_bytes(b"precious")

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(xr.DataTree, "to_netcdf", fail)
    with pytest.raises(OSError, match="disk full"):
        save_tree(tiny_fleet.tree, path)
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_refused(tiny_fleet, tmp_path):
    with pytest.raises(InputError, match="existing folder"):
        tiny_fleet.save(tmp_path / "nowhere" / "fleet.nc")


def missing(path: Path, good: Path) -> None:
    del good


def damaged(path: Path, good: Path) -> None:
    content = good.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def garbage(path: Path, good: Path) -> None:
    path.write_bytes(b"not a netCDF file at all")


def foreign(path: Path, good: Path) -> None:
    xr.Dataset({"a": 1}).to_netcdf(path, engine="h5netcdf")


def other_schema(path: Path, good: Path) -> None:
    tree = load_tree(good)
    tree.attrs["schema_version"] = 0
    save_tree(tree, path)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (missing, "no such file"),
        (damaged, "damaged"),
        (garbage, "damaged"),
        (foreign, "without a bayeslat posterior"),
        (other_schema, "schema version 0"),
    ],
)
def test_unreadable_files_say_why_in_one_line(spoil, reason, tiny_file, tmp_path):
    path = tmp_path / "fleet.nc"
    spoil(path, tiny_file)
    with pytest.raises(PosteriorFileError, match=reason) as caught:
        bl.load(path)
    assert "\n" not in str(caught.value)
