"""Commands about newcomers and the whole: cold-start, report, demo."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from bayeslat.cli.output import (
    AllowUnconvergedOption,
    CatalogOption,
    EngineOption,
    JsonOption,
    PosteriorArgument,
    PrecisionOption,
    SeedOption,
    TpOption,
    as_json,
    check_output,
    end_unconverged,
    save_if_passed,
    say,
    show_saved,
    show_verdict,
    stderr,
    verdict_dict,
    working,
)
from bayeslat.errors import InputError

if TYPE_CHECKING:
    from bayeslat.catalog import GPU, LLM, Catalog
    from bayeslat.observations import Observations
    from bayeslat.posterior import FleetPosterior

__all__ = ["cold_start", "demo", "report"]


def cold_start(
    posterior: PosteriorArgument,
    name: Annotated[
        str | None, typer.Option("--name", help="New GPU; in the catalogue, or with its numbers.")
    ] = None,
    peak_tflops: Annotated[
        float | None, typer.Option("--peak-tflops", help="Dense bf16 TFLOP/s.")
    ] = None,
    bandwidth_tbs: Annotated[
        float | None, typer.Option("--bandwidth-tbs", help="Memory bandwidth, TB/s.")
    ] = None,
    memory_gb: Annotated[float | None, typer.Option("--memory-gb", help="Memory, GB.")] = None,
    llm: Annotated[
        list[str] | None, typer.Option("--llm", help="New LLM of the catalogue; repeatable.")
    ] = None,
    steps: Annotated[
        Path | None, typer.Option("--steps", help="A few measured steps of the newcomer.")
    ] = None,
    catalog: CatalogOption = None,
    out: Annotated[Path, typer.Option("--out", help="Posterior to write.")] = Path("new.nc"),
    seed: SeedOption = 0,
    allow_unconverged: AllowUnconvergedOption = False,
    json: JsonOption = False,
) -> None:
    """Predict a GPU or an LLM that the fleet has never seen, from its datasheet and a few steps.

    [bold]Example:[/bold] bayeslat cold-start fleet.nc --name H200 --peak-tflops 989
    --bandwidth-tbs 4.8 --memory-gb 141 --out h200.nc
    """
    check_output(out, ".nc")
    numbers = {
        "peak_tflops": peak_tflops,
        "bandwidth_tbs": bandwidth_tbs,
        "memory_gb": memory_gb,
    }
    if name is None and not llm and steps is None:
        raise InputError(
            "got no newcomer, expected --name of a GPU, --llm or --steps; give at least one"
        )
    given = _given(numbers, name)
    from bayeslat.catalog import load_catalog
    from bayeslat.observations import read_steps
    from bayeslat.posterior import load

    fleet = load(posterior)
    sheets = load_catalog(catalog) if catalog is not None else fleet.catalog
    entries = _named(sheets, name, given, llm or [])
    observations = None
    if steps is not None:
        observations = read_steps(steps, catalog=sheets.with_entries(*entries))
        say(escape(observations.quarantine.summary()), quiet=json)
        entries += _others(observations, sheets, {entry.name for entry in entries})
    with working("predicting the newcomer") as tell:
        new = fleet.cold_start(
            entries,
            steps=observations,
            deployments=observations.deployments if observations is not None else None,
            seed=seed,
            progress=tell,
        )
    saved = save_if_passed(new, out, allow_unconverged=allow_unconverged)
    if json:
        as_json(_newcomer_summary(new, observations, out if saved else None))
    else:
        show_verdict(new)
        if new.unknown_names:
            say(f"[yellow]no full datasheet: {escape(', '.join(new.unknown_names))}[/yellow]")
        for deployment in new.deployments:
            say(escape(deployment.label))
        show_saved(out, saved=saved)
    if not saved:
        end_unconverged("give more steps or --allow-unconverged")


def _given(numbers: dict[str, float | None], name: str | None) -> dict[str, float]:
    """What was said of a GPU's datasheet; it needs the GPU's name."""
    given = {key: value for key, value in numbers.items() if value is not None}
    if given and name is None:
        raise InputError(f"got {', '.join(given)} without --name, expected the GPU's name; add it")
    return given


def _named(
    sheets: "Catalog", name: str | None, given: dict[str, float], llms: list[str]
) -> "list[GPU | LLM]":
    """Datasheets of the GPU and the LLMs that the options name."""
    from bayeslat.catalog import GPU

    gpus = []
    if name is not None:
        gpus.append(GPU.from_dict({**sheets.gpu(name).to_dict(), **given, "name": name}))
    return [*gpus, *(sheets.llm(item) for item in llms)]


def _others(observations: "Observations", sheets: "Catalog", named: set[str]) -> "list[GPU | LLM]":
    """Datasheets of what the steps name and the options do not."""
    gpus = {deployment.gpu for deployment in observations.deployments} - named
    llms = {deployment.model for deployment in observations.deployments} - named
    return [*map(sheets.gpu, sorted(gpus)), *map(sheets.llm, sorted(llms))]


def _newcomer_summary(
    new: "FleetPosterior", observations: "Observations | None", out: Path | None
) -> dict[str, Any]:
    return {
        "saved": out,
        "deployments": [deployment.label for deployment in new.deployments],
        "unknown_names": list(new.unknown_names),
        "n_steps": len(observations) if observations is not None else 0,
        "verdict": verdict_dict(new),
    }


def report(
    posterior: PosteriorArgument,
    steps: Annotated[
        Path | None, typer.Option("--steps", help="Measured steps, for fit and checks.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="HTML file.")] = Path("report.html"),
    format: Annotated[str, typer.Option("--format", help="Format of the log.")] = "auto",
    gpu: Annotated[str | None, typer.Option("--gpu", help="GPU, if the log is silent.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="LLM, if the log is silent.")] = None,
    tp: TpOption = None,
    engine: EngineOption = None,
    precision: PrecisionOption = None,
    sla_ms: Annotated[float, typer.Option("--sla-ms", help="Limit in milliseconds.")] = 50.0,
    risk: Annotated[float, typer.Option("--risk", help="Admitted probability.")] = 0.01,
    backtest: Annotated[
        Path | None,
        typer.Option("--backtest", help="A backtest.json, for a comparison with other models."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write one self-contained HTML page about a posterior: may it be relied on, and what it says.

    [bold]Example:[/bold] bayeslat report fleet.nc --steps steps.csv --sla-ms 50 --out report.html
    """
    check_output(out, ".html")
    from bayeslat.evaluation.backtesting import Backtest
    from bayeslat.observations import read_steps
    from bayeslat.posterior import load
    from bayeslat.report import write_report

    fleet = load(posterior)
    beside = Backtest.load(backtest) if backtest is not None else None
    observations = None
    if steps is not None:
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
    with working("writing the report") as tell:
        reliance = write_report(
            fleet,
            out,
            observations=observations,
            sla_ms=sla_ms,
            risk=risk,
            backtest=beside,
            progress=tell,
        )
    show_verdict(fleet, quiet=json)
    say(escape(str(reliance)), quiet=json)
    say(f"written to {out}", quiet=json)
    if json:
        judged = {"level": reliance.level.word, "sentence": str(reliance)}
        as_json({"report": out, "reliance": judged, "verdict": verdict_dict(fleet)})


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer steps and seconds: a smoke test.")
    ] = False,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Simulate a fleet, fit it, ask it, measure this machine, cold-start it, write a report.

    [bold]Example:[/bold] bayeslat demo --out demo
    """
    from bayeslat.demo import run_demo

    with working("starting") as tell:
        result = run_demo(
            out, quick=quick, seed=seed, progress=tell, say=lambda text: say(text, quiet=json)
        )
    if json:
        as_json(result.to_dict())
    if not result.passed:
        stderr.print("error: a convergence verdict failed; see above")
        raise typer.Exit(1)
