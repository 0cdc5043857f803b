"""The row layout is a permutation, and its products agree with plain indexing."""

import numpy as np
import pytensor.tensor as pt
import pytest

import bayeslat as bl
from bayeslat.model.rows import CHUNK, RowLayout, row_layout
from bayeslat.schema import Deployment
from bayeslat.simulate.formula import simulate_from_formula

COUNTS = [[1], [22], [3 * CHUNK, 2, 8 * CHUNK], [64, 7, 33]]
"""Rows of each deployment; three quarters as many design points: 22 rows are one chunk exactly."""

PARAMETERS = {"P_max": 10.0, "k_S": 0.01, "w_1": 1.0, "tau_0": 4.0}


def n_points(count: int) -> int:
    return max(1, 3 * count // 4)


def steps_of(counts: list[int]) -> bl.Observations:
    """Shuffled steps of several deployments, some at design points of others."""
    truth = {Deployment("A100-80GB", f"llm {i}"): PARAMETERS for i in range(len(counts))}
    table = simulate_from_formula(truth, rows_per_deployment=max(counts), seed=1)
    number = table.groupby("model", sort=False).cumcount().to_numpy()
    count = np.repeat(counts, max(counts))
    number, count, table = (each[number < count] for each in (number, count, table))
    point = number % np.maximum(1, 3 * count // 4)
    table = table.assign(batch_size=1 + point % 4, total_tokens=(1 + point % 4) * (1 + point // 4))
    order = np.random.default_rng(0).permutation(len(table))
    return bl.validate_steps(table.iloc[order].reset_index(drop=True), check_floor=False)


@pytest.fixture(params=COUNTS, ids=str)
def steps(request) -> bl.Observations:
    return steps_of(request.param)


def owners(layout: RowLayout) -> np.ndarray:
    return np.repeat(layout.owner, CHUNK)


def test_rows_keep_their_design_and_deployment(steps):
    layout = row_layout(steps)
    assert sorted(layout.order) == list(range(len(steps)))
    for found, column in (
        (layout.batch_size, steps.batch_size),
        (layout.total_tokens, steps.total_tokens),
        (owners(layout), steps.deployment_index),
    ):
        np.testing.assert_array_equal(found.ravel()[layout.point], column[layout.order])


def test_points_are_distinct_and_rows_of_one_follow_each_other(steps):
    layout = row_layout(steps)
    points = np.stack([owners(layout), layout.batch_size.ravel(), layout.total_tokens.ravel()])
    asked = np.unique(layout.point)
    assert np.unique(points[:, asked], axis=1).shape[1] == asked.size
    assert (np.diff(layout.point) >= 0).all()


def test_spread_is_indexing_by_the_deployment_of_each_row(steps):
    layout = row_layout(steps)
    values = np.arange(len(steps.deployments)) + 0.5
    found = layout.of_rows(layout.spread(pt.as_tensor(values))).eval()
    np.testing.assert_array_equal(found, values[steps.deployment_index[layout.order]])


def test_product_is_the_features_with_the_deployments_own_weights(steps):
    rng = np.random.default_rng(2)
    layout = row_layout(steps)
    features = rng.standard_normal((*layout.batch_size.shape, 3))
    weights = rng.standard_normal((3, len(steps.deployments)))
    found = layout.product(features, pt.as_tensor(weights)).eval()
    expected = np.sum(features * weights.T[layout.owner][:, None, :], axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_chunks_are_filled_up_with_a_point_of_their_own_deployment(counts):
    layout = row_layout(steps_of(counts))
    members = range(len(counts))
    points = np.array([n_points(count) for count in counts])
    assert [np.sum(layout.owner == i) for i in members] == list(-(-points // CHUNK))
    asked = np.zeros(layout.batch_size.size, dtype=bool)
    asked[layout.point] = True
    place = np.stack([owners(layout), layout.batch_size.ravel(), layout.total_tokens.ravel()])
    known = {tuple(each) for each in place[:, asked].T}
    assert {tuple(each) for each in place[:, ~asked].T} <= known
