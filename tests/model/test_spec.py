"""The frozen spec: round trip, defaults, and one clear line for what cannot be."""

import pytest

from bayeslat.errors import InputError
from bayeslat.model import DEFAULT_PRIORS, ModelSpec, Prior, ScalePrior
from bayeslat.model.priors import POOLING_LEVELS


def test_json_round_trip_keeps_every_prior():
    spec = ModelSpec(
        terms=("k_B", "tau_C", "gamma_B"),
        likelihood="lognormal",
        priors={
            "slope": Prior(0.1, 0.3, {"compute": -0.5, "share": -1.0}, gpu=ScalePrior(0.4)),
            "floor_share": Prior(0.4, 0.3, stack=ScalePrior(0.3, spread=0.1)),
        },
        discrepancy=False,
        strays=True,
    )
    again = ModelSpec.from_json(spec.to_json())
    assert again.terms == spec.terms and again.likelihood == spec.likelihood
    assert again.discrepancy is False and again.strays is True
    for name in spec.quantities:
        assert again.prior(name) == spec.prior(name)


def test_the_default_spec_comes_back_as_itself():
    again = ModelSpec.from_json(ModelSpec().to_json())
    assert again.terms == ModelSpec().terms and again.discrepancy is True
    assert again.strays is False
    assert {name: again.prior(name) for name in again.quantities} == {
        name: DEFAULT_PRIORS[name] for name in again.quantities
    }


def test_parameters_come_in_table_order():
    assert ModelSpec(terms=("tau_C", "k_B")).parameters == ("P_max", "k_B", "k_S", "tau_0", "tau_C")


def test_every_parameter_has_a_quantity_in_its_place():
    spec = ModelSpec(terms=("tau_S", "w_0", "tau_B", "r_F", "r_B"))
    pairs = dict(zip(spec.parameters, spec.quantities, strict=True))
    assert pairs == {
        "P_max": "slope",
        "k_S": "floor_share",
        "w_0": "overhead",
        "tau_0": "floor",
        "tau_B": "tau_B",
        "tau_S": "slope_share",
        "r_F": "r_F",
        "r_B": "tau_B_prefill",
    }


def test_overrides_leave_the_other_defaults():
    spec = ModelSpec(priors={"floor": Prior(1.0, 0.1)})
    assert spec.prior("floor").median == 1.0
    assert spec.prior("slope") is DEFAULT_PRIORS["slope"]


def test_terms_can_be_left_out():
    spec = ModelSpec().without("r_F", "r_B")
    assert spec.terms == ("tau_B", "tau_C", "r_C") and spec.discrepancy
    assert ModelSpec().without("tau_B").terms == ("tau_C", "r_F", "r_C")  # r_B multiplies tau_B
    assert ModelSpec().without("tau_C").terms == ("tau_B", "r_F", "r_B")


def test_a_prior_has_a_scale_at_every_level():
    scales = {level: ScalePrior(0.1 + i) for i, level in enumerate(POOLING_LEVELS)}
    prior = Prior(1.0, 0.5, **scales)
    assert {level: prior.scale(level) for level in POOLING_LEVELS} == scales


@pytest.mark.parametrize(
    "make",
    [
        lambda: ModelSpec(terms=("tau_X",)),
        lambda: ModelSpec(terms=("tau_C", "r_B")),
        lambda: ModelSpec(terms=("tau_B", "r_C")),
        lambda: ModelSpec(likelihood="cauchy"),
        lambda: ModelSpec(priors={"w_1": Prior(1.0, 1.0)}),
        lambda: ModelSpec(priors={"P_max": Prior(1.0, 1.0)}),  # a parameter, not a quantity
        lambda: Prior(-1.0, 1.0),
        lambda: Prior(1.0, 1.0, {"colour": 1.0}),
        lambda: ScalePrior(0.0),
    ],
)
def test_what_cannot_be_is_one_clear_line(make):
    with pytest.raises(InputError, match=r"^got .*expected") as caught:
        make()
    assert "\n" not in str(caught.value)
