"""The structure read off a model: block Hessians are the dense ones, and so is the arrow."""

from dataclasses import replace

import jax
import numpy as np
import pandas as pd
import pytest

import bayeslat as bl
from bayeslat.catalog import load_catalog
from bayeslat.discrepancy import basis_for
from bayeslat.inference import target as target_module
from bayeslat.inference.coordinates import Coordinates
from bayeslat.inference.curvature import SHARED, derivatives
from bayeslat.inference.density import flat_density
from bayeslat.inference.structure import structure_of
from bayeslat.inference.target import Target
from bayeslat.model import ModelSpec, build_model
from bayeslat.model.continued import ContinuedDiscrepancy, ContinuedPrior, build_continued_model
from bayeslat.model.design import fleet_design
from bayeslat.schema import Deployment
from bayeslat.simulate.formula import simulate_from_formula

GPUS = ("A100-80GB", "H100-80GB")
TRUTH = {"P_max": 10.0, "k_S": 0.01, "w_1": 1.0, "tau_0": 4.0, "tau_B": 0.05, "tau_C": 3e-4}
PARTS = ("prior", "likelihood")
STEP = 1e-5
"""Of the differences: their rounding and truncation are about equal."""

SPEC = ModelSpec(terms=("tau_B", "tau_C", "r_F"), strays=True)


@pytest.fixture(scope="module")
def steps() -> bl.Observations:
    """A stack on two GPUs, and one on a single GPU."""
    shared = {Deployment(gpu, "llama-7b"): TRUTH for gpu in GPUS}
    table = simulate_from_formula(shared | {Deployment(GPUS[0], "llama-13b"): TRUTH},
                                  rows_per_deployment=12, seed=1)  # fmt: skip
    few = pd.concat([table, table.head(3)], ignore_index=True)
    return bl.validate_steps(few, source="three deployments", check_floor=False)


def stacks(steps: bl.Observations) -> np.ndarray:
    return fleet_design(steps.deployments, load_catalog()).levels["stack"].index


def fleet_target(steps: bl.Observations, spec: ModelSpec) -> Target:
    stack = stacks(steps)
    return target_of(build_model(steps, spec), spec, stack)


def target_of(model, spec: ModelSpec, stack: np.ndarray) -> Target:
    density = flat_density(model)
    resolution = np.full(density.shapes["quantities"], 0.3)
    coordinates = Coordinates(spec.quantities, resolution)
    return Target(density, coordinates, structure_of(model, density, stack))


def continued_target(steps: bl.Observations, spec: ModelSpec) -> Target:
    """Of new deployments whose stacks have nothing in common but what a fleet can say of both."""
    rng = np.random.default_rng(2)
    stack = stacks(steps)
    n, n_quantities = stack.size, len(spec.quantities)

    def covariance(size: int) -> np.ndarray:
        root = rng.standard_normal((size, size))
        return 0.05 * (root @ root.T / size + np.eye(size))

    basis = basis_for(steps.batch_size, steps.total_tokens)
    each = [covariance(n) * (stack[:, None] == stack) for _ in range(basis.size)]
    discrepancy = ContinuedDiscrepancy(basis, np.zeros((basis.size, n)), np.stack(each), 0.05)
    prior = ContinuedPrior(
        np.zeros((n_quantities, n)),
        covariance(n_quantities * n),
        (np.full(n, -3.0), covariance(n)),
        (np.zeros((3, n)), np.stack([covariance(n)] * 3)),
        (1.5, 0.4),
        discrepancy,
    )
    w_1 = fleet_design(steps.deployments, load_catalog()).w_1
    return target_of(build_continued_model(steps, spec, w_1, prior), spec, stack)


@pytest.fixture(scope="module", params=[fleet_target, continued_target])
def target(request, steps) -> Target:
    return request.param(steps, SPEC)


@pytest.fixture(scope="module")
def dense(target) -> dict[str, np.ndarray]:
    """Hessians of prior and likelihood that assume nothing.

    They are central differences of compiled gradients: autodiff takes minutes to compile them.
    """
    return {part: hessian(getattr(target, f"log_{part}"), target) for part in PARTS}


def hessian(function, target: Target) -> np.ndarray:
    gradient = jax.jit(jax.grad(function))
    y = point_of(target)
    moves = STEP * np.eye(target.dim)
    columns = [(gradient(y + move) - gradient(y - move)) / (2.0 * STEP) for move in moves]
    found = np.array(columns)
    return 0.5 * (found + found.T)


