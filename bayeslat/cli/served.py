"""What the commands about a served deployment share: options, loads, the deployment itself."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.markup import escape
from rich.table import Table

from bayeslat.cli.output import (
    caveats,
    say,
    say_caveats,
    show_verdict,
    verdict_dict,
    with_interval,
)
from bayeslat.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from bayeslat.decisions import ServedDeployment
    from bayeslat.engine import EngineSettings
    from bayeslat.posterior import FleetPosterior
    from bayeslat.schema import Deployment

__all__ = [
    "KvCapacityOption",
    "LoadsOption",
    "MaxNumSeqsOption",
    "OutputTokensOption",
    "OverheadOption",
    "OwnOutputTokensOption",
    "OwnPromptTokensOption",
    "PromptTokensOption",
    "Served",
    "TraceOption",
    "TtftOption",
    "cells",
    "headed",
    "open_served",
    "parse_loads",
    "records",
]

_PROMPT = typer.Option("--prompt-tokens", help="Tokens of each prompt.", min=1)
_OUTPUT = typer.Option("--output-tokens", help="Output tokens of each request.", min=1)
PromptTokensOption = Annotated[int, _PROMPT]
OutputTokensOption = Annotated[int, _OUTPUT]
# Where a trace may hold the lengths instead.
OwnPromptTokensOption = Annotated[int | None, _PROMPT]
OwnOutputTokensOption = Annotated[int | None, _OUTPUT]
TtftOption = Annotated[float, typer.Option("--ttft-ms", help="Objective: time to the first token.")]
MaxNumSeqsOption = Annotated[int, typer.Option("--max-num-seqs", help="Most requests in a step.")]
KvCapacityOption = Annotated[
    int | None,
    typer.Option("--kv-capacity-tokens", help="Positions in the KV cache; else datasheets."),
]
LoadsOption = Annotated[
    str | None, typer.Option("--loads", help="Requests a second, with commas: 1,2,4.")
]
TraceOption = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        help="CSV of recorded requests: arrival_s or arrival_ms, prompt_tokens or input_tokens,"
        " output_tokens.",
    ),
]
OverheadOption = Annotated[
    float | None,
    typer.Option(
        "--overhead-ms",
        help="Median of the prior of the time between steps; 0 for none, by default 0.7 ms.",
    ),
]


class Served(NamedTuple):
    """A deployment with its engine, and the fleet that it is of."""

    fleet: "FleetPosterior"
    deployment: "Deployment"
    engine: "ServedDeployment"

    def caveats(self, point: tuple[float, ...]) -> list[str]:
        """What weakens an answer about a step of (B, S, C), NaN where it does not matter."""
        return caveats(self.fleet, self.deployment, point)

    def summary(self, weak: list[str]) -> dict[str, Any]:
        """What every answer says for a machine."""
        gap = self.engine.overhead
        return {
            "deployment": self.deployment.label,
            "overhead_ms": {"median": gap.median_ms, "spread": gap.spread, "source": "prior"},
            "kv_capacity_tokens": self.engine.settings.kv_capacity_tokens,
            "caveats": weak,
            "verdict": verdict_dict(self.fleet),
        }

    def introduce(self, question: str, weak: list[str]) -> None:
        """Say for people what is asked, and what the answer rests on."""
        say(f"[bold]{escape(self.deployment.label)}[/bold]  {escape(question)}")
        show_verdict(self.fleet)
        gap = self.engine.overhead
        if gap.median_ms > 0:
            say(
                f"time between steps: a prior with median {gap.median_ms:g} ms, not measured"
                " (--overhead-ms)"
            )
        say_caveats(weak)


def open_served(
    posterior: Path,
    gpu: str,
    model: str,
    *,
    overhead_ms: float | None,
    settings: "EngineSettings | None" = None,
    **where: Any,
) -> Served:
    """The deployment of a saved posterior that the options name, ready to be asked."""
    from bayeslat.decisions import StepOverhead
    from bayeslat.posterior import load

    overhead = StepOverhead() if overhead_ms is None else StepOverhead(overhead_ms)
    fleet = load(posterior)
    deployment = fleet.find(gpu, model, **where)
    served = fleet.serving(**deployment._asdict(), settings=settings, overhead=overhead)
    return Served(fleet, deployment, served)


def parse_loads(text: str) -> list[float]:
    """Loads of --loads.

    Raises
    ------
    InputError
        What is no number, not positive or not in ascending order.
    """
    try:
        loads = [float(part) for part in text.split(",")]
    except ValueError:
        loads = []
    positive = all(math.isfinite(load) and load > 0.0 for load in loads)
    if not (loads and positive and loads == sorted(set(loads))):
        raise InputError(
            f"got --loads {text!r}, expected positive requests a second in ascending order, with"
            " commas, such as 1,2,4; correct the loads"
        )
    return loads


def records(table: "pd.DataFrame") -> list[dict[str, Any]]:
    """Rows of a table for JSON."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def cells(row: dict[str, Any], columns: Iterable[str]) -> list[str]:
    """Columns of a table of estimates for people, with their intervals."""
    return [
        with_interval((row[name], row[f"{name}_lower"], row[f"{name}_upper"])) for name in columns
    ]


def headed(columns: Iterable[str], *, title: str | None = None) -> Table:
    """A table of numbers for people."""
    table = Table(box=None, header_style="bold", title=title, title_justify="left", title_style="")
    for heading in columns:
        table.add_column(escape(heading), justify="right")
    return table
