"""Independent streams of random numbers from one seed."""

from zlib import crc32

import numpy as np

__all__ = ["Seed", "streams"]

type Seed = int | np.random.SeedSequence


def streams(seed: Seed, purpose: str, n: int) -> list[np.random.SeedSequence]:
    """Seeds of n parts, independent of those that the same number gives for another purpose.

    Parameters
    ----------
    seed : int or SeedSequence
        What a caller gave. The streams of a SeedSequence are its next children.
    purpose : str
        What the numbers are for.
    n : int
        How many.
    """
    if not isinstance(seed, np.random.SeedSequence):
        seed = np.random.SeedSequence([seed, crc32(purpose.encode())])
    return seed.spawn(n)
