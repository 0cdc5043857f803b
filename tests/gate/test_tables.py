import numpy as np
import pytest

from bayeslat.gate.tables import Column, Row


def random_row(seed, *, batch=3, n=60, top=90):
    """Largest contexts that rise and fall, some of them none."""
    rng = np.random.default_rng(seed)
    tokens = batch + np.arange(n)
    older = rng.integers(-1, top, n)
    own = np.minimum(rng.integers(-1, top, n), tokens)
    own[0] = older[0] = rng.integers(-1, top)  # decode steps make no difference
    older[1:][older[1:] <= tokens[1:]] = -1
    return tokens, older, own


def fits(tokens, older, own, i, context):
    if i == 0:
        return context <= own[0]
    return context <= older[i] if context > tokens[i] else context <= own[i]


@pytest.mark.parametrize("seed", range(20))
def test_the_last_that_fits_is_that_of_brute_force(seed):
    tokens, older, own = random_row(seed)
    row = Row(3, older, own)
    for context in range(100):
        fitting = [i for i in range(60) if fits(tokens, older, own, i, context)]
        assert max(row.last(context), -1) == max(fitting, default=-1)


@pytest.mark.parametrize("seed", range(20))
def test_the_last_with_a_growing_context_is_that_of_brute_force(seed):
    tokens, older, own = random_row(seed)
    row = Row(3, older, own)
    for distance in range(-62, 90):
        fitting = [
            i
            for i in range(60)
            if tokens[i] + distance >= 0 and fits(tokens, older, own, i, tokens[i] + distance)
        ]
        found = row.last_growing(distance)
        if fitting:
            assert found == max(fitting)
        else:
            assert found < 0 or tokens[found] + distance < 0


@pytest.mark.parametrize("seed", range(20))
def test_the_last_batch_is_that_of_brute_force(seed):
    rng = np.random.default_rng(seed)
    older, own = rng.integers(-1, 90, 40), rng.integers(-1, 50, 40)
    column = Column(50, older, own)
    for context in range(95):
        reached = (older if context > 50 else own) >= context
        expected = int(np.flatnonzero(reached)[-1]) if reached.any() else -1
        assert column.last(context) == expected
