import csv
import math
import pickle
from pathlib import Path

import numpy as np
import pytest

from bayeslat.catalog import GPU, LLM, load_catalog
from bayeslat.errors import CatalogError

FLEET = Path(__file__).parents[3] / "shared" / "data" / "fleet_steps.csv"
CATALOG = load_catalog()
GPUS = list(CATALOG.gpus.values())
LLMS = list(CATALOG.llms.values())


def write(folder, text):
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


# The bundled entries


def test_bundled_catalogue_is_large_and_read_once():
    assert len(GPUS) >= 30
    assert len(LLMS) >= 35
    assert load_catalog() is CATALOG


@pytest.mark.parametrize("entry", GPUS, ids=lambda entry: entry.name)
def test_every_gpu_is_plausible(entry):
    assert entry.is_known
    assert entry.memory_gb is not None
    assert entry.source
    assert entry.sm_share == 1.0
    # FLOP per byte: from old HBM boards to compute-heavy GDDR ones.
    assert 25 < entry.peak_tflops / entry.bandwidth_tbs < 600
    # Seconds to read all of the memory once.
    assert 0.01 < entry.memory_gb / entry.bandwidth_tbs / 1000 < 0.5
    if entry.fp8_tflops is not None:
        # Double the 16-bit rate, or the same where the matrix unit has no faster 8-bit path.
        ratio = entry.fp8_tflops / entry.peak_tflops
        assert ratio == pytest.approx(2.0, rel=0.03) or ratio == 1.0


@pytest.mark.parametrize("entry", LLMS, ids=lambda entry: entry.name)
def test_every_llm_is_plausible(entry):
    assert entry.source
    assert entry.kv_bytes_per_position() > 0
    # Hidden size is a whole number of heads of the usual sizes.
    assert entry.hidden_size % 64 == 0
    if entry.active_parameters_b is not None:
        assert entry.active_b < entry.parameters_b
    else:
        # 12 h^2 weights a layer for plain attention and a four-fold feed-forward; embeddings and
        # wide feed-forwards of the Gemma family on top, grouped attention below.
        plain = 12e-9 * entry.layers * entry.hidden_size**2
        assert 0.75 < entry.parameters_b / plain < 2.8


def test_fleet_names_resolve():
    """Names as the public measured fleet writes them."""
    for gpu in ("A10-24GB", "A100-40GB", "A100-80GB", "A100-80GB@40%", "T4-16GB", "RTXPRO6000"):
        assert CATALOG.gpu(gpu).is_known, gpu
    for llm in ("llama-7b", "llama-13b", "llama-30b", "llama2-70b", "llama-70b", "starcoder"):
        assert CATALOG.llm(llm).active_b is not None, llm
    for llm in ("bloom-176b", "Llama-3.1-8B", "Qwen3-32B"):
        assert CATALOG.llm(llm).active_b is not None, llm


@pytest.mark.parametrize(
    ("name", "kv"),
    [
        ("llama-7b", 524288),
        ("llama2-70b", 327680),
        ("llama-3.1-8b", 131072),
        ("starcoder", 20480),
        ("deepseek-v3", 70272),
        ("qwen3-32b", 262144),
    ],
)
def test_kv_sizes_against_published_ones(name, kv):
    assert CATALOG.llm(name).kv_bytes_per_position() == kv


@pytest.mark.parametrize(
    ("name", "peak", "bandwidth"),
    [
        ("A100-80GB", 312.0, 2.039),
        ("A100-40GB", 312.0, 1.555),
        ("H100-80GB", 989.4, 3.35),
        ("H200", 989.0, 4.8),
        ("MI300X", 1307.4, 5.3),
        ("T4-16GB", 65.0, 0.32),
    ],
)
def test_gpus_against_their_datasheets(name, peak, bandwidth):
    entry = CATALOG.gpu(name)
    assert (entry.peak_tflops, entry.bandwidth_tbs) == (peak, bandwidth)


