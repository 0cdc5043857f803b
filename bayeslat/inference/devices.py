"""Where JAX runs: the accelerator if it sees one, else one CPU device a core."""

import os

import jax

__all__ = ["chains_at_once", "describe_device", "own_cores", "prepare_devices"]


def prepare_devices() -> None:
    """Ask JAX for as many CPU devices as there are cores, so that chains run in parallel.

    This can only be set before JAX is first used, and libraries use it while they are imported
    (PyMC asks for a hundred devices, which halves the speed of each). So importing
    `bayeslat.inference` does it first. Where it is too late chains run as JAX stands. A PyMC model
    sampled by numpyro in the same process runs more chains than cores with
    ``nuts={"chain_method": "vectorized"}``.
    """
    try:
        jax.config.update("jax_num_cpu_devices", len(_cores()))
    except RuntimeError:
        return


def chains_at_once(chains: int) -> int:
    """How many of `chains` equal chains to run at once.

    All in one vectorised program on an accelerator. On a CPU the largest divisor of `chains` that
    leaves each a core: more would wait for each other, while XLA piles up what they leave undone.
    """
    if jax.default_backend() != "cpu":
        return chains
    cores = min(len(_cores()), jax.local_device_count())
    return max(n for n in range(1, max(cores, 1) + 1) if chains % n == 0)


def own_cores(n: int) -> list[int]:
    """`n` of the cores that this process may use; other processes begin with others."""
    cores = _cores()
    first = os.getpid() % len(cores)
    return [cores[(first + i) % len(cores)] for i in range(n)]


def _cores() -> list[int]:
    """Cores that this process may use; all of them where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def describe_device() -> str:
    """The device that sampling runs on, for the record."""
    return f"{jax.default_backend()}:{jax.devices()[0].device_kind}"
