"""The command that keeps a posterior true while a log grows: watch."""

import json as json_format
import math
import signal
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from bayeslat.cli.output import (
    EngineOption,
    JsonOption,
    PosteriorArgument,
    PrecisionOption,
    TpOption,
    check_output,
    number,
    say,
    stderr,
    stdout,
    working,
)
from bayeslat.cli.watched import (
    Watched,
    check_writable,
    examples,
    identity_of,
    report_of,
    restored,
    saved,
    taken,
    the_only_one,
    write_posterior,
)
from bayeslat.errors import InputError

if TYPE_CHECKING:
    from bayeslat.observations.base import ReadOptions
    from bayeslat.observations.following import Chunk, Position
    from bayeslat.online.events import Event
    from bayeslat.posterior import FleetPosterior

__all__ = ["watch"]

NAP_SECONDS = 0.1
"""A signal is heeded after this long at most, if nothing is being computed."""

LINES_AT_ONCE = 500
"""Lines between two looks for a signal; a refit may become due within them."""

SAVING_SHARE = 0.1
"""Share of the time that saving may take while nothing but rows has come."""


def watch(
    posterior: PosteriorArgument,
    follow: Annotated[
        Path, typer.Option("--follow", "-f", help="Step log that grows; it may come later.")
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Where the posterior in force is kept (.nc).")
    ] = Path("current.nc"),
    state: Annotated[
        Path,
        typer.Option("--state", help="State and place in the log; a restart goes on from there."),
    ] = Path("watch.state"),
    events: Annotated[
        Path | None, typer.Option("--events", help="Log of events to add to (.jsonl).")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port", help="Serve Prometheus metrics here; 0 is any port.", min=0, max=65535
        ),
    ] = None,
    metrics_address: Annotated[
        str, typer.Option("--metrics-address", help="Address to serve metrics on.")
    ] = "127.0.0.1",
    every: Annotated[
        float, typer.Option("--every", help="Seconds between reports.", min=0.05)
    ] = 1.0,
    from_end: Annotated[
        bool,
        typer.Option(
            "--from-end/--from-start", help="Whether a first start passes over what is there."
        ),
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="Work off what is there, and end.")] = False,
    format: Annotated[
        str, typer.Option("--format", help="csv, jsonl, fpm or vllm-log; else the lines tell.")
    ] = "auto",
    gpu: Annotated[str | None, typer.Option("--gpu", help="GPU, if the log is silent.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="LLM, if the log is silent.")] = None,
    tp: TpOption = None,
    engine: EngineOption = None,
    precision: PrecisionOption = None,
    kv_capacity_tokens: Annotated[
        float | None,
        typer.Option("--kv-capacity-tokens", help="Positions in the KV cache, for vLLM logs."),
    ] = None,
    detector: Annotated[
        str | None, typer.Option("--detector", help="What detects drift; e-process unless given.")
    ] = None,
    decay: Annotated[
        float | None, typer.Option("--decay", help="Weight of a row is this to its age in rows.")
    ] = None,
    window: Annotated[
        int | None, typer.Option("--window", help="Rows kept of each deployment.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Keep a posterior true while its engine's log grows: detect drift, adapt, write what is new.

    Survives rotation, truncation and garbage in the log. State and place in the log are one file,
    so that a watch that was killed goes on where it stopped: no row twice, none lost. Ctrl-C and
    SIGTERM end it with everything saved.

    [bold]Example:[/bold] bayeslat watch fleet.nc --follow steps.log --out current.nc
    """
    with ExitStack() as stack:
        stop = stack.enter_context(_stopping())
        _check(posterior, out, state, events, every)
        from bayeslat.observations.base import ReadOptions
        from bayeslat.observations.following import start

        options = ReadOptions(
            gpu=gpu, model=model, tp=tp, engine=engine, precision=precision,
            kv_capacity_tokens=kv_capacity_tokens,
        )  # fmt: skip
        # Asked before the long work: the log's name and the format may be wrong.
        begin = start(follow.absolute(), format=format, options=options, from_end=from_end)
        if once and not follow.exists():
            raise InputError(
                f"got {follow}, which does not exist, expected a step log; check the path"
            )
        asked = {
            name: value
            for name, value in (("detector", detector), ("decay", decay), ("window", window))
            if value is not None
        }
        stack.enter_context(the_only_one(state))
        from bayeslat.posterior import load

        with working("reading the posterior"):
            fleet = load(posterior)
            watched = _begun(fleet, begin, state, asked)
        screen = _json_screen() if json else _screen(stack)
        log = _Log(fleet, format, options, stack)
        keeper = _Keeper(out, state, _event_log(events, stack), watched.history)
        metrics = _metrics(metrics_port, metrics_address, stack, screen)
        _follow(watched, log, keeper, screen, metrics, stop, every=every, once=once)
        if problem := log.problem or keeper.problem:
            stderr.print(f"error: {escape(problem)}", soft_wrap=True)
            raise typer.Exit(1)


def _check(posterior: Path, out: Path, state: Path, events: Path | None, every: float) -> None:
    """Refuse outputs that could not be written."""
    if not math.isfinite(every):
        raise InputError(f"got --every {every}, expected seconds; correct the option")
    outputs = [("--out", out), ("--state", state)]
    outputs += [("--events", events)] if events is not None else []
    check_output(out, ".nc")
    for option, path in outputs:
        check_output(path, option=option)
    check_writable(outputs)
    names = [path.resolve() for path in (posterior, *(path for _, path in outputs))]
    if len(set(names)) < len(names):
        raise InputError(
            "got one file for two of POSTERIOR, --out, --state and --events, expected different"
            " ones; a restart needs the posterior as it was"
        )


def _begun(
    fleet: "FleetPosterior", begin: "Position", state: Path, asked: Mapping[str, Any]
) -> Watched:
    """What an earlier run saved, or a new beginning."""
    identity = identity_of(fleet)
    if state.exists():
        return restored(state, posterior=identity, log=begin.path, asked=asked)
    from bayeslat import online
    from bayeslat.online.settings import OnlineSettings

    return Watched(online.start(fleet, OnlineSettings(**asked)), begin, identity, uuid.uuid4().hex)


class _Log:
    """The followed log, with what is needed to read on; the file is held open."""

    def __init__(
        self, fleet: "FleetPosterior", format: str, options: "ReadOptions", stack: ExitStack
    ) -> None:
        from bayeslat.observations.following import Held

        self.problem = ""
        self._catalog, self._scope = fleet.catalog, str(fleet.tree.attrs["timing_scope"])
        self._settings: dict[str, Any] = {
            "format": format,
            "options": options,
            "held": stack.enter_context(Held()),
            "max_lines": LINES_AT_ONCE,
        }

    def read(self, position: "Position") -> "tuple[Position, Chunk] | None":
        """What comes next; None where there is no room to read it, which is a problem to tell."""
        from bayeslat.observations.following import read

        try:
            position, chunk = read(position, catalog=self._catalog, **self._settings)
        except OSError as error:
            self.problem = self.problem or f"the log cannot be read, trying again: {error}"
            return None
        self.problem = ""
        scope = chunk.steps.timing_scope
        if len(chunk.steps) and len({scope, self._scope} - {"unknown"}) > 1:
            raise InputError(
                f"got {position.path} whose latencies span {scope!r}, expected {self._scope!r} as"
                " in the posterior; fit one for them"
            )
        return position, chunk


class _Keeper:
    """Writes what is new: the state with its place, the posterior in force, events.

    The state goes first, with the events that are not in their log yet. Whatever becomes of this
    process after that, the next one writes the rest from it. An event has a number, by which one
    that is in the log already is known.
    """

    def __init__(self, out: Path, state: Path, event_log: Any, history: str) -> None:
        self.problem = ""
        self._out, self._state, self._log = out, state, event_log
        self._kept: Watched | None = None
        self._written, self._logged = -1, 0
        if event_log is not None and event_log.last("history") == history:
            self._logged = event_log.last("number") or 0
        self._ended, self._cost = -math.inf, 0.0

    def keep(self, watched: Watched, *, final: bool = False) -> Watched:
        """Write what changed; a disk that is full is a problem to be told, and not the end."""
        began = time.monotonic()
        waits = began - self._ended < self._cost * (1.0 / SAVING_SHARE - 1.0)
        swapped = watched.state.version != self._written or not self._out.exists()
        urgent = swapped or final or bool(watched.pending or self.problem)
        if not urgent and (waits or watched is self._kept):
            return watched
        self.problem = ""
        try:
            if watched is not self._kept:
                saved(watched, self._state)
                self._kept = watched
            if swapped:
                write_posterior(watched.state.fleet, self._out)
                self._written = watched.state.version
        except OSError as error:
            text = " ".join(str(error).split())
            self.problem = f"not saved, trying again with the next report: {text}"
        else:
            watched = self._with_events_logged(watched)
        self._ended = time.monotonic()
        self._cost = self._ended - began
        return watched

    def _with_events_logged(self, watched: Watched) -> Watched:
        if self._log is not None:
            fresh = [event for event in watched.pending if event["number"] > self._logged]
            self._log.write(fresh)
            self._logged = max([self._logged, *(event["number"] for event in fresh)])
            if self._log.waiting:
                self.problem = f"events wait for room in {self._log.path}"
                return watched
        if watched.pending:
            # The file still has them, which does no harm: they are known by their numbers.
            self._kept = watched = replace(watched, pending=())
        return watched


def _event_log(path: Path | None, stack: ExitStack) -> Any:
    if path is None:
        return None
    from bayeslat.online.eventlog import EventLog

    return stack.enter_context(EventLog(path))


def _metrics(port: int | None, address: str, stack: ExitStack, screen: "_Screen") -> Any:
    if port is None:
        return None
    from bayeslat.online.metrics import Metrics

    metrics = Metrics()
    server = metrics.serve(port, address=address)
    stack.callback(server.close)
    screen.tell(f"metrics on http://{address}:{server.port}/metrics")
    return metrics


def _follow(
    watched: Watched,
    log: _Log,
    keeper: _Keeper,
    screen: "_Screen",
    metrics: Any,
    stop: list[int],
    *,
    every: float,
    once: bool,
) -> None:
    """Read, take in, keep and show, until told to stop."""
    from bayeslat.online.figures import figures

    due, found, behind = -math.inf, False, False
    fresh: list[Event] = []
    shown: Any = None
    last: Any = None
    report: dict[str, Any] = {}
    while True:
        look = log.read(watched.position)
        if look is not None:
            position, chunk = look
            for text in (*chunk.notes, *examples(chunk, watched.refused)):
                screen.tell(text)
            watched, events = taken(watched, position, chunk)
            found, behind, fresh = chunk.found, chunk.more, fresh + events
        final = bool(stop) or (once and not (behind and look))
        if final or time.monotonic() >= due:
            watched = keeper.keep(watched, final=final)
            screen.problems(log.problem, keeper.problem)
            if watched is not shown:
                last = figures(watched.state, last and (shown.state, last))
                shown, report = watched, report_of(watched, last)
                if metrics is not None:
                    metrics.update(last)
            screen.show({**report, "found": found, "behind": behind}, fresh)
            due, fresh = time.monotonic() + every, []
        if final:
            return
        while not (stop or (behind and look)) and (left := due - time.monotonic()) > 0:
            time.sleep(min(left, NAP_SECONDS))


@contextmanager
def _stopping() -> Iterator[list[int]]:
    """A list that fills when the process is told to end; told again, it ends at once."""
    told: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {each: signal.getsignal(each) for each in signals}

    def note(number: int, _: object) -> None:
        told.append(number)
        for each in signals:
            signal.signal(each, signal.SIG_DFL)

    for each in signals:
        signal.signal(each, note)
    try:
        yield told
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


class _Screen:
    """Where reports go: here one line each where something is new, for a file or a pipe."""

    def __init__(self) -> None:
        self._shown: dict[str, Any] = {}
        self._problems: tuple[str, ...] = ()

    def tell(self, text: str) -> None:
        """Say a thing that happened."""
        say(f"[yellow]{escape(text)}[/yellow]")

    def problems(self, *problems: str) -> None:
        """Say what goes wrong, once, and that it no longer does."""
        now = tuple(filter(None, problems))
        for text in now:
            if text not in self._problems:
                self.tell(text)
        if self._problems and not now:
            self.tell("all is well again")
        self._problems = now

    def show(self, report: dict[str, Any], events: list[Any]) -> None:
        """Say what a report has that the last one had not."""
        for event in events:
            say(f"[bold]{escape(_event_line(event))}[/bold]")
        if report == self._shown:
            return
        say(escape(_headline(report)))
        known = {each["deployment"]: each for each in self._shown.get("deployments", ())}
        for each in report["deployments"]:
            if known.get(each["deployment"]) != each:
                cells = (f"{name} {cell}" for name, cell in zip(COLUMNS, _cells(each), strict=True))
                say(escape("  " + ", ".join(cells)))
        self._shown = report


class _LiveScreen(_Screen):
    """A table that stays in its place, for a terminal."""

    def __init__(self, live: Live) -> None:
        super().__init__()
        self._live = live

    def tell(self, text: str) -> None:
        self._live.console.print(f"[yellow]{escape(text)}[/yellow]", soft_wrap=True)

    def show(self, report: dict[str, Any], events: list[Any]) -> None:
        for event in events:
            self._live.console.print(f"[bold]{escape(_event_line(event))}[/bold]", soft_wrap=True)
        table = Table(*COLUMNS, title=escape(_headline(report)), title_justify="left")
        for each in report["deployments"]:
            table.add_row(*map(escape, _cells(each)))
        self._live.update(table, refresh=True)


class _JsonScreen(_Screen):
    """One JSON object a line for each report; what happened between goes to standard error."""

    def tell(self, text: str) -> None:
        stderr.print(escape(text), soft_wrap=True)

    def show(self, report: dict[str, Any], events: list[Any]) -> None:
        listed = [
            {name: getattr(event, name) for name in ("kind", "deployment", "n_seen", "version")}
            for event in events
        ]
        typer.echo(json_format.dumps(_finite({**report, "events": listed})))


COLUMNS = ("deployment", "rows", "level", "error", "in 90 %", "over p99", "version", "last event")


def _json_screen() -> _Screen:
    return _JsonScreen()


def _screen(stack: ExitStack) -> _Screen:
    if not stdout.is_terminal:
        return _Screen()
    return _LiveScreen(stack.enter_context(Live(console=stdout, auto_refresh=False)))


def _headline(report: dict[str, Any]) -> str:
    """The state of the whole in one line."""
    refused = sum(report["refused"].values()) + sum(report["quarantine"].values())
    parts = [
        f"{Path(report['log']).name}{'' if report['found'] else ' (not there)'}",
        f"{report['lines']:,} lines",
        f"{report['rows']:,} rows",
        f"version {report['version']}",
    ]
    parts += [f"{refused:,} refused"] if refused else []
    unknown = report["unknown"]
    parts += (
        [f"{sum(unknown.values()):,} of unknown deployments ({', '.join(sorted(unknown)[:3])})"]
        if unknown
        else []
    )
    return ", ".join(parts) + (", more to read" if report["behind"] else "")


def _cells(each: dict[str, Any]) -> tuple[str, ...]:
    return (
        each["deployment"],
        f"{each['rows']:,}",
        each["level"],
        _percent(each["error"]),
        _percent(each["coverage_90"]),
        _percent(each["exceedance_p99"]),
        str(each["version"]),
        each["last_event"] or "-",
    )


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{number(100.0 * share)} %"


def _event_line(event: Any) -> str:
    what = event.details.get("summary") or event.details.get("kind") or ""
    where = f"{event.kind}: {event.deployment} at row {event.n_seen:,}, version {event.version}"
    return f"{where}, {what}" if what else where


def _finite(value: Any) -> Any:
    """The value with null for what JSON does not know."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
