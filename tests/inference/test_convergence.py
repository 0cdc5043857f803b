"""The verdict passes good chains and fails each kind of bad one."""

import numpy as np
import pytest
import xarray as xr

from bayeslat.inference.convergence import ConvergenceVerdict, convergence_verdict

CHAINS, DRAWS = 4, 500


def good() -> tuple[xr.Dataset, xr.Dataset]:
    rng = np.random.default_rng(0)
    posterior = xr.Dataset(
        {"theta": (("chain", "draw", "deployment"), rng.standard_normal((CHAINS, DRAWS, 2)))},
        coords={"deployment": ["a", "b"]},
    )
    stats = xr.Dataset(
        {
            "diverging": (("chain", "draw"), np.zeros((CHAINS, DRAWS), bool)),
            "n_steps": (("chain", "draw"), np.full((CHAINS, DRAWS), 7)),
            "energy": (("chain", "draw"), rng.standard_normal((CHAINS, DRAWS))),
        }
    )
    return posterior, stats


def test_independent_draws_pass():
    verdict = convergence_verdict(*good(), max_depth=8)
    assert verdict.passed and str(verdict).startswith("converged")
    assert ConvergenceVerdict.from_dict(verdict.to_dict()) == verdict


def shifted_chain(posterior, stats):
    posterior["theta"][0, :, 1] += 2.0


def stuck_chain(posterior, stats):
    posterior["theta"][...] = np.cumsum(posterior["theta"].to_numpy(), axis=1)


def divergences(posterior, stats):
    stats["diverging"][0, :20] = True


def poor_energy(posterior, stats):
    stats["energy"][...] = np.cumsum(stats["energy"].to_numpy(), axis=1)


def deep_trees(posterior, stats):
    stats["n_steps"][...] = 255


def not_a_number(posterior, stats):
    posterior["theta"][1, 3, 0] = np.nan


@pytest.mark.parametrize(
    ("spoil", "clause"),
    [
        (shifted_chain, "R-hat"),
        (stuck_chain, "ESS"),
        (divergences, "divergences"),
        (poor_energy, "BFMI"),
        (deep_trees, "depth"),
        (not_a_number, "R-hat nan"),
    ],
)
def test_each_fault_fails_with_its_own_clause(spoil, clause):
    posterior, stats = good()
    spoil(posterior, stats)
    verdict = convergence_verdict(posterior, stats, max_depth=8)
    assert not verdict.passed
    assert any(clause in failure for failure in verdict.failures)
    assert "NOT converged" in str(verdict)


def test_worst_quantity_is_named_with_its_label():
    posterior, stats = good()
    shifted_chain(posterior, stats)
    assert convergence_verdict(posterior, stats, max_depth=8).worst == "theta[b]"
