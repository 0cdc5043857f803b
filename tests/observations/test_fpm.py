import gzip
import json

import pytest

from bayeslat.errors import InputError
from bayeslat.observations import read_steps


def record(*, wall_time=0.02, prefill=1, decode=3, scope="execute_model_cuda", **changes):
    fpm = {
        "version": 1,
        "dp_rank": 0,
        "wall_time": wall_time,
        "scheduled_requests": {
            "num_prefill_requests": prefill,
            "sum_prefill_tokens": 512 * prefill,
            "sum_prefill_kv_tokens": 128 * prefill,
            "num_decode_requests": decode,
            "sum_decode_kv_tokens": 1000 * decode,
        },
        "queued_requests": {"num_prefill_requests": 9, "sum_prefill_tokens": 99},
    }
    if scope is not None:
        fpm["timing_scope"] = scope
    return fpm | changes


def envelope(fpm, **source):
    event = {
        "schema": "dynamo.fpm.trace.v1",
        "source": {"namespace": "n", "component": "c", "producer_id": "p"} | source,
        "capture_mode": "sampled",
        "observed_at_unix_ms": 1_500,
        "fpm": fpm,
    }
    return {"timestamp": 1_400, "event": event}


def written(path, records):
    text = "".join(json.dumps(item) + "\n" for item in records)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["dynamo-fpm.p.0.jsonl.gz", "fpm.jsonl"])
def test_a_trace_with_envelope_is_read(tmp_path, name):
    path = written(tmp_path / name, [envelope(record()), envelope(record(prefill=0))])
    steps = read_steps(path, gpu="g", model="m")
    assert steps.batch_size.tolist() == [4, 3]
    assert steps.total_tokens.tolist() == [515, 3]
    assert steps.context_tokens.tolist() == [3128, 3000]
    assert steps.latency_ms.tolist() == [20.0, 20.0]
    assert steps.phase.tolist() == ["mixed", "decode"]
    assert steps.timestamp.tolist() == [1.5, 1.5]
    assert steps.timing_scope == "gpu_forward"


def test_bare_records_are_read(tmp_path):
    path = written(tmp_path / "fpm.jsonl", [record(decode=0)])
    steps = read_steps(path, gpu="g", model="m")
    assert steps.phase.tolist() == ["prefill"]
    assert steps.total_tokens.tolist() == [512]


def test_idle_heartbeats_are_dropped_and_counted(tmp_path):
    records = [record(), record(wall_time=0), record(prefill=0, decode=0)]
    path = written(tmp_path / "fpm.jsonl", records)
    quarantine = read_steps(path, gpu="g", model="m").quarantine
    assert quarantine.dropped == {"idle heartbeat": 1, "step without requests": 1}


def test_the_source_may_name_gpu_and_model(tmp_path):
    path = written(tmp_path / "fpm.jsonl", [envelope(record(), gpu="g", model="m")])
    assert read_steps(path).deployments[0].gpu == "g"
    with pytest.raises(InputError, match=r"gpu='other' .* itself says gpu"):
        read_steps(path, gpu="other")


def test_gpu_must_be_named_where_the_source_does_not(tmp_path):
    path = written(tmp_path / "fpm.jsonl", [record()])
    with pytest.raises(InputError, match="--gpu"):
        read_steps(path, model="m")


def test_two_timing_scopes_are_refused_by_name(tmp_path):
    path = written(tmp_path / "fpm.jsonl", [record(), record(scope=None)])
    with pytest.raises(InputError, match=r"\['execute_model_cuda', 'not stated'\]"):
        read_steps(path, gpu="g", model="m")


@pytest.mark.parametrize(("scope", "ours"), [(None, "cycle"), ("something_new", "unknown")])
def test_scopes_are_translated(tmp_path, scope, ours):
    path = written(tmp_path / "fpm.jsonl", [record(scope=scope)])
    assert read_steps(path, gpu="g", model="m").timing_scope == ours


def test_bad_records_cost_one_row_each(tmp_path):
    path = written(
        tmp_path / "fpm.jsonl",
        [record(), record(scheduled_requests={}), record(wall_time="long"), record(wall_time=-1)],
    )
    with path.open("a") as stream:
        stream.write('{"wall_time": 0.0\n')
    quarantine = read_steps(path, gpu="g", model="m").quarantine
    assert quarantine.counts == {
        "not a forward-pass record": 1,
        "malformed JSON": 1,
        "not a number in latency_ms": 1,
        "latency_ms not positive": 1,
    }
    rows = quarantine.rows.set_index("reason")["row"]
    assert rows["malformed JSON"] == 5
    assert rows["not a number in latency_ms"] == 3
