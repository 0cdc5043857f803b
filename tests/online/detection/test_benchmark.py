"""The benchmark of the detectors: its worlds, and that it runs."""

import numpy as np
import pytest

import detection
from bayeslat.online.detection import DETECTORS
from detection import LEVELS, RIGHT, Alarm, World, cell, main, rate


def test_p_values_of_the_right_model_are_uniform() -> None:
    rows = RIGHT.rows(50_000, 1)
    # Stalls are believed in as a normal of the same mean, so only the body is exact.
    grid = np.linspace(0.05, 0.95, 10)
    found = (rows.pit[:, None] < grid).mean(axis=0)
    assert np.abs(found - grid).max() < 4.0 * 0.5 / np.sqrt(50_000) + 0.002
    assert (rows.p_slower >= 1.0 - rows.pit).all()


def test_noise_of_successive_rows_correlates() -> None:
    error = World(rho=0.6, tails=4.0).rows(50_000, 2).log_error
    body = np.abs(error) < 0.15
    both = body[1:] & body[:-1]
    assert np.corrcoef(error[1:][both], error[:-1][both])[0, 1] == pytest.approx(0.6, abs=0.06)


def test_traffic_moves_within_all_levels() -> None:
    load = detection.moving_load(50_000, np.random.default_rng(3))
    assert set((load * LEVELS).astype(int)) == set(range(LEVELS))
    means = load.reshape(50, -1).mean(axis=1)
    assert means.max() - means.min() > 0.3


def test_cell_counts_misses_and_early_alarms() -> None:
    found = [Alarm(10, "slower", 12), Alarm(30, "tails", 28), Alarm(-5, "slower", 1), None]
    assert cell(found) == (
        "20 / 28; slower 50 %, tails 50 %; since +0; missed 25 %; 1 too early"
    )  # fmt: skip
    assert cell([None]) == "missed 100 %"


def test_rate_has_the_poisson_bound() -> None:
    # The rule of three: no event in n says fewer than three in n, at 95 %.
    assert rate(0, 200_000) == "0 (< 1.5)"


def test_it_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: detection.CHANGES[name] for name in ("+15 % after 50 rows", "noise doubled")}
    monkeypatch.setattr(detection, "CHANGES", few)
    main(["--smoke"])
    out = capsys.readouterr().out
    assert all(name in out for name in DETECTORS)
    assert "## Something changes" in out
