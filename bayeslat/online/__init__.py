"""A posterior that stays true: rows in, an adapted posterior out.

``state = start(fleet)``, ``state = observe(state, steps)``, then ``state.fleet`` answers. States
are immutable values; `OnlineRunner` keeps one in a process of its own.
"""

from bayeslat.online.attribution import Attribution, Suspect
from bayeslat.online.events import Event
from bayeslat.online.member import Member
from bayeslat.online.observe import observe, rollback, start
from bayeslat.online.renew import renew
from bayeslat.online.runner import OnlineRunner
from bayeslat.online.settings import OnlineSettings
from bayeslat.online.state import OnlineState
from bayeslat.online.store import load, load_extra, save

__all__ = [
    "Attribution",
    "Event",
    "Member",
    "OnlineRunner",
    "OnlineSettings",
    "OnlineState",
    "Suspect",
    "load",
    "load_extra",
    "observe",
    "renew",
    "rollback",
    "save",
    "start",
]
