"""What a change does to latency, and how far its prior lets it."""

import jax.numpy as jnp
import numpy as np
import pytest

from bayeslat.online.changes import (
    EVERYTHING,
    FACTOR_SPREADS,
    KIND_MEANINGS,
    KINDS,
    SHAPE_SPREAD,
    TERMS,
    along,
    moved_terms,
    prior_of_change,
)
from bayeslat.online.rowwise import log_location, row_data


def test_a_factor_of_all_terms_is_that_factor_of_every_latency(one):
    data = row_data(one.rows[:60], one.draws)
    x = one.vectors[0]
    slower = x + np.log(1.15) * along(one.layout, tuple(TERMS))
    before = log_location(one.layout, jnp.asarray(x), data)
    after = log_location(one.layout, jnp.asarray(slower), data)
    np.testing.assert_allclose(np.exp(after - before), 1.15, rtol=1e-12)


def test_a_dearer_context_is_paid_by_position(one):
    rows = one.rows[:60]
    data, x = row_data(rows, one.draws), one.vectors[0]
    dearer = x + np.log(2.0) * along(one.layout, KINDS["context"])
    before, after = (np.exp(log_location(one.layout, jnp.asarray(v), data)) for v in (x, dearer))
    own = one.draws.take(np.array([0]))
    tau_C = own.parameters["tau_C"][0]
    attends = (rows.total_tokens > rows.batch_size) & (rows.context_tokens > rows.total_tokens)
    cost = tau_C * np.where(attends, own.parameters["r_C"][0], 1.0) * rows.context_tokens
    factor = np.exp(data.features @ x[one.layout.loadings])
    np.testing.assert_allclose(after - before, cost * factor, rtol=1e-9)


@pytest.mark.parametrize("kind", [*KINDS, EVERYTHING])
def test_the_prior_of_a_kind_moves_its_terms_and_the_noise(one, kind):
    layout = one.layout
    covariance = prior_of_change(layout, (kind,), discrepancy_variance=0.01)
    assert np.linalg.eigvalsh(covariance).min() > -1e-12
    variance = max(FACTOR_SPREADS) ** 2
    for term in TERMS:
        direction = along(layout, [term])
        own = direction @ covariance @ direction / (direction @ direction) ** 2
        if term in moved_terms(kind):
            assert own >= variance * (1 - 1e-12)
        else:
            assert own == 0.0
    assert covariance[layout.log_sigma, layout.log_sigma] == pytest.approx(SHAPE_SPREAD**2)
    moves_discrepancy = np.diag(covariance)[layout.loadings].any()
    assert moves_discrepancy == (kind == EVERYTHING)


def test_no_kind_leaves_the_noise_alone_to_change(one):
    covariance = prior_of_change(one.layout, (), discrepancy_variance=0.01)
    assert np.count_nonzero(covariance) == 1


def test_every_kind_is_told_in_words():
    assert set(KIND_MEANINGS) == {*KINDS, EVERYTHING}
