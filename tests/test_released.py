"""Released posteriors: the card describes the file, and both answer right after installation."""

import hashlib
import json

import numpy as np
import pytest

import bayeslat as bl
from bayeslat import released
from bayeslat.released import card_of, load_released_tree, released_names, write_released

NAMES = released_names()
MAX_BYTES = 5 * 2**20


def test_the_reference_fleet_is_there():
    assert "reference-fleet" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_card_describes_the_file(name):
    card, folder = card_of(name), released._folder() / name
    content = (folder / released.FILE).read_bytes()
    assert card["name"] == name and card["rebuild"].split()[2] == name
    assert card["file"] == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    assert len(content) <= MAX_BYTES
    fleet = bl.load_released(name)
    assert card["data"]["data_fingerprint"] == fleet.tree.attrs["data_fingerprint"]
    assert card["data"]["n_rows"] == int(fleet.constant_data["n_rows"].sum())
    assert card["spec"] == json.loads(fleet.spec.to_json())
    assert card["verdict"] == json.loads(fleet.tree.attrs["verdict"])
    assert card["draws"]["draw"] == fleet.posterior.sizes["draw"]
    assert card["simulated"] == (name == "reference-fleet")
    assert all(set(each) == {"repository", "commit", "licence", "engine"}
               for each in card["sources"])  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_released_posterior_answers(name):
    fleet = bl.load(name)
    assert fleet.posterior["P_max"].dtype == np.float64
    first = fleet.deployments[0]
    latency = fleet.latency(**first._asdict(), batch_size=4, total_tokens=4)
    assert 0.0 < latency.ppf(0.05) < latency.ppf(0.95) < 1e5
    new = fleet.cold_start(bl.load_catalog().gpu("L40S"))
    assert "L40S" in new.gpus[0]


@pytest.mark.parametrize("name", NAMES)
def test_no_path_of_a_machine_is_in_what_is_released(name):
    folder = released._folder() / name
    assert "/" not in card_of(name)["data"]["data_source"]
    assert "/" not in load_released_tree(name).attrs["data_source"]
    assert b'"/' not in (folder / released.CARD).read_bytes()


def test_no_row_of_the_data_is_in_a_released_file():
    """Parameters have no dimension as long as the data."""
    for name in NAMES:
        tree = load_released_tree(name)
        sizes = {size for node in tree.subtree for size in node.sizes.values()}
        assert card_of(name)["data"]["n_rows"] not in sizes


def test_an_unknown_name_is_one_clear_line():
    with pytest.raises(bl.PosteriorFileError, match=r"^got released .*expected one of"):
        bl.load_released("private-fleet")
    with pytest.raises(bl.PosteriorFileError, match="no such file"):
        bl.load("private-fleet")


def test_what_is_written_is_what_is_read(tmp_path, monkeypatch):
    fleet = bl.load_released("reference-fleet")
    monkeypatch.setattr(released, "_folder", lambda: tmp_path)
    described = {"simulated": True, "sources": [], "rebuild": "", "scores": {}}
    write_released(fleet.tree, "small", draws=7, described=described)
    assert released_names() == ("small",)
    small = load_released_tree("small")
    assert small["posterior"].sizes["draw"] == 7
    pick = np.linspace(0, fleet.posterior.sizes["draw"] - 1, 7).astype(int)
    np.testing.assert_allclose(
        small["posterior"]["P_max"], fleet.posterior["P_max"].isel(draw=pick), rtol=1e-7
    )
    (tmp_path / "small" / released.FILE).write_bytes(b"other")
    with pytest.raises(bl.PosteriorFileError, match="describes"):
        load_released_tree("small")
