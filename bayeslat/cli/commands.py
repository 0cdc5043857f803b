"""The commands put together, and the one place where an error becomes a line and an exit code."""

import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

import typer
from rich.markup import escape

from bayeslat.cli import (
    asking,
    backtest,
    capacity,
    check,
    fitting,
    gate,
    newcomers,
    next_points,
    phases,
    queue,
    schedule,
    serving,
    watch,
)
from bayeslat.cli.output import stderr
from bayeslat.errors import BayeslatError

__all__ = ["app", "main"]

app = typer.Typer(
    name="bayeslat",
    help="How long does a step of an LLM inference engine take? Step logs in, P(latency > SLA) with"
    " honest uncertainty out.",
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for _name, _command in (
    ("demo", newcomers.demo),
    ("profile", fitting.profile),
    ("simulate", fitting.simulate),
    ("fit", fitting.fit),
    ("query", asking.query),
    ("invert", asking.invert),
    ("frontier", capacity.frontier),
    ("allocate", capacity.allocate),
    ("compile", gate.compile_),
    ("gate", gate.gate),
    ("phases", phases.phases),
    ("queue", queue.queue),
    ("goodput", serving.goodput),
    ("schedule", schedule.schedule),
    ("cold-start", newcomers.cold_start),
    ("next-points", next_points.next_points),
    ("watch", watch.watch),
    ("check", check.check),
    ("backtest", backtest.backtest),
    ("report", newcomers.report),
):
    app.command(_name)(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command: exit code 0 on success, 1 on a failed verdict, 2 on bad input."""
    warnings.showwarning = _show_warning
    try:
        code = app(list(arguments) if arguments is not None else None, standalone_mode=False)
    except BayeslatError as error:
        sys.exit(_failed(str(error)))
    except typer.TyperException as error:
        sys.exit(_failed(f"{error.format_message().rstrip('.')}; see --help"))
    except typer.Abort:
        sys.exit(_failed("interrupted", code=130))
    except OSError as error:
        sys.exit(_failed(f"{error}; check the path and its permissions"))
    sys.exit(code or 0)


def _failed(message: str, code: int = 2) -> int:
    stderr.print(f"[red]error:[/red] {escape(' '.join(message.split()))}", soft_wrap=True)
    return code


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """One line a warning; those that are not ours concern nobody at a command line."""
    if category.__module__.startswith("bayeslat"):
        stderr.print(f"[yellow]warning:[/yellow] {escape(str(message))}", soft_wrap=True)
