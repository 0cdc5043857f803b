"""The likelihood of measured steps, given what a prior says of their deployments."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from numpy.typing import NDArray

from bayeslat import saturation
from bayeslat.discrepancy import Basis, basis_for
from bayeslat.model.likelihood import LIKELIHOODS, observe_with_strays
from bayeslat.model.priors import STRAY_LOG_ODDS
from bayeslat.model.quantities import to_parameters
from bayeslat.model.rows import row_layout
from bayeslat.model.spec import ModelSpec
from bayeslat.noise import noise_features
from bayeslat.observations import Observations

__all__ = ["DiscrepancyTerm", "observe", "observed_basis", "stray_log_odds"]

type Array = NDArray[np.float64]


def observed_basis(observations: Observations, spec: ModelSpec) -> Basis | None:
    """Features of the discrepancy at the measured steps; None where the model has none."""
    if not spec.discrepancy:
        return None
    return basis_for(observations.batch_size, observations.total_tokens)


@dataclass(frozen=True)
class DiscrepancyTerm:
    """The discrepancy in a model on the stack: features, weights and variance."""

    basis: Basis
    weights: Any
    variance: Any


def observe(
    observations: Observations,
    spec: ModelSpec,
    w_1: Array,
    quantities: Any,
    log_noise: tuple[Any, Any],
    nu: Any,
    discrepancy: DiscrepancyTerm | None,
    stray_log_odds: Any = None,
) -> None:
    """Add the likelihood of the rows to the model on the stack."""
    rows = row_layout(observations)
    batch, tokens = rows.batch_size, rows.total_tokens
    parameters = to_parameters(
        {name: quantities[position] for position, name in enumerate(spec.quantities)}, w_1, xp=pt
    )
    per_position = parameters.pop("tau_C", None)
    r_C = parameters.pop("r_C", None)
    of_points = {name: rows.spread(values) for name, values in parameters.items()}
    location = saturation.latency(of_points, batch, tokens, xp=pt)
    log_sigma, slopes = log_noise
    followed = rows.product(noise_features(batch, tokens), slopes)
    variance = rows.of_rows(pt.exp(2.0 * (rows.spread(log_sigma) + followed)))
    variance = variance / observations.n_averaged[rows.order]
    factor: Any = 1.0
    if discrepancy is not None:
        features = discrepancy.basis.features(batch.ravel(), tokens.ravel())
        by_chunk = features.reshape(*batch.shape, -1)
        factor = pt.exp(rows.product(by_chunk, discrepancy.weights))
        missing = discrepancy.basis.missing(features)[rows.point]
        variance = variance + discrepancy.variance * missing
    mu = rows.of_rows(location * factor)
    if per_position is not None:
        context = np.nan_to_num(observations.context_tokens, nan=0.0)[rows.order]
        cost = rows.of_rows(rows.spread(per_position) * factor)
        if r_C is not None:
            design = observations.batch_size[rows.order], observations.total_tokens[rows.order]
            ratio = rows.of_rows(rows.spread(r_C))
            cost = cost * saturation.context_ratio(ratio, *design, context, xp=pt)
        mu = mu + cost * context
    sigma, observed = pt.sqrt(variance), observations.latency_ms[rows.order]
    n_averaged = observations.n_averaged[rows.order].astype(float)
    if stray_log_odds is None:
        LIKELIHOODS[spec.likelihood](mu, sigma, nu, observed, n_averaged)
    else:
        odds = rows.of_rows(rows.spread(stray_log_odds))
        observe_with_strays(spec.likelihood, mu, sigma, nu, odds, observed, n_averaged)


def stray_log_odds(spec: ModelSpec) -> Any:
    """Log odds of a stray row in the log of each deployment; None where there are none."""
    if not spec.strays:
        return None
    return pm.Normal("stray_log_odds", *STRAY_LOG_ODDS, dims="deployment")
