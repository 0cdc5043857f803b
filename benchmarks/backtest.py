"""Every split and every rival on recorded steps: ``python benchmarks/backtest.py``.

Recorded steps have no times, so that the split by time is of a simulated log. Fits and predictions
are kept: a run that was stopped goes on where it was.
"""

import argparse
import sys
from pathlib import Path
from typing import Final

import numpy as np

import bayeslat as bl
from bayeslat.evaluation.backtesting import Backtest, backtest
from bayeslat.evaluation.ours import Bayeslat
from bayeslat.evaluation.rivals import all_rivals
from bayeslat.evaluation.splits import SplitSettings, thinned
from bayeslat.evaluation.tables import as_document
from bayeslat.observations import Observations
from bayeslat.plots.backtest import plot_backtest

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = Path(__file__).parent / "results"
DATA: Final = ROOT.parent / "shared" / "data" / "fleet_steps.csv"
RECORDED_SPLITS: Final = ("points", "extrapolation", "new-gpu", "new-llm")
SIMULATED_SPLITS: Final = ("time",)
SPLITS: Final = (*RECORDED_SPLITS, *SIMULATED_SPLITS)
SIMULATED_ROWS: Final = 200
"""Steps of each of nine simulated deployments."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Every split and every rival on recorded steps.")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS)
    parser.add_argument("--max-rows", type=int, default=200, help="of each deployment")
    parser.add_argument("--few", type=int, nargs="+", default=[0, 5, 20])
    parser.add_argument("--draws", type=int, default=500, help="a chain, of bayeslat's fits")
    parser.add_argument("--chains", type=int, default=2, help="of bayeslat's fits")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "backtest",
                        help="folder of fits and predictions")  # fmt: skip
    return parser.parse_args()


def simulated_log() -> Observations:
    """Steps of a simulated fleet that come one after the other, deployments in turn at random."""
    table = bl.simulate_fleet(rows_per_deployment=SIMULATED_ROWS).steps
    times = np.random.default_rng(0).permutation(len(table)).astype(float)
    return bl.validate_steps(table.assign(timestamp=times), source="simulated")


def write(found: Backtest, name: str, title: str, made_by: str) -> None:
    """Tables, and a picture a split."""
    text = as_document(found, title=title, made_by=made_by)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    for split in found.splits:
        plot_backtest(found, split).savefig(RESULTS / f"{name}_{split}.png")
    print(text)


def main() -> int:
    chosen = arguments()
    if not DATA.is_file():
        print("backtest: got no ../shared/data/fleet_steps.csv, expected the recorded steps there,"
              " beside the repository", file=sys.stderr)  # fmt: skip
        return 2
    contenders = [
        *all_rivals(),
        Bayeslat(draws=chosen.draws, chains=chosen.chains, retry=False),
    ]
    settings = SplitSettings(few=tuple(chosen.few))
    made_by = (
        f"python benchmarks/backtest.py --splits {' '.join(chosen.splits)}"
        f" --max-rows {chosen.max_rows} --draws {chosen.draws} --chains {chosen.chains}"
        f" --few {' '.join(map(str, chosen.few))}"
    )
    for name, title, log, possible in (
        (
            "backtest",
            "Backtest on recorded steps",
            thinned(bl.read_steps(DATA), chosen.max_rows),
            RECORDED_SPLITS,
        ),
        ("backtest_simulated", "Backtest on simulated steps", simulated_log(), SIMULATED_SPLITS),
    ):
        splits = [split for split in possible if split in chosen.splits]
        if not splits:
            continue
        found = backtest(
            log,
            splits,
            contenders,
            settings=settings,
            folder=chosen.cache / name,
            progress=lambda said, done, total: print(f"{done}/{total} {said}", flush=True),
        )
        found.save(chosen.cache / f"{name}.json")
        write(found, name, title, made_by)
    return 0


if __name__ == "__main__":
    sys.exit(main())
