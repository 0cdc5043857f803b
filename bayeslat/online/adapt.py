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

UNMOVED: Final = 0.6
"""Probability that no term has moved, from which on an alarm is dismissed."""

CARRIED: Final = 0.9
"""Probability of having changed, too, from which on a deployment follows others."""

CARRIED_SPREAD: Final = 0.05
"""Standard deviation of the logarithm of a factor that was seen on other deployments alone."""


def is_due(member: Member, *, decay: float) -> bool:
    """Whether a deployment's belief is to be taken anew."""
    n, regime = member.regime_rows, member.regime
    if member.learnt_rows < MIN_ROWS:
        return False
    if regime.waits:
        return True
    if member.level == "adapting" and n < SETTLED:
        return n >= GROWTH * regime.learnt
    if member.level == "warning":  # rows that may be of another law teach nothing yet
        return False
    # What is forgotten at a steady rate has to be learnt at a steady rate.
    grown = QUIET_GROWTH * regime.learnt if decay == 1.0 else regime.learnt
    known = 0 if regime.changed else member.base_rows
    return not member.belief.trusted and n >= max(grown, regime.learnt + max(known, LEAST_BETWEEN))


def settled(member: Member) -> tuple[Member, list[Event]]:
    """End the adaptation of a regime that is no longer new."""
    if member.level != "adapting" or member.regime_rows < SETTLED:
        return member, []
    quiet = replace(member, level="quiet")
    return quiet, [_event("settled", quiet, rows=member.regime_rows)]


def adapted(state: OnlineState, member: Member) -> tuple[OnlineState, list[Event]]:
    """Refit one deployment, judge the result and take it over, or not.

    In a regime of its own the change is attributed first, and the refit may move what has probably
    moved. Where nothing has, the alarm is dismissed, or what was believed before is taken back.

    Parameters
    ----------
    state : OnlineState
        The state before.
    member : Member
        The deployment that is due.
    """
    found = _attributed(state, member) if member.regime.changed else None
    about = {} if found is None else {"attribution": found.to_dict(), "summary": str(found)}
    if found is not None and _has_not_moved(found):
        return _unmoved(state, member, about)
    kinds = () if found is None else found.likely_kinds()
    regime = replace(member.regime, kinds=kinds, learnt=member.regime_rows, attribution=found)
    try:
        candidate = _refitted(state, member, regime)
    except np.linalg.LinAlgError as fault:
        details = {"reason": f"no refit: {fault}", "rows": regime.learnt, **about}
        return _kept(state, member, regime, details)
    judgement = _judged(state, member, candidate.before)
    details = {
        **asdict(judgement),
        "rows": regime.learnt,
        "effective_draws": candidate.effective_draws,
        **about,
    }
    if not judgement.passed:
        return _kept(state, member, regime, details)
    taken = _in_force(state, member, candidate.belief, regime)
    state, events = state.with_member(taken), [_event("accepted", taken, **details)]
    if found is not None:
        state, carried = _carried(state, taken, found)
        events += carried
    return state, events


def is_calm(member: Member, n_new: int) -> bool:
    """Whether a regime of noise alone is to be looked at after `n_new` more rows."""
    found, n = member.regime.attribution, member.regime_rows
    only_noise = found is not None and found.suspects[0].kind == NOTHING
    return only_noise and n // CALM > (n - n_new) // CALM and member.learnt_rows >= MIN_ROWS


