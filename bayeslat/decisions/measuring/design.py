"""Which steps to measure next, so that a given decision becomes certain.

Every measured step costs time, and most tell little of the decision at hand: what the largest
chunk under an SLA is, say, hangs on a few steps near it. `next_points` looks at every candidate for
what a measurement would tell of a decision quantity (`bayeslat.decisions.measuring.targets`), takes
the best, counts it as measured whatever its outcome, and goes on; nothing has to be measured before
all points are chosen. Two criteria:

* ``"information"``: expected information about the decision quantity, from joint posterior draws in
  a linear-Gaussian approximation; see `bayeslat.decisions.measuring.information`.
* ``"value"``: the expected gain in throughput of an operator who chooses after the measurements
  instead of before, by reweighted draws; see `bayeslat.decisions.measuring.sample_value`. Only the
  candidates with the most information are looked at. Where their values are equal (zero for all,
  where no single outcome could change the choice) and where too few draws carry the weight to
  tell, the information decides.

Taking the best point after point is within 1 - 1/e of the best set where information has
diminishing returns (Nemhauser, Wolsey and Fisher, 1978), as it mostly has here.

Both criteria trust the model. Points crowd where it says that they tell most, and where it is wrong
there, in the shape of the tail say, ten of them make a wrong answer certain: intervals narrow as
promised and may miss the truth more often than with points that are spread at random.
"""

import math
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslat.decisions.arguments import check_count
from bayeslat.decisions.measuring.candidates import candidate_steps, checked_points
from bayeslat.decisions.measuring.information import Belief
from bayeslat.decisions.measuring.sample_value import MAX_DRAWS, Operator, Outcomes
from bayeslat.decisions.measuring.targets import Decision, LargestTokens, decision_values
from bayeslat.errors import InputError
from bayeslat.predictive import DeploymentDraws, Estimate
from bayeslat.predictive.draws import Points
from bayeslat.predictive.estimate import estimate

__all__ = ["CRITERIA", "NextPoints", "next_points"]

type Array = NDArray[np.float64]

CRITERIA: Final = ("information", "value")

SHORT_LIST: Final = 8
"""Candidates of the most information whose value is looked at."""

LEAST_EFFECTIVE_DRAWS: Final = 25.0
"""Draws that must carry the weight given an outcome for a value to be told."""

LATENCY_INTERVAL: Final = 0.9
"""Mass of the intervals of expected latencies."""

_UNTOLD: Final = (math.nan, math.nan)

CERTAIN: Final = 1e-9
"""Standard deviation of a decision quantity, on its own scale, from which on it is certain."""


@dataclass(frozen=True, eq=False)
class NextPoints:
    """An ordered design: what to measure, and what is expected of it.

    Parameters
    ----------
    points : Points
        The steps in the order in which to measure them; `n_averaged` says of how many steps each
        measurement is the mean. Fewer than were asked for where the decision is certain before,
        or no candidate is left.
    candidates : Points
        What they were chosen from.
    chosen : array of int, shape (point,)
        Their places among the candidates.
    values : array, shape (draw, part)
        The decision quantity in every draw.
    sd : array, shape (point + 1,)
        Its posterior standard deviation, before the first point and expected after each: root mean
        square over the parts of a decision quantity with several.
    information : array, shape (point,)
        Nats that each point is expected to add.
    value : array, shape (point,)
        Expected gain in throughput by all points so far, in tokens per millisecond; NaN where the
        question has no operator or too few draws carry the weight.
    value_error : array, shape (point,)
        Monte Carlo standard error of `value`.
    latency_ms : Estimate of arrays, shape (point,)
        Expected latency of one step, with its 90 % interval.
    criterion : str
        One of `CRITERIA`.
    """

    points: Points
    candidates: Points
    chosen: NDArray[np.int64]
    values: Array
    sd: Array
    information: Array
    value: Array
    value_error: Array
    latency_ms: Estimate
    criterion: str

    @property
    def cost_ms(self) -> Array:
        """Expected time that each measurement takes, shape (point,)."""
        return self.latency_ms.value * self.points.n_averaged

    def table(self) -> pd.DataFrame:
        """One row a point, in the order in which to measure.

        Columns ``batch_size``, ``total_tokens``, ``context_tokens``, ``n_averaged``,
        ``latency_ms`` with ``_lower`` and ``_upper``, ``information_nats``, ``sd_after``,
        ``value_tokens_per_ms`` and ``value_error``.
        """
        points = self.points
        return pd.DataFrame(
            {
                "batch_size": points.batch_size.astype(np.int64),
                "total_tokens": points.total_tokens.astype(np.int64),
                "context_tokens": points.context_tokens,
                "n_averaged": points.n_averaged,
                "latency_ms": self.latency_ms.value,
                "latency_ms_lower": self.latency_ms.lower,
                "latency_ms_upper": self.latency_ms.upper,
                "information_nats": self.information,
                "sd_after": self.sd[1:],
                "value_tokens_per_ms": self.value,
                "value_error": self.value_error,
            }
        )


