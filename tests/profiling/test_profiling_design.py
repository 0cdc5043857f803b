import numpy as np

from bayeslat.profiling.design import SIZES, datasheet, step_design


def design(**overrides):
    arguments = {"peak_tflops": 0.1, "max_step_ms": 150.0, "rng": np.random.default_rng(1)}
    return step_design(("tiny", "base"), **(arguments | overrides))


def test_any_prefix_is_balanced_over_sizes_and_phases():
    kinds = [(point.size, point.phase) for point in design()[:8]]
    assert len(set(kinds)) == 4
    assert kinds[:4] == kinds[4:]


def test_the_first_turns_span_the_grid():
    fast = design(peak_tflops=1e3)[:8]
    for size in ("tiny", "base"):
        decode = {p.context_tokens for p in fast if (p.size, p.phase) == (size, "decode")}
        prefill = {p.context_tokens for p in fast if (p.size, p.phase) == (size, "prefill")}
        assert (decode, prefill) == ({16, 32 * 512}, {16, 8 * 512})


def test_a_faster_device_gets_more_points_and_every_point_once():
    slow, fast = design(peak_tflops=0.1), design(peak_tflops=1e3)
    assert set(slow) < set(fast)
    assert len(set(fast)) == len(fast) == 2 * (30 + 24)


def test_a_device_too_slow_for_any_prefill_keeps_its_decode_points():
    assert {point.phase for point in design(peak_tflops=1e-6)} == {"decode"}


def test_order_follows_the_seed():
    assert design() == design()
    assert design() != design(rng=np.random.default_rng(2))


def test_datasheet_counts_the_cache_of_every_layer():
    shape = SIZES["base"]
    entry = datasheet(shape)
    assert entry.kv_bytes_per_position() == 2 * 2 * shape.layers * shape.kv_heads * shape.head_size