def calmed(state: OnlineState, member: Member) -> tuple[OnlineState, list[Event]]:
    """Go back to the base's own law where the latest rows are of it: a burst has ended.

    Only regimes in which no term has moved are looked at, every `CALM` rows: a noise that becomes
    less raises no alarm.
    """
    latest = member.rows[member.of_regime][-CALM:]
    own = evidence(member.base, state.layout, member.base_draws, latest)
    found = attribute(member.label, {("deployment", member.label): [own]}, own)
    if not _has_not_moved(found):
        return state, []
    regime = Regime(int(latest.arrival[0]), int(latest.order[0]), changed=True, kinds=None)
    return _unmoved(
        state, replace(member, regime=regime), {"summary": f"moved back: {found}"}, only_back=True
    )


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A belief that might be taken over, and the same before the rows that were held back."""

    belief: Belief
    before: Belief
    effective_draws: float


def _refitted(state: OnlineState, member: Member, regime: Regime) -> _Candidate:
    """Draws taken anew with the rows of the regime."""
    settings = state.settings
    rows = member.rows[member.of_regime]
    prior = member.base
    if regime.changed:
        discrepancy = member.base_draws.discrepancy
        variance = 0.0 if discrepancy is None else float(np.square(discrepancy.scale).mean())
        prior = prior.widened(
            prior_of_change(state.layout, regime.kinds or (), discrepancy_variance=variance)
        )
    found = refit(
        prior,
        state.layout,
        member.base_draws,
        rows,
        ~held_back(rows, settings.held_back),
        n_seen=member.n_looked,
        decay=settings.decay,
        n_draws=member.base_draws.n_draws,
        seed=int(np.random.SeedSequence([settings.seed, member.n_looked]).generate_state(1)[0]),
    )
    before = Belief.of(found.belief.draws, log_taken=found.belief.log_taken)
    return _Candidate(found.belief, before, found.effective_draws)


def _has_not_moved(found: Attribution) -> bool:
    """Whether rows since an alarm say that nothing has changed, not even the noise."""
    best = found.suspects[0]
    return best.kind == NOTHING and best.probability >= UNMOVED and found.noise_probability < 0.5


def _unmoved(
    state: OnlineState, member: Member, about: Mapping[str, object], *, only_back: bool = False
) -> tuple[OnlineState, list[Event]]:
    """The base's own law holds: dismiss the alarm, or take back what was believed of it before."""
    if not member.in_force.changed:
        calm = _watched_anew(state, replace(member, regime=member.in_force, level="quiet"))
        return state.with_member(calm), [_event("dismissed", calm, **about)]
    of_base = [(belief, law) for belief, law in member.earlier if not law.changed]
    start, _ = of_base[0] if of_base else (Belief.of(member.base_draws), Regime())
    start = start.revived()
    settings, rows = state.settings, member.rows[member.of_regime]
    rows = rows[rows.arrival >= start.n_seen]
    held = held_back(rows, settings.held_back)
    n_seen, decay = member.n_looked, settings.decay

    def likelihood(rows: Rows) -> Array:
        return discounted_likelihood(start.draws, rows, n_seen=n_seen, decay=decay)

    aged = decay ** (n_seen - start.n_seen)
    before = start.updated(likelihood(rows[~held]), n_seen=n_seen, aged=aged)
    after = before.updated(likelihood(rows[held]), n_seen=n_seen)
    judgement = _judged(state, member, before)
    regime = replace(member.regime, changed=False, kinds=(), learnt=len(rows), attribution=None)
    details = {**asdict(judgement), "rows": len(rows), **about}
    if judgement.passed and judgement.held_back:
        taken = replace(_in_force(state, member, after, regime), level="quiet")
        return state.with_member(taken), [_event("accepted", taken, **details)]
    if only_back:
        return state, []
    return _kept(state, member, replace(regime, changed=True), details)


def _judged(state: OnlineState, member: Member, candidate: Belief) -> Judgement:
    """Compare a candidate with the belief in force on rows of the regime that it did not see."""
    rows = member.rows[member.of_regime]
    rows = rows[held_back(rows, state.settings.held_back)]
    if not len(rows):
        return Judgement(0.0, 0.0, 0)
    current = without(member.belief, rows, decay=state.settings.decay)
    return Judgement.of(log_scores(candidate, rows) - log_scores(current, rows))


def _watched_anew(state: OnlineState, member: Member) -> Member:
    """The deployment with a detector that begins anew.

    What the belief errs by on the rows of the regime is no drift: the detector is shown them for
    reference.
    """
    rows = member.rows[member.of_regime]
    reference = None
    if len(rows):
        reference = score(member.belief, rows, tolerance=state.settings.tolerance)
    return replace(member, detection=state.detector.start(reference), evidence=0.0)


