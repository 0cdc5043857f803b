"""Tables show medians, and "never" counts as later than any number."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from adaptation.lineup import OURS
from adaptation.tables import (
    Score,
    Title,
    alarm_lines,
    cell,
    poisson_interval,
    scenario_lines,
    target_lines,
)

ROWS = Score("rows", "{:.0f}".format, True)
TITLE = Title("slow-down", "a slow-down", True, True)


def table(recovered: list[float]) -> pd.DataFrame:
    """Figures of one scenario, one run a value."""
    same = {"mean_error": 0.08, "settled_error": 0.05, "settled_oracle": 0.05, "excess": 1.0}
    same |= {"worst": 2.0, "settled_coverage": 0.9, "settled_exceedance": 0.01}
    same |= {"spread": 0.3, "row_ms": 1.0, "covered": 100.0}
    about = {"scenario": "slow-down", "deployment": "a", "contestant": OURS}
    return pd.DataFrame(
        [about | same | {"seed": n, "recovered": value} for n, value in enumerate(recovered)]
    )


def test_a_cell_shows_the_median_with_its_spread() -> None:
    assert cell(pd.Series([100.0, 200.0, 400.0]), ROWS) == "200 [100, 400]"
    assert cell(pd.Series([100.0, 100.0]), ROWS) == "100"
    assert cell(pd.Series([100.0, 200.0, np.nan]), ROWS) == "200 [100, 200], 2 of 3"
    assert cell(pd.Series([100.0, np.nan, np.nan]), ROWS) == "never, 1 of 3"
    assert cell(pd.Series([np.nan]), ROWS) == "never"
    assert cell(pd.Series([np.nan, 2.0]), Score("x", "{:.1f}".format)) == "2.0"


def test_a_scenario_without_a_change_has_no_recovery() -> None:
    found = "\n".join(scenario_lines(table([100.0]), TITLE, (OURS, "nobody")))
    assert f"**{OURS}**" in found and "error is back" in found and "nobody" not in found
    still = TITLE._replace(changes=False)
    assert "error is back" not in "\n".join(scenario_lines(table([100.0]), still, (OURS,)))


def test_targets_are_met_only_where_every_run_meets_them() -> None:
    def verdicts(recovered: list[float], false: int, exposed: int) -> list[str]:
        alarms = pd.DataFrame(
            [{"scenario": "slow-down", "delays": (50.0,), "false": false, "exposed": exposed}]
        )
        lines = target_lines(table(recovered), alarms, [TITLE])
        return [line.split(" | ")[-1].strip(" |") for line in lines[2:]]

    # Without any alarm the upper bound is 3.0; ten in 1e5 rows are far beyond one.
    assert verdicts([100.0, 300.0], 0, 310_000) == ["yes", "yes", "yes"]
    assert verdicts([100.0, 350.0], 10, 100_000) == ["in part", "yes", "no"]
    assert verdicts([np.nan], 0, 10_000) == ["no", "yes", "too few rows to tell"]


def test_the_interval_of_a_count_is_the_exact_one() -> None:
    assert poisson_interval(0) == pytest.approx((0.0, -np.log(0.05)))
    low, high = poisson_interval(7)
    assert stats.poisson.cdf(7, high) == pytest.approx(0.05)
    assert stats.poisson.sf(6, low) == pytest.approx(0.05)


def test_alarms_show_delays_misses_and_the_rate() -> None:
    alarms = pd.DataFrame(
        [
            {
                "scenario": "slow-down",
                "delays": (50.0, np.nan),
                "true": 1,
                "false": 1,
                "exposed": 30_000,
            },
            {
                "scenario": "slow-down",
                "delays": (150.0, 100.0),
                "true": 2,
                "false": 0,
                "exposed": 20_000,
            },
        ]
    )
    (line,) = alarm_lines(alarms, [TITLE, TITLE._replace(name="other")])[2:]
    cells = [each.strip() for each in line.strip("|").split("|")]
    assert cells[1].startswith("100 (") and "most 150" in cells[1]
    assert cells[2:] == ["1 of 4", "4", "1", "50,000", "2.00"]
