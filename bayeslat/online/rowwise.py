"""The likelihood of rows of one deployment, as JAX functions of one vector.

The same density as in the PyMC model, which stays the source of truth (a test holds the two
together), but with the rows as arguments: compiled once, it serves every deployment of a fleet and
every block of rows.
"""

from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from numpy.typing import NDArray

from bayeslat import saturation
from bayeslat.model.likelihood import NU_OFFSET
from bayeslat.model.quantities import to_parameters
from bayeslat.noise import FAMILIES, noise_features
from bayeslat.online.rows import Rows
from bayeslat.online.vectors import Layout, discrepancy_scale
from bayeslat.predictive import DeploymentDraws

__all__ = [
    "RowData",
    "degrees_of_freedom",
    "log_densities",
    "log_location",
    "log_scale",
    "padded_size",
    "row_data",
]

type Array = NDArray[np.float64]


SIZES: Final = (256, 512, 1024, 2048, 4096)
"""Numbers of rows that programs are compiled for."""


def padded_size(n: int) -> int:
    """The least of `SIZES` that holds `n` rows; `n` itself beyond the largest."""
    return next((size for size in SIZES if size >= n), n)


class RowData(NamedTuple):
    """Rows as the likelihood reads them; `w_1` is a scalar, every other entry has rows first.

    Parameters
    ----------
    w_1 : float
        The gauge of the deployment.
    batch_size, total_tokens, context_tokens, latency_ms, n_averaged : array, shape (row,)
        The rows.
    noise : array, shape (row, feature)
        What log noise is linear in.
    features : array, shape (row, feature)
        Of the discrepancy, the unknown power's last.
    missing : array, shape (row,)
        Variance of the discrepancy that its features miss.
    """

    w_1: Any
    batch_size: Any
    total_tokens: Any
    context_tokens: Any
    latency_ms: Any
    n_averaged: Any
    noise: Any
    features: Any
    missing: Any

    def padded(self, n: int) -> "RowData":
        """As many rows as `n`, the last repeated: shapes that occur again are compiled once."""
        more = n - self.latency_ms.size
        return RowData(
            self.w_1,
            *(
                np.pad(each, ((0, more), *((0, 0),) * (each.ndim - 1)), mode="edge")
                for each in self[1:]
            ),
        )


def row_data(rows: Rows, like: DeploymentDraws) -> RowData:
    """Lay rows out for a deployment whose draws are given."""
    features, missing = np.empty((len(rows), 0)), np.zeros(len(rows))
    if like.discrepancy is not None:
        features = like.discrepancy.features(rows.batch_size, rows.total_tokens)
        missing = like.discrepancy.missing(features) * discrepancy_scale(like) ** 2
    return RowData(
        float(like.parameters["w_1"][0]),
        rows.batch_size,
        rows.total_tokens,
        rows.context_tokens,
        rows.latency_ms,
        rows.n_averaged,
        noise_features(rows.batch_size, rows.total_tokens),
        features,
        missing,
    )


def log_location(layout: Layout, x: Any, data: RowData) -> jax.Array:
    """Logarithm of the latency without noise, shape (row,), of one vector."""
    parameters = to_parameters(layout.quantities_of(x), data.w_1, xp=jnp)
    design = data.batch_size, data.total_tokens, data.context_tokens
    location = jnp.log(saturation.latency(parameters, *design, xp=jnp))
    return location + data.features @ x[layout.loadings]


def log_scale(layout: Layout, x: Any, data: RowData) -> jax.Array:
    """Logarithm of the relative scale of a row, shape (row,), of one vector."""
    own = jnp.exp(2.0 * (x[layout.log_sigma] + data.noise @ x[layout.slopes]))
    return 0.5 * jnp.log(own / data.n_averaged + data.missing)


def degrees_of_freedom(layout: Layout, x: Any, data: RowData) -> Any:
    """Degrees of freedom of a row, shape (row,) or scalar, of one vector."""
    if not layout.has_shape:
        return jnp.inf
    return data.n_averaged * (NU_OFFSET + jnp.exp(x[layout.slopes.stop]))


def log_densities(layout: Layout, x: Any, data: RowData) -> jax.Array:
    """Log density of each row, 1/ms, shape (row,), of one vector."""
    log_mu, log_sigma = log_location(layout, x, data), log_scale(layout, x, data)
    log_ratio = jnp.log(data.latency_ms) - log_mu
    if FAMILIES[layout.family].log_scale:
        z, unit = log_ratio * jnp.exp(-log_sigma), jnp.log(data.latency_ms)
    else:
        z, unit = jnp.expm1(log_ratio) * jnp.exp(-log_sigma), log_mu
    dof = degrees_of_freedom(layout, x, data)
    if layout.has_shape:
        constant = gammaln(0.5 * (dof + 1.0)) - gammaln(0.5 * dof) - 0.5 * jnp.log(jnp.pi * dof)
        standard = constant - 0.5 * (dof + 1.0) * jnp.log1p(z * z / dof)
    else:
        standard = -0.5 * (z * z + jnp.log(2.0 * jnp.pi))
    return standard - log_sigma - unit