def next_points(
    draws: DeploymentDraws,
    *,
    decision: Decision,
    candidates: Points | None = None,
    n: int = 10,
    measured: Points | None = None,
    n_averaged: float | None = None,
    repeats: bool = False,
    criterion: str = "information",
    per_ms: bool = False,
    seed: int = 0,
) -> NextPoints:
    """The steps whose measurement is expected to tell most of a decision.

    Parameters
    ----------
    draws : DeploymentDraws
        Posterior draws of the deployment, from a fit or a cold start.
    decision : Decision
        What shall become certain: `LargestTokens`, `LogLatency`, `LogQuantile` or any function from
        draws to an array of shape (draw,) or (draw, part).
    candidates : Points, optional
        Steps that could be measured; by default `candidate_steps`.
    n : int
        How many to choose.
    measured : Points, optional
        Steps that were or will be measured and that the draws do not know of yet. They count as
        measured before the first point, whatever their outcomes. Steps that the draws were
        conditioned on do not belong here.
    n_averaged : float, optional
        Of how many steps each measurement is the mean; by default as the candidates say, single
        steps unless they say otherwise.
    repeats : bool
        Whether a step may be chosen that was chosen or measured before. By the model a neighbour
        tells nearly as much, and where the model is wrong about one step, ten measurements of it
        are wrong in the same way.
    criterion : {"information", "value"}
        What a point is chosen for; see the module's text. A value needs a `LargestTokens`.
    per_ms : bool
        Choose for information, or gain, per millisecond of the measurement's expected time.
    seed : int
        Of the simulated outcomes behind values.

    Raises
    ------
    InputError
        If an argument is out of its range, a candidate is impossible, or the decision quantity is
        not one finite number or row a draw.
    """
    wanted = check_count("n", n, at_least=1)
    if criterion not in CRITERIA:
        raise InputError(
            f"got criterion={criterion!r}, expected {' or '.join(CRITERIA)}; choose one of them"
        )
    if criterion == "value" and not isinstance(decision, LargestTokens):
        raise InputError(
            "got criterion='value' with a decision that has no operator, expected LargestTokens;"
            " ask for information instead"
        )
    check_count("number of draws", draws.n_draws, at_least=2)
    steps = _averaged(candidate_steps() if candidates is None else candidates, n_averaged)
    known = None if measured is None or measured.size == 0 else _averaged(measured, None)
    values = decision_values(decision, draws)
    search = _Search.of(draws, values, steps, known, repeats=repeats, per_ms=per_ms)
    ledger = None
    if isinstance(decision, LargestTokens):
        ledger = _Ledger.of(decision, draws, known, seed)
    while len(search.chosen) < wanted and search.sd[-1] > CERTAIN and search.left.size:
        best = int(search.ranking()[0])
        if ledger is not None and criterion == "value":
            best = _most_valuable(search, ledger, steps)
        search = search.after(best)
        ledger = ledger.after(steps[best : best + 1]) if ledger is not None else None
    chosen = np.array(search.chosen, dtype=np.int64)
    gains = np.array(ledger.history if ledger is not None else [_UNTOLD] * chosen.size)
    value, value_error = gains.reshape(-1, 2).T
    location = draws.location(steps[chosen])
    return NextPoints(
        points=steps[chosen],
        candidates=steps,
        chosen=chosen,
        values=values,
        sd=np.array(search.sd),
        information=np.array(search.information),
        value=value,
        value_error=value_error,
        latency_ms=estimate(location.mean(axis=0), location, LATENCY_INTERVAL),
        criterion=criterion,
    )


