import os

import numpy as np
import pandas as pd
import pytest

from bayeslat.errors import InputError
from bayeslat.observations import read_steps, validate_steps, write_steps


@pytest.fixture
def steps():
    rng = np.random.default_rng(6)
    return validate_steps(
        pd.DataFrame(
            {
                "gpu": rng.choice(["g1", "g,2"], 40),
                "model": 'm"3"',
                "precision": rng.choice(["", "fp8"], 40),
                "batch_size": rng.integers(1, 8, 40),
                "total_tokens": rng.integers(8, 64, 40),
                "latency_ms": rng.uniform(5.0, 9.0, 40),
                "context_tokens": rng.integers(1, 99, 40),
            }
        )
    )


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_what_is_written_reads_back_exactly(tmp_path, steps, name):
    write_steps(steps, tmp_path / name)
    assert read_steps(tmp_path / name).fingerprint == steps.fingerprint
    write_steps(steps.to_frame(), tmp_path / name)
    assert read_steps(tmp_path / name).fingerprint == steps.fingerprint
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["steps.xls", "steps", "steps.parquet.gz"])
def test_an_unknown_suffix_leaves_nothing_behind(tmp_path, steps, name):
    with pytest.raises(InputError, match=r"\.csv, \.jsonl or \.parquet"):
        write_steps(steps, tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_told(tmp_path, steps):
    with pytest.raises(InputError, match="folder does not exist"):
        write_steps(steps, tmp_path / "absent" / "steps.csv")


def test_a_failed_write_leaves_the_old_file(tmp_path, steps, monkeypatch):
    path = tmp_path / "steps.csv"
    path.write_text("old")

    def fail(*_args, **_options):
        raise OSError("disk full")

    monkeypatch.setattr(pd.DataFrame, "to_csv", fail)
    with pytest.raises(OSError, match="disk full"):
        write_steps(steps, path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["steps.csv"]
