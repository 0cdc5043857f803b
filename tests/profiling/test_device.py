import jax

from bayeslat.profiling.device import device_name, measure_device


def test_measured_roofline_is_within_what_any_cpu_or_gpu_can_do():
    gpu = measure_device(seconds=0.01)
    assert 1e-3 < gpu.peak_tflops < 1e4
    assert 1e-3 < gpu.bandwidth_tbs < 1e2


def test_name_tells_the_kind_of_device():
    assert device_name().startswith("cpu-") == (jax.default_backend() == "cpu")
