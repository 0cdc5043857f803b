"""A full refit on demand: the whole fleet anew, from recent rows and whatever else is given."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np

from bayeslat.errors import InputError
from bayeslat.observations import Observations, concat
from bayeslat.online.events import Event
from bayeslat.online.judging import Judgement, held_back, log_scores, without
from bayeslat.online.member import Regime
from bayeslat.online.observe import start
from bayeslat.online.state import OnlineState, observations_of
from bayeslat.posterior import fit

__all__ = ["renew"]


def renew(state: OnlineState, steps: Observations | None = None, **fit_options: Any) -> OnlineState:
    """Fit the fleet anew and go on from there, if held-back rows do not speak against it.

    The fit learns from the rows of every deployment's present regime, less those held back, and
    from `steps`. What is pooled over the fleet learns along, which no conditional refit does. It
    takes as long as `bayeslat.fit`.

    Parameters
    ----------
    state : OnlineState
        The state before; its deployments stay.
    steps : Observations, optional
        More rows, such as those that the first fit had: of deployments that have not changed.
    **fit_options
        Of `bayeslat.fit`, such as ``draws`` and ``seed``.

    Returns
    -------
    OnlineState
        With the new base, or the same with an event "rejected" for every deployment.

    Raises
    ------
    InputError
        Where a deployment of the fleet has no rows at all.
    """
    every = state.settings.held_back
    learnt = [
        observations_of(member, member.of_regime & ~held_back(member.rows, every))
        for member in state.members
    ]
    parts = [part for part in (*learnt, steps) if part is not None]
    known = {deployment for part in parts for deployment in part.deployments}
    missing = [member.label for member in state.members if member.deployment not in known]
    if missing:
        raise InputError(
            f"got no rows of {', '.join(missing[:6])}, expected some of every deployment; give"
            " those that the fleet was fitted on as steps="
        )
    rows = concat(*(replace(part, timing_scope="unknown") for part in parts))
    wanted = np.isin(rows.deployment_index, _positions(rows, state))
    fleet = fit(rows.select(wanted), state.base.spec, catalog=state.base.catalog, **fit_options)
    fresh = start(fleet, state.settings)
    judgement = _judged(state, fresh)
    details = {**asdict(judgement), "full": True}
    if not judgement.passed:
        return replace(state, events=_events("rejected", state, details))
    members = tuple(
        replace(
            fresh.of(old.deployment),
            n_seen=old.n_seen,
            version=old.version + 1,
            monitor=old.monitor.counted(accepted=1),
            n_looked=old.n_looked,
            # The base has learnt from the rows: none of them may count once more.
            regime=Regime(old.n_looked, state.n_seen),
            in_force=Regime(old.n_looked, state.n_seen),
            belief=replace(fresh.of(old.deployment).belief, n_seen=old.n_looked),
        )
        for old in state.members
    )
    renewed = replace(
        fresh,
        members=members,
        n_seen=state.n_seen,
        unknown=state.unknown,
        quarantine=state.quarantine,
    )
    return replace(renewed, events=_events("accepted", renewed, details))


def _positions(rows: Observations, state: OnlineState) -> list[int]:
    """Places of the fleet's deployments among those of some rows."""
    return [rows.deployments.index(deployment) for deployment in state.deployments]


def _judged(state: OnlineState, fresh: OnlineState) -> Judgement:
    """The new base against the beliefs in force, on the rows held back from both."""
    gains = [np.empty(0)]
    for old in state.members:
        rows = old.rows[old.of_regime & held_back(old.rows, state.settings.held_back)]
        if len(rows):
            current = without(old.belief, rows, decay=state.settings.decay)
            belief = fresh.of(old.deployment).belief
            gains.append(log_scores(belief, rows) - log_scores(current, rows))
    return Judgement.of(np.concatenate(gains))


def _events(kind: str, state: OnlineState, details: dict[str, Any]) -> tuple[Event, ...]:
    return tuple(
        Event(kind, member.label, member.n_seen, member.version, details)
        for member in state.members
    )