def units(hessian: np.ndarray) -> np.ndarray:
    """Size of each entry that a difference of gradients can be told from zero by."""
    scale = np.sqrt(np.abs(np.diag(hessian)) + 1.0)
    return np.outer(scale, scale)


def point_of(target: Target) -> np.ndarray:
    rng = np.random.default_rng(3)
    return target.density.initial + 0.1 * rng.standard_normal(target.dim)


def test_products_that_hold_the_scales_give_the_same_hessian(target, monkeypatch):
    at = point_of(target)
    few = target.derivatives(at).hessian
    monkeypatch.setattr(target_module, "MANY_DEPLOYMENTS", 1)
    many = replace(target).derivatives(at).hessian  # nothing compiled comes with it
    np.testing.assert_allclose(many, few, rtol=1e-8, atol=1e-8 * np.abs(few).max())


@pytest.mark.parametrize("part", PARTS)
def test_block_hessians_are_the_dense_ones(target, dense, part):
    function, expected = getattr(target, f"log_{part}"), dense[part]
    found = derivatives(function, getattr(target.structure, part))(point_of(target))
    assert np.abs((found.hessian.toarray() - expected) / units(expected)).max() < 1e-6
    # And this would tell a group that is not one: off the diagonal there is a lot to miss.
    beyond = expected - np.diag(np.diag(expected))
    assert np.abs(beyond / units(expected)).max() > 1e-2


def test_the_structure_saves_hessian_products(target):
    """The likelihood takes one product a parameter of a deployment, the prior fewer than all."""
    n = target.density.shapes["quantities"][1]
    for group, most in ((target.structure.likelihood, target.dim // n + 3), (
        target.structure.prior, target.dim - 1)):  # fmt: skip
        n_products = (group == SHARED).sum() + np.bincount(group[group >= 0]).max()
        assert n_products <= most


def test_leaves_meet_in_the_core_alone(target, dense):
    """Outside its blocks the arrow leaves no entry of the Hessian out."""
    layout = target.structure.layout
    total = dense["prior"] + dense["likelihood"]
    kept = np.zeros(total.shape, dtype=bool)
    kept[np.ix_(layout.core, layout.core)] = True
    for leaf in layout.leaves:
        for own, near in zip(leaf.own, leaf.near, strict=True):
            members = np.concatenate([own, layout.core[near]])
            kept[np.ix_(members, members)] = True
    beyond = ~kept
    assert beyond.any()
    assert np.abs((total / units(total))[beyond]).max() < 1e-6


def test_leaves_are_the_weights_of_each_stack(target):
    slices, layout = target.density.slices(), target.structure.layout
    leaves = [own for leaf in layout.leaves for own in leaf.own]
    n_weights, n = target.density.shapes["discrepancy"]
    weights = np.arange(target.dim)[slices["discrepancy"]].reshape(n_weights, n)
    # Deployments come sorted: 13b on the A100, then 7b on it and on the H100.
    expected = [weights[:, [0]].ravel(), weights[:, [1, 2]].ravel()]
    assert sorted(map(sorted, leaves)) == sorted(map(sorted, expected))


def test_without_a_discrepancy_all_is_core(steps):
    target = fleet_target(steps, ModelSpec(terms=(), discrepancy=False))
    assert target.structure.layout.leaves == ()
    np.testing.assert_array_equal(target.structure.layout.core, np.arange(target.dim))


def test_a_sum_is_made_definite_block_by_block(target):
    """Only what is negative in one deployment's likelihood is taken away, in the prior's unit."""
    rng = np.random.default_rng(4)
    structure = target.structure
    blocks = structure.blocks
    prior = np.diag(rng.uniform(0.5, 2.0, target.dim))
    own = blocks[0]
    unit = np.sqrt(np.diag(prior)[own])
    vectors = np.linalg.qr(rng.standard_normal((own.size, own.size)))[0]
    values = np.where(np.arange(own.size) % 3 == 0, -2.0, 3.0)

    def block(values: np.ndarray) -> np.ndarray:
        full = np.zeros_like(prior)
        full[np.ix_(own, own)] = (vectors * values) @ vectors.T * np.outer(unit, unit)
        return full

    found = structure.definite(prior, block(values))
    np.testing.assert_allclose(found, prior + block(np.maximum(values, 0.0)), atol=1e-12)
    assert np.linalg.eigvalsh(found).min() > 0.0


def test_blocks_are_the_coordinates_of_each_deployment(target):
    blocks = target.structure.blocks
    assert np.unique(blocks).size == blocks.size
    for deployment, own in enumerate(blocks):
        assert set(target.structure.likelihood[own]) == {deployment}
