"""Datasheets become regressors, gauges, levels and marks of the unknown."""

import numpy as np
import pytest

from bayeslat.catalog import GPU, load_catalog
from bayeslat.model import ModelSpec
from bayeslat.model.design import fleet_design
from bayeslat.model.pooling import marginal_variance, prior_mean
from bayeslat.model.priors import POOLING_LEVELS, REGRESSORS
from bayeslat.schema import Deployment

FLEET = [
    Deployment("A100-80GB", "llama2-7b", 1, "vllm"),
    Deployment("A100-80GB@60%", "llama2-7b", 1, "vllm"),
    Deployment("H100-80GB", "llama2-7b", 1, "vllm"),
    Deployment("H100-80GB", "llama2-7b", 2, ""),
]


def test_known_datasheets_become_log_ratios():
    design = fleet_design([Deployment("A100-80GB@60%", "llama2-70b", 4)], load_catalog())
    row = dict(zip(REGRESSORS, design.regressors[0], strict=True))
    # Two thirds of the work slow with the share in use, by Amdahl's law.
    assert row["share"] == pytest.approx(-np.log(1 / 3 + 2 / 3 / 0.6))
    assert row["compute"] == pytest.approx(np.log(312.0 / 312.0))
    assert row["tp"] == pytest.approx(np.log(4))
    assert np.isclose(np.exp(row["size"]), design.w_1[0])
    assert not design.gpu_unknown.any() and not design.model_unknown.any()


def test_a_whole_device_has_no_share():
    design = fleet_design(FLEET, load_catalog())
    share = design.regressors[:, REGRESSORS.index("share")]
    assert (share[[0, 2, 3]] == 0.0).all() and share[1] < 0.0


def test_levels_hold_what_deployments_share():
    design = fleet_design(FLEET, load_catalog())
    members = {
        level: [
            design.levels[level].names[i] if i >= 0 else None for i in design.levels[level].index
        ]
        for level in POOLING_LEVELS
    }
    stacks = ["llama2-7b/tp1/vllm"] * 3 + ["llama2-7b/tp2"]
    assert members == {
        "gpu": ["A100-80GB", "A100-80GB", "H100-80GB", "H100-80GB"],
        "setting": [None, "A100-80GB@60%", None, None],
        "model": ["llama2-7b"] * 4,
        "engine": ["vllm", "vllm", "vllm", "unnamed"],
        "layout": [None, None, None, "unnamed, tp 2"],
        "stack": stacks,
        "site": [
            f"{device}/{stack}"
            for device, stack in zip(["A100-80GB"] * 2 + ["H100-80GB"] * 2, stacks, strict=True)
        ],
    }


def test_features_are_the_intercept_the_regressors_and_the_levels():
    design = fleet_design(FLEET, load_catalog())
    intercept, regressors, *levels = np.split(design.features, design.bounds, axis=1)
    assert (intercept == 1.0).all() and intercept.shape == (4, 1)
    np.testing.assert_array_equal(regressors, design.regressors)
    for level, found in zip(POOLING_LEVELS, levels, strict=True):
        np.testing.assert_array_equal(found, design.levels[level].indicators)
        belongs = design.levels[level].index >= 0
        np.testing.assert_array_equal(found.sum(axis=1), belongs)


def test_unknown_names_widen_the_prior():
    deployments = [Deployment("A100-80GB", "llama-7b"), Deployment("mystery", "llama-7b")]
    spec, design = ModelSpec(), fleet_design(deployments, load_catalog())
    known, unknown = marginal_variance(spec, design).T
    follows = [bool(spec.prior(name).elasticity) for name in spec.quantities]
    assert (unknown >= known - 1e-12).all()
    assert (unknown[follows] > known[follows]).any()


def test_a_partly_known_gpu_is_wider_only_where_the_silence_matters():
    catalog = load_catalog().with_entries(GPU("half", peak_tflops=312.0))
    deployments = [Deployment("A100-80GB", "llama-7b"), Deployment("half", "llama-7b")]
    spec, design = ModelSpec(), fleet_design(deployments, catalog)
    known, half = np.sqrt(marginal_variance(spec, design)).T
    index = {name: i for i, name in enumerate(spec.quantities)}
    assert half[index["tau_C"]] > 1.1 * known[index["tau_C"]]
    assert np.isclose(half[index["slope"]], known[index["slope"]], rtol=1e-3)


def test_an_unknown_llm_gets_the_gauge_one():
    design = fleet_design([Deployment("A100-80GB", "mystery")], load_catalog())
    assert design.w_1[0] == 1.0
    assert np.isfinite(prior_mean(ModelSpec(), design)).all()