# Resolution


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100 80GB PCIe", "A100-PCIe-80GB"),
        ("NVIDIA H100 80GB HBM3", "H100-80GB"),
        ("h100_80gb", "H100-80GB"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("Tesla T4", "T4-16GB"),
        ("AMD Instinct MI300X", "MI300X"),
        ("RTXPRO6000", "RTX-PRO-6000"),
    ],
)
def test_gpu_names_of_logs_resolve_and_stay_as_written(written, canonical):
    entry = CATALOG.gpu(written)
    assert entry.name == written
    assert entry.bandwidth_tbs == CATALOG.gpus[canonical].bandwidth_tbs


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("meta-llama/Llama-3.1-8B", "llama3.1-8b"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama3.1-8b"),
        ("meta-llama/Llama-2-70b-chat-hf", "llama2-70b"),
        ("llama-70b", "llama2-70b"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3-30b-a3b"),
        ("/data/models/Qwen3-32B/", "qwen3-32b"),
        ("huggyllama/llama-7b", "llama-7b"),
        ("bigcode/starcoder", "starcoder"),
    ],
)
def test_llm_names_of_logs_resolve_and_stay_as_written(written, canonical):
    entry = CATALOG.llm(written)
    assert entry.name == written
    assert entry.parameters_b == CATALOG.llms[canonical].parameters_b


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("Qwen/Qwen3-32B-AWQ", "awq"),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8", "fp8"),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w8a8", "quantized.w8a8"),
        ("Qwen/Qwen3-32B", ""),
        ("openai/gpt-oss-20b", "mxfp4"),
    ],
)
def test_a_quantised_name_sets_the_weight_precision(name, precision):
    entry = CATALOG.llm(name)
    assert entry.active_b is not None
    assert entry.weight_precision == precision


def test_share_of_a_gpu():
    part, whole = CATALOG.gpu("A100-80GB@60%"), CATALOG.gpu("A100-80GB")
    assert part.name == "A100-80GB@60%"
    assert part.sm_share == pytest.approx(0.6)
    assert part.bandwidth_tbs == whole.bandwidth_tbs
    assert CATALOG.gpu("NVIDIA A100-SXM4-80GB @ 12.5%").sm_share == pytest.approx(0.125)


def test_share_of_a_share_multiplies():
    mine = CATALOG.with_entries(GPU("MIG", peak_tflops=312, bandwidth_tbs=2, sm_share=0.5))
    assert mine.gpu("MIG@50%").sm_share == pytest.approx(0.25)


@pytest.mark.parametrize("name", ["Mystery-1", "Mystery@60%", "A100-80GB@0%", "A100-80GB@150%"])
def test_unknown_gpu_has_no_values(name):
    entry = CATALOG.gpu(name)
    assert entry.name == name
    assert not entry.is_known


@pytest.mark.parametrize("name", ["mystery-9b", "-instruct", "org/unheard-of-AWQ"])
def test_unknown_llm_has_no_values(name):
    entry = CATALOG.llm(name)
    assert entry.name == name
    assert entry.active_b is None


def test_suggestions_are_canonical_names():
    assert CATALOG.suggest_gpu("A100-90GB")[0] == "A100-80GB"
    assert "llama-7b" in CATALOG.suggest_llm("lama-7b")
    assert CATALOG.suggest_gpu("zzzzzzzzzzzz") == ()


# Entries of the user


def test_with_entries_leaves_the_original_alone():
    mine = CATALOG.with_entries(GPU("New-1", peak_tflops=10, bandwidth_tbs=1), LLM("new-llm"))
    assert mine.gpu("new 1").is_known
    assert "new-llm" in mine.llms
    assert not CATALOG.gpu("New-1").is_known


def test_a_replacement_takes_over_the_aliases():
    mine = CATALOG.with_entries(GPU("a100 80gb", peak_tflops=300, bandwidth_tbs=1.9))
    assert mine.gpu("NVIDIA A100-SXM4-80GB").peak_tflops == 300
    assert len(mine.gpus) == len(CATALOG.gpus)


def test_an_alias_of_the_user_wins_over_a_bundled_name():
    mine = CATALOG.with_entries(
        GPU("A100-80GB", peak_tflops=300, bandwidth_tbs=1.9),
        GPU("Lab", peak_tflops=1, bandwidth_tbs=1, aliases=("A100", "H200")),
        GPU("H100-80GB", peak_tflops=900, bandwidth_tbs=3),
    )
    assert mine.gpu("A100").peak_tflops == 1
    assert mine.gpu("H200").peak_tflops == 1
    assert mine.gpu("A100-80GB").peak_tflops == 300


def test_mappings_are_read_only_and_survive_pickling():
    with pytest.raises(TypeError):
        CATALOG.gpus["X"] = GPU("X")
    assert pickle.loads(pickle.dumps(CATALOG)) == CATALOG


