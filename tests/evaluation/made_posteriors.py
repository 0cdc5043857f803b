"""Posteriors without a fit: draws close around stated parameters, for tests that alter them."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

import bayeslat as bl
from bayeslat.inference.tree import deployment_coords, provenance, row_summary
from bayeslat.model.design import fleet_design
from bayeslat.noise import NOISE_FEATURES
from bayeslat.schema import Deployment
from bayeslat.simulate.formula import simulate_from_formula

SIGMA, NU = 0.04, 4.0
SPEC = bl.ModelSpec(terms=("tau_B", "tau_C"), discrepancy=False)
FLEET = tuple(
    Deployment(gpu, llm, 1, "simulated")
    for gpu in ("A100-80GB", "H100-80GB")
    for llm in ("llama-13b", "llama-7b")
)
N_CHAINS, N_DRAWS = 2, 200


def truth_of(deployment: Deployment) -> dict[str, float]:
    """Parameters of a deployment, its gauge as the catalogue has it."""
    size = float(fleet_design([deployment], bl.load_catalog()).w_1[0])
    speed = 2.4 if deployment.gpu.startswith("H100") else 1.0
    return {
        "P_max": 10.0 * speed,
        "k_S": 0.009,
        "w_1": size,
        "tau_0": 3.5 * size / speed**0.4,
        "tau_B": 0.03,
        "tau_C": 6e-4 * size / speed**0.5,
    }


def simulated(*, rows: int = 300, seed: int = 0, deployments=FLEET, nu=NU) -> bl.Observations:
    """Steps whose truth is the formula."""
    truth = {deployment: truth_of(deployment) for deployment in deployments}
    table = simulate_from_formula(truth, rows_per_deployment=rows, sigma=SIGMA, nu=nu, seed=seed)
    return bl.validate_steps(table, check_floor=False)


def posterior_of(
    steps: bl.Observations,
    *,
    spec: bl.ModelSpec = SPEC,
    altered: Mapping[str, float] = {},
    sigma: float = SIGMA,
    nu: float = NU,
    spread: float = 0.003,
    seed: int = 0,
    verdict: str = "",
) -> bl.FleetPosterior:
    """A posterior near the truth, some parameters of which are multiplied by a factor.

    Parameters
    ----------
    altered
        Factor of each altered parameter.
    spread
        Standard deviation of the logarithm of each parameter.
    verdict
        JSON of the convergence verdict; none where empty.
    """
    deployments = steps.deployments
    catalog = bl.load_catalog()
    design = fleet_design(deployments, catalog)
    rng = np.random.default_rng(seed)
    dims = ("chain", "draw", "deployment")
    shape = (N_CHAINS, N_DRAWS, len(deployments))

    def around(values):
        return (dims, np.asarray(values) * np.exp(spread * rng.standard_normal(shape)))

    data = {
        name: around(
            [truth_of(item).get(name, 1.0) * altered.get(name, 1.0) for item in deployments]
        )
        for name in spec.parameters
    }
    data["sigma"] = around(np.full(len(deployments), sigma))
    slopes = np.zeros((N_CHAINS, N_DRAWS, len(NOISE_FEATURES), len(deployments)))
    data["log_sigma_slopes"] = (("chain", "draw", "noise_feature", "deployment"), slopes)
    if spec.likelihood == "student_t":
        data["nu"] = (("chain", "draw"), np.full(shape[:2], nu))
    coords = deployment_coords(deployments) | {"noise_feature": list(NOISE_FEATURES)}
    tree = xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset(data, coords=coords),
            "constant_data": row_summary(steps, design),
        }
    )
    tree.attrs = provenance(steps, spec, design, catalog, seed=seed, sampler="none")
    tree.attrs |= {"verdict": verdict, "discrepancy_basis": ""}
    return bl.FleetPosterior(tree)
