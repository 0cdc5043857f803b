"""Does the posterior have other modes that matter? ``python benchmarks/modes.py [--steps FILE]``.

Newton climbs from points drawn from the prior, first under wide noise, then under that of the
posterior's centre; pooling scales stay at the centre's, as their joint mode with the effects says
nothing. All ends are log densities of the same function, so what lies far below the best has no
weight. Writes ``benchmarks/results/modes.md``.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Final

import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

import bayeslat as bl
from bayeslat.inference.geometry import Geometry, gaussian_geometry
from bayeslat.inference.mode import climb
from bayeslat.inference.structure import SCALE_SUFFIX
from bayeslat.inference.target import Target
from bayeslat.model.build import build_model
from bayeslat.model.design import fleet_design
from bayeslat.model.observed import observed_basis
from bayeslat.model.pooling import marginal_variance, prior_mean

RESULTS: Final = Path(__file__).parent / "results" / "modes.md"
WIDE_NOISE: Final = 0.3
APART: Final = 3.0
"""Posterior standard deviations from which on a quantity counts as elsewhere."""


def located(observations: bl.Observations) -> tuple[Geometry, np.ndarray, np.ndarray]:
    """Geometry of the default model, with mean and spread of the quantities' prior."""
    spec, catalog = bl.ModelSpec(), bl.load_catalog()
    design = fleet_design(observations.deployments, catalog)
    mean, variance = prior_mean(spec, design), marginal_variance(spec, design)
    geometry = gaussian_geometry(
        build_model(observations, spec),
        observations,
        spec.quantities,
        design.w_1,
        design.levels["stack"].index,
        mean=mean,
        variance=variance,
        basis=observed_basis(observations, spec),
        seed=0,
    )
    return geometry, mean, np.sqrt(variance)


def masks(target: Target) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates that climb, and those of the noise."""
    free, noise = np.ones(target.dim, dtype=bool), np.zeros(target.dim, dtype=bool)
    for name, where in target.density.slices().items():
        noise[where] = name == "log_sigma"
        free[where] = not name.endswith(SCALE_SUFFIX) and not name.startswith(("log_sigma", "nu_"))
    return free, noise


def compare(geometry: Geometry, mean: Any, spread: Any, n_starts: int) -> list[dict[str, float]]:
    """Ends of climbs: the first from the posterior's centre, the others from the prior."""
    target, rng = geometry.target, np.random.default_rng(0)
    free, noise = masks(target)
    block = target.density.slices()["quantities"]
    unit = geometry.factor.map(rng.standard_normal((400, geometry.dim))).std(axis=0)[block]
    best = climb(target, geometry.centre, free)
    found = [{"log_density": target.derivatives(best).value, "elsewhere": 0.0}]
    for _ in range(n_starts):
        y = geometry.centre.copy()
        drawn = mean + spread * rng.standard_normal(mean.shape)
        y[block] = target.coordinates.from_quantities(drawn).ravel()
        y[noise] = np.log(WIDE_NOISE)
        y = climb(target, y, free)
        y[noise] = geometry.centre[noise]
        y = climb(target, y, free)
        assert np.isfinite(float(target.log_posterior(jnp.asarray(y))))
        apart = np.abs(y[block] - best[block]) > APART * unit
        found.append({"log_density": target.derivatives(y).value, "elsewhere": float(apart.sum())})
        print(found[-1], file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", help="a log; the simulated fleet if left out")
    parser.add_argument("--starts", type=int, default=8)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    simulated = not chosen.steps
    observations = (
        bl.validate_steps(bl.simulate_fleet().steps) if simulated else bl.read_steps(chosen.steps)
    )
    with threadpool_limits(1):
        geometry, mean, spread = located(observations)
        ends = compare(geometry, mean, spread, chosen.starts)
    top = max(end["log_density"] for end in ends)
    lines = [
        "# Modes",
        "",
        f"{len(observations):,} rows, {len(observations.deployments)} deployments"
        f" ({'simulated' if simulated else 'measured'}). {mean.size} pooled quantities; one that"
        f" ends over {APART:g} posterior standard deviations from where the climb from the"
        " posterior's centre ends counts as elsewhere.",
        "",
        "| start | log density below the best | quantities elsewhere |",
        "|---|---:|---:|",
    ]
    lines += [
        f"| {'centre' if not number else f'prior draw {number}'} |"
        f" {top - end['log_density']:.1f} | {end['elsewhere']:.0f} |"
        for number, end in enumerate(ends)
    ]
    chosen.out.write_text("\n".join(lines) + "\n", encoding="utf8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
