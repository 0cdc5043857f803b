"""Data sets whose truth is known, drawn from the model itself, and their fits by one program."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, Self

import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm
import xarray as xr
from numpy.typing import NDArray

from bayeslat.catalog import Catalog, load_catalog
from bayeslat.errors import InputError
from bayeslat.inference.fit import spec_for
from bayeslat.inference.geometry import model_target
from bayeslat.inference.run import SampledModel, sample_model, variable_dims
from bayeslat.inference.samplers import SamplerSettings
from bayeslat.inference.target import Target
from bayeslat.inference.tree import parameter_dataset, row_summary
from bayeslat.model.build import build_model
from bayeslat.model.design import FleetDesign, fleet_design
from bayeslat.model.observed import observed_basis
from bayeslat.model.pooling import marginal_variance, prior_mean
from bayeslat.model.rows import row_layout
from bayeslat.model.spec import ModelSpec
from bayeslat.observations import Observations
from bayeslat.predictive.draws import DeploymentDraws, Points
from bayeslat.predictive.labelled import deployment_draws

__all__ = ["CompiledFleet", "Simulation", "in_model_order", "points_of", "simulate_from_prior"]

type Array = NDArray[np.float64]

SAMPLER: Final = "numpyro"
"""The sampler whose programs take the data as arguments."""

SPARE: Final = 3
"""Draws from the prior for each data set that is wanted."""

POINTS_AT: Final = (0.25, 0.75)
"""Rows of each deployment, in the order of their token counts, whose latency is predicted."""

TAIL: Final = 0.99
WEIGHTS: Final = "discrepancy"
"""The variable whose members mean nothing one by one: latencies judge them."""


@dataclass(frozen=True, eq=False)
class Simulation:
    """A data set and what it was drawn from.

    Attributes
    ----------
    truth
        The model's value variables (unconstrained), dims chain and draw of size one first.
    observations
        The design with the simulated latencies.
    """

    truth: xr.Dataset
    observations: Observations


def simulate_from_prior(
    design: Observations,
    spec: ModelSpec | None = None,
    n: int = 1,
    *,
    seed: int = 0,
    noise: float = 1.0,
    catalog: Catalog | None = None,
) -> list[Simulation]:
    """Draw parameters from the prior and latencies from the parameters, by PyMC itself.

    Data sets with a latency that is not positive are passed over, truth and all. What is passed
    over depends on the data alone, so the posterior of a data set that is kept stays what it is,
    and calibration holds.

    Parameters
    ----------
    design : Observations
        Deployments, B, S and C of every row; its latencies are not used.
    spec : ModelSpec, optional
        The model; as `bayeslat.fit` chooses it for this design where left out.
    n : int
        Number of data sets.
    seed : int
        Of the draws. The first data sets of a larger `n` are those of a smaller one.
    noise : float
        Factor of the noise over what the truth says; 1 is the model.
    catalog : Catalog, optional
        Datasheets.

    Raises
    ------
    InputError
        The spec has strays, or latencies are positive too seldom.
    """
    spec = spec_for(design, spec)
    if spec.strays:
        raise InputError(
            "got a spec with strays=True, expected one without: what is no step follows no model"
            " that could simulate it; calibrate the model of the steps"
        )
    model = build_model(design, spec, catalog=catalog)
    of_truth, of_data = np.random.SeedSequence(seed).generate_state(2).tolist()
    options: dict[str, Any] = {"model": model, "compile_kwargs": {"mode": "FAST_COMPILE"}}
    free = [variable.name for variable in model.free_RVs]
    drawn = pm.sample_prior_predictive(SPARE * n, var_names=free, random_seed=of_truth, **options)[
        "prior"
    ].to_dataset()
    noisy = drawn.assign(log_sigma=drawn["log_sigma"] + np.log(noise))
    latencies = pm.sample_posterior_predictive(
        xr.DataTree.from_dict({"posterior": noisy}),
        random_seed=of_data,
        progressbar=False,
        **options,
    )["posterior_predictive"]["latency_ms"].to_numpy()[0]
    positive = np.flatnonzero(latencies.min(axis=1) > 0.0)[:n]
    if positive.size < n:
        raise InputError(
            f"got {positive.size} data sets of positive latencies in {SPARE * n} draws from the"
            f" prior, expected {n}; narrow the priors or the design"
        )
    values = _value_variables(model, drawn)
    order = row_layout(design).order
    return [
        Simulation(values.isel(draw=[i]), _with_latencies(design, latencies[i], order))
        for i in positive
    ]


def _value_variables(model: pm.Model, drawn: xr.Dataset) -> xr.Dataset:
    """Draws of the variables of a model as their unconstrained values."""
    found = {}
    for variable in model.value_vars:
        plain = variable.name.removesuffix("_log__")
        dims = ("chain", "draw", *variable_dims(model, variable.name))
        values = drawn[plain].transpose(*dims)
        found[variable.name] = np.log(values) if plain != variable.name else values
    return xr.Dataset(found)


def _with_latencies(
    design: Observations, latencies: Array, order: NDArray[np.int64]
) -> Observations:
    """The design with latencies that are in the order of the model's rows."""
    unsorted = np.empty_like(latencies)
    unsorted[order] = latencies
    return replace(design, latency_ms=unsorted)


