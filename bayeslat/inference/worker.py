"""A process that runs chains on one core: ``python -m bayeslat.inference.worker CORE``.

It is told what to do by `bayeslat.inference.crew`, in pickled messages over its standard input, and
answers over its standard output.
"""

import os
import pickle
import signal
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["main"]


def main(core: int) -> None:
    """Serve one crew until it hangs up."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing else may write between answers
    function: Callable[..., Any] | None = None
    while True:
        try:
            kind, content = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        if kind == "density":
            function = _density(content)
            continue
        if function is not None:
            _run(function, content, answers)


def _density(serialized: bytes) -> Callable[..., Any]:
    """A log-density whose gradient was compiled along with it."""
    import jax
    from jax import export

    both = export.deserialize(bytearray(serialized)).call

    @jax.custom_vjp
    def log_density(data: Any, u: Any) -> Any:
        return both(data, u)[0]

    def forward(data: Any, u: Any) -> Any:
        return both(data, u)

    def backward(gradient: Any, cotangent: Any) -> Any:
        return None, cotangent * gradient

    log_density.defvjp(forward, backward)
    return log_density


def _run(function: Callable[..., Any], content: dict[str, Any], answers: Any) -> None:
    import jax
    import jax.numpy as jnp

    from bayeslat.inference.nuts import Tuning, pieces

    data = (tuple(jnp.asarray(leaf) for leaf in content["data"]),)
    tuning, n_pieces = Tuning(*content["tuning"]), content["n_pieces"]
    keys = jax.random.wrap_key_data(content["keys"])
    for chain in range(len(content["starts"])):
        own = slice(chain, chain + 1)
        starts = jnp.asarray(content["starts"][own])
        for piece in pieces(function, data, starts, keys[own], tuning, n_pieces):
            pickle.dump(piece, answers)
            answers.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the crew is interrupted, and ends its workers
    os.environ["NPROC"] = "1"  # XLA's own threads: one
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(sys.argv[1])})
    import jax

    jax.config.update("jax_num_cpu_devices", 1)
    jax.config.update("jax_enable_x64", True)
    main(int(sys.argv[1]))
