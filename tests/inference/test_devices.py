"""How many chains run at once: never more than cores, always equal waves."""

import os
import subprocess
import sys

import jax
import pytest

from bayeslat.inference import devices


@pytest.mark.parametrize(
    ("cores", "chains", "expected"),
    [(1, 4, 1), (2, 4, 2), (3, 4, 2), (2, 3, 1), (3, 3, 3), (16, 4, 4)],
)
def test_waves_are_equal_and_fit_the_cores(monkeypatch, cores, chains, expected):
    monkeypatch.setattr(devices, "_cores", lambda: list(range(cores)))
    monkeypatch.setattr(jax, "local_device_count", lambda: 100)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert devices.chains_at_once(chains) == expected


def test_an_accelerator_takes_all_chains(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    assert devices.chains_at_once(4) == 4


def test_preparing_after_jax_was_used_is_no_error():
    jax.devices()
    devices.prepare_devices()


def test_importing_the_package_leaves_one_device_a_core():
    """In a process of its own: this one's JAX is already set."""
    code = "import bayeslat.posterior, jax; print(jax.local_device_count())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) == len(os.sched_getaffinity(0))


def test_cores_are_distinct_and_among_those_allowed(monkeypatch):
    monkeypatch.setattr(devices, "_cores", lambda: [2, 5, 7])
    assert sorted(devices.own_cores(3)) == [2, 5, 7]
    assert len(set(devices.own_cores(2))) == 2
