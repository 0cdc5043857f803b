"""Answers that operators ask for first: does a typical step keep the limit, and what fits under it.

For every deployment alike, so that they may be compared; a step that lies beyond what was measured
of a deployment is marked.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from bayeslat import plots
from bayeslat.decisions import FeasibleRegion, FeasibleSet
from bayeslat.decisions.throughput import step_rates
from bayeslat.posterior import FleetPosterior
from bayeslat.predictive import Estimate
from bayeslat.predictive.draws import Points
from bayeslat.predictive.estimate import estimate
from bayeslat.report.pictures import Picture, drawn
from bayeslat.schema import Deployment

__all__ = [
    "Answers",
    "BestStep",
    "Budget",
    "DeploymentAnswers",
    "StepAnswer",
    "answer",
    "exceedance_picture",
]

DECODES: Final = 16
"""Requests of the typical decode step."""

PROMPT_TOKENS: Final = 1024
"""Tokens of the typical prefill step, all of one prompt."""

BATCH_SIZES: Final = (1, 8, 32, 128)
"""Requests of the steps whose token budgets are asked for."""

MAX_BATCH_SIZE: Final = 256
MAX_TOTAL_TOKENS: Final = 8192
"""Ends of the search: what `FleetPosterior.compile` and `FleetPosterior.frontier` take too."""

MAX_DRAWS: Final = 1000
"""Draws that answer, evenly spaced where there are more: seconds a deployment for each thousand."""

CREDIBLE: Final = 0.9

_GRID_POINTS: Final = (25, 40)
_GRID_ENDS: Final = (64.0, 4096.0)
_PERCENTILE: Final = 0.99


@dataclass(frozen=True)
class StepAnswer:
    """What is to be expected of one step.

    Attributes
    ----------
    median_ms, p99_ms, p_exceeds : Estimate
        Percentiles of its latency, and P(latency > SLA).
    keeps : bool
        Whether that probability is within the admitted risk.
    beyond : bool
        Whether the step lies outside what was measured.
    """

    median_ms: Estimate
    p99_ms: Estimate
    p_exceeds: Estimate
    keeps: bool
    beyond: bool


@dataclass(frozen=True)
class Budget:
    """The largest step of so many requests that keeps the limit.

    Attributes
    ----------
    batch_size : int
        Requests.
    total_tokens : int or None
        Tokens; None where no step fits.
    limited : bool
        Whether the search ended there, so that more might fit.
    gaps : bool
        Whether some smaller steps do not fit.
    beyond : bool
        Whether the step lies outside what was measured.
    """

    batch_size: int
    total_tokens: int | None
    limited: bool = False
    gaps: bool = False
    beyond: bool = False


@dataclass(frozen=True)
class BestStep:
    """Of the largest steps that fit the one with most tokens a second when it is repeated."""

    batch_size: int
    total_tokens: int
    tokens_per_s: Estimate


@dataclass(frozen=True)
class DeploymentAnswers:
    """All answers for one deployment; `decodes` are requests that compute one token each."""

    label: str
    decode: StepAnswer
    prefill: StepAnswer
    budgets: tuple[Budget, ...]
    decodes: Budget
    best: BestStep | None


@dataclass(frozen=True)
class Answers:
    """Answers for every deployment under one limit and risk."""

    sla_ms: float
    risk: float
    deployments: tuple[DeploymentAnswers, ...]
    decode_batch: int = DECODES
    prompt_tokens: int = PROMPT_TOKENS
    batch_sizes: tuple[int, ...] = BATCH_SIZES
    max_total_tokens: int = MAX_TOTAL_TOKENS
    max_batch_size: int = MAX_BATCH_SIZE
    max_draws: int = MAX_DRAWS

    @property
    def decodes_kept(self) -> int:
        """Deployments whose typical decode step keeps the limit."""
        return sum(each.decode.keeps for each in self.deployments)

    @property
    def prefills_kept(self) -> int:
        """Deployments whose typical prefill step keeps the limit."""
        return sum(each.prefill.keeps for each in self.deployments)

    @property
    def beyond(self) -> bool:
        """Whether any answer lies outside what was measured."""
        return any(
            each.decode.beyond
            or each.prefill.beyond
            or any(budget.beyond for budget in (each.decodes, *each.budgets))
            for each in self.deployments
        )

    @property
    def gaps(self) -> bool:
        """Whether any budget has smaller steps that do not fit."""
        return any(budget.gaps for each in self.deployments for budget in each.budgets)


def answer(fleet: FleetPosterior, *, sla_ms: float, risk: float) -> Answers:
    """Ask every deployment.

    Parameters
    ----------
    fleet : FleetPosterior
        Of which `MAX_DRAWS` draws answer.
    sla_ms, risk : float
        Limit of a step in milliseconds, and admitted probability of breaking it.
    """
    few = fleet.thin(MAX_DRAWS)
    found = tuple(_ask(few, item, sla_ms, risk) for item in few.deployments)
    return Answers(sla_ms, risk, found)


def exceedance_picture(fleet: FleetPosterior, *, sla_ms: float, risk: float) -> Picture:
    """P(latency > SLA) over batch sizes and tokens of the first deployments."""
    few = fleet.thin(MAX_DRAWS)
    shown = few.deployments[: plots.MAX_PANELS]
    batches, tokens = _grid(few)
    regions: dict[str, FeasibleRegion] = {
        item.label: few.feasible_region(
            **item._asdict(), batch_sizes=batches, total_tokens=tokens, sla_ms=sla_ms, risk=risk
        )
        for item in shown
    }
    figure = plots.plot_exceedance(regions, sla_ms=sla_ms, risk=risk)
    crossed = sum(region.feasible.any() for region in regions.values())
    return drawn(
        figure,
        f"Probability that a step takes longer than {sla_ms:g} ms, over its requests and tokens,"
        f" one panel for each of {len(shown)} deployments; a red line bounds the steps that keep a"
        f" risk of {100 * risk:g} %. On {crossed} of them some steps keep it.",
    )


def _ask(fleet: FleetPosterior, item: Deployment, sla_ms: float, risk: float) -> DeploymentAnswers:
    where = item._asdict()
    decode, prefill = _typical_steps(fleet, item, sla_ms, risk)
    budgets = []
    for batch in BATCH_SIZES:
        found = fleet.feasible_tokens(
            **where,
            batch_size=batch,
            sla_ms=sla_ms,
            risk=risk,
            max_total_tokens=MAX_TOTAL_TOKENS,
        )
        budgets.append(_budget(fleet, item, batch, found))
    sizes = np.arange(1, MAX_BATCH_SIZE + 1)
    risks = fleet.latency(**where, batch_size=sizes, total_tokens=sizes).sf(sla_ms)
    most = int(sizes[risks <= risk].max(initial=0))
    decodes = Budget(
        most,
        most or None,
        limited=most == MAX_BATCH_SIZE,
        beyond=most > 0 and _beyond(fleet, item, most, most),
    )
    best = _best(fleet, item, (*budgets, decodes))
    return DeploymentAnswers(item.label, decode, prefill, tuple(budgets), decodes, best)


def _typical_steps(
    fleet: FleetPosterior, item: Deployment, sla_ms: float, risk: float
) -> tuple[StepAnswer, StepAnswer]:
    """A decode step with the typical context, and a whole prompt that nothing rides along with."""
    batch, tokens = np.array([DECODES, 1]), np.array([DECODES, PROMPT_TOKENS])
    context = np.array([DECODES * fleet.typical_context(item), PROMPT_TOKENS])
    latency = fleet.latency(
        **item._asdict(), batch_size=batch, total_tokens=tokens, context_tokens=context
    )
    median, p99 = (latency.ppf(q, credible=CREDIBLE) for q in (0.5, _PERCENTILE))
    exceeds = latency.sf(sla_ms, credible=CREDIBLE)
    decode, prefill = (
        StepAnswer(
            _at(i, median),
            _at(i, p99),
            _at(i, exceeds),
            keeps=bool(exceeds.value[i] <= risk),
            beyond=_beyond(fleet, item, batch[i], tokens[i]),
        )
        for i in range(2)
    )
    return decode, prefill


def _at(place: int, each: Estimate) -> Estimate:
    """One of several estimates."""
    return Estimate(*(float(part[place]) for part in each))


def _budget(fleet: FleetPosterior, item: Deployment, batch: int, found: FeasibleSet) -> Budget:
    largest = found.largest
    if largest is None:
        return Budget(batch, None)
    return Budget(
        batch,
        largest,
        limited=found.limited,
        gaps=len(found.intervals) > 1 or found.smallest != batch,
        beyond=_beyond(fleet, item, batch, largest),
    )


def _best(fleet: FleetPosterior, item: Deployment, budgets: tuple[Budget, ...]) -> BestStep | None:
    steps = [(each.batch_size, each.total_tokens) for each in budgets if each.total_tokens]
    if not steps:
        return None
    batch, tokens = np.array(steps, dtype=float).T
    points = Points(batch, tokens, fleet.typical_context(item) * batch)
    rates = step_rates(fleet.draws(item), points)
    top = int(rates.mean(axis=0).argmax())
    own = rates[:, top]
    return BestStep(int(batch[top]), int(tokens[top]), estimate(own.mean(), own, CREDIBLE))


def _beyond(fleet: FleetPosterior, item: Deployment, batch: float, tokens: float) -> bool:
    """Whether a step is outside what was measured; False where nothing was, which is said above."""
    measured = fleet.constant_data["measured_range"].isel(deployment=fleet.deployments.index(item))
    low, high = (measured.sel(bound=bound).to_numpy()[:2] for bound in ("low", "high"))
    at = np.array([batch, tokens], dtype=float)
    return bool(((at < low) | (at > high)).any())


def _grid(fleet: FleetPosterior) -> tuple[np.ndarray, np.ndarray]:
    """Whole batch sizes and token counts up to the largest that were measured."""
    high = fleet.constant_data["measured_range"].sel(bound="high")
    axes = ("batch_size", "total_tokens")
    batches, tokens = (
        np.unique(
            np.geomspace(
                1,
                max(least, float(np.nanmax(high.sel(design_axis=axis).to_numpy(), initial=0.0))),
                points,
            ).round()
        )
        for axis, least, points in zip(axes, _GRID_ENDS, _GRID_POINTS, strict=True)
    )
    return batches, tokens
