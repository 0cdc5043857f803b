from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from bayeslat.gate.series import DECODE, OLDER, OWN, Layout, Piece, Profiles


def chebyshev(function, low, high, orders, n_maps=1):
    """Series of a function of log S and the share, by interpolation at the roots."""
    nodes = [np.cos(np.pi * (np.arange(n) + 0.5) / n) for n in orders]
    s, share = np.meshgrid(low + 0.5 * (high - low) * (1 + nodes[0]), 0.5 * (1 + nodes[1]),
                           indexing="ij")  # fmt: skip
    values = np.repeat(function(s, share)[..., None], n_maps, axis=-1)
    for axis, node in enumerate(nodes):
        basis = np.linalg.inv(np.polynomial.chebyshev.chebvander(node, node.size - 1))
        values = np.moveaxis(np.tensordot(basis, values, axes=(1, axis)), 0, axis)
    return values


def smooth(s, share):
    return np.sin(1.3 * s) + 0.5 * np.exp(-share) * s


def test_a_piece_is_its_function():
    piece = Piece(OLDER, 1.0, 2.2, chebyshev(smooth, 1.0, 2.2, (12, 10)))
    rng = np.random.default_rng(0)
    s, share = rng.uniform(1.0, 2.2, (5, 7)), rng.uniform(size=(5, 7))
    np.testing.assert_allclose(piece.values(s, share)[..., 0], smooth(s, share), atol=1e-9)


def normal_profiles():
    variate = np.sinh(np.linspace(-2.0, 2.0, 60))
    curves = np.stack([variate, np.ones(60)])
    return Profiles(stats.norm.sf(variate), stats.norm.pdf(variate), variate, curves, False)


def test_cubics_between_levels_are_the_exceedance():
    profiles = normal_profiles()
    u = 0.37
    between = profiles.variate[:-1] + u * np.diff(profiles.variate)
    first, second, third, fourth = profiles.cubics.T
    found = first + u * (second + u * (third + u * fourth))
    np.testing.assert_allclose(found, stats.norm.sf(between), atol=1e-6)


@pytest.mark.parametrize("probability", [0.001, 0.0503, 0.5, 0.93])
def test_curves_at_a_level_are_those_of_its_variate(probability):
    variate, one = normal_profiles().at(probability)
    assert one == pytest.approx(1.0)
    assert variate == pytest.approx(stats.norm.isf(probability), abs=2e-4)


def test_a_layout_is_its_pieces():
    """Cubics over log S against the series that they are made of, for every B."""
    bounds, largest = [np.log(2.0), 2.0, 3.1], np.log(8.0)
    pieces = [Piece(DECODE, 0.0, largest, chebyshev(smooth, 0.0, largest, (12, 1), 4))]
    for low, high in pairwise(bounds):
        pieces.append(Piece(OLDER, low, high, chebyshev(smooth, low, high, (12, 10), 4)))
    layout = Layout.of(tuple(pieces), normal_profiles(), 8, 0.05)
    assert layout.cells[OWN] is not None
    np.testing.assert_array_equal(layout.cells[OWN], layout.cells[OLDER])
    np.testing.assert_allclose(
        layout.cells[DECODE][:, 0, 0, 0], smooth(np.log(np.arange(1, 9)), 0.5), atol=0.3
    )
    for batch in (1, 2, 5, 8):
        for tokens in (batch + 1, 9, 15, 22):
            s = np.log(tokens)
            k = 0 if s < 2.0 else 1
            low = max(bounds[k], np.log(batch))
            x = (s - low) * layout.n_cells[k] / (bounds[k + 1] - low)
            cell = min(int(x), layout.n_cells[k] - 1)
            powers = (x - cell) ** np.arange(4)
            found = powers @ layout.cells[OLDER][batch - 1, layout.first[k] + cell]
            expected = smooth(s, np.log(batch) / min(s, largest))
            np.testing.assert_allclose(found[0], expected, atol=1e-4)
