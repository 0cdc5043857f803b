"""Measuring the step latency of this machine's own device with a small transformer in JAX."""

from bayeslat.profiling.design import SIZES
from bayeslat.profiling.measure import DeviceProfile, check_seconds, profile_device

__all__ = ["SIZES", "DeviceProfile", "check_seconds", "profile_device"]
