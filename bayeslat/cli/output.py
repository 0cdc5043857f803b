"""What the commands share: two consoles, JSON, verdicts, options."""

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from bayeslat.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bayeslat.posterior import FleetPosterior
    from bayeslat.predictive import Estimate
    from bayeslat.schema import Deployment

__all__ = [
    "AllowUnconvergedOption",
    "CatalogOption",
    "CredibleOption",
    "EngineOption",
    "GpuOption",
    "JsonOption",
    "ModelOption",
    "PlotOption",
    "PosteriorArgument",
    "PrecisionOption",
    "RiskOption",
    "SeedOption",
    "TpOption",
    "as_json",
    "caveats",
    "check_output",
    "check_plot",
    "check_positive",
    "end_unconverged",
    "estimate_dict",
    "in_ms",
    "number",
    "save_if_passed",
    "save_plot",
    "say",
    "say_caveats",
    "show_saved",
    "show_verdict",
    "stderr",
    "stdout",
    "verdict_dict",
    "with_interval",
    "working",
]

PLOT_SUFFIXES = (".png", ".svg", ".pdf")

stdout = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
stderr = Console(stderr=True, highlight=False)

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print machine-readable JSON alone on standard output.")
]
PosteriorArgument = Annotated[
    Path,
    typer.Argument(
        metavar="POSTERIOR",
        help="Posterior saved by fit or cold-start (.nc), or public-fleet or reference-fleet.",
    ),
]
GpuOption = Annotated[str, typer.Option("--gpu", help="GPU, as named in the log.")]
ModelOption = Annotated[str, typer.Option("--model", help="LLM, as named in the log.")]
TpOption = Annotated[int | None, typer.Option("--tp", help="Tensor-parallel degree.")]
EngineOption = Annotated[str | None, typer.Option("--engine", help="Inference engine.")]
PrecisionOption = Annotated[str | None, typer.Option("--precision", help="Weight precision.")]
CatalogOption = Annotated[
    Path | None, typer.Option("--catalog", help="Your own datasheets (TOML) on top of ours.")
]
AllowUnconvergedOption = Annotated[
    bool,
    typer.Option("--allow-unconverged", help="Save and exit 0 though the verdict failed."),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything random.", min=0)]
RiskOption = Annotated[
    float, typer.Option("--risk", help="Admitted probability of breaking the limit.")
]
CredibleOption = Annotated[float, typer.Option("--credible", help="Mass of the intervals.")]
PlotOption = Annotated[
    Path | None, typer.Option("--plot", help="Picture to write: .png, .svg or .pdf.")
]


def as_json(values: Any) -> None:
    """Print JSON on standard output; what is not finite becomes null."""
    typer.echo(json.dumps(_plain(values), indent=2))


def say(text: str, *, quiet: bool = False) -> None:
    """Print a line for people: on standard output, or nowhere where that carries JSON."""
    if not quiet:
        stdout.print(text, soft_wrap=True)


@contextmanager
def working(message: str) -> Iterator[Callable[[str], None]]:
    """Show on standard error that something takes long; call what it gives to say what."""
    with stderr.status(escape(message)) as status:

        def tell(text: str) -> None:
            status.update(escape(text))
            if not stderr.is_terminal:
                stderr.print(escape(text), soft_wrap=True)

        yield tell


def show_verdict(fleet: "FleetPosterior", *, quiet: bool = False) -> None:
    """Say whether the draws may be used."""
    verdict = fleet.verdict
    if verdict is None:
        say("[yellow]predicted from a fleet, nothing sampled[/yellow]", quiet=quiet)
        return
    colour = "green" if verdict.passed else "bold red"
    say(f"[{colour}]{escape(str(verdict))}[/{colour}]", quiet=quiet)


def save_if_passed(fleet: "FleetPosterior", out: Path, *, allow_unconverged: bool) -> bool:
    """Save a posterior that may be used, or any where that is allowed; whether it was saved."""
    verdict = fleet.verdict
    if verdict is not None and not verdict.passed and not allow_unconverged:
        return False
    fleet.save(out)
    return True


def show_saved(out: Path, *, saved: bool) -> None:
    """Say whether a posterior was saved."""
    say(f"saved to {out}" if saved else f"[red]not saved[/red] to {out}: see the verdict")


def end_unconverged(advice: str) -> NoReturn:
    """One line on standard error, and exit code 1."""
    stderr.print(f"error: sampling did not converge; {advice}", soft_wrap=True)
    raise typer.Exit(1)


def verdict_dict(fleet: "FleetPosterior") -> dict[str, Any] | None:
    """The verdict for JSON; null where nothing was sampled."""
    verdict = fleet.verdict
    if verdict is None:
        return None
    return {**verdict.to_dict(), "passed": verdict.passed, "failures": list(verdict.failures)}


def estimate_dict(estimate: "Estimate") -> dict[str, float]:
    """A value with its interval for JSON."""
    return {"value": estimate.value, "lower": estimate.lower, "upper": estimate.upper}


def number(value: float) -> str:
    """A number for people, three digits or whole; what is not known is a dash."""
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def with_interval(estimate: "Estimate | tuple[float, ...]") -> str:
    """A value with its interval for people, escaped for the console."""
    value, lower, upper = map(number, estimate)
    return escape(f"{value} [{lower}, {upper}]")


def in_ms(estimate: "Estimate | tuple[float, ...]") -> str:
    """Milliseconds with their interval for people."""
    value, lower, upper = map(number, estimate)
    return escape(f"{value} ms [{lower}, {upper}]")


def caveats(
    fleet: "FleetPosterior", deployment: "Deployment", point: tuple[float, ...]
) -> list[str]:
    """What weakens an answer: nothing measured, or a point outside what was measured."""
    position = fleet.deployments.index(deployment)
    if fleet.constant_data["n_rows"].to_numpy()[position] == 0:
        return ["never measured: predicted from other deployments"]
    ranges = fleet.constant_data["measured_range"].to_numpy()[position]
    names = ("batch size", "total tokens", "context tokens")
    return [
        f"outside the measured range: {name} {value:.0f}, measured {low:.0f} to {high:.0f}"
        for name, value, (low, high) in zip(names, point, ranges, strict=True)
        if value < low or value > high
    ]


def say_caveats(lines: list[str]) -> None:
    """Say what weakens an answer."""
    for line in lines:
        say(f"[yellow]{escape(line)}[/yellow]")


def check_positive(option: str, value: float | None) -> None:
    """Refuse a limit, where one is given, that is not positive and finite."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise InputError(
            f"got {option} {value:g}, expected a positive finite number; correct the option"
        )


def check_output(path: Path, *suffixes: str, option: str = "--out") -> None:
    """Refuse, before long work, an output that could not be written afterwards.

    Raises
    ------
    InputError
        The folder does not exist, or the suffix is none of those given.
    """
    if not path.parent.is_dir():
        raise InputError(
            f"got {option} {path}, whose folder does not exist, expected an existing one; make it"
            " first"
        )
    if path.is_dir():
        raise InputError(f"got the folder {option} {path}, expected a file; name a file in it")
    if suffixes and not path.name.endswith(suffixes):
        raise InputError(
            f"got {option} {path}, expected a name that ends in {' or '.join(suffixes)}; rename it"
        )


def check_plot(path: Path | None) -> None:
    """Refuse, before long work, a picture that could not be written afterwards."""
    if path is not None:
        check_output(path, *PLOT_SUFFIXES, option="--plot")


def save_plot(figure: "Figure", path: Path) -> None:
    """Write a picture, all or nothing."""
    from bayeslat.observations.files import replacing

    replacing(path, lambda target: figure.savefig(target, format=path.suffix[1:]))


def _plain(value: Any) -> Any:
    """Plain JSON values: numpy scalars become numbers, NaN and infinities null."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, bool | str | int) or value is None:
        return value
    if isinstance(value, Path):
        return str(value)
    number = value.item() if callable(getattr(value, "item", None)) else value
    if isinstance(number, float) and not math.isfinite(number):
        return None
    return number
