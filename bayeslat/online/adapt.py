"""From an alarm, or from weights that no longer do, to a belief that is judged and taken over."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bayeslat.online.attribution import (
    NOTHING,
    Attribution,
    Evidence,
    Suspect,
    attribute,
    evidence,
)
from bayeslat.online.belief import Belief, discounted_likelihood
from bayeslat.online.changes import KINDS, along, prior_of_change
from bayeslat.online.events import Event
from bayeslat.online.judging import Judgement, held_back, log_scores, without
from bayeslat.online.member import VERSIONS_KEPT, Member, Regime
from bayeslat.online.refit import refit
from bayeslat.online.rows import Rows
from bayeslat.online.scoring import score
from bayeslat.online.settings import OnlineSettings
from bayeslat.online.state import OnlineState
from bayeslat.online.vectors import Layout, from_vectors, to_vectors
from bayeslat.schema import Deployment

__all__ = ["adapted", "calmed", "is_calm", "is_due", "settled"]

type Array = NDArray[np.float64]

MIN_ROWS: Final = 30
"""Rows of a regime from which on it is attributed and refitted."""

GROWTH: Final = 1.5
"""Refits of a regime follow each other when its rows have grown by so much."""

SETTLED: Final = 500
"""Rows of a regime from which on it is no longer new: refits follow only if weights fail."""

LEAST_BETWEEN: Final = 100
"""Rows between two refits of a regime that is not new, at least; else as many as the base had."""

QUIET_GROWTH: Final = 2.0
"""By how much its rows have grown then: what they could still teach falls with their number."""

CALM: Final = 200
"""Latest rows that tell whether a noise has become what it was."""

EVIDENCE_ROWS: Final = 500
"""Latest rows of a deployment that attribution looks at."""

CARRIED: Final = 0.9
"""Probability of having changed, too, from which on a deployment follows others."""

CARRIED_SPREAD: Final = 0.05
"""Standard deviation of the logarithm of a factor that was seen on other deployments alone."""


def is_due(member: Member, *, decay: float) -> bool:
    """Whether a deployment's belief is to be taken anew."""
    n, regime = member.regime_rows, member.regime
    if member.learnt_rows < MIN_ROWS:
        return False
    if regime.kinds is None:
        return True
    new = member.level == "adapting" and n < SETTLED
    if new:
        return n >= GROWTH * regime.learnt
    # What is forgotten at a steady rate has to be learnt at a steady rate.
    grown = QUIET_GROWTH * regime.learnt if decay == 1.0 else regime.learnt
    between = max(member.base_rows, LEAST_BETWEEN)
    return not member.belief.trusted and n >= max(grown, regime.learnt + between)


def settled(member: Member) -> tuple[Member, list[Event]]:
    """End the adaptation of a regime that is no longer new."""
    if member.level != "adapting" or member.regime_rows < SETTLED:
        return member, []
    quiet = replace(member, level="quiet")
    return quiet, [_event("settled", quiet, rows=member.regime_rows)]


def adapted(state: OnlineState, member: Member) -> tuple[OnlineState, list[Event]]:
    """Refit one deployment, judge the result and take it over, or not.

    In a regime of its own the change is attributed first, and the refit may move what has probably
    moved. Where nothing has, the alarm is dismissed.

    Parameters
    ----------
    state : OnlineState
        The state before.
    member : Member
        The deployment that is due.
    """
    changed = member.regime.since > 0
    found = _attributed(state, member) if changed else None
    kinds = found.likely_kinds() if found is not None else ()
    regime = replace(member.regime, kinds=kinds, learnt=member.regime_rows, attribution=found)
    candidate = _candidate(state, replace(member, regime=regime))
    judgement = _judged(state, member, candidate)
    details = {
        **asdict(judgement),
        "rows": regime.learnt,
        **({"attribution": found.to_dict(), "summary": str(found)} if found is not None else {}),
    }
    if not judgement.passed:
        kept = replace(
            member,
            level="adapting" if member.level == "drift" else member.level,
            monitor=member.monitor.counted(rejected=1),
            regime=replace(regime, kinds=member.regime.kinds or ()),
        )
        return state.with_member(kept), [_event("rejected", kept, **details)]
    taken = _in_force(state, member, candidate.belief, regime)
    state, events = state.with_member(taken), [_event("accepted", taken, **details)]
    if found is not None:
        state, carried = _carried(state, taken, found)
        events += carried
    return state, events


