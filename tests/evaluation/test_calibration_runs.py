"""The full model is calibrated, a wrong one is refused, and a run goes on where it stopped."""

from dataclasses import replace

import numpy as np
import pytest

import bayeslat as bl
from bayeslat.errors import InputError
from bayeslat.evaluation import calibration
from bayeslat.evaluation.calibration import LEVEL, CalibrationResult, Wrong, _Fitted, calibrate
from bayeslat.inference.samplers import SamplerSettings

N = 16
SETTINGS = SamplerSettings(draws=300, tune=100, chains=2, seed=6)
NAMES = ("a", "b", "c")


def made(place: np.ndarray) -> CalibrationResult:
    """A result without fits."""
    n = len(place)
    return CalibrationResult(
        NAMES,
        place,
        np.full(place.shape, 100),
        np.arange(n) % 2 == 0,
        np.ones(n),
        np.zeros(n, dtype=int),
        np.ones(n),
    )


def test_a_table_names_what_is_wrong_and_only_that():
    place = np.random.default_rng(0).random((100, 3))
    place[:, 1] = place[:, 1] ** 3
    result = made(place)
    table = result.table()
    assert table["quantity"][0] == "b" and list(table["refused"]) == [True, False, False]
    assert result.refused() == ("b",)
    assert table["mean_place"][0] == pytest.approx(place[:, 1].mean())
    assert "1 of 3 quantities refused (b)" in str(result) and "50 converged" in str(result)


@pytest.fixture
def fits(monkeypatch) -> list[int]:
    """Fits that cost nothing; the numbers of those that were made."""
    numbers: list[int] = []

    def fit(task):
        numbers.append(task.number)
        place = np.random.default_rng(task.number).random(3)
        return _Fitted(np.array(NAMES), place, np.full(3, 50), True, 1.0, 0, 0.1)

    monkeypatch.setattr(calibration, "_fit_one", fit)
    return numbers


def test_a_run_goes_on_where_it_stopped(short_steps, fits, tmp_path):
    folder = tmp_path / "fits"
    first = calibrate(short_steps, n_simulations=10, folder=folder)
    (folder / "00003.npz").unlink()
    told = []
    again = calibrate(
        short_steps, n_simulations=12, folder=folder, progress=lambda *now: told.append(now)
    )
    assert fits == [*range(10), 3, 10, 11] and told == [(10, 12), (11, 12), (12, 12)]
    np.testing.assert_array_equal(again.place[:10], first.place)
    assert len(again) == 12 and again.names == NAMES and again.converged.all()


@pytest.mark.parametrize(
    "changes",
    [{"settings": SETTINGS}, {"wrong": Wrong(noise=2.0)}, {"spec": bl.ModelSpec(terms=())}],
)
def test_fits_of_another_calibration_are_not_taken(short_steps, fits, tmp_path, changes):
    calibrate(short_steps, n_simulations=10, folder=tmp_path)
    with pytest.raises(InputError, match="another calibration"):
        calibrate(short_steps, n_simulations=10, folder=tmp_path, **changes)


@pytest.mark.parametrize("bad", [{"n_simulations": 5}, {"processes": 0}])
def test_settings_that_tell_nothing_are_refused(short_steps, bad):
    with pytest.raises(InputError, match="expected"):
        calibrate(short_steps, **bad)


@pytest.fixture(scope="module")
def right(short_steps) -> CalibrationResult:
    return calibrate(short_steps, n_simulations=N, settings=SETTINGS)


@pytest.fixture(scope="module")
def noisy(short_steps) -> CalibrationResult:
    return calibrate(short_steps, n_simulations=N, settings=SETTINGS, wrong=Wrong(noise=1.5))


@pytest.mark.slow
def test_the_full_model_is_calibrated(right):
    assert right.n_draws.min() > 10  # else the places say little
    assert right.refused() == ()
    # Quantities of one fit are correlated: a mean over all of them errs like a few.
    assert abs(right.place.mean() - 0.5) < 4.0 * np.sqrt(1.0 / 12.0 / N)


@pytest.mark.slow
def test_noise_that_is_not_what_the_truth_says_is_refused(right, noisy):
    chosen = [i for i, name in enumerate(right.names) if name.startswith("log_sigma[")]
    assert noisy.table().set_index("quantity")["p_ecdf"].min() < LEVEL / len(noisy.names)
    assert noisy.place[:, chosen].mean() < right.place[:, chosen].mean() - 0.2


@pytest.mark.slow
def test_a_prior_that_is_not_the_one_fitted_is_refused(short_steps, right):
    spec = bl.ModelSpec()
    prior = replace(spec.prior("floor_share"), median=0.9)
    shifted = Wrong(spec=replace(spec, priors={"floor_share": prior}))
    found = calibrate(short_steps, n_simulations=N, settings=SETTINGS, wrong=shifted)
    refused = found.refused()
    assert refused and all("floor_share" in name for name in refused[:1])