@dataclass(frozen=True, eq=False)
class _Search:
    """The points chosen so far, and what is believed once they are measured."""

    belief: Belief
    weight: Array
    """What the information of each candidate is multiplied with: one, or one over its time."""

    left: NDArray[np.int64]
    """Candidates that may be chosen."""

    repeats: bool
    chosen: tuple[int, ...]
    sd: tuple[float, ...]
    information: tuple[float, ...]

    @classmethod
    def of(
        cls,
        draws: DeploymentDraws,
        values: Array,
        steps: Points,
        known: Points | None,
        *,
        repeats: bool,
        per_ms: bool,
    ) -> Self:
        """Nothing chosen yet, and what is known counted as measured."""
        belief = Belief.of_draws(draws, values, steps if known is None else _joined(steps, known))
        for place in range(steps.size, belief.noise.size):
            belief = belief.after(place)
        times = draws.location(steps).mean(axis=0) * steps.n_averaged
        weight = 1.0 / times if per_ms else np.ones(steps.size)
        left = np.arange(steps.size)
        if known is not None and not repeats:
            left = left[~_designs(steps).isin(_designs(known))]
        return cls(belief, weight, left, repeats, (), (math.sqrt(belief.variance),), ())

    def ranking(self) -> NDArray[np.int64]:
        """Candidates that may be chosen, the one to take for its information first."""
        scores = self.belief.information[self.left] * self.weight[self.left]
        return self.left[np.argsort(-scores, kind="stable")]

    def after(self, candidate: int) -> Self:
        """With one more point."""
        belief = self.belief.after(candidate)
        return replace(
            self,
            belief=belief,
            left=self.left if self.repeats else self.left[self.left != candidate],
            chosen=(*self.chosen, int(candidate)),
            sd=(*self.sd, math.sqrt(belief.variance)),
            information=(*self.information, float(self.belief.information[candidate])),
        )


@dataclass(frozen=True, eq=False)
class _Ledger:
    """What an operator gains by the points so far."""

    operator: Operator
    outcomes: Outcomes
    base: Array
    """Gain of each outcome by what is measured before the first point."""

    history: tuple[tuple[float, float], ...] = ()
    """Value and error after each point."""

    @classmethod
    def of(
        cls, decision: LargestTokens, draws: DeploymentDraws, known: Points | None, seed: int
    ) -> Self:
        """Before the first point."""
        thin = draws.thin(MAX_DRAWS)
        operator, outcomes = Operator.of(decision, thin), Outcomes.of(thin, seed=seed)
        if known is not None:
            for place in range(known.size):
                outcomes = outcomes.after(known[place : place + 1])
        return cls(operator, outcomes, operator.gains(outcomes))

    def after(self, point: Points) -> Self:
        """With one more point; its worth is not told where too few draws carry the weight."""
        outcomes = self.outcomes.after(point)
        worth = _UNTOLD
        if outcomes.effective_draws >= LEAST_EFFECTIVE_DRAWS:
            gains = self.operator.gains(outcomes) - self.base
            worth = float(gains.mean()), float(gains.std(ddof=1) / math.sqrt(gains.size))
        return replace(self, outcomes=outcomes, history=(*self.history, worth))


def _most_valuable(search: _Search, ledger: _Ledger, steps: Points) -> int:
    """The candidate with the largest gain of those with the most information."""
    listed = search.ranking()[:SHORT_LIST]
    before = ledger.history[-1][0] if ledger.history else 0.0
    worth = np.array([ledger.after(steps[j : j + 1]).history[-1][0] for j in listed])
    gain = (worth - before) * search.weight[listed]
    return int(listed[0] if np.isnan(gain).any() else listed[np.argmax(gain)])


def _averaged(points: Points, n_averaged: float | None) -> Points:
    """Checked points, as means of so many steps where that is said."""
    averaged = points.n_averaged if n_averaged is None else n_averaged
    return checked_points(points.batch_size, points.total_tokens, points.context_tokens, averaged)


def _designs(points: Points) -> pd.MultiIndex:
    """B, S and C of each point, whatever number of steps is averaged."""
    return pd.MultiIndex.from_arrays(
        [points.batch_size, points.total_tokens, points.context_tokens]
    )


def _joined(one: Points, other: Points) -> Points:
    """The points of both."""
    fields = ("batch_size", "total_tokens", "context_tokens", "n_averaged")
    return Points(*(np.concatenate([getattr(p, name) for p in (one, other)]) for name in fields))
