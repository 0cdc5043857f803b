import math

import numpy as np
import pytest

from bayeslat.catalog import GPU, LLM, load_catalog
from bayeslat.errors import InputError

CATALOG = load_catalog().with_entries(
    GPU("Plain", peak_tflops=312.0, bandwidth_tbs=2.0, memory_gb=80.0),
    GPU("Blank"),
    LLM("seven", parameters_b=7.0, layers=32, kv_heads=8, head_size=128),
    LLM("mixture", parameters_b=56.0, active_parameters_b=14.0, layers=32, kv_heads=8,
        head_size=128),
    LLM("latent", parameters_b=7.0, layers=32, kv_values_per_layer=512),
    LLM("shapeless", parameters_b=7.0),
)  # fmt: skip
KV = 2 * 32 * 8 * 128 * 2  # 128 KB


def ask(gpu="Plain", llm="seven", **question):
    return CATALOG.roofline(gpu, llm, **({"batch_size": 1, "total_tokens": 1} | question))


# Roofline


def test_worked_values_of_the_roofline():
    prefill = ask(total_tokens=4096, mfu=0.5)
    assert prefill.compute_ms == pytest.approx(367.6, abs=0.1)
    assert prefill.floor_ms == prefill.compute_ms
    assert prefill.bound == "compute"
    decode = ask()
    assert decode.memory_ms == decode.floor_ms == pytest.approx(7.0)
    assert decode.bound == "memory"
    assert (decode.weight_bytes, decode.kv_bytes, decode.flops) == (14e9, 0.0, 14e9)
    assert (decode.intensity, decode.ridge) == (1.0, 156.0)


def test_cache_is_read_beside_the_weights():
    step = ask(batch_size=2, total_tokens=2, context_tokens=2 * 4096 + 2, tp=2)
    assert step.kv_bytes == 2 * 4096 * KV
    assert step.memory_ms == pytest.approx((14e9 + 2 * 512 * 2**20) / 4e12 * 1e3)
    assert step.intensity == pytest.approx(28e9 / (14e9 + 2**30))
    assert step.floor_per_request_ms == pytest.approx(step.floor_ms / 2)


def test_shares_that_are_reached_move_times_and_ridge():
    full, part = ask(total_tokens=200), ask(total_tokens=200, mfu=0.4, bandwidth_efficiency=0.8)
    assert part.compute_ms == pytest.approx(full.compute_ms / 0.4)
    assert part.memory_ms == pytest.approx(full.memory_ms / 0.8)
    assert part.ridge == pytest.approx(156.0 * 0.5)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_bound_is_where_the_intensity_stands_to_the_ridge(share):
    tokens = np.arange(1, 400)
    steps = ask(total_tokens=tokens, mfu=share, bandwidth_efficiency=0.7)
    longer = np.where(steps.intensity >= steps.ridge, "compute", "memory")
    assert set(longer) == {"compute", "memory"}
    np.testing.assert_array_equal(steps.bound, longer)


@pytest.mark.parametrize("gpu", ["A100-80GB", "A100-80GB@40%", "H100-80GB"])
@pytest.mark.parametrize("llm", ["llama-7b", "gpt-oss-20b", "deepseek-v3"])
@pytest.mark.parametrize("precision", ["", "fp8", "awq"])
def test_floor_of_the_roofline_is_the_floor_of_the_step(gpu, llm, precision):
    design = {"total_tokens": [[1], [64], [4096]], "context_tokens": [1e4, 1e5, math.nan], "tp": 2}
    steps = CATALOG.roofline(gpu, llm, batch_size=1, precision=precision, **design)
    floor = CATALOG.step_floor_ms(gpu, llm, precision=precision, **design)
    np.testing.assert_allclose(steps.floor_ms, floor, rtol=1e-12)
    assert steps.bound.shape == steps.flops.shape == steps.ridge.shape == (3, 3)


def test_precision_changes_bytes_and_peak():
    half, eight, four = (ask(total_tokens=64, precision=p) for p in ("", "fp8", "awq"))
    assert eight.weight_bytes == half.weight_bytes / 2 == four.weight_bytes * 2
    assert eight.compute_ms == half.compute_ms / 2
    assert four.compute_ms == half.compute_ms


def test_mixture_of_experts_computes_with_its_active_parameters():
    assert ask(llm="mixture").flops == 28e9
    assert ask(llm="mixture").weight_bytes == 28e9


