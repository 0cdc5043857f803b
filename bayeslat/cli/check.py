"""The command that judges a posterior by measured steps: check."""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape

from bayeslat.cli.output import (
    JsonOption,
    PlotOption,
    PosteriorArgument,
    SeedOption,
    as_json,
    check_plot,
    save_plot,
    say,
    show_verdict,
    verdict_dict,
    working,
)
from bayeslat.errors import InputError, UnknownDeploymentError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bayeslat.evaluation.diagnosis import Diagnosis
    from bayeslat.posterior import FleetPosterior
    from bayeslat.schema import Deployment

__all__ = ["check"]

MAX_ROWS: Final = 2000
COLOURS: Final = {"passed": "green", "failed": "bold red", "not done": "yellow"}


def check(
    posterior: PosteriorArgument,
    steps: Annotated[Path, typer.Option("--steps", help="Measured steps, those of the fit best.")],
    deployment: Annotated[
        str | None,
        typer.Option("--deployment", help="Only this one, such as H100-80GB/llama-70b/tp4/vllm."),
    ] = None,
    max_rows: Annotated[
        int, typer.Option("--max-rows", help="Rows to look at of each deployment, at random.")
    ] = MAX_ROWS,
    format: Annotated[str, typer.Option("--format", help="Format of the log.")] = "auto",
    gpu: Annotated[str | None, typer.Option("--gpu", help="GPU, if the log is silent.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="LLM, if the log is silent.")] = None,
    tp: Annotated[int | None, typer.Option("--tp", help="Degree, if the log is silent.")] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", help="Engine, if the log is silent.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="Precision, if the log is silent.")
    ] = None,
    seed: SeedOption = 0,
    plot: PlotOption = None,
    json: JsonOption = False,
) -> None:
    """Does the model tell these steps? Calibration, residuals, left-out rows, replications, priors.

    A check fails where its deviation is significant, over all deployments, and large enough to
    matter.

    [bold]Example:[/bold] bayeslat check fleet.nc --steps steps.csv --plot check.png
    """
    check_plot(plot)
    if max_rows < 1:
        raise InputError(f"got --max-rows {max_rows}, expected at least 1; correct the option")
    from bayeslat.evaluation.diagnosis import diagnose
    from bayeslat.observations import read_steps
    from bayeslat.posterior import load

    fleet = load(posterior)
    wanted = None if deployment is None else _labelled(fleet, deployment)
    observations = read_steps(
        steps,
        format=format,
        gpu=gpu,
        model=model,
        tp=tp,
        engine=engine,
        precision=precision,
        catalog=fleet.catalog,
    )
    with working("checking") as tell:
        found = diagnose(
            fleet, observations, deployment=wanted, max_rows=max_rows, seed=seed, progress=tell
        )
    if plot is not None:
        save_plot(_picture(found), plot)
    if json:
        as_json({**_answer(found), "verdict": verdict_dict(fleet)})
        return
    show_verdict(fleet)
    _show(found)
    if plot is not None:
        say(f"written to {plot}")


def _labelled(fleet: "FleetPosterior", label: str) -> "Deployment":
    """The deployment of a label.

    Raises
    ------
    UnknownDeploymentError
        None has it; the message names the nearest.
    """
    for deployment in fleet.deployments:
        if deployment.label == label:
            return deployment
    labels = [deployment.label for deployment in fleet.deployments]
    nearest = difflib.get_close_matches(label, labels, n=3, cutoff=0.0)
    raise UnknownDeploymentError(
        f"got --deployment {label}, expected a label that this posterior holds; nearest:"
        f" {', '.join(nearest)}"
    )


def _show(found: "Diagnosis") -> None:
    whose = (
        "the steps of the fit: each is predicted with itself left out"
        if found.fitted
        else "steps that this posterior was not fitted to"
    )
    say(escape(whose))
    for label in found.deployments:
        n, rest = _rows(found, label)
        more = f", chosen at random from {n + rest:,}" if rest else ""
        say(f"\n[bold]{escape(label)}[/bold]  {n:,} steps{more}")
        for name, verdict, sentence in found.lines(label):
            say(f"  {name}: [{COLOURS[verdict]}]{verdict}[/{COLOURS[verdict]}], {escape(sentence)}")
    failing = found.failing()
    colour = "red" if failing else "green"
    total = len(found.deployments)
    say(f"\n[{colour}]{len(failing)} of {total} deployments fail a check[/{colour}]")


def _rows(found: "Diagnosis", label: str) -> tuple[int, int]:
    """Rows that were looked at, and those that were not."""
    return found.replicated.n_rows[found.deployments.index(label)], found.left_over[label]


def _answer(found: "Diagnosis") -> dict[str, Any]:
    deployments = []
    for label in found.deployments:
        n, rest = _rows(found, label)
        deployments.append(
            {
                "deployment": label,
                "n_rows": n,
                "n_rows_not_looked_at": rest,
                "diagnostics": [
                    {"name": name, "verdict": verdict, "sentence": sentence}
                    for name, verdict, sentence in found.lines(label)
                ],
            }
        )
    return {
        "steps_of_the_fit": found.fitted,
        "deployments": deployments,
        "failing": found.failing(),
        "findings": found.findings.table().to_dict("records"),
    }


def _picture(found: "Diagnosis") -> "Figure":
    """PIT bands of all deployments, or the residuals of the only one."""
    from bayeslat.evaluation.predictive_checks import pit_curves
    from bayeslat.plots.diagnostics import plot_pit_bands, plot_residuals

    if len(found.deployments) == 1:
        return plot_residuals(found.residuals)
    return plot_pit_bands(pit_curves(found.checked, left_out=found.fitted))
