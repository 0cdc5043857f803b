"""What every reader must do; a new one is held to it by being in READERS."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest

from bayeslat.errors import InputError
from bayeslat.observations import READERS, read_steps, validate_steps
from bayeslat.observations.base import RawSteps, ReadOptions
from bayeslat.schema import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, TIMING_SCOPES

BATCH = [4, 1, 16]
LATENCY = [20.5, 10.25, 31.0]
GPU, MODEL = "some-gpu", "some-model"


def decode_table():
    return pd.DataFrame(
        {
            "gpu": GPU,
            "model": MODEL,
            "batch_size": BATCH,
            "total_tokens": BATCH,
            "latency_ms": LATENCY,
        }
    )


def write_csv(path):
    decode_table().to_csv(path, index=False)


def write_parquet(path):
    decode_table().to_parquet(path)


def write_jsonl(path):
    decode_table().to_json(path, orient="records", lines=True)


def write_vllm_log(path):
    lines = [
        f"Iteration({i}): 0 context requests, 0 context tokens, {b} generation requests, "
        f"{b} generation tokens, iteration elapsed time: {t} ms\n"
        for i, (b, t) in enumerate(zip(BATCH, LATENCY, strict=True))
    ]
    path.write_text("".join(lines))


def write_fpm(path):
    requests = {
        "num_prefill_requests": 0,
        "sum_prefill_tokens": 0,
        "sum_prefill_kv_tokens": 0,
        "sum_decode_kv_tokens": 0,
    }
    lines = [
        json.dumps(
            {"wall_time": t / 1e3, "scheduled_requests": requests | {"num_decode_requests": b}}
        )
        for b, t in zip(BATCH, LATENCY, strict=True)
    ]
    path.write_text("\n".join(lines))


WRITERS = {
    "csv": write_csv,
    "parquet": write_parquet,
    "jsonl": write_jsonl,
    "vllm-log": write_vllm_log,
    "fpm": write_fpm,
}


@pytest.fixture(params=READERS)
def reader(request):
    return READERS[request.param]


@pytest.fixture
def path(reader, tmp_path):
    file = tmp_path / f"steps{reader.suffixes[0]}"
    WRITERS[reader.name](file)
    return file


def test_every_reader_has_an_example():
    assert set(WRITERS) == set(READERS)


def test_raw_steps_have_canonical_columns_and_account_for_rows(reader, path):
    raw = reader.read(path, ReadOptions(gpu=GPU, model=MODEL))
    assert isinstance(raw, RawSteps)
    assert {*REQUIRED_COLUMNS} <= {*raw.frame.columns} <= {*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS}
    assert raw.row_numbers.shape == (len(raw.frame),)
    assert (np.diff(raw.row_numbers) > 0).all()
    assert raw.timing_scope in TIMING_SCOPES
    assert raw.n_read == len(BATCH)


def test_auto_finds_the_reader_and_gives_the_same(reader, path):
    found = read_steps(path, gpu=GPU, model=MODEL)
    named = read_steps(path, gpu=GPU, model=MODEL, format=reader.name)
    assert found.fingerprint == named.fingerprint
    assert found.batch_size.tolist() == BATCH
    assert found.total_tokens.tolist() == BATCH
    np.testing.assert_allclose(found.latency_ms, LATENCY, rtol=1e-12)
    assert found.deployments[0][:2] == (GPU, MODEL)
    assert found.source == str(path)


def test_only_one_reader_claims_the_content_first(reader, path):
    head = path.read_bytes()
    assert next(r for r in READERS.values() if r.sniff(path, head)) is reader


def test_gzip_reads_the_same(reader, path):
    if reader.name == "parquet":
        with pytest.raises(InputError):
            read_steps(gzipped(path))
        return
    plain = read_steps(path, gpu=GPU, model=MODEL)
    assert read_steps(gzipped(path), gpu=GPU, model=MODEL).fingerprint == plain.fingerprint


def gzipped(path):
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return packed


BAD_FILES = {
    "binary": bytes(range(256)) * 64,
    "random text": b"nothing of use\nin here\n",
    "not UTF-8": "gpu,modèle\nx,y\n".encode("latin1"),
    "blank": b"\n\n\n",
    "truncated gzip": gzip.compress(np.random.default_rng(7).bytes(9000))[:4000],
    "damaged gzip": b"\x1f\x8b" + b"\x07" * 500,
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_one_clear_line(reader, tmp_path, content):
    file = tmp_path / f"steps{reader.suffixes[0]}"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"got .*expected") as caught:
        read_steps(file, gpu=GPU, model=MODEL, format=reader.name)
    assert "\n" not in str(caught.value)


def test_the_table_is_what_validate_steps_makes(path):
    read = read_steps(path, gpu=GPU, model=MODEL, engine="e")
    scope = read.timing_scope
    direct = validate_steps(decode_table().assign(engine="e"), timing_scope=scope)
    np.testing.assert_allclose(read.latency_ms, direct.latency_ms)
    assert read.deployments == direct.deployments
