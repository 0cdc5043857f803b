import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeslat import roofline

A100 = {"peak_tflops": 312.0, "bandwidth_tbs": 2.0}

# Worked values


def test_prefill_of_4096_tokens_at_half_the_peak():
    time = roofline.prefill_time_ms(7.0, 4096, 312.0, mfu=0.5)
    assert time == pytest.approx(367.6, abs=0.1)


def test_reading_14_gb_over_2_tb_per_second():
    assert roofline.weight_bytes(7.0) == 14e9
    assert roofline.decode_time_ms(14e9, 0.0, 2.0) == pytest.approx(7.0)


def test_cache_of_4096_positions_and_its_transfer():
    moved = roofline.kv_bytes(4096, 128 * 1024)
    assert moved == 512 * 2**20
    assert roofline.required_bandwidth_gbs(512e6, 0.1) == pytest.approx(5.12)
    assert roofline.kv_transfer_time_s(512e6, 5.12) == pytest.approx(0.1)


def test_decode_intensity_grows_with_the_batch():
    batch = np.array([1, 8, 64])
    intensity = roofline.arithmetic_intensity(
        roofline.step_flops(7.0, batch), roofline.weight_bytes(7.0)
    )
    np.testing.assert_allclose(intensity, batch)
    assert roofline.ridge_point(312.0, 2.0) == 156.0


# Scaling


def test_times_scale_with_share_reached_and_devices():
    assert roofline.prefill_time_ms(7.0, 512, 312.0, mfu=0.5, tp=4) == pytest.approx(
        roofline.prefill_time_ms(7.0, 512, 312.0) / 2
    )
    assert roofline.decode_time_ms(14e9, 2e9, 2.0, efficiency=0.5, tp=2) == pytest.approx(8.0)


def test_compute_and_memory_times_meet_at_the_ridge():
    tokens = roofline.ridge_point(312.0, 2.0)
    compute = roofline.prefill_time_ms(7.0, tokens, 312.0)
    assert compute == pytest.approx(roofline.decode_time_ms(roofline.weight_bytes(7.0), 0.0, 2.0))


# The floor


def test_floor_is_the_larger_of_compute_and_memory():
    floor = roofline.step_floor_ms(np.array([1, 4096]), active_parameters_b=7.0, **A100)
    np.testing.assert_allclose(floor, [7.0, roofline.prefill_time_ms(7.0, 4096, 312.0)])


def test_floor_reads_only_positions_older_than_the_step():
    floor = roofline.step_floor_ms(
        np.array([4, 4, 4]),
        active_parameters_b=7.0,
        context_tokens=np.array([4.0, 4004.0, np.nan]),
        kv_bytes_per_position=5e5,
        **A100,
    )
    np.testing.assert_allclose(floor, [7.0, 8.0, 7.0])


@pytest.mark.parametrize("kv", [None, math.nan])
def test_floor_without_the_size_of_the_cache_leaves_it_out(kv):
    floor = roofline.step_floor_ms(
        1, active_parameters_b=7.0, context_tokens=5000.0, kv_bytes_per_position=kv, **A100
    )
    assert floor == pytest.approx(7.0)


@pytest.mark.parametrize("unknown", [None, math.nan])
@pytest.mark.parametrize("key", ["active_parameters_b", "peak_tflops", "bandwidth_tbs"])
def test_floor_is_nan_where_a_datasheet_value_is_unknown(key, unknown):
    values = {"active_parameters_b": 7.0, **A100, key: unknown}
    assert np.all(np.isnan(roofline.step_floor_ms(np.array([1, 4096]), **values)))


def test_floor_broadcasts_over_devices_and_steps():
    floor = roofline.step_floor_ms(
        np.array([1, 64, 4096]),
        active_parameters_b=7.0,
        peak_tflops=np.array([[312.0], [np.nan]]),
        bandwidth_tbs=2.0,
        tp=np.array([[2], [1]]),
    )
    assert floor.shape == (2, 3)
    assert np.all(np.isfinite(floor[0]))
    assert np.all(np.isnan(floor[1]))


def test_floor_traces_under_jax():
    def floor(tokens, context, xp):
        return roofline.step_floor_ms(
            tokens,
            active_parameters_b=7.0,
            context_tokens=context,
            kv_bytes_per_position=5e5,
            xp=xp,
            **A100,
        )

    tokens, context = np.array([1.0, 4096.0]), np.array([4001.0, np.nan])
    traced = jax.jit(lambda s, c: floor(s, c, jnp))(jnp.asarray(tokens), jnp.asarray(context))
    np.testing.assert_allclose(traced, floor(tokens, context, np), rtol=1e-6)


# Precisions


