"""Commands that make steps and posteriors: profile, simulate, fit."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bayeslat.cli.output import (
    AllowUnconvergedOption,
    CatalogOption,
    EngineOption,
    JsonOption,
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
    stdout,
    verdict_dict,
    working,
)
from bayeslat.errors import InputError

if TYPE_CHECKING:
    from bayeslat.model.spec import ModelSpec
    from bayeslat.observations import Observations
    from bayeslat.posterior import FleetPosterior

__all__ = ["fit", "profile", "simulate"]

STEP_SUFFIXES = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet")


def profile(
    out: Annotated[Path, typer.Option("--out", help="Steps table to write.")] = Path("steps.csv"),
    seconds: Annotated[float, typer.Option("--seconds", help="Time budget.")] = 60.0,
    datasheet: Annotated[
        Path | None, typer.Option("--datasheet", help="Measured datasheets to write (TOML).")
    ] = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Measure real steps of small transformers on this machine's own device.

    [bold]Example:[/bold] bayeslat profile --seconds 60 --out steps.csv --datasheet device.toml
    """
    check_output(out, *STEP_SUFFIXES)
    if datasheet is not None:
        check_output(datasheet, ".toml")
    from bayeslat.catalog.write import write_datasheets
    from bayeslat.observations import write_steps
    from bayeslat.profiling import check_seconds, profile_device

    check_seconds(seconds)
    with _bar() as bar:
        task = bar.add_task("measuring", total=1.0)
        found = profile_device(
            seconds=seconds,
            seed=seed,
            progress=lambda share, text: bar.update(task, completed=share, description=text),
        )
    write_steps(found.steps, out)
    if datasheet is not None:
        write_datasheets([found.gpu, *found.llms], datasheet)
    models = [llm.name for llm in found.llms]
    say(
        f"{len(found.steps):,} steps of {', '.join(models)} on {found.gpu.name}"
        f" ({found.gpu.peak_tflops:.3g} TFLOP/s, {found.gpu.bandwidth_tbs:.3g} TB/s measured)"
        f" written to {out}",
        quiet=json,
    )
    if json:
        as_json(
            {
                "steps": out,
                "n_rows": len(found.steps),
                "gpu": found.gpu.to_dict(),
                "llms": [llm.to_dict() for llm in found.llms],
                "datasheet": datasheet,
            }
        )


