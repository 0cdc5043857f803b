"""A rename here breaks users' files and saved posteriors: it must be a decision."""

import math

from bayeslat import schema
from bayeslat.schema import Deployment


def test_required_columns_are_locked() -> None:
    assert schema.REQUIRED_COLUMNS == (
        "gpu",
        "model",
        "batch_size",
        "total_tokens",
        "latency_ms",
    )


def test_optional_columns_and_their_not_given_values_are_locked() -> None:
    given = dict(schema.OPTIONAL_COLUMNS)
    assert math.isnan(given.pop("context_tokens"))
    assert math.isnan(given.pop("timestamp"))
    assert given == {
        "tp": 1,
        "engine": "",
        "precision": "",
        "phase": "",
        "n_averaged": 1,
        "replicate": 0,
    }


def test_values_of_label_columns_are_locked() -> None:
    assert schema.PHASES == ("decode", "prefill", "mixed", "")
    assert schema.TIMING_SCOPES == ("gpu_forward", "cycle", "client_itl", "unknown")


def test_parameters_and_units_are_locked() -> None:
    assert schema.PARAMETER_UNITS == {
        "P_max": "work units/ms",
        "k_B": "1/request",
        "k_S": "1/token",
        "w_0": "work units",
        "w_1": "work units/token",
        "tau_0": "ms",
        "tau_B": "ms/request",
        "tau_S": "ms/token",
        "tau_C": "ms/position",
        "gamma_B": "1/request",
        "gamma_S": "1/token",
        "m_S": "1",
        "r_F": "1",
        "r_B": "1",
        "r_C": "1",
    }
    assert tuple(schema.PARAMETER_UNITS) == schema.PARAMETERS


def test_every_parameter_but_the_gauge_is_base_or_optional() -> None:
    free = {*schema.BASE_PARAMETERS, *schema.OPTIONAL_PARAMETERS}
    assert free == set(schema.PARAMETERS) - {"w_1"}
    assert not set(schema.BASE_PARAMETERS) & set(schema.OPTIONAL_PARAMETERS)


def test_deployment_fields_are_the_deployment_columns() -> None:
    assert Deployment._fields == schema.DEPLOYMENT_COLUMNS
    assert set(schema.DEPLOYMENT_COLUMNS) <= {*schema.REQUIRED_COLUMNS, *schema.OPTIONAL_COLUMNS}
    for name, value in Deployment._field_defaults.items():
        assert schema.OPTIONAL_COLUMNS[name] == value


def test_label_leaves_out_what_is_not_stated() -> None:
    assert Deployment("H100-80GB", "llama-70b", 4, "vllm").label == "H100-80GB/llama-70b/tp4/vllm"
    assert Deployment("A100-80GB", "llama-8b").label == "A100-80GB/llama-8b/tp1"


def test_schema_version_is_locked() -> None:
    assert schema.SCHEMA_VERSION == 6