def _kept(
    state: OnlineState, member: Member, regime: Regime, details: Mapping[str, object]
) -> tuple[OnlineState, list[Event]]:
    """The belief stays in force: nothing better was found for the regime."""
    kept = replace(
        member,
        level="adapting" if member.level == "drift" else member.level,
        monitor=member.monitor.counted(rejected=1),
        regime=regime,
    )
    if member.regime.waits:  # after an alarm
        kept = _watched_anew(state, kept)
    return state.with_member(kept), [_event("rejected", kept, **details)]


def _in_force(state: OnlineState, member: Member, belief: Belief, regime: Regime) -> Member:
    """The deployment with another belief: one version on, and a detector that begins anew."""
    moving = regime.changed and member.level not in ("quiet", "warning")
    taken = replace(
        member,
        belief=belief,
        regime=regime,
        in_force=regime,
        version=member.version + 1,
        shown=belief.effective_draws / belief.draws.n_draws,
        level="adapting" if moving else member.level,
        monitor=member.monitor.counted(accepted=1),
        earlier=((member.belief, member.in_force), *member.earlier)[:VERSIONS_KEPT],
    )
    return _watched_anew(state, taken)


def _attributed(state: OnlineState, member: Member) -> Attribution:
    """What has changed of a deployment, from its rows and those of all others since then."""
    related = {}
    for each in state.members:
        if each is not member and each.in_force.changed and each.level == "quiet":
            continue  # it has long been other than the base, for a reason of its own
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
        moved = each.regime.changed or each.in_force.changed
        if each.deployment == source.deployment or moved or since >= MIN_ROWS:
            continue
        shared = [one for one in found.suspects if _concerns(one, each.deployment)]
        probability = sum(one.probability for one in shared)
        if probability < CARRIED or shared[0].kind not in KINDS:
            continue
        best = shared[0]
        follower = _moved_by(state, each, best, source=source.regime)
        state = state.with_member(follower)
        details = {
            "change": best.kind,
            "of": f"{best.level} {best.name}".strip(),
            "factor": best.factor,
            "probability": probability,
            "seen_on": source.label,
        }
        events.append(_event("carried", follower, **details))
    return state, events


def _concerns(suspect: Suspect, deployment: Deployment) -> bool:
    """Whether an explanation of another deployment's change is one for this deployment."""
    if suspect.level in ("gpu", "model"):
        return getattr(deployment, suspect.level) == suspect.name
    return suspect.level == "fleet"


def _moved_by(state: OnlineState, member: Member, suspect: Suspect, *, source: Regime) -> Member:
    """A deployment whose base draws have the factor of its group, with what is unsure about it."""
    layout: Layout = state.layout
    x = to_vectors(member.base_draws, layout)
    spread = np.log(suspect.upper / suspect.lower) / (2.0 * stats.norm.ppf(0.95))
    rng = np.random.default_rng([state.settings.seed, member.n_looked, source.since_order])
    shift = np.log(suspect.factor) + np.hypot(spread, CARRIED_SPREAD) * rng.standard_normal(len(x))
    x = x + shift[:, None] * along(layout, KINDS[suspect.kind])
    belief = Belief.of(from_vectors(x, layout, member.base_draws), n_seen=member.n_looked)
    rows = member.rows[member.rows.order >= source.since_order]
    n_seen, decay = member.n_looked, state.settings.decay
    seen = discounted_likelihood(belief.draws, rows, n_seen=n_seen, decay=decay)
    belief = belief.judged(seen, n_seen=n_seen)
    since = int(rows.arrival[0]) if len(rows) else n_seen
    regime = Regime(since, source.since_order, changed=True, kinds=(suspect.kind,))
    return _in_force(state, replace(member, level="adapting"), belief, regime)


def _event(kind: str, member: Member, **details: object) -> Event:
    return Event(kind, member.label, member.n_seen, member.version, details)