def calmed(state: OnlineState, member: Member) -> tuple[OnlineState, list[Event]]:
    """Go back to the base's own law where the latest rows are of it: a burst has ended.

    Only regimes in which no term has moved are looked at, every `CALM` rows: a noise that becomes
    less raises no alarm.
    """
    rows = member.rows[member.rows.arrival >= member.n_seen - CALM]
    found = evidence(member.base, state.layout, member.base_draws, rows)
    explained = attribute(member.label, {("deployment", member.label): [found]}, found)
    regime = Regime(int(rows.arrival[0]), int(rows.order[0]), (), member.regime_rows)
    back = replace(regime, attribution=explained)
    if explained.suspects[0].kind != NOTHING or not _has_not_moved(back):
        return state, []
    at_rest = replace(member, regime=regime)
    candidate = _unmoved(member, rows, settings=state.settings)
    judgement = _judged(state, at_rest, candidate)
    if not judgement.passed:
        return state, []
    taken = replace(_in_force(state, member, candidate.belief, regime), level="quiet")
    details = {**asdict(judgement), "rows": len(rows), "summary": f"moved back: {explained}"}
    return state.with_member(taken), [_event("accepted", taken, **details)]


def is_calm(member: Member, n_new: int) -> bool:
    """Whether a regime of noise alone is to be looked at after `n_new` more rows."""
    found, n = member.regime.attribution, member.regime_rows
    only_noise = found is not None and found.suspects[0].kind == NOTHING
    return only_noise and n // CALM > (n - n_new) // CALM and member.learnt_rows >= MIN_ROWS


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A belief that might be taken over, and the same before the rows that were held back."""

    belief: Belief
    before: Belief


def _candidate(state: OnlineState, member: Member) -> _Candidate:
    """The belief that the rows of the regime ask for."""
    settings, layout = state.settings, state.layout
    rows = member.rows[member.of_regime]
    at_rest = _has_not_moved(member.regime)
    if at_rest:
        found = _unmoved(member, rows, settings=settings)
        if found.belief.trusted:
            return found
    prior = member.base
    if member.regime.since > 0 and not at_rest:
        discrepancy = member.base_draws.discrepancy
        variance = 0.0 if discrepancy is None else float(np.square(discrepancy.scale).mean())
        prior = prior.widened(
            prior_of_change(layout, member.regime.kinds or (), discrepancy_variance=variance)
        )
    fresh = refit(
        prior,
        layout,
        member.base_draws,
        rows,
        ~held_back(rows, settings.held_back),
        n_seen=member.n_seen,
        decay=settings.decay,
        n_draws=settings.draws,
        seed=int(np.random.SeedSequence([settings.seed, member.n_seen]).generate_state(1)[0]),
    )
    before = Belief.of(fresh.belief.draws, log_taken=fresh.belief.log_taken)
    return _Candidate(fresh.belief, before)


def _has_not_moved(regime: Regime) -> bool:
    """Whether rows since an alarm say that nothing has changed, not even the noise."""
    found = regime.attribution
    return found is not None and not regime.kinds and found.noise_probability < 0.5


def _unmoved(member: Member, rows: Rows, *, settings: OnlineSettings) -> _Candidate:
    """What was believed before anything moved, reweighted by rows: it has moved back, or never did.

    That is the last belief of the base's own law, or the base itself.
    """
    held = held_back(rows, settings.held_back)
    known = ((member.belief, member.regime), *member.earlier)
    of_base = [belief for belief, regime in known if regime.kinds == ()]
    start = of_base[0] if of_base else Belief.of(member.base_draws)
    n_seen, decay = member.n_seen, settings.decay

    def likelihood(rows: Rows) -> Array:
        return discounted_likelihood(start.draws, rows, n_seen=n_seen, decay=decay)

    before = start.updated(likelihood(rows[~held]), n_seen=n_seen)
    return _Candidate(before.updated(likelihood(rows[held]), n_seen=n_seen), before)


def _judged(state: OnlineState, member: Member, candidate: _Candidate) -> Judgement:
    """Compare a candidate with the belief in force on rows of the regime that it did not see."""
    rows = member.rows[member.of_regime]
    rows = rows[held_back(rows, state.settings.held_back)]
    if not len(rows):
        return Judgement(0.0, 0.0, 0)
    current = without(member.belief, rows, decay=state.settings.decay)
    return Judgement.of(log_scores(candidate.before, rows) - log_scores(current, rows))


def _in_force(state: OnlineState, member: Member, belief: Belief, regime: Regime) -> Member:
    """The deployment with another belief: one version on, and a detector that begins anew.

    Errors are not those of before. What the new belief errs by on the rows of the regime is no
    drift: the detector is shown them for reference.
    """
    rows = member.rows[member.rows.arrival >= regime.since]
    reference = score(belief, rows, tolerance=state.settings.tolerance) if len(rows) else None
    changed = regime.since > 0 and member.level not in ("quiet", "warning")
    return replace(
        member,
        belief=belief,
        regime=regime,
        version=member.version + 1,
        level="adapting" if changed else member.level,
        detection=state.detector.start(reference),
        monitor=member.monitor.counted(accepted=1),
        earlier=((member.belief, member.regime), *member.earlier)[:VERSIONS_KEPT],
    )


def _attributed(state: OnlineState, member: Member) -> Attribution:
    """What has changed of a deployment, from its rows and those of all others since then."""
    related = {}
    for each in state.members:
        rows = each.rows[each.rows.order >= member.regime.since_order][-EVIDENCE_ROWS:]
        if each is member or len(rows):
            related[each.deployment] = evidence(each.base, state.layout, each.base_draws, rows)
    groups = _groups(state, member, related)
    return attribute(member.label, groups, related[member.deployment])


def _groups(
    state: OnlineState, member: Member, related: Mapping[Deployment, Evidence]
) -> dict[tuple[str, str], Sequence[Evidence]]:
    """Groups of the fleet that the deployment is in, with the evidence of their members.

    Groups of the same members are one: no row could tell them apart.
    """
    deployments = state.deployments
    own = member.deployment
    candidates = {
        ("deployment", member.label): {own},
        ("gpu", own.gpu): {each for each in deployments if each.gpu == own.gpu},
        ("model", own.model): {each for each in deployments if each.model == own.model},
        ("fleet", ""): set(deployments),
    }
    groups: dict[tuple[str, str], Sequence[Evidence]] = {}
    known: list[set[object]] = []
    for name, members in candidates.items():
        if members not in known:
            known.append(set(members))
            groups[name] = [found for each, found in related.items() if each in members]
    return groups


def _carried(
    state: OnlineState, source: Member, found: Attribution
) -> tuple[OnlineState, list[Event]]:
    """Let deployments without rows of their own follow a change that is probably theirs too."""
    events = []
    for each in state.members:
        since = int((each.rows.order >= source.regime.since_order).sum())
        moving = each.level in ("drift", "adapting")  # on evidence of its own, or carried before
        if each.deployment == source.deployment or moving or since >= MIN_ROWS:
            continue
        shared = [one for one in found.suspects if _concerns(one, each.deployment)]
        probability = sum(one.probability for one in shared)
        if probability < CARRIED or shared[0].kind not in KINDS:
            continue
        best = shared[0]
        moved = _moved_by(state, each, best, since=each.n_seen - since, order=source.regime)
        state = state.with_member(moved)
        details = {
            "change": best.kind,
            "of": f"{best.level} {best.name}".strip(),
            "factor": best.factor,
            "probability": probability,
            "seen_on": source.label,
        }
        events.append(_event("carried", moved, **details))
    return state, events


def _concerns(suspect: Suspect, deployment: Deployment) -> bool:
    """Whether an explanation of another deployment's change is one for this deployment."""
    if suspect.level in ("gpu", "model"):
        return getattr(deployment, suspect.level) == suspect.name
    return suspect.level == "fleet"


