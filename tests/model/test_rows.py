"""The row layout is a permutation, and spreading agrees with plain indexing."""

import numpy as np
import pytensor.tensor as pt
import pytest

from bayeslat.model.rows import CHUNK, row_layout


@pytest.mark.parametrize("counts", [[1], [CHUNK], [CHUNK + 3, 2, 5 * CHUNK], [40, 7, 33]])
def test_spread_is_indexing_in_the_layout_order(counts):
    index = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng(0).shuffle(index)
    layout = row_layout(index)
    assert sorted(layout.order) == list(range(index.size))
    values = np.arange(len(counts)) + 0.5
    spread = layout.spread(pt.as_tensor(values)).eval()
    np.testing.assert_array_equal(spread, values[index[layout.order]])
