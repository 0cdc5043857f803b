"""From a labelled posterior to the joint draws of one deployment."""

from collections.abc import Sequence
from zlib import crc32

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from bayeslat.discrepancy import Basis, Discrepancy, unknown_powers
from bayeslat.predictive.draws import DeploymentDraws
from bayeslat.schema import PARAMETERS, Deployment

__all__ = ["deployment_draws"]


def deployment_draws(
    posterior: xr.Dataset,
    constant_data: xr.Dataset,
    deployment: Deployment,
    position: int,
    *,
    family: str,
    basis: Basis | None,
    fleet_tokens: Sequence[float] | None,
) -> DeploymentDraws:
    """All posterior draws of one deployment, chains one after the other.

    Parameters
    ----------
    posterior, constant_data : Dataset
        Groups of a fleet's tree. A deployment that was adapted online has a ``nu_of_deployment``
        and an ``unknown_power`` of its own.
    deployment : Deployment
        Whose draws are asked for.
    position : int
        Its place along the deployment dim.
    family : str
        Name of the noise family.
    basis : Basis, optional
        Features of the discrepancy, where the model has one.
    fleet_tokens : sequence of two floats, optional
        Least and largest token count of the fleet that a newcomer was predicted from: they count
        as measured.
    """
    own = posterior.isel(deployment=position)
    flat = {
        name: own[name].to_numpy().ravel() for name in (*PARAMETERS, "sigma", "nu") if name in own
    }
    sigma = flat.pop("sigma")
    missed = None
    if basis is not None:
        powers = unknown_powers(sigma.size, seed=crc32(deployment.label.encode()))
        if "unknown_power" in own and np.isfinite(own["unknown_power"]).all():
            powers = own["unknown_power"].to_numpy().ravel()
        missed = Discrepancy(
            basis,
            _rows(own, "discrepancy", "basis"),
            own["discrepancy_scale"].to_numpy().ravel(),
            powers,
            _reach(constant_data, position, fleet_tokens),
        )
    nu = flat.pop("nu", np.full(sigma.size, np.inf))
    if "nu_of_deployment" in own:
        nu = own["nu_of_deployment"].to_numpy().ravel()
    w_1 = np.full(sigma.size, float(constant_data["w_1"][position]))
    slopes = _rows(own, "log_sigma_slopes", "noise_feature")
    return DeploymentDraws(deployment, {**flat, "w_1": w_1}, sigma, nu, family, slopes, missed)


def _rows(own: xr.Dataset, name: str, dim: str) -> NDArray[np.float64]:
    """A variable of one deployment as a matrix, shape (draw, dim)."""
    return own[name].stack(sample=("chain", "draw")).transpose("sample", dim).to_numpy()


def _reach(
    constant_data: xr.Dataset, position: int, fleet_tokens: Sequence[float] | None
) -> tuple[float, float]:
    """Token counts that count as measured of one deployment."""
    found = constant_data["measured_range"].sel(design_axis="total_tokens")
    low, high = found.isel(deployment=position).to_numpy()
    if fleet_tokens is not None:
        low, high = np.fmin(low, fleet_tokens[0]), np.fmax(high, fleet_tokens[1])
    return float(low), float(high)