def _moved_by(
    state: OnlineState, member: Member, suspect: Suspect, *, since: int, order: Regime
) -> Member:
    """A deployment whose base draws have the factor of its group, with what is unsure about it."""
    layout: Layout = state.layout
    x = to_vectors(member.base_draws, layout)
    spread = np.log(suspect.upper / suspect.lower) / (2.0 * stats.norm.ppf(0.95))
    rng = np.random.default_rng([state.settings.seed, member.n_seen, order.since_order])
    shift = np.log(suspect.factor) + np.hypot(spread, CARRIED_SPREAD) * rng.standard_normal(len(x))
    x = x + shift[:, None] * along(layout, KINDS[suspect.kind])
    belief = Belief.of(from_vectors(x, layout, member.base_draws))
    rows = member.rows[member.rows.arrival >= since]
    decay, n_seen = state.settings.decay, member.n_seen
    seen = discounted_likelihood(belief.draws, rows, n_seen=n_seen, decay=decay)
    belief = belief.judged(seen, n_seen=n_seen)
    regime = Regime(since, order.since_order, (suspect.kind,), 0, None)
    return replace(_in_force(state, member, belief, regime), level="adapting")


def _event(kind: str, member: Member, **details: object) -> Event:
    return Event(kind, member.label, member.n_seen, member.version, details)
