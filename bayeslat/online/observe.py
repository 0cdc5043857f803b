"""Rows in, a state out: scoring, detection, reweighting, and adaptation where it is due."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslat.errors import InputError
from bayeslat.observations import Observations, validate_steps
from bayeslat.online.adapt import adapted, calmed, is_calm, is_due, settled
from bayeslat.online.belief import Belief, discounted_likelihood
from bayeslat.online.events import Event
from bayeslat.online.member import Member, Regime
from bayeslat.online.monitor import Monitor
from bayeslat.online.rows import Rows
from bayeslat.online.scoring import score
from bayeslat.online.settings import OnlineSettings
from bayeslat.online.state import OnlineState
from bayeslat.online.vectors import from_vectors, layout_of, moments, to_vectors
from bayeslat.posterior import FleetPosterior
from bayeslat.schema import Deployment

__all__ = ["observe", "rollback", "start"]

type Array = NDArray[np.float64]

MUCH: Final = 0.5
"""Share to which reweighting brings the effective draws of a belief before that is a version."""

LEAST_DRAWS: Final = 100
"""Draws that a posterior has to have: they are the prior of every refit."""


def start(fleet: FleetPosterior, settings: OnlineSettings | None = None) -> OnlineState:
    """Begin to keep a fitted fleet true.

    Parameters
    ----------
    fleet : FleetPosterior
        From `bayeslat.fit`, `bayeslat.load` or a cold start.
    settings : OnlineSettings, optional
        How it is kept true.

    Returns
    -------
    OnlineState
        Before any row.

    Raises
    ------
    InputError
        For a posterior of too few draws, or a detector that is none.
    """
    settings = settings or OnlineSettings()
    base = fleet.thin(settings.draws)
    n_draws = base.draws(base.deployments[0]).n_draws
    if n_draws < LEAST_DRAWS:
        raise InputError(
            f"got a posterior of {n_draws} draws, expected at least {LEAST_DRAWS}; fit with more"
        )
    detection = _detector(settings).start()
    members: list[Member] = []
    for deployment in fleet.deployments:
        all_draws, draws = fleet.draws(deployment), base.draws(deployment)
        layout = layout_of(all_draws, fleet.spec)
        prior = moments(to_vectors(all_draws, layout))
        if settings.pull != 1.0:
            # A normal density to a power is the same, further spread about its mean.
            away = to_vectors(draws, layout) - prior.mean
            draws = from_vectors(prior.mean + away / np.sqrt(settings.pull), layout, draws)
            prior = prior.tempered(settings.pull)
        belief = Belief.of(draws)
        n_rows = int(fleet.constant_data["n_rows"][len(members)])
        members.append(Member(deployment, draws, prior, n_rows, belief, detection, Monitor.empty()))
    return OnlineState(base, settings, tuple(members))


def observe(state: OnlineState, steps: Observations | pd.DataFrame) -> OnlineState:
    """Take rows in.

    Every row is scored against what was predicted of it, moves the weights of the draws, and is
    kept for a while (of very many in one call, evenly spaced ones). Where a detector gives an
    alarm, or the draws no longer do, the deployment is refitted, judged on rows held back, and
    taken over. The same rows in the same calls give the same state, bit for bit.

    Parameters
    ----------
    state : OnlineState
        The state before.
    steps : Observations or DataFrame
        New rows in the order in which they were measured; of a table, rows that cannot be true
        are refused and counted in ``quarantine``.

    Returns
    -------
    OnlineState
        The state after, with the events of this call.

    Raises
    ------
    InputError
        For a table without the columns of a steps table.
    """
    if not isinstance(steps, Observations):
        steps = validate_steps(steps, catalog=state.base.catalog, may_be_empty=True)
        state = replace(state, quarantine=_added(state.quarantine, steps.quarantine.counts))
    events: list[Event] = []
    known = set(state.deployments)
    strangers = {
        deployment.label: int(np.sum(steps.deployment_index == position))
        for position, deployment in enumerate(steps.deployments)
        if deployment not in known and np.any(steps.deployment_index == position)
    }
    state = replace(state, unknown=_added(state.unknown, strangers))
    parts, n_repeated = _arrived(state, steps)
    if n_repeated:
        state = replace(state, quarantine=_added(state.quarantine, {"duplicate": n_repeated}))
    looked_at = {
        each: _thinned(part, state.settings.rows_per_call, state.of(each).n_looked)
        for each, part in parts.items()
    }
    for blocks in _rounds(looked_at, state.settings.block):
        for deployment, rows in blocks.items():
            member, happened = _taken_in(state, state.of(deployment), rows)
            state = state.with_member(member)
            events += happened
        for deployment, rows in blocks.items():
            member, happened = state.of(deployment), []
            if is_due(member, decay=state.settings.decay):
                state, happened = adapted(state, member)
            elif is_calm(member, len(rows)):
                state, happened = calmed(state, member)
            events += happened
    for deployment, part in parts.items():
        member = state.of(deployment)
        skipped = len(part) - len(looked_at[deployment])
        state = state.with_member(replace(member, n_seen=member.n_seen + skipped))
    n_seen = state.n_seen + sum(map(len, parts.values()))
    return replace(state, n_seen=n_seen, events=tuple(events))


def rollback(state: OnlineState, deployment: Deployment) -> OnlineState:
    """Take back the last belief of a deployment that was taken into force.

    Raises
    ------
    UnknownDeploymentError
        The fleet has no such deployment.
    InputError
        No earlier belief is kept.
    """
    member = state.of(deployment)
    if not member.earlier:
        raise InputError(
            f"got a rollback of {member.label} at version {member.version}, expected a deployment"
            " of which an earlier belief is kept; nothing has been taken over that could be taken"
            " back"
        )
    (belief, law), *rest = member.earlier
    law = replace(law, since=member.n_looked, since_order=state.n_seen, learnt=0)
    back = replace(
        member,
        belief=belief.revived(),
        regime=law,
        in_force=law,
        version=member.version + 1,
        level="quiet",
        evidence=0.0,
        detection=state.detector.start(),
        earlier=tuple(rest),
    )
    event = Event("rollback", back.label, back.n_seen, back.version)
    return replace(state.with_member(back), events=(event,))


def _detector(settings: OnlineSettings) -> Any:
    from bayeslat.online.detection import DETECTORS

    if settings.detector not in DETECTORS:
        raise InputError(
            f"got detector {settings.detector!r}, expected one of {sorted(DETECTORS)}; correct"
            " the name"
        )
    return DETECTORS[settings.detector](settings)


def _arrived(state: OnlineState, steps: Observations) -> tuple[dict[Deployment, Rows], int]:
    """Rows of each deployment of the fleet that are not there yet, and how many were.

    Over the fleet rows are numbered in the order of their time stamps where all have one, else as
    if those of every deployment were spread evenly over the same time.
    """
    found, n_repeated = {}, 0
    for member in state.members:
        if member.deployment not in steps.deployments:
            continue
        part = steps.for_deployment(member.deployment)
        rows = Rows.of(part, arrival=0, order=np.zeros(len(part), dtype=np.int64))
        repeated = rows.repeated(member.rows)
        n_repeated += int(repeated.sum())
        rows = rows[~repeated]
        if len(rows):
            found[member.deployment] = rows
    if not found:
        return {}, n_repeated
    counts = [len(rows) for rows in found.values()]
    times = np.concatenate([rows.timestamp for rows in found.values()])
    if not np.isfinite(times).all():
        times = np.concatenate([np.arange(count) / count for count in counts])
    order = np.empty(times.size, dtype=np.int64)
    order[np.argsort(times, kind="stable")] = state.n_seen + np.arange(times.size)
    of_each = np.split(order, np.cumsum(counts)[:-1])
    numbered = zip(found.items(), of_each, strict=True)
    return {each: replace(rows, order=own) for (each, rows), own in numbered}, n_repeated


def _thinned(rows: Rows, most: int, n_looked: int) -> Rows:
    """At most so many rows, evenly spaced, numbered among those that are looked at."""
    stride = -(-len(rows) // most)
    chosen = rows if stride == 1 else rows[stride - 1 :: stride]
    return replace(chosen, arrival=n_looked + np.arange(len(chosen)))


def _rounds(parts: Mapping[Deployment, Rows], size: int) -> Iterator[dict[Deployment, Rows]]:
    """Blocks of rows, one of each deployment that has any left, until none has."""
    longest = max(map(len, parts.values()), default=0)
    for begun in range(0, longest, size):
        yield {
            deployment: rows[begun : begun + size]
            for deployment, rows in parts.items()
            if len(rows) > begun
        }


def _taken_in(state: OnlineState, member: Member, rows: Rows) -> tuple[Member, list[Event]]:
    """One block of one deployment: score, detect, keep, reweigh."""
    scores = score(member.belief, rows, tolerance=state.settings.tolerance)
    member = replace(
        member,
        monitor=member.monitor.update(scores),
        n_seen=member.n_seen + len(rows),
        n_looked=member.n_looked + len(rows),
    )
    member = _learnt(member, rows, state.settings)
    member, events = _watched(state, member, rows, scores)
    settled_member, ended = settled(member)
    return settled_member, events + ended


def _learnt(member: Member, rows: Rows, settings: OnlineSettings) -> Member:
    """Keep rows, as many as there is room for, and reweigh."""
    joined, before = member.rows.joined(rows), member.belief
    kept = joined.kept(settings.window)
    if member.regime.waits:  # rows that are waited for have room in any case
        kept |= joined.arrival >= member.regime.since
    member = replace(member, rows=joined[kept])
    if not before.trusted:
        return member
    counted = (joined.arrival >= member.in_force.since) & (joined.arrival < before.n_seen)
    gone, n_seen, decay = joined[~kept & counted], member.n_looked, settings.decay

    def likelihood(rows: Rows) -> Array:
        return discounted_likelihood(before.draws, rows, n_seen=n_seen, decay=decay)

    aged = decay ** (n_seen - before.n_seen)
    stays = rows[kept[-len(rows) :]]
    belief = before.updated(likelihood(stays) - likelihood(gone), n_seen=n_seen, aged=aged)
    member = replace(member, belief=belief)
    share = belief.effective_draws / belief.draws.n_draws
    if share < MUCH * member.shown:
        member = replace(member, version=member.version + 1, shown=share)
    return member


def _watched(
    state: OnlineState, member: Member, rows: Rows, scores: Any
) -> tuple[Member, list[Event]]:
    """Let the detector see a block; an alarm begins a regime."""
    if member.regime.waits:
        return member, []
    memory, verdict = state.detector.update(member.detection, scores)
    member = replace(member, detection=memory, evidence=verdict.evidence)
    if verdict.level == "drift":
        return _alarmed(member, rows, verdict)
    if member.level == "adapting" or verdict.level == member.level:
        return member, []
    member = replace(member, level=verdict.level)
    if verdict.level == "quiet":
        return member, []
    details = {"kind": verdict.kind, "evidence": verdict.evidence}
    return member, [Event("warning", member.label, member.n_seen, member.version, details)]


def _alarmed(member: Member, rows: Rows, verdict: Any) -> tuple[Member, list[Event]]:
    """Begin a regime at the row from which on a change seems to have happened."""
    alarm = int(rows.arrival[verdict.row])
    first = max(alarm + 1 - max(verdict.since, 1), member.regime.since)
    since = member.rows.arrival >= first
    order = int(member.rows.order[since].min()) if since.any() else int(rows.order[-1])
    kind = "continued" if member.level == "adapting" else "drift"
    regime = Regime(since=first, since_order=order, changed=True, kinds=None)
    changed = replace(member, level="drift", regime=regime)
    details = {
        "kind": verdict.kind,
        "row": alarm,
        "since": first,
        "evidence": verdict.evidence,
    }
    return changed, [Event(kind, member.label, member.n_seen, member.version, details)]


def _added(counts: Mapping[str, int], more: Mapping[str, int]) -> Mapping[str, int]:
    """Counts with others added."""
    total = dict(counts)
    for name, number in more.items():
        total[name] = total.get(name, 0) + number
    return MappingProxyType(total)