@dataclass(frozen=True, eq=False)
class CompiledFleet:
    """The model of one design, compiled once for every data set.

    Parameters
    ----------
    design : Observations
        What every data set has in common.
    spec : ModelSpec
        The model.
    catalog : Catalog
        Datasheets.
    model : pymc.Model
        From `bayeslat.model.build`.
    fleet : FleetDesign
        Its deployments.
    target : Target
        The posterior, which takes latencies as data.
    """

    design: Observations
    spec: ModelSpec
    catalog: Catalog
    model: pm.Model
    fleet: FleetDesign
    target: Target

    @classmethod
    def of(
        cls, design: Observations, spec: ModelSpec | None = None, catalog: Catalog | None = None
    ) -> Self:
        """Build the model of a design; it compiles when the first data set is fitted."""
        spec, catalog = spec_for(design, spec), catalog or load_catalog()
        model = build_model(design, spec, catalog=catalog)
        fleet = fleet_design(design.deployments, catalog)
        stack = fleet.levels["stack"].index
        target = model_target(model, spec.quantities, stack, takes_data=True)
        return cls(design, spec, catalog, model, fleet, target)

    def sample(self, observations: Observations, settings: SamplerSettings) -> SampledModel:
        """Fit a data set of this design, exactly as `bayeslat.fit` does."""
        return sample_model(
            self.model,
            observations,
            self.spec.quantities,
            self.fleet.w_1,
            self.fleet.levels["stack"].index,
            mean=prior_mean(self.spec, self.fleet),
            variance=marginal_variance(self.spec, self.fleet),
            basis=observed_basis(observations, self.spec),
            target=self.target.moved(data=(in_model_order(observations),)),
            sampler=SAMPLER,
            settings=settings,
            report=lambda _: None,
        )

    def quantities(self, values: xr.Dataset, observations: Observations) -> dict[str, Array]:
        """What truths are compared with draws in, each (chain, draw).

        Every free variable but the weights of the discrepancy, the log-likelihood, and location and
        99th percentile of the latency at two rows of each deployment.

        Parameters
        ----------
        values : Dataset
            Value variables, dims chain and draw first.
        observations : Observations
            The data set.
        """
        found = {}
        for name in self.target.density.names:
            if name != WEIGHTS:
                found.update(_members(values[name]))
        found["log-likelihood"] = self._log_likelihood(values, observations)
        return found | self._latencies(values)

    def _log_likelihood(self, values: xr.Dataset, observations: Observations) -> Array:
        density = self.target.density
        front = values.sizes["chain"], values.sizes["draw"]
        parts = [values[name].to_numpy().reshape(*front, -1) for name in density.names]
        flat = jnp.asarray(np.concatenate(parts, axis=-1)).reshape(-1, density.dim)
        return np.asarray(self._score(flat, in_model_order(observations))).reshape(front)

    @cached_property
    def _score(self) -> Any:
        likelihood = self.target.density.likelihood

        def score(flat: jax.Array, latencies: jax.Array) -> jax.Array:
            return jax.lax.map(lambda row: likelihood(row, latencies), flat)

        return jax.jit(score)

    def draws_of(self, values: xr.Dataset, position: int) -> DeploymentDraws:
        """What decides the latency of one deployment, from value variables."""
        return deployment_draws(
            parameter_dataset(values, self.spec, self.fleet.deployments, self.fleet.w_1),
            row_summary(self.design, self.fleet),
            self.fleet.deployments[position],
            position,
            family=self.spec.likelihood,
            basis=observed_basis(self.design, self.spec),
            fleet_tokens=None,
        )

    def _latencies(self, values: xr.Dataset) -> dict[str, Array]:
        front = values.sizes["chain"], values.sizes["draw"]
        found = {}
        for position, deployment in enumerate(self.fleet.deployments):
            draws, points = self.draws_of(values, position), self._points(position)
            mu, sigma = draws.location_and_scale(points)
            z = draws.noise.standard_ppf(np.array(TAIL), draws.shape(points))
            high = mu * np.exp(sigma * z) if draws.noise.log_scale else mu * (1.0 + sigma * z)
            for at in range(points.size):
                label = f"{deployment.label}, S = {points.total_tokens[at]:.0f}"
                found[f"latency[{label}]"] = mu[:, at].reshape(front)
                found[f"latency p99[{label}]"] = high[:, at].reshape(front)
        return found

    def _points(self, position: int) -> Points:
        """The design points of a deployment whose latency is predicted."""
        own = np.flatnonzero(self.design.deployment_index == position)
        by_tokens = own[np.argsort(self.design.total_tokens[own], kind="stable")]
        return points_of(self.design, by_tokens[[int(at * (own.size - 1)) for at in POINTS_AT]])


def in_model_order(observations: Observations) -> Array:
    """Latencies in the order of the model's rows."""
    return observations.latency_ms[row_layout(observations).order]


def points_of(observations: Observations, rows: NDArray[np.int64]) -> Points:
    """Design points of some rows; a context that nobody recorded is none."""
    context = np.nan_to_num(observations.context_tokens[rows])
    return Points(observations.batch_size[rows], observations.total_tokens[rows], context)


def _members(values: xr.DataArray) -> dict[str, Array]:
    """Members of one variable by name, each (chain, draw)."""
    name = str(values.name).removesuffix("_log__")
    dims = values.dims[2:]
    if not dims:
        return {name: values.to_numpy()}
    flat = values.stack(member=dims).transpose("chain", "draw", "member")
    labels = [
        ", ".join(map(str, label)) if isinstance(label, tuple) else str(label)
        for label in flat["member"].to_numpy()
    ]
    array = flat.to_numpy()
    return {f"{name}[{label}]": array[..., i] for i, label in enumerate(labels)}
