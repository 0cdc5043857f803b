import gzip
from pathlib import Path

import pandas as pd
import pytest

from bayeslat.errors import InputError
from bayeslat.observations import READERS, UnitWarning, read_steps

REAL_STEPS = Path(__file__).parents[3] / "shared" / "data" / "fleet_steps.csv"
HEADER = "gpu,model,batch_size,total_tokens,latency_ms\n"
ROW = "g,m,4,8,10.0\n"


def refused(path, **options):
    with pytest.raises(InputError, match=r"^got .*expected .*;") as caught:
        read_steps(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing_file(tmp_path):
    assert "does not exist" in refused(tmp_path / "absent.csv")


def test_a_table_is_no_path():
    assert "call validate_steps" in refused(pd.DataFrame({"gpu": ["H100"]}))


def test_folder(tmp_path):
    assert "folder" in refused(tmp_path)


def test_empty_file(tmp_path):
    path = tmp_path / "steps.csv"
    path.touch()
    assert "empty file" in refused(path)


def test_wrong_columns(tmp_path):
    path = tmp_path / "steps.csv"
    path.write_text("a,b\n1,2\n")
    assert "without ['gpu', 'model', 'batch_size'" in refused(path)


def test_truncated_gzip(tmp_path):
    path = tmp_path / "steps.csv.gz"
    path.write_bytes(gzip.compress((HEADER + ROW * 100_000).encode(), compresslevel=1)[:-2000])
    assert "ends too early" in refused(path)


def test_gzip_that_ends_after_the_head(tmp_path):
    rows = "".join(f"g,m,4,8,{i * 0.37 + 1:.3f}\n" for i in range(60_000))
    path = tmp_path / "steps.csv.gz"
    path.write_bytes(gzip.compress((HEADER + rows).encode())[:-2000])
    assert "ends too early" in refused(path)


def test_binary_garbage_without_suffix(tmp_path):
    path = tmp_path / "steps"
    path.write_bytes(bytes(range(256)))
    assert "none that we know" in refused(path)


def test_text_that_is_not_utf8_in_the_rows(tmp_path):
    path = tmp_path / "steps.csv"
    path.write_bytes((HEADER + ROW).encode() + "g,modèle,4,8,10.0\n".encode("latin1"))
    assert "iconv" in refused(path)


def test_all_rows_bad(tmp_path):
    path = tmp_path / "steps.csv"
    path.write_text(HEADER + "g,m,4,3,10.0\n" + "g,m,4,8,-1\n")
    message = refused(path)
    assert "2 quarantined (1 latency_ms not positive, 1 total_tokens below batch_size)" in message


def test_unknown_format(tmp_path):
    path = tmp_path / "steps.csv"
    path.write_text(HEADER + ROW)
    assert all(name in refused(path, format="excel") for name in READERS)


def test_two_units_warn(tmp_path):
    path = tmp_path / "steps.csv"
    path.write_text(HEADER + ROW * 20 + "g,m,4,8,0.0101\n" * 20)
    with pytest.warns(UnitWarning, match="two units"):
        steps = read_steps(path)
    assert len(steps) == 40
    assert "two units" in steps.quarantine.summary()


def test_the_caller_states_the_timing_scope_where_the_format_does_not(tmp_path):
    path = tmp_path / "steps.csv"
    path.write_text(HEADER + ROW)
    assert read_steps(path, timing_scope="client_itl").timing_scope == "client_itl"
    log = tmp_path / "server.log"
    log.write_text(
        "Iteration(1): 0 context requests, 0 context tokens, 1 generation requests, "
        "1 generation tokens, iteration elapsed time: 3.1 ms\n"
    )
    assert "records 'cycle'" in refused(log, gpu="g", model="m", timing_scope="gpu_forward")


@pytest.mark.skipif(not REAL_STEPS.exists(), reason=f"the measured steps are not at {REAL_STEPS}")
def test_every_row_of_the_measured_fleet_is_seen():
    steps = read_steps(REAL_STEPS)
    quarantine = steps.quarantine
    assert quarantine.n_read == 30_037 == len(steps) + quarantine.n_quarantined
    assert len(steps.deployments) == 63
    assert steps.has_context
    # Measured rows: a rule that puts aside more than a few of them is a wrong rule.
    assert quarantine.n_quarantined < 0.01 * quarantine.n_read
