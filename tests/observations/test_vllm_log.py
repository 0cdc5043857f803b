import numpy as np
import pytest

from bayeslat.errors import InputError
from bayeslat.observations import read_steps
from bayeslat.schema import Deployment

SEEN_IN_THE_WILD = """\
(APIServer pid=1) INFO 12-22 21:44:01 [api_server.py:10] Starting vLLM API server
(EngineCore_DP0 pid=2010410) INFO 12-22 21:44:40 [core.py:349] Iteration(515): 0 context \
requests, 0 context tokens, 20 generation requests, 20 generation tokens, iteration elapsed \
time: 10.99 ms
INFO EngineCore_DP1 Iteration(0): 0 context requests, 0 context tokens, 1 generation requests, \
1 generation tokens, iteration elapsed time: 100.00 ms
Engine 000: Iteration(42): 3 context requests, 6144 context tokens, 0 generation requests, \
0 generation tokens, iteration elapsed time: 187.32 ms, GPU KV cache usage: 41.2%
Iteration(43): 1 context requests, 512 context tokens, 7 generation requests, 7 generation \
tokens, encoder inputs: 2, iteration elapsed time: 31 ms, result wait: 2.1 ms
Iteration(44): 0 context requests, 0 context tokens, 1 generation requests, 1 generation tokens, \
iteration elapsed time: 3.10 ms (dummy), GPU KV cache usage: 0.0%
Iteration(45): 0 context requests, 0 context tokens, 0 generation requests, 0 generation tokens, \
iteration elapsed time: 0.02 ms
"""


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "server.log"
    path.write_text(SEEN_IN_THE_WILD)
    return path


def test_every_line_shape_is_read(log):
    steps = read_steps(log, gpu="g", model="m", tp=2)
    assert steps.deployments == (Deployment("g", "m", 2, "vllm", ""),)
    assert steps.batch_size.tolist() == [20, 1, 3, 8]
    assert steps.total_tokens.tolist() == [20, 1, 6144, 519]
    assert steps.latency_ms.tolist() == [10.99, 100.0, 187.32, 31.0]
    assert steps.phase.tolist() == ["decode", "decode", "prefill", "mixed"]
    assert steps.timing_scope == "cycle"
    assert not steps.has_context


def test_dummy_and_idle_steps_are_dropped_and_counted(log):
    quarantine = read_steps(log, gpu="g", model="m").quarantine
    assert quarantine.dropped == {"dummy step": 1, "idle step": 1}
    assert quarantine.n_read == 6


def test_cache_usage_times_capacity_is_the_context(tmp_path):
    path = tmp_path / "server.log"
    path.write_text(SEEN_IN_THE_WILD.splitlines()[3] + "\n")
    steps = read_steps(path, gpu="g", model="m", kv_capacity_tokens=100_000)
    np.testing.assert_allclose(steps.context_tokens, [41_200.0])


def test_a_cut_off_line_is_quarantined_with_its_number(log):
    log.write_text(SEEN_IN_THE_WILD + "Iteration(46): 0 context requests, 0 con\n")
    quarantine = read_steps(log, gpu="g", model="m").quarantine
    assert quarantine.counts == {"unreadable iteration line": 1}
    assert quarantine.rows["row"].tolist() == [8]


def test_bytes_that_are_no_text_do_not_matter(log):
    log.write_bytes(b"\xff\xfe\x00 progress\n" + SEEN_IN_THE_WILD.encode())
    assert len(read_steps(log, gpu="g", model="m")) == 4


def test_the_caller_must_name_gpu_and_model(log):
    with pytest.raises(InputError, match=r"pass gpu=\.\.\. \(--gpu\), model=\.\.\. \(--model\)"):
        read_steps(log)


def test_the_engine_can_be_named(log):
    steps = read_steps(log, gpu="g", model="m", engine="vllm-0.19", precision="fp8")
    assert steps.deployments[0].engine == "vllm-0.19"
    assert steps.deployments[0].precision == "fp8"


def test_a_log_without_iterations_tells_which_flag_is_needed(tmp_path):
    path = tmp_path / "server.log"
    path.write_text("INFO nothing\n")
    with pytest.raises(InputError, match="--enable-logging-iteration-details"):
        read_steps(path, gpu="g", model="m")