@pytest.mark.parametrize("names", [("Blank", "seven"), ("Plain", "nobody-knows-it")])
def test_roofline_is_nan_where_datasheets_do_not_tell(names):
    steps = ask(*names, total_tokens=[1, 4096])
    assert np.isnan(steps.floor_ms).all()
    assert steps.bound.tolist() == ["unknown", "unknown"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"batch_size": 0}, "batch_size >= 1"),
        ({"batch_size": 8, "total_tokens": 7}, "total_tokens >= batch_size"),
        ({"total_tokens": math.inf}, "total_tokens"),
        ({"context_tokens": -1.0}, "context_tokens >= 0"),
        ({"tp": 0}, "tp >= 1"),
        ({"mfu": 0.0}, "mfu=0.0"),
        ({"mfu": 60}, "write 60 % as 0.6"),
        ({"bandwidth_efficiency": math.nan}, "bandwidth_efficiency=nan"),
    ],
)
def test_impossible_steps_are_refused_in_one_line(fault, message):
    with pytest.raises(InputError, match=message) as refusal:
        ask(**fault)
    assert "\n" not in str(refusal.value)


# Cache


def test_bytes_of_a_cached_token():
    assert CATALOG.kv_bytes_per_token("seven") == KV == 128 * 1024
    assert CATALOG.kv_bytes_per_token("seven", kv_precision="fp8") == KV / 2
    assert math.isnan(CATALOG.kv_bytes_per_token("shapeless"))
    assert math.isnan(CATALOG.kv_bytes_per_token("seven", kv_precision="homegrown"))


def test_capacity_is_what_the_weights_leave():
    room = 0.9 * 80e9 - 14e9
    assert CATALOG.kv_capacity_tokens("Plain", "seven") == room // KV
    assert CATALOG.kv_capacity_tokens("Plain", "seven", kv_precision="fp8") == room // (KV / 2)
    eight_bit = CATALOG.kv_capacity_tokens("Plain", "seven", precision="fp8")
    assert eight_bit == (room + 7e9) // KV
    half = CATALOG.kv_capacity_tokens("Plain", "seven", memory_utilisation=0.5)
    assert half == (40e9 - 14e9) // KV


def test_capacity_is_zero_where_all_parameters_do_not_fit():
    assert CATALOG.kv_capacity_tokens("Plain", "mixture") == 0.0
    two = CATALOG.kv_capacity_tokens("Plain", "mixture", tp=2)
    assert two == (0.9 * 160e9 - 112e9) // KV > 0.0


def test_devices_that_hold_copies_of_the_cache_have_less_room():
    shared = CATALOG.kv_capacity_tokens("Plain", "seven", tp=8)
    assert shared == (0.9 * 640e9 - 14e9) // KV
    copied = CATALOG.kv_capacity_tokens("Plain", "seven", tp=16)
    assert copied == (0.9 * 1280e9 - 14e9) // (2 * KV)
    latent = CATALOG.kv_capacity_tokens("Plain", "latent", tp=4)
    assert latent == (0.9 * 320e9 - 14e9) // (4 * 32 * 512 * 2)


def test_capacity_takes_the_precision_that_a_model_is_published_in():
    plain = CATALOG.with_entries(
        LLM("seven-fp8", parameters_b=7.0, layers=32, kv_heads=8, head_size=128,
            weight_precision="fp8")
    )  # fmt: skip
    assert plain.kv_capacity_tokens("Plain", "seven-fp8") == (0.9 * 80e9 - 7e9) // KV
    assert plain.kv_capacity_tokens("Plain", "seven-fp8", precision="bf16") == (
        CATALOG.kv_capacity_tokens("Plain", "seven")
    )


@pytest.mark.parametrize(
    "question",
    [
        {"gpu": "Blank"},
        {"llm": "nobody-knows-it"},
        {"llm": "shapeless"},
        {"precision": "homegrown"},
    ],
)
def test_capacity_is_nan_where_datasheets_do_not_tell(question):
    assert math.isnan(CATALOG.kv_capacity_tokens(**({"gpu": "Plain", "llm": "seven"} | question)))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"tp": 0}, "tp=0"),
        ({"tp": 1.5}, "tp=1.5"),
        ({"memory_utilisation": 0.0}, "memory_utilisation=0.0"),
        ({"memory_utilisation": 90}, "memory_utilisation=90"),
    ],
)
def test_impossible_deployments_are_refused(fault, message):
    with pytest.raises(InputError, match=message):
        CATALOG.kv_capacity_tokens("Plain", "seven", **fault)
