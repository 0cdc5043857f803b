"""The frozen spec: round trip, defaults, and one clear line for what cannot be."""

import pytest

from bayeslat.errors import InputError
from bayeslat.model import DEFAULT_PRIORS, ModelSpec, Prior, ScalePrior


def test_json_round_trip_keeps_every_prior():
    spec = ModelSpec(
        terms=("k_B", "tau_C", "gamma_B"),
        likelihood="lognormal",
        priors={"P_max": Prior(20.0, 0.3, {"compute": 0.5}, gpu=ScalePrior(0.4))},
    )
    again = ModelSpec.from_json(spec.to_json())
    assert again.terms == spec.terms and again.likelihood == spec.likelihood
    for name in spec.parameters:
        assert again.prior(name) == spec.prior(name)


def test_parameters_come_in_table_order():
    assert ModelSpec(terms=("tau_C", "k_B")).parameters == ("P_max", "k_B", "k_S", "tau_0", "tau_C")


def test_overrides_leave_the_other_defaults():
    spec = ModelSpec(priors={"tau_0": Prior(1.0, 0.1)})
    assert spec.prior("tau_0").median == 1.0
    assert spec.prior("P_max") is DEFAULT_PRIORS["P_max"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: ModelSpec(terms=("tau_X",)),
        lambda: ModelSpec(likelihood="cauchy"),
        lambda: ModelSpec(priors={"w_1": Prior(1.0, 1.0)}),
        lambda: Prior(-1.0, 1.0),
        lambda: Prior(1.0, 1.0, {"colour": 1.0}),
        lambda: ScalePrior(0.0),
    ],
)
def test_what_cannot_be_is_one_clear_line(make):
    with pytest.raises(InputError, match=r"^got .*expected") as caught:
        make()
    assert "\n" not in str(caught.value)
