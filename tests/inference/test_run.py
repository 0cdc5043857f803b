"""From a model to draws: which settings are refused, when a second run follows."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from bayeslat.errors import InputError
from bayeslat.inference import run
from bayeslat.inference.samplers import SamplerSettings


@pytest.mark.parametrize(
    ("sampler", "changes"),
    [
        ("emcee", {}),
        ("numpyro", {"draws": 5}),
        ("numpyro", {"tune": 0}),
        ("numpyro", {"chains": 1}),
    ],
)
def test_settings_that_cannot_be_are_refused(sampler, changes):
    with pytest.raises(InputError, match="expected"):
        run.check_settings(sampler, SamplerSettings(**changes))


def verdict_of(rhat: float, ess: float = 500.0, divergences: int = 0) -> SimpleNamespace:
    return SimpleNamespace(
        max_rhat=rhat,
        passed=rhat < 1.01,
        min_ess_bulk=2 * ess,
        min_ess_tail=ess,
        divergences=divergences,
    )


@pytest.mark.parametrize(
    ("rhat", "ess", "expected"),
    [
        (1.005, 350.0, 100),  # never less than twice as long
        (1.005, 200.0, 150),  # half the effective size: three times as long, with the margin
        (1.02, 500.0, 150),  # twice the excess of R-hat: the same
        (1.005, 5.0, 300),
        (1.005, np.nan, 300),
        (np.nan, 500.0, 300),
    ],
)
def test_a_second_run_is_longer_by_what_the_first_was_short_of(rhat, ess, expected):
    settings = SamplerSettings(draws=50, target_accept=0.8)
    more = run._more_careful(verdict_of(rhat, ess), settings)
    assert more == replace(settings, draws=expected)


def test_a_second_run_takes_smaller_steps_where_the_first_diverged():
    settings = SamplerSettings(draws=50, target_accept=0.8)
    more = run._more_careful(verdict_of(1.005, 500.0, divergences=3), settings)
    assert more == replace(settings, draws=100, target_accept=0.9)


@pytest.fixture
def sampling(monkeypatch):
    """Sampling with everything costly replaced; returns (R-hats of the runs) -> (what was told).

    The run that counts passes where its R-hat is below 1.01.
    """

    def sample(rhats, **settings):
        left, told = iter(rhats), []

        def verdict(*_):
            rhat = next(left)
            return run.SampledModel(None, None, verdict_of(rhat))

        monkeypatch.setattr(run, "gaussian_geometry", lambda *_, **__: SimpleNamespace(
            log_density=None, dim=1, to_values=lambda _: {}))  # fmt: skip
        monkeypatch.setattr(run, "recentred", lambda geometry, _: geometry)
        monkeypatch.setattr(run, "_labelled", verdict)
        drawn = SimpleNamespace(position=np.zeros((2, 1, 1)))
        monkeypatch.setattr(run, "SAMPLERS", {"fake": lambda *_: drawn})
        sampled = run.sample_model(
            None, None, (), np.ones(1), np.zeros(1, int), mean=np.ones(1), variance=np.ones(1),
            basis=None, sampler="fake", report=told.append,
            settings=SamplerSettings(draws=50, **settings),
        )  # fmt: skip
        assert next(left, None) is None  # every run was used
        return sampled.verdict.max_rhat, told[1:]

    return sample


def test_a_run_that_passes_is_the_last(sampling):
    """Whatever the pilot was like."""
    assert sampling([1.3, 1.001]) == (1.001, ["pilot: 150 draws", "50 draws"])


def test_a_run_that_fails_is_followed_by_one_longer_run_whatever_comes_of_it(sampling):
    rhat, told = sampling([1.02, 1.02, 1.02])
    assert rhat == 1.02
    assert told[-1].endswith("once more with 150 draws")


def test_a_run_that_fails_is_the_last_where_nobody_wants_another(sampling):
    assert sampling([1.02, 1.02], retry=False) == (1.02, ["pilot: 150 draws", "50 draws"])
