"""The command that compares predictors on held-out steps of a log: backtest."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bayeslat.cli.output import (
    CatalogOption,
    JsonOption,
    SeedOption,
    as_json,
    save_plot,
    say,
    stderr,
    stdout,
)
from bayeslat.errors import InputError

if TYPE_CHECKING:
    from bayeslat.catalog import Catalog
    from bayeslat.evaluation.backtesting import Backtest
    from bayeslat.evaluation.base import Contender
    from bayeslat.evaluation.tables import TextTable

__all__ = ["backtest"]

OURS = "bayeslat"
SHOWN = ("mape", "ape95", "r2", "rmse", "relative_crps", "coverage90", "exceedance99", "log_score")
"""Scores that a terminal has room for; the files hold all of them."""


def backtest(
    steps: Annotated[Path, typer.Argument(metavar="STEPS", help="Step log of measured steps.")],
    split: Annotated[
        list[str] | None,
        typer.Option(
            "--split",
            help="points, time, extrapolation, new-gpu or new-llm; may be repeated."
            " By default points.",
        ),
    ] = None,
    rivals: Annotated[
        str,
        typer.Option(
            "--rivals", help="Who else predicts: names with commas, 'all' there are, or 'none'."
        ),
    ] = "all",
    out: Annotated[
        Path,
        typer.Option("--out", help="Folder of tables, pictures, scores and what was predicted."),
    ] = Path("backtest"),
    few: Annotated[
        str, typer.Option("--few", help="Steps known of each new deployment, with commas.")
    ] = "0,5,10,20",
    held_out: Annotated[
        float, typer.Option("--held-out", help="Share of design points that points holds out.")
    ] = 0.3,
    min_train_size: Annotated[
        int | None,
        typer.Option("--min-train-size", help="Rows that the first window of time knows."),
    ] = None,
    test_window: Annotated[
        int | None, typer.Option("--test-window", help="Rows of each window of time.")
    ] = None,
    max_rows: Annotated[
        int | None,
        typer.Option("--max-rows", help="At most so many steps of every deployment, at random."),
    ] = None,
    format: Annotated[str, typer.Option("--format", help="Format of the log.")] = "auto",
    catalog: CatalogOption = None,
    draws: Annotated[int, typer.Option("--draws", help="Draws of each chain.")] = 1000,
    chains: Annotated[int, typer.Option("--chains", help="Chains.")] = 4,
    retry: Annotated[
        bool, typer.Option("--retry/--no-retry", help="Run again, longer, where it did not pass.")
    ] = True,
    workers: Annotated[
        int, typer.Option("--workers", help="Folds that are worked on at the same time.")
    ] = 1,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Hold steps of a log out, and compare what bayeslat and others predict of them.

    Every contender gets the same folds. What was fitted and predicted is kept in the folder, so
    that a run that was stopped goes on where it was. The folder then holds backtest.md (tables),
    backtest.json (every score) and a picture a split.

    [bold]Examples:[/bold]

    bayeslat backtest steps.csv --split new-gpu

    bayeslat backtest steps.csv --split points --split time --rivals linear,lightgbm-quantile
    """
    from bayeslat.catalog import load_catalog
    from bayeslat.evaluation.backtesting import backtest as run
    from bayeslat.evaluation.ours import Bayeslat
    from bayeslat.evaluation.splits import SplitSettings, thinned
    from bayeslat.evaluation.tables import split_tables
    from bayeslat.inference.run import check_settings
    from bayeslat.inference.samplers import SamplerSettings
    from bayeslat.observations import read_steps

    check_settings("numpyro", SamplerSettings(draws=draws, chains=chains))
    settings = SplitSettings(
        seed=seed,
        held_out=held_out,
        few=_counts(few),
        min_train_size=min_train_size,
        test_window=test_window,
    )
    sheets = load_catalog(catalog)
    others, left_out = _rivals(rivals, sheets)
    observations = read_steps(steps, format=format, catalog=sheets)
    if max_rows is not None:
        observations = thinned(observations, max_rows, seed=seed)
    ours = Bayeslat(draws=draws, chains=chains, seed=seed, retry=retry)
    with _bar() as bar:
        task = bar.add_task("splitting", total=None)

        def tell(said: str, done: int, total: int) -> None:
            bar.update(task, description=escape(said), completed=done, total=total)
            if not stderr.is_terminal:
                stderr.print(escape(f"{done}/{total} {said}"), soft_wrap=True)

        found = run(
            observations,
            split or ["points"],
            [*others, ours],
            settings=settings,
            catalog=sheets,
            folder=out,
            workers=workers,
            progress=tell,
        )
    _write(found, out)
    if json:
        as_json({**found.to_dict(), "folder": out})
        return
    say(escape(observations.quarantine.summary()))
    if max_rows is not None:
        say(f"{len(observations):,} steps taken, at most {max_rows:,} a deployment")
    for name in found.splits:
        for table in split_tables(found, name, scores=SHOWN):
            stdout.print(_shown(table))
    failed = [f"{each.contender}, {each.fold}: {each.reason}" for each in found.failures]
    for line in (*left_out, *failed, *found.notes):
        say(f"[yellow]{escape(line)}[/yellow]")
    say(f"tables, pictures and every score are in {escape(str(out))}")


def _counts(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f"got --few {text!r}, expected whole numbers with commas, such as 0,5,20; correct it"
        ) from error


def _rivals(names: str, sheets: "Catalog") -> tuple[list["Contender"], list[str]]:
    """Rivals by name, and a line about each that is left out because its package is missing."""
    from bayeslat.evaluation.rivals import RIVALS, missing

    if names == "none":
        return [], []
    if names == "all":
        absent = {name: missing(name) for name in RIVALS}
        chosen = [RIVALS[name](sheets) for name, why in absent.items() if why is None]
        return chosen, [f"left out: {name}, {why}" for name, why in absent.items() if why]
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in RIVALS]
    if unknown or not wanted:
        raise InputError(
            f"got --rivals {names!r}, expected all, none or some of {', '.join(RIVALS)}; correct it"
        )
    for name in wanted:
        why = missing(name)
        if why is not None:
            raise InputError(f"got --rivals {name}: {why}")
    return [RIVALS[name](sheets) for name in wanted], []


def _write(found: "Backtest", folder: Path) -> None:
    """Tables, scores and a picture a split."""
    from bayeslat.evaluation.tables import as_document
    from bayeslat.observations.files import replacing
    from bayeslat.plots.backtest import plot_backtest

    found.save(folder / "backtest.json")
    text = as_document(found)
    replacing(folder / "backtest.md", lambda target: _write_text(target, text))
    for split in found.splits:
        save_plot(plot_backtest(found, split), folder / f"{split}.png")


def _write_text(target: Path, text: str) -> None:
    target.write_text(text, encoding="utf-8")


def _shown(table: "TextTable") -> Table:
    shown = Table(title=escape(table.title), caption=escape(table.note), box=None,
                  header_style="bold", title_justify="left", caption_justify="left")  # fmt: skip
    for heading in table.columns:
        shown.add_column(heading, justify="left" if heading == table.columns[0] else "right")
    for row in table.rows:
        shown.add_row(*map(escape, row), style="bold" if row[0] == OURS else None)
    return shown


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        console=stderr,
        transient=True,
        disable=not stderr.is_terminal,
    )
