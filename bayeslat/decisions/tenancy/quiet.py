"""Silence for a compiled library that prints where nobody asked it to."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["silenced"]


@contextmanager
def silenced() -> Iterator[None]:
    """Drop what C code prints on standard output; what Python prints has a buffer of its own.

    HiGHS 1.12 prints a line for its developers when it repairs a solution, whatever its options
    say (github.com/ERGO-Code/HiGHS/issues/2783). Whoever reads JSON on standard output would find
    it there. Other threads are silenced along. Where the C library cannot be reached, nothing is.
    """
    try:
        flush = ctypes.CDLL(None).fflush
    except (AttributeError, OSError, TypeError):
        yield
        return
    flush(None)
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        flush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
