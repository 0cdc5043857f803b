"""Chains in processes of their own are the chains of one process."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeslat.inference import crew as crews
from bayeslat.inference.crew import crew_for
from bayeslat.inference.nuts import PIECE, Tuning, pieces

DIM = 4
TUNING = Tuning(tune=40, target_accept=0.8, max_depth=6)
DATA = ({"mean": jnp.arange(4.0), "order": jnp.arange(4)},)


def density(data, u):
    centred = u - data["mean"][data["order"]]
    return -0.5 * jnp.sum(centred**2 * jnp.arange(1.0, 5.0)) - 0.1 * jnp.sum(centred**4)


@pytest.fixture
def asked():
    """Starts and keys of four chains."""
    starts = 0.1 * np.random.default_rng(0).standard_normal((4, DIM))
    return starts, jax.random.split(jax.random.key(1), 4)


@pytest.fixture
def crew():
    yield crew_for(density, DATA, DIM, [0, 0])
    crews._crew.cache_clear()
    while crews._current:
        crews._current.pop().close()


def test_workers_run_the_same_chains(crew, asked):
    starts, keys = asked
    found = list(crew.run(DATA, starts, keys, TUNING, 2))
    assert len(found) == 4  # two chains a worker, of two pieces each
    for chain in range(4):
        own = slice(chain, chain + 1)
        alone = pieces(density, DATA, jnp.asarray(starts[own]), keys[own], TUNING, 2)
        for number, piece in enumerate(alone):
            position, diverging, steps, energy = found[2 * (chain % 2) + number][chain // 2]
            assert position.shape == (1, PIECE, DIM)
            np.testing.assert_allclose(position, piece[0], rtol=1e-6, atol=1e-6)
            np.testing.assert_array_equal(diverging, piece[1])
            np.testing.assert_array_equal(steps, piece[2])
            np.testing.assert_allclose(energy, piece[3], rtol=1e-6)


def test_other_data_need_no_other_crew(crew, asked):
    moved = ({"mean": DATA[0]["mean"] + 100.0, "order": DATA[0]["order"]},)
    again = crew_for(density, moved, DIM, [0, 0])
    assert again is crew
    found = list(again.run(moved, asked[0] + 100.0, asked[1], TUNING, 2))
    assert np.mean([each[0][0].mean() for each in found]) == pytest.approx(101.5, abs=0.5)


def test_a_new_density_sends_the_old_crew_home(crew):
    processes = list(crew._workers)
    other = crew_for(lambda data, u: density(data, u), DATA, DIM, [0])
    assert other is not crew
    assert all(process.returncode is not None for process in processes)


def test_a_worker_that_ends_is_told(crew, asked):
    for process in crew._workers:
        process.kill()
        process.wait()
    with pytest.raises(RuntimeError, match="expected it to live"):
        list(crew.run(DATA, *asked, TUNING, 1))


def test_an_interrupt_is_left_to_whoever_has_the_crew(crew, asked):
    before = list(crew.run(DATA, *asked, TUNING, 1))
    for worker in crew._workers:
        worker.send_signal(signal.SIGINT)
    after = list(crew.run(DATA, *asked, TUNING, 1))
    assert len(after) == len(before) and crew.is_there


def test_a_crew_that_was_interrupted_is_replaced(crew, asked):
    run = crew.run(DATA, *asked, TUNING, 2)
    next(run)
    run.close()
    assert not crew.is_there
    again = crew_for(density, DATA, DIM, [0, 0])
    assert again.is_there and len(list(again.run(DATA, *asked, TUNING, 1))) == 2
