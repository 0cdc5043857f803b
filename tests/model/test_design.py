"""Datasheets become regressors, gauges and marks of the unknown."""

import numpy as np

from bayeslat.catalog import GPU, load_catalog
from bayeslat.model import ModelSpec
from bayeslat.model.design import fleet_design
from bayeslat.model.pooling import marginal_variance, prior_mean
from bayeslat.model.priors import REGRESSORS
from bayeslat.schema import Deployment


def test_known_datasheets_become_log_ratios():
    design = fleet_design([Deployment("A100-80GB@60%", "llama2-70b", 4)], load_catalog())
    row = dict(zip(REGRESSORS, design.regressors[0], strict=True))
    assert np.isclose(row["compute"], np.log(0.6))
    assert np.isclose(row["tp"], np.log(4))
    assert np.isclose(np.exp(row["size"]), design.w_1[0])
    assert not design.gpu_unknown.any() and not design.model_unknown.any()


def test_unknown_names_widen_the_prior():
    deployments = [Deployment("A100-80GB", "llama-7b"), Deployment("mystery", "llama-7b")]
    spec, design = ModelSpec(), fleet_design(deployments, load_catalog())
    known, unknown = marginal_variance(spec, design).T
    follows = [bool(spec.prior(name).elasticity) for name in spec.parameters]
    assert (unknown >= known - 1e-12).all()
    assert (unknown[follows] > known[follows]).any()


def test_a_partly_known_gpu_is_wider_only_where_the_silence_matters():
    catalog = load_catalog().with_entries(GPU("half", peak_tflops=312.0))
    deployments = [Deployment("A100-80GB", "llama-7b"), Deployment("half", "llama-7b")]
    spec, design = ModelSpec(), fleet_design(deployments, catalog)
    known, half = np.sqrt(marginal_variance(spec, design)).T
    index = {name: i for i, name in enumerate(spec.parameters)}
    assert half[index["tau_C"]] > 1.1 * known[index["tau_C"]]
    assert np.isclose(half[index["P_max"]], known[index["P_max"]], rtol=1e-3)


def test_an_unknown_llm_gets_the_gauge_one():
    design = fleet_design([Deployment("A100-80GB", "mystery")], load_catalog())
    assert design.w_1[0] == 1.0
    assert np.isfinite(prior_mean(ModelSpec(), design)).all()
