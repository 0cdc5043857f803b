"""A PyMC model's log-density as JAX functions of one flat unconstrained vector.

The model stays the single source of truth for what the posterior is. This module only re-expresses
it: prior and likelihood apart (their Hessians have different structure), and all value variables
raveled into one vector.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import numpy as np
import pymc as pm
from numpy.typing import NDArray
from pymc.sampling.jax import get_jaxified_graph
from pytensor.graph.replace import clone_replace

__all__ = ["FlatDensity", "flat_density"]

type LogDensity = Callable[..., jax.Array]


@dataclass(frozen=True)
class FlatDensity:
    """Log-prior and log-likelihood over the raveled value variables of a model.

    Parameters
    ----------
    names : tuple of str
        Value variables in the order of the flat vector.
    shapes : dict of str to tuple of int
        Shape of each.
    prior, likelihood : callable
        Map a flat vector, shape (dim,), to a scalar; their sum is the model's log-posterior up to
        a constant, Jacobians of PyMC's own transforms included. The prior may also take ``held``,
        names of variables that no derivative is taken in; the likelihood what was observed.
    initial : array, shape (dim,)
        PyMC's initial point.
    """

    names: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    prior: LogDensity
    likelihood: LogDensity
    initial: NDArray[np.float64]

    @property
    def dim(self) -> int:
        """Length of the flat vector."""
        return self.initial.size

    def slices(self) -> dict[str, slice]:
        """Where each value variable lies in the flat vector."""
        found, start = {}, 0
        for name in self.names:
            stop = start + prod(self.shapes[name])
            found[name] = slice(start, stop)
            start = stop
        return found

    def join(self, values: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """Flat vectors, shape (n, dim), of value variables by name, each (n, ...)."""
        return np.concatenate(
            [values[name].reshape(len(values[name]), -1) for name in self.names], axis=1
        )

    def split(self, flat: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Value variables of flat vectors, shape (..., dim), by name."""
        return {
            name: flat[..., where].reshape(*flat.shape[:-1], *self.shapes[name])
            for name, where in self.slices().items()
        }


def flat_density(model: pm.Model, *, takes_data: bool = False) -> FlatDensity:
    """Flatten a model.

    Parameters
    ----------
    model : pymc.Model
        Any model with continuous free variables.
    takes_data : bool
        Whether the likelihood takes what was observed, one array a variable of
        ``model.observed_RVs``, after the flat vector; else it holds what the model was built with.
    """
    point = model.initial_point()
    names = tuple(variable.name for variable in model.value_vars)
    shapes = {name: np.shape(point[name]) for name in names}
    prior = _jaxified(model, [*model.free_RVs, *model.potentials])
    observed = [model.rvs_to_values[variable] for variable in model.observed_RVs]
    likelihood = _jaxified(model, model.observed_RVs, observed if takes_data else [])
    bounds = np.cumsum([0, *(prod(shapes[name]) for name in names)])

    def split(flat: jax.Array) -> list[jax.Array]:
        return [
            flat[bounds[i] : bounds[i + 1]].reshape(shapes[name]) for i, name in enumerate(names)
        ]

    return FlatDensity(
        names=names,
        shapes=shapes,
        prior=lambda flat, held=(): prior(
            *(
                jax.lax.stop_gradient(value) if name in held else value
                for name, value in zip(names, split(flat), strict=True)
            )
        )[0],
        likelihood=lambda flat, *data: likelihood(*split(flat), *data)[0],
        initial=np.concatenate([np.ravel(point[name]) for name in names]),
    )


def _jaxified(
    model: pm.Model, variables: list[Any], constants: Sequence[Any] = ()
) -> Callable[..., Any]:
    """Log-density of some variables; constants of it become inputs, after the value variables."""
    inputs = [constant.type() for constant in constants]
    graph = model.logp(vars=variables, jacobian=True)
    if inputs:
        graph = clone_replace(graph, dict(zip(constants, inputs, strict=True)))
    return get_jaxified_graph(inputs=[*model.value_vars, *inputs], outputs=[graph])