def simulate(
    out: Annotated[Path, typer.Option("--out", help="Steps table to write.")] = Path("steps.csv"),
    rows: Annotated[int, typer.Option("--rows", help="Steps of each deployment.")] = 300,
    gpu: Annotated[list[str] | None, typer.Option("--gpu", help="GPU; may be repeated.")] = None,
    model: Annotated[list[str] | None, typer.Option("--model", help="LLM; repeatable.")] = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Simulate the step log of a fleet; its engine column says "simulated".

    [bold]Example:[/bold] bayeslat simulate --gpu H100-80GB --gpu A100-80GB --model llama-7b
    """
    check_output(out, *STEP_SUFFIXES)
    from bayeslat.observations import write_steps
    from bayeslat.simulate import simulate_fleet

    names: dict[str, Any] = {"gpus": tuple(gpu or ()), "models": tuple(model or ())}
    fleet = simulate_fleet(
        **{key: value for key, value in names.items() if value},
        rows_per_deployment=rows,
        seed=seed,
    )
    write_steps(fleet.steps, out)
    say(
        f"{len(fleet.steps):,} simulated steps of {len(fleet.truth)} deployments written to {out}",
        quiet=json,
    )
    if json:
        labels = [deployment.label for deployment in fleet.truth]
        as_json({"steps": out, "n_rows": len(fleet.steps), "deployments": labels, "seed": seed})


def fit(
    steps: Annotated[Path, typer.Argument(metavar="STEPS", help="Step log.")],
    out: Annotated[Path, typer.Option("--out", help="Posterior to write.")] = Path("fleet.nc"),
    format: Annotated[str, typer.Option("--format", help="Format of the log.")] = "auto",
    columns: Annotated[
        list[str] | None,
        typer.Option("--columns", help="Our column = the file's, a time with its unit."),
    ] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", help="GPU, if the log is silent.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="LLM, if the log is silent.")] = None,
    tp: TpOption = None,
    engine: EngineOption = None,
    precision: PrecisionOption = None,
    catalog: CatalogOption = None,
    likelihood: Annotated[
        str, typer.Option("--likelihood", help="student_t, lognormal or normal.")
    ] = "student_t",
    terms: Annotated[
        str | None, typer.Option("--terms", help="Optional terms, with commas: k_B,w_0,tau_C.")
    ] = None,
    strays: Annotated[
        bool, typer.Option("--strays", help="The log may hold rows that are no such steps.")
    ] = False,
    sampler: Annotated[
        str, typer.Option("--sampler", help="numpyro, nutpie or blackjax.")
    ] = "numpyro",
    draws: Annotated[int, typer.Option("--draws", help="Draws of each chain.")] = 1000,
    tune: Annotated[int, typer.Option("--tune", help="Warm-up draws of each chain.")] = 200,
    chains: Annotated[int, typer.Option("--chains", help="Chains.")] = 4,
    seed: SeedOption = 0,
    retry: Annotated[
        bool, typer.Option("--retry/--no-retry", help="Run again, longer, where it did not pass.")
    ] = True,
    allow_unconverged: AllowUnconvergedOption = False,
    json: JsonOption = False,
) -> None:
    r"""Fit a fleet to a step log and save the posterior.

    A posterior whose convergence verdict failed is not saved, and the exit code is 1, unless
    --allow-unconverged is given.

    [bold]Examples:[/bold]

    bayeslat fit steps.csv --out fleet.nc

    bayeslat fit log.csv --columns "latency_ms=step_time \[s]" --gpu H100-80GB --model llama-70b
    """
    check_output(out, ".nc")
    column_map = _column_map(columns or [])
    from bayeslat.catalog import load_catalog
    from bayeslat.inference.run import check_settings
    from bayeslat.inference.samplers import SamplerSettings
    from bayeslat.observations import read_steps
    from bayeslat.posterior import fit as fit_fleet

    check_settings(sampler, SamplerSettings(draws=draws, tune=tune, chains=chains))
    spec = _spec(terms, likelihood=likelihood, strays=strays)
    sheets = load_catalog(catalog)
    observations = read_steps(
        steps,
        format=format,
        columns=column_map,
        gpu=gpu,
        model=model,
        tp=tp,
        engine=engine,
        precision=precision,
        catalog=sheets,
    )
    say(escape(observations.quarantine.summary()), quiet=json)
    with working(f"fitting {len(observations):,} steps") as tell:
        fleet = fit_fleet(
            observations,
            spec,
            catalog=sheets,
            sampler=sampler,
            draws=draws,
            tune=tune,
            chains=chains,
            seed=seed,
            retry=retry,
            progress=tell,
        )
    saved = save_if_passed(fleet, out, allow_unconverged=allow_unconverged)
    if json:
        as_json(_fit_summary(fleet, observations, out if saved else None))
    else:
        show_verdict(fleet)
        stdout.print(_deployments(fleet))
        show_saved(out, saved=saved)
    if not saved:
        end_unconverged("raise --draws or --tune, look at the data, or give --allow-unconverged")


def _spec(terms: str | None, *, likelihood: str, strays: bool) -> "ModelSpec | None":
    """The model that was asked for; None where the log may decide."""
    from bayeslat.model.spec import DEFAULT_TERMS, ModelSpec

    if terms is None and not strays and likelihood == ModelSpec().likelihood:
        return None
    chosen = DEFAULT_TERMS if terms is None else tuple(t.strip() for t in terms.split(",") if t)
    return ModelSpec(terms=chosen, likelihood=likelihood, strays=strays)


def _column_map(pairs: list[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, target = pair.partition("=")
        if not (equals and name.strip() and target.strip()):
            raise InputError(
                f"got --columns {pair!r}, expected OUR_NAME=FILE_NAME, such as"
                " latency_ms='step_time [s]'; write it so"
            )
        found[name.strip()] = target.strip()
    return found


def _deployments(fleet: "FleetPosterior") -> Table:
    table = Table(box=None, header_style="bold")
    for heading in ("deployment", "steps", "batch size", "total tokens", "noise (sigma)"):
        table.add_column(heading, justify="left" if heading == "deployment" else "right")
    ranges = fleet.constant_data["measured_range"].to_numpy()
    rows = fleet.constant_data["n_rows"].to_numpy()
    sigma = fleet.posterior["sigma"].median(("chain", "draw")).to_numpy()
    for position, deployment in enumerate(fleet.deployments):
        spans = (f"{low:.0f} to {high:.0f}" for low, high in ranges[position, :2])
        noise = f"{100 * sigma[position]:.1f} %"
        table.add_row(escape(deployment.label), f"{rows[position]:,}", *spans, noise)
    return table


def _fit_summary(
    fleet: "FleetPosterior", observations: "Observations", out: Path | None
) -> dict[str, Any]:
    return {
        "saved": out,
        "verdict": verdict_dict(fleet),
        "quarantine": observations.quarantine.to_dict(),
        "fingerprint": observations.fingerprint,
        "unknown_names": list(fleet.unknown_names),
        "deployments": [
            {**deployment._asdict(), "label": deployment.label, "n_rows": rows}
            for deployment, rows in zip(
                fleet.deployments, fleet.constant_data["n_rows"].to_numpy(), strict=True
            )
        ],
    }


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=stderr,
        transient=True,
    )
