"""What the discrepancy leaves of the parameters: ``python benchmarks/identifiability.py``.

The recorded fleet is fitted without a discrepancy and compared with the released posterior of the
same steps, which has one. Writes ``benchmarks/results/identifiability.md``.
"""

import sys
from pathlib import Path
from time import perf_counter
from typing import Final

import numpy as np
import pandas as pd

import bayeslat as bl

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = Path(__file__).parent / "results" / "identifiability.md"
DATA: Final = ROOT.parent / "shared" / "data" / "fleet_steps.csv"
RELEASED: Final = "public-fleet"
DRAWS: Final = 750


def summary(with_it: pd.DataFrame, without: pd.DataFrame) -> pd.DataFrame:
    """Medians over deployments of every quantity, with the discrepancy and without."""
    both = with_it.merge(without, on=["deployment", "quantity"], suffixes=("_with", "_without"))
    shift = np.abs(np.log(both["median_with"] / both["median_without"]))
    both["shift"] = shift / both["posterior_sd_log_with"]
    columns = [
        "prior_sd_log_with", "posterior_sd_log_without", "posterior_sd_log_with", "shift",
    ]  # fmt: skip
    grouped = both.groupby("quantity", sort=False)
    found = grouped[columns].median()
    for name in ("without", "with"):
        found[f"informed_{name}"] = grouped[f"informed_{name}"].mean()
    return found


def main() -> int:
    if not DATA.is_file():
        print("identifiability: got no ../shared/data/fleet_steps.csv, expected the recorded steps"
              " there, beside the repository", file=sys.stderr)  # fmt: skip
        return 2
    start = perf_counter()
    steps = bl.read_steps(DATA)
    plain = bl.fit(steps, bl.ModelSpec(discrepancy=False), draws=DRAWS, progress=print)
    seconds = perf_counter() - start
    table = summary(bl.load_released(RELEASED).identifiability(), plain.identifiability())
    lines = [
        "# The formula's parameters with and without a discrepancy",
        "",
        f"Made by `python benchmarks/identifiability.py` on {len(steps):,} recorded steps of"
        f" {len(steps.deployments)} deployments; with it: `{RELEASED}`. Standard deviations are of"
        " logarithms, medians over deployments; informed are deployments whose posterior variance"
        " is under half the prior's; the shift of the median is in posterior standard deviations"
        " with the discrepancy.",
        "",
        f"The fit without a discrepancy took {seconds:.0f} s on 2 CPU cores: {plain.verdict}.",
        "",
        "| quantity | prior sd | sd without | sd with | informed without | informed with | shift |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in table.iterrows():
        lines.append(
            f"| {name} | {row['prior_sd_log_with']:.2f} | {row['posterior_sd_log_without']:.3f} |"
            f" {row['posterior_sd_log_with']:.3f} | {100 * row['informed_without']:.0f} % |"
            f" {100 * row['informed_with']:.0f} % | {row['shift']:.1f} |"
        )
    RESULTS.write_text("\n".join(lines) + "\n")
    print(RESULTS.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
