import json
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from bayeslat.catalog import GPU, LLM
from bayeslat.errors import CatalogError

H200 = GPU("H200", peak_tflops=989, bandwidth_tbs=4.8, memory_gb=141)
MIXTRAL = LLM(
    "mixtral-8x7b",
    parameters_b=46.7,
    active_parameters_b=12.9,
    layers=32,
    hidden_size=4096,
    kv_heads=8,
    head_size=128,
    aliases=("mixtral",),
    source="config.json",
)


def test_gpu_is_frozen_and_keyword_only():
    with pytest.raises(FrozenInstanceError):
        H200.peak_tflops = 1.0
    with pytest.raises(TypeError):
        GPU("H200", 989)


@pytest.mark.parametrize(
    ("entry", "known"),
    [
        (H200, True),
        (GPU("X"), False),
        (GPU("X", peak_tflops=100), False),
        (GPU("X", bandwidth_tbs=1), False),
    ],
)
def test_gpu_is_known_with_peak_and_bandwidth(entry, known):
    assert entry.is_known is known


def test_share_scales_the_peak_only():
    part = GPU("H200@60%", peak_tflops=1000, bandwidth_tbs=4.8, sm_share=0.6)
    assert part.effective_tflops == pytest.approx(600.0)
    assert part.bandwidth_tbs == 4.8
    assert GPU("X", sm_share=0.5).effective_tflops is None


@pytest.mark.parametrize(
    ("name", "share", "device"),
    [
        ("A100-80GB@60%", 0.6, "A100-80GB"),
        ("A100 @ 12.5%", 0.125, "A100"),
        ("lab@home@50%", 0.5, "lab@home"),
        ("A100-80GB", 1.0, "A100-80GB"),
        ("lab@home", 1.0, "lab@home"),  # a whole device whose name has the sign
        ("MIG slice", 0.25, "MIG slice"),
        ("@50%", 0.5, "@50%"),
    ],
)
def test_device_is_the_name_without_its_setting(name, share, device):
    assert GPU(name, sm_share=share).device == device


def test_measures_become_floats_and_aliases_a_tuple():
    entry = GPU("X", peak_tflops=np.int64(3), bandwidth_tbs=np.float32(2.0), aliases=["Y"])
    assert type(entry.peak_tflops) is float
    assert type(entry.bandwidth_tbs) is float
    assert entry.aliases == ("Y",)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bandwidth_tbs": 3350}, r"GPU 'X': bandwidth_tbs: got 3350, expected TB/s between 0.001"),
        ({"peak_tflops": 989e12}, r"peak_tflops: got .*, expected TFLOP/s between"),
        ({"peak_tflops": 0}, "peak_tflops: got 0"),
        ({"peak_tflops": -1.0}, "peak_tflops: got -1.0"),
        ({"fp8_tflops": math.nan}, "fp8_tflops: got nan"),
        ({"memory_gb": math.inf}, "memory_gb: got inf"),
        ({"memory_gb": "80"}, "memory_gb: got '80'"),
        ({"memory_gb": True}, "memory_gb: got True"),
        ({"sm_share": 0}, "sm_share: got 0"),
        ({"sm_share": 60}, "sm_share: got 60, .* write 60 % as 0.6"),
        ({"sm_share": math.nan}, "sm_share: got nan"),
        ({"aliases": "Y"}, "aliases: got 'Y', expected a list"),
        ({"aliases": [""]}, "aliases"),
        ({"source": 3}, "source: got 3"),
    ],
)
def test_gpu_refuses_bad_values_in_one_line(values, message):
    with pytest.raises(CatalogError, match=message) as caught:
        GPU("X", **values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [GPU, LLM])
@pytest.mark.parametrize("name", ["", "  ", 3, None])
def test_a_name_is_a_text(kind, name):
    with pytest.raises(CatalogError, match="name: got"):
        kind(name)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"parameters_b": 7e9}, r"parameters_b: got 7000000000.0, expected billions"),
        ({"layers": 32.5}, "layers: got 32.5, expected a whole number"),
        ({"kv_heads": 0}, "kv_heads: got 0"),
        ({"head_size": True}, "head_size: got True"),
        ({"parameters_b": 7, "active_parameters_b": 8}, "expected at most parameters_b = 7.0"),
        ({"layers": 4, "full_attention_layers": 5}, "expected at most layers = 4"),
        ({"full_attention_layers": -1}, "full_attention_layers: got -1"),
        ({"weight_precision": 8}, "weight_precision: got 8"),
    ],
)
def test_llm_refuses_bad_values(values, message):
    with pytest.raises(CatalogError, match=message):
        LLM("X", **values)


def test_active_parameters_default_to_all():
    assert LLM("dense", parameters_b=7).active_b == 7.0
    assert MIXTRAL.active_b == 12.9
    assert LLM("X").active_b is None


def test_kv_bytes_per_position():
    assert MIXTRAL.kv_bytes_per_position() == 2 * 32 * 8 * 128 * 2
    assert MIXTRAL.kv_bytes_per_position(1) == 2 * 32 * 8 * 128
    assert LLM("X", layers=32, kv_heads=8).kv_bytes_per_position() is None


def test_latent_attention_overrides_the_heads():
    entry = LLM("mla", layers=61, kv_heads=128, head_size=128, kv_values_per_layer=576)
    assert entry.kv_bytes_per_position() == 61 * 576 * 2


def test_full_attention_share():
    assert LLM("X", layers=24, full_attention_layers=12).full_attention_share == 0.5
    assert LLM("X", layers=24).full_attention_share == 1.0
    assert LLM("X").full_attention_share == 1.0


@pytest.mark.parametrize("entry", [H200, GPU("X"), GPU("X", sm_share=0.4), MIXTRAL, LLM("X")])
def test_round_trip_through_json(entry):
    assert type(entry).from_dict(json.loads(json.dumps(entry.to_dict()))) == entry


def test_from_dict_names_the_unknown_key_and_what_is_allowed():
    with pytest.raises(CatalogError, match=r"GPU 'X': peak: got an unknown key.*peak_tflops"):
        GPU.from_dict({"name": "X", "peak": 3})
    with pytest.raises(CatalogError, match="name: got nothing"):
        LLM.from_dict({"layers": 3})
