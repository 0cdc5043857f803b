"""Chains of a large posterior in processes of their own, each held to one core.

XLA splits a program of many small operations over the threads of a CPU, and these then wait for
each other: two chains next to each other in one process take several times as long as the same two
in processes that own a core each. The density travels as StableHLO with its gradient, so that a
worker needs nothing of the model.
"""

import atexit
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax import export

from bayeslat.inference.nuts import Piece, Tuning

__all__ = ["Crew", "crew_for"]


class Crew:
    """Worker processes that know one log-density.

    Parameters
    ----------
    function : callable
        Log-density of data and a vector.
    data : tuple
        Data of the shapes that every run has.
    dim : int
        Length of the vector.
    cores : list of int
        Core of each worker.
    """

    def __init__(
        self,
        function: Callable[..., jax.Array],
        data: tuple[Any, ...],
        dim: int,
        cores: list[int],
    ):
        self._workers = [_start(core) for core in cores]
        atexit.register(self.close)
        leaves, tree = jax.tree.flatten(data)

        def both(leaves: tuple[Any, ...], u: jax.Array) -> Any:
            held = jax.tree.unflatten(tree, leaves)
            return jax.value_and_grad(lambda u: function(*held, u))(u)

        shapes = tuple(jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype) for leaf in leaves)
        vector = jax.ShapeDtypeStruct((dim,), np.float64)
        serialized = bytes(export.export(jax.jit(both))(shapes, vector).serialize())
        for worker in self._workers:
            _tell(worker, "density", serialized)

    @property
    def is_there(self) -> bool:
        """Whether it has not been sent home."""
        return bool(self._workers)

    def run(
        self, data: tuple[Any, ...], starts: Any, keys: Any, tuning: Tuning, n_pieces: int
    ) -> Iterator[list[Piece]]:
        """Pieces of all chains, those of one worker after each other.

        Parameters
        ----------
        data, starts, keys, tuning, n_pieces
            As in `bayeslat.inference.nuts.pieces`; as many chains as a multiple of the workers.

        Yields
        ------
        list of Piece
            The next piece of each worker.
        """
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(data)]
        shares = np.array_split(np.arange(len(starts)), len(self._workers))
        try:
            for worker, share in zip(self._workers, shares, strict=True):
                content = {
                    "data": leaves,
                    "starts": np.asarray(starts)[share],
                    "keys": np.asarray(jax.random.key_data(keys))[share],
                    "tuning": tuple(tuning),
                    "n_pieces": n_pieces,
                }
                _tell(worker, "run", content)
            with ThreadPoolExecutor(len(self._workers)) as pool:
                for _ in range(len(shares[0]) * n_pieces):
                    yield list(pool.map(_hear, self._workers))
        except BaseException:  # what a worker still has to say is no answer to the next question
            self.close()
            raise

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.kill()
            worker.wait()
            for stream in (worker.stdin, worker.stdout):
                if stream is not None:
                    with suppress(OSError):  # what a dead worker has not read
                        stream.close()
        self._workers = []


_current: list[Crew] = []


@lru_cache(maxsize=1)
def _crew(function: Callable[..., jax.Array], dim: int, cores: tuple[int, ...]) -> list[Crew]:
    """A place for the crew of one density; the crew of the one before is sent home."""
    while _current:
        _current.pop().close()
    return _current


def crew_for(
    function: Callable[..., jax.Array], data: tuple[Any, ...], dim: int, cores: list[int]
) -> Crew:
    """The crew that knows a density: the one of the call before, or a new one."""
    place = _crew(function, dim, tuple(cores))
    if place and not place[0].is_there:
        place.clear()
    if not place:
        place.append(Crew(function, data, dim, cores))
    return place[0]


def _start(core: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "bayeslat.inference.worker", str(core)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "NPROC": "1"},
    )


def _tell(worker: "subprocess.Popen[bytes]", kind: str, content: Any) -> None:
    assert worker.stdin is not None
    try:
        pickle.dump((kind, content), worker.stdin)
        worker.stdin.flush()
    except BrokenPipeError:
        raise _ended(worker) from None


def _hear(worker: "subprocess.Popen[bytes]") -> Piece:
    assert worker.stdout is not None
    try:
        found: Piece = pickle.load(worker.stdout)
    except EOFError:
        raise _ended(worker) from None
    return found


def _ended(worker: "subprocess.Popen[bytes]") -> RuntimeError:
    return RuntimeError(
        f"a sampling process ended with status {worker.wait()}, expected it to live as long as the"
        " run; see its message above, if it left one, and the memory of this machine"
    )
