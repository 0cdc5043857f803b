from dataclasses import replace

import numpy as np
import pytest

from bayeslat.catalog import GPU, LLM, load_catalog
from bayeslat.errors import InputError
from bayeslat.simulate.mechanism import StepMechanism, draw_mechanism, kv_capacity

CATALOG = load_catalog()


def build(gpu="A100-80GB", llm="llama-7b", tp=1, **overrides):
    typical = StepMechanism(CATALOG.gpu(gpu), CATALOG.llm(llm), tp, 0.58, 0.85, 0.03)
    return replace(typical, **overrides)


def test_scale_is_that_of_an_a100():
    assert 8 < build().typical_ms(1, 1, 512) < 12
    prefill = build().typical_ms(1, 2048, 2048)
    assert 150 < prefill < 210
    mfu = 2 * 6.74e9 * 2048 / (prefill / 1e3) / 312e12
    assert 0.4 < mfu < 0.6


def test_tokens_come_in_tiles():
    within, next_tile = build().typical_ms(1, [129, 192], 0), build().typical_ms(1, [256, 257], 0)
    assert within[1] / within[0] < 1.1
    assert next_tile[1] / next_tile[0] > 1.2


@pytest.mark.parametrize("tp", [1, 4])
def test_context_requests_and_tokens_each_cost_time(tp):
    mechanism = build(tp=tp)
    base = mechanism.typical_ms(16, 16, 4096)
    assert mechanism.typical_ms(16, 16, 65_536) > 1.2 * base
    assert mechanism.typical_ms(32, 32, 4096) > base
    assert mechanism.typical_ms(16, 2048, 4096) > 3 * base


def test_more_and_faster_devices_are_faster():
    work = (32, 1024, 8192)
    slow = build().typical_ms(*work)
    assert build(tp=4).typical_ms(*work) < slow
    assert build(gpu="H100-80GB").typical_ms(*work) < slow
    shared = build(gpu="A100-80GB@40%")
    assert shared.typical_ms(*work) > 1.5 * slow
    assert shared.typical_ms(1, 1, 512) < 1.5 * build().typical_ms(1, 1, 512)


def test_a_step_is_no_faster_than_its_roofline_floor():
    tokens = np.array([1, 16, 17, 64, 256, 1024, 4096])
    floor = CATALOG.step_floor_ms("A100-80GB", "llama-7b", total_tokens=tokens)
    assert np.all(build().typical_ms(1, tokens, tokens) > floor)


def test_context_below_the_tokens_of_the_step_counts_as_those():
    assert build().typical_ms(1, 512, 0) == build().typical_ms(1, 512, 512)


def test_effects_follow_seed_and_names():
    gpu, llm = CATALOG.gpu("A100-80GB"), CATALOG.llm("llama-7b")
    assert draw_mechanism(gpu, llm, tp=1, seed=1) == draw_mechanism(gpu, llm, tp=1, seed=1)
    assert draw_mechanism(gpu, llm, tp=1, seed=1) != draw_mechanism(gpu, llm, tp=1, seed=2)


def test_capacity_shrinks_with_the_model():
    gpu = CATALOG.gpu("A100-80GB")
    small, large = (kv_capacity(gpu, CATALOG.llm(n), tp=4) for n in ("llama-7b", "llama-70b"))
    assert 0 < large / 1e5 < 1e3
    assert small > 1e5
    assert kv_capacity(GPU("unknown"), CATALOG.llm("llama-7b"), tp=1) == np.inf


@pytest.mark.parametrize(
    ("gpu", "llm"),
    [(GPU("nobody's"), CATALOG.llm("llama-7b")), (CATALOG.gpu("A100-80GB"), LLM("nobody's"))],
)
def test_missing_datasheet_is_an_input_error(gpu, llm):
    with pytest.raises(InputError, match=r"got \"nobody's\", expected .* correct the name"):
        draw_mechanism(gpu, llm, tp=1, seed=0)
