"""Where JAX runs: the accelerator if it sees one, else one CPU device a chain."""

import jax

__all__ = ["describe_device", "prepare_devices"]


def prepare_devices(chains: int) -> None:
    """Ask JAX for one CPU device a chain, so that chains run in parallel.

    This can only be set before JAX is first used. Where it is too late the samplers fall back to
    one vectorised program, slower on a CPU and equally correct.
    """
    try:
        jax.config.update("jax_num_cpu_devices", chains)
    except RuntimeError:
        return


def describe_device() -> str:
    """The device that sampling runs on, for the record."""
    return f"{jax.default_backend()}:{jax.devices()[0].device_kind}"
