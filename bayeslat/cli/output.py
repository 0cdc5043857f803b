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
    from bayeslat.posterior import FleetPosterior
    from bayeslat.predictive import Estimate

__all__ = [
    "AllowUnconvergedOption",
    "CatalogOption",
    "EngineOption",
    "GpuOption",
    "JsonOption",
    "ModelOption",
    "PosteriorArgument",
    "PrecisionOption",
    "SeedOption",
    "TpOption",
    "as_json",
    "check_output",
    "end_unconverged",
    "estimate_dict",
    "save_if_passed",
    "say",
    "show_saved",
    "show_verdict",
    "stderr",
    "stdout",
    "verdict_dict",
    "working",
]

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
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]


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


def check_output(path: Path, *suffixes: str) -> None:
    """Refuse, before long work, an output that could not be written afterwards.

    Raises
    ------
    InputError
        The folder does not exist, or the suffix is none of those given.
    """
    if not path.parent.is_dir():
        raise InputError(
            f"got --out {path}, whose folder does not exist, expected an existing one; make it"
            " first"
        )
    if path.is_dir():
        raise InputError(f"got the folder --out {path}, expected a file; name a file in it")
    if suffixes and not path.name.endswith(suffixes):
        raise InputError(
            f"got --out {path}, expected a name that ends in {' or '.join(suffixes)}; rename it"
        )


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