@pytest.mark.parametrize(
    ("precision", "size"),
    [
        ("", 2.0),
        ("auto", 2.0),
        ("bf16", 2.0),
        ("bfloat16", 2.0),
        ("torch.float16", 2.0),
        ("float32", 4.0),
        ("fp8", 1.0),
        ("FP8_E4M3", 1.0),
        ("int8", 1.0),
        ("w8a8", 1.0),
        ("int4", 0.5),
        ("AWQ", 0.5),
        ("gptq", 0.5),
        ("GPTQ-Int8", 1.0),
        ("w4a16", 0.5),
        ("W4A8", 0.5),
        ("mxfp4", 0.5),
        ("nvfp4", 0.5),
    ],
)
def test_bytes_per_parameter(precision, size):
    assert roofline.bytes_per_parameter(precision) == size


def test_bytes_of_an_unknown_precision_are_unknown():
    assert math.isnan(roofline.bytes_per_parameter("homegrown"))
    assert math.isnan(roofline.bytes_per_value("homegrown"))


@pytest.mark.parametrize(
    ("precision", "size"), [("", 2.0), ("float32", 2.0), ("fp8", 1.0), ("awq", 1.0)]
)
def test_bytes_per_value(precision, size):
    assert roofline.bytes_per_value(precision) == size


@pytest.mark.parametrize(
    ("precision", "peak"),
    [
        ("", 989.0),
        ("awq", 989.0),
        ("w4a16", 989.0),
        ("w8a16", 989.0),
        ("fp8", 1979.0),
        ("w8a8", 1979.0),
        ("w4a8", 1979.0),
        ("nvfp4", 3958.0),
    ],
)
def test_tensor_rate_follows_the_precision(precision, peak):
    assert roofline.tensor_tflops(precision, peak_tflops=989.0, fp8_tflops=1979.0) == peak


def test_tensor_rate_without_an_fp8_figure():
    assert roofline.tensor_tflops("int8", peak_tflops=312.0) == 624.0
    assert math.isnan(roofline.tensor_tflops("fp8", peak_tflops=None))


# Phases


def test_chunk_of_512_tokens_is_an_eighth_of_the_prompt():
    chunk = roofline.prefill_time_ms(7.0, 512, 312.0, mfu=0.5)
    assert chunk == pytest.approx(2 * 7e9 * 512 / (312e12 * 0.5) * 1e3)
    assert chunk == pytest.approx(roofline.prefill_time_ms(7.0, 4096, 312.0, mfu=0.5) / 8)


def test_decode_floor_reads_weights_once_and_the_cache_of_every_request():
    batch = np.array([1, 8, 32])
    floor = roofline.decode_floor_ms(
        batch, 4096, active_parameters_b=7.0, kv_bytes_per_position=128 * 1024, **A100
    )
    np.testing.assert_allclose(floor, (14e9 + batch * 512 * 2**20) / 2e12 * 1e3)
    assert np.all(np.diff(floor / batch) < 0.0)
    alone = roofline.decode_floor_ms(1, active_parameters_b=7.0, **A100)
    assert alone == pytest.approx(7.0)


def test_a_decode_step_beyond_the_ridge_is_compute_bound():
    floor = roofline.decode_floor_ms(np.array([156, 312]), active_parameters_b=7.0, **A100)
    np.testing.assert_allclose(floor, [7.0, 14.0])


def test_intensities_of_prefill_and_decode():
    batch = np.array([1, 4, 16])
    prefill = roofline.prefill_intensity(batch, 512, active_parameters_b=7.0)
    np.testing.assert_allclose(prefill, batch * 512)
    np.testing.assert_allclose(roofline.decode_intensity(batch, active_parameters_b=7.0), batch)
    crowded = roofline.decode_intensity(
        batch, active_parameters_b=7.0, context_per_request=4096, kv_bytes_per_position=128 * 1024
    )
    np.testing.assert_allclose(crowded, 14e9 * batch / (14e9 + batch * 512 * 2**20))
    halved = roofline.prefill_intensity(2, 512, active_parameters_b=7.0, bytes_per_parameter=1.0)
    assert halved == 2048


def test_bound_changes_at_the_ridge():
    ridge = roofline.ridge_point(312.0, 2.0)
    intensity = np.array([155.0, 156.0, 157.0, np.nan])
    np.testing.assert_array_equal(
        roofline.is_compute_bound(intensity, ridge), [False, True, True, False]
    )


def test_static_batching_idles_until_the_longest_has_ended():
    assert roofline.static_batching_idle_ms([100, 300, 500], 20.0) == (400 + 200) * 20.0
    idle = roofline.static_batching_idle_ms([[5, 5], [1, 3]], np.array([10.0, 20.0]))
    np.testing.assert_array_equal(idle, [0.0, 40.0])


def test_goodput_counts_satisfied_requests_only():
    assert roofline.goodput_per_s(np.array([True, False, True, True]).sum(), 2.0) == 1.5


def test_cache_of_unknown_positions_is_left_out():
    cached = roofline.cached_bytes(np.array([4, 4, 4]), np.array([2.0, 104.0, np.nan]), 10.0)
    np.testing.assert_array_equal(cached, [0.0, 1000.0, 0.0])
    assert roofline.cached_bytes(4, None, 10.0) == roofline.cached_bytes(4, 104.0, None) == 0.0