def test_file_of_the_user(tmp_path):
    path = write(
        tmp_path,
        '[[gpu]]\nname = "Z1"\npeak_tflops = 500\nbandwidth_tbs = 3.0\naliases = ["Z one"]\n'
        '[[llm]]\nname = "house-9b"\nparameters_b = 9.1\n'
        '[[gpu]]\nname = "H200"\npeak_tflops = 900\nbandwidth_tbs = 4.5\n',
    )
    mine = load_catalog(path)
    assert mine.gpu("z-one").peak_tflops == 500
    assert mine.llm("org/House-9B-Instruct").active_b == 9.1
    assert mine.gpu("H200").peak_tflops == 900
    assert mine.gpu("A100-80GB").is_known


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[gpu]\n", "mine.toml: got no valid TOML"),
        ('[[gpus]]\nname = "X"\n', "mine.toml: gpus: got an unknown table, expected"),
        ('[gpu]\nname = "X"\n', r"mine.toml: gpu: got .*, expected tables headed \[\[gpu\]\]"),
        ('[[gpu]]\nname = "X"\npeak = 3\n', "mine.toml: GPU 'X': peak: got an unknown key"),
        ('[[gpu]]\nname = "X"\npeak_tflops = "3"\n', "GPU 'X': peak_tflops: got '3', expected"),
        ('[[gpu]]\nname = "X"\nbandwidth_tbs = 3350\n', "got 3350, expected TB/s between"),
        ("[[llm]]\nlayers = 3\n", "name: got nothing"),
        ('[[gpu]]\nname = "X"\n[[gpu]]\nname = "x"\n', "GPU 'x': name: got 'x', which already"),
        (
            '[[llm]]\nname = "a"\naliases = ["c"]\n[[llm]]\nname = "b"\naliases = ["C"]\n',
            "LLM 'b': aliases: got 'C', which already leads to 'a'",
        ),
    ],
)
def test_a_faulty_file_names_file_entry_and_key(tmp_path, text, message):
    with pytest.raises(CatalogError, match=message) as caught:
        load_catalog(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_missing_or_binary_file_is_an_error(tmp_path):
    with pytest.raises(CatalogError, match="expected a TOML file that can be read"):
        load_catalog(tmp_path / "nowhere.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CatalogError, match="expected a TOML file that can be read"):
        load_catalog(binary)


# The floor of a deployment


def test_floor_of_decode_and_prefill_of_a_known_deployment():
    floor = CATALOG.step_floor_ms("A100-80GB", "llama-7b", total_tokens=[1, 4096])
    np.testing.assert_allclose(floor, [6.738 * 2 / 2.039, 2 * 6.738 * 4096 / 312e3 * 1e3])


def test_floor_counts_context_cached_before_the_step():
    floor = CATALOG.step_floor_ms(
        "A100-80GB", "llama-7b", total_tokens=32, context_tokens=[32, 65568], tp=2
    )
    extra = 65536 * 524288 / 2.039e12 * 1e3 / 2
    np.testing.assert_allclose(np.diff(floor), extra)


def test_a_share_raises_the_compute_floor_only():
    tokens = np.array([1, 65536])
    whole = CATALOG.step_floor_ms("A100-80GB", "llama-7b", total_tokens=tokens)
    part = CATALOG.step_floor_ms("A100-80GB@40%", "llama-7b", total_tokens=tokens)
    np.testing.assert_allclose(part / whole, [1.0, 2.5])


def test_floor_of_a_model_published_in_four_bits_is_low_in_a_16_bit_log():
    oss = [
        CATALOG.step_floor_ms("H100-80GB", "gpt-oss-20b", total_tokens=1, precision=precision)
        for precision in ("", "bf16", "mxfp4")
    ]
    np.testing.assert_allclose(oss, 3.61 * 0.5 / 3.35)


def test_sliding_window_layers_do_not_count_in_the_floor():
    gpu, tokens = "H100-80GB", 1
    short, long = CATALOG.step_floor_ms(
        gpu, "gpt-oss-20b", total_tokens=tokens, context_tokens=[1, 100001]
    )
    # 12 of 24 layers, one byte a value because the weights are in 4 bits.
    assert long - short == pytest.approx(1e5 * 12 * 2 * 8 * 64 / 3.35e12 * 1e3)


def test_floor_is_nan_where_datasheets_do_not_tell():
    for gpu, llm, precision in [
        ("Mystery", "llama-7b", ""),
        ("A100", "mystery", ""),
        ("A100", "llama-7b", "mystery"),
    ]:
        assert math.isnan(CATALOG.step_floor_ms(gpu, llm, total_tokens=1, precision=precision))


def test_no_measured_step_lies_below_half_the_floor():
    """Measured steps of many deployments: a datasheet with a wrong unit or factor shows here."""
    if not FLEET.exists():
        pytest.skip(f"needs the measured fleet at {FLEET}")
    deployments: dict[tuple[str, str, int], list[tuple[float, float, float]]] = {}
    with FLEET.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            key = (row["gpu"], row["model"], int(row["tp"]))
            numbers = (row["total_tokens"], row["context_tokens"], row["latency_ms"])
            deployments.setdefault(key, []).append(tuple(map(float, numbers)))
    for (gpu, llm, tp), rows in deployments.items():
        tokens, context, latency = np.array(rows).T
        floor = CATALOG.step_floor_ms(gpu, llm, total_tokens=tokens, context_tokens=context, tp=tp)
        assert np.all(latency > 0.5 * floor), (gpu, llm, tp)
