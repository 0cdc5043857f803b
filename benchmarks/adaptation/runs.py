"""Runs of all contestants, one a scenario and seed, kept on disk so that they add up."""

import hashlib
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import bayeslat
from adaptation.bases import recorded_base, simulated_base
from adaptation.follow import Followed, follow
from adaptation.lineup import OURS, LineUp
from adaptation.ours import start_online
from adaptation.replay import REPLAYS, Replay, replay_stream
from adaptation.rivals.base import Contestant
from adaptation.scenarios import SCENARIOS, Scenario, simulated_stream
from adaptation.scores import delays, exposure, false_alarms
from adaptation.streams import Stream, label_of
from bayeslat.online.settings import OnlineSettings

__all__ = ["CHOICES", "Finished", "Job", "played", "stream_of"]

type Choice = Scenario | Replay

CHOICES: Final[dict[str, Choice]] = {one.name: one for one in (*SCENARIOS, *REPLAYS)}
SOURCES: Final = ("online", "predictive", "posterior.py")
NO_MATTER: Final = (
    "tables.py", "history.py", "eventlog.py", "files.py", "health.py", "journal.py", "metrics.py",
    "runner.py", "worker.py",
)  # fmt: skip
"""Files among them that change nothing in a run."""

RECORDED: Final = (OURS,)


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes
    ----------
    scenario : str
        A name of `CHOICES`.
    seed : int
        Of the rows.
    data, folder : Path
        The recorded steps, and where runs are kept.
    short : bool
        Whether the stream is cut to a few rows, to try things out.
    kind : {"all", "alarms", "full"}
        Who takes part: all rivals; ours alone, and nothing but its alarms is judged; or, on a short
        stream, those against whom full fits are held.
    """

    scenario: str
    seed: int
    data: Path
    folder: Path
    short: bool = False
    kind: str = "all"

    @property
    def path(self) -> Path:
        """Where it is kept; another place as soon as any code behind it changes."""
        kind = self.kind + "-short" * self.short
        return self.folder / f"{self.scenario}-{kind}-{self.seed}-{_digest()}.pickle"


@dataclass(frozen=True, eq=False)
class Finished:
    """A run with what it is about.

    Attributes
    ----------
    scenario : str
        Its name.
    kind : str
        Of its job.
    seed : int
        Of the rows.
    followed : Followed
        What was seen.
    onset : int, optional
        Rows of each deployment before the change.
    delays : tuple of float
        Of our detector, for each deployment that moved; NaN where it said nothing.
    true, false, exposed : int
        Its alarms of deployments that were disturbed, its false alarms, and the rows at which an
        alarm would have been false.
    """

    scenario: str
    kind: str
    seed: int
    followed: Followed
    onset: int | None
    delays: tuple[float, ...]
    true: int
    false: int
    exposed: int


def stream_of(job: Job) -> tuple[Stream, LineUp]:
    """The rows of a run, and everyone at the start.

    Raises
    ------
    InputError
        The recorded steps are not there.
    """
    choice = CHOICES[job.scenario]
    if isinstance(choice, Replay):
        recorded = recorded_base(job.data, job.folder)
        stream = replay_stream(choice, recorded.rest, seed=job.seed)
        lineup = LineUp(recorded.base, recorded.known)
    else:
        found = simulated_base()
        if job.short:
            choice = replace(choice, before=100, after=200)
        elif job.kind == "full":
            choice = replace(choice, before=200, after=600, tick=100)
        n_tracked = 2 if job.kind == "all" and not job.short else 1
        stream = simulated_stream(choice, found.truth, seed=job.seed, n_tracked=n_tracked)
        lineup = LineUp(found.base, found.truth.steps)
    return (replace(stream, tracked=()) if job.kind == "alarms" else stream), lineup


def contestants_of(job: Job, lineup: LineUp, stream: Stream) -> tuple[Contestant, ...]:
    """Who takes part in a run."""
    watched = stream.tracked if recorded_of(job) else ()
    ours = start_online(lineup.base.fleet, OnlineSettings(seed=job.seed), watched)
    if job.kind == "alarms":
        return (ours,)
    if job.kind == "full":
        return (ours, lineup.base, lineup.kalman(), lineup.full())
    return (ours, *lineup.rivals())


def recorded_of(job: Job) -> tuple[str, ...]:
    """Whose prediction of every row is kept: of one run a scenario, for pictures."""
    return RECORDED if job.seed == 0 and job.kind == "all" else ()


def played(job: Job) -> Finished:
    """Run it, or read what was kept of it."""
    path = job.path
    if path.is_file():
        with path.open("rb") as file:
            return pickle.load(file)
    stream, lineup = stream_of(job)
    contestants = contestants_of(job, lineup, stream)
    followed = follow(stream, contestants, lineup.base, lineup.known, recorded=recorded_of(job))
    finished = _finished(job, stream, followed)
    job.folder.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_bytes(pickle.dumps(finished))
    draft.replace(path)
    return finished


def _finished(job: Job, stream: Stream, followed: Followed) -> Finished:
    said = followed.happenings[followed.happenings["contestant"] == OURS]
    moved = tuple(deployment.label for deployment in stream.moved)
    disturbed = tuple(deployment.label for deployment in stream.disturbed)
    false = false_alarms(said, stream.onset, disturbed)
    rows = label_of(stream.steps).value_counts()
    found = delays(said, stream.onset or 0, moved)
    return Finished(
        job.scenario,
        job.kind,
        job.seed,
        followed,
        stream.onset,
        tuple(found.values()),
        int((said["kind"] == "drift").sum()) - false,
        false,
        exposure(rows, stream.onset, disturbed),
    )


def _digest() -> str:
    """Of the code that decides what a run shows."""
    digest = hashlib.sha256()
    package = Path(bayeslat.__file__).parent
    for place in (Path(__file__).parent, *(package / name for name in SOURCES)):
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            if path.name not in NO_MATTER:
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
