"""Accuracy of bayeslat and of its rivals on recorded steps: ``python benchmarks/accuracy.py``.

All contenders get the same tasks, and forecast quantiles of the latency of every held-out step.
Forecasts are kept, so that contenders may run apart: a table shows whoever has forecast all tasks.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import pandas as pd
from threadpoolctl import threadpool_limits

from contest.ours import Bayeslat
from contest.pictures import split_picture
from contest.rivals import all_rivals
from contest.splits import SPLITS, Task, make_tasks, read_frame
from contest.store import Store
from contest.tables import OURS, score_records, split_table

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = Path(__file__).parent / "results"
DATA: Final = ROOT.parent / "shared" / "data" / "fleet_steps.csv"


def slug(name: str) -> str:
    return name.lower().replace(" ", "-")


def arguments() -> argparse.Namespace:
    names = [OURS, *(slug(rival.name) for rival in all_rivals())]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", nargs="+", choices=list(SPLITS), default=list(SPLITS))
    parser.add_argument("--contenders", nargs="+", choices=names, default=names)
    parser.add_argument("--draws", type=int, default=1000, help="a chain, of bayeslat's fits")
    parser.add_argument("--chains", type=int, default=4, help="of bayeslat's fits")
    parser.add_argument("--no-retry", action="store_true",
                        help="take bayeslat's first run whatever its verdict")  # fmt: skip
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "accuracy",
                        help="folder of fits, forecasts and scores")  # fmt: skip
    parser.add_argument("--limit", type=int, help="only so many tasks a split; not for results")
    parser.add_argument("--redo", action="store_true", help="forecast again what is kept already")
    parser.add_argument("--tables-only", action="store_true", help="forecast nothing")
    return parser.parse_args()


def run_split(
    tasks: Sequence[Task], contenders: Sequence[Any], store: Store, *, redo: bool
) -> None:
    """Forecast every task with every contender that has not done so."""
    for task in tasks:
        for contender in contenders:
            if not redo and store.read(task, contender.name, _version(contender)) is not None:
                continue
            start = perf_counter()
            forecast = contender.forecast(task)
            seconds = perf_counter() - start
            rhat = getattr(contender, "max_rhat", float("nan"))
            store.write(task, contender.name, forecast, seconds, _version(contender), rhat)
            print(f"{task.split}, {task.name}: {contender.name}, {seconds:.1f} s", flush=True)


def _version(contender: Any) -> str:
    return getattr(contender, "version", "")


def kept_records(tasks: Sequence[Task], store: Store) -> pd.DataFrame:
    """Scores of all contenders that have forecast every task."""
    records: list[dict[str, Any]] = []
    for name in (*(rival.name for rival in all_rivals()), OURS):
        found = [store.read(task, name) for task in tasks]
        if all(each is not None for each in found):
            for task, kept in zip(tasks, found, strict=True):
                records += score_records(task, name, kept)
    return pd.DataFrame(records)


def write_results(
    split: str, records: pd.DataFrame, folder: Path, cache: Path, options: str
) -> None:
    """Raw scores into the cache; table and picture into the folder of results."""
    lines = (json.dumps(record) for record in records.to_dict("records"))
    (cache / f"scores_{split}.jsonl").write_text("\n".join(lines) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"accuracy_{split}.md").write_text(split_table(split, records, options))
    split_picture(split, records).savefig(folder / f"accuracy_{split}.png")
    print((folder / f"accuracy_{split}.md").read_text())


def fit_options(chosen: argparse.Namespace) -> str:
    """Options that decide how bayeslat's fits were made."""
    return f" --chains {chosen.chains} --draws {chosen.draws}" + " --no-retry" * chosen.no_retry


def main() -> int:
    chosen = arguments()
    if not DATA.is_file():
        print("accuracy: got no ../shared/data/fleet_steps.csv, expected the recorded steps"
              " there, beside the repository", file=sys.stderr)  # fmt: skip
        return 2
    frame, store = read_frame(DATA), Store(chosen.cache)
    ours = Bayeslat(
        chosen.cache, draws=chosen.draws, chains=chosen.chains, retry=not chosen.no_retry
    )
    everyone = (*all_rivals(), ours)
    contenders = [each for each in everyone if slug(each.name) in chosen.contenders]
    for split in chosen.split:
        tasks = make_tasks(split, frame)[: chosen.limit]
        if not chosen.tables_only:
            with threadpool_limits(1):
                run_split(tasks, contenders, store, redo=chosen.redo)
        records = kept_records(tasks, store)
        if len(records):
            folder = RESULTS if chosen.limit is None else chosen.cache / "trial"
            write_results(split, records, folder, chosen.cache, fit_options(chosen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
