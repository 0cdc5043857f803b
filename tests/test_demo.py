import numpy as np
import pandas as pd
import pytest

import bayeslat as bl
from bayeslat.demo import choose_steps, run_demo

DESIGN = ((1, 1, 16), (4, 4, 64), (8, 8, 512), (1, 64, 64), (2, 64, 64))


def device_steps() -> bl.Observations:
    rows = [
        ("toy-4M", batch, tokens, context, 1.0 + 0.01 * repeat)
        for batch, tokens, context in DESIGN
        for repeat in range(3)
    ]
    names = ["model", "batch_size", "total_tokens", "context_tokens", "latency_ms"]
    frame = pd.DataFrame(rows, columns=names).assign(gpu="cpu-2core", engine="jax")
    return bl.validate_steps(frame)


def test_no_held_back_step_has_a_twin_among_the_chosen():
    steps = device_steps()
    chosen, held_back = choose_steps(steps, 2, seed=0)
    points = np.stack([steps.batch_size, steps.total_tokens, steps.context_tokens], axis=1)
    assert chosen.size == 2
    assert held_back.size == 9
    assert not {tuple(p) for p in points[chosen]} & {tuple(p) for p in points[held_back]}


def test_choice_takes_both_phases_and_at_most_half_of_the_points():
    steps = device_steps()
    chosen, _ = choose_steps(steps, 2, seed=3)
    is_decode = steps.total_tokens[chosen] == steps.batch_size[chosen]
    assert sorted(is_decode.tolist()) == [False, True]
    assert choose_steps(steps, 10, seed=0)[0].size == 2


def test_choice_depends_on_the_seed_alone():
    steps = device_steps()
    first, again = choose_steps(steps, 2, seed=1), choose_steps(steps, 2, seed=1)
    assert first[0].tolist() == again[0].tolist()


def test_one_design_point_is_not_enough():
    steps = device_steps().select([0, 1, 2])
    with pytest.raises(bl.InputError, match="at least two"):
        choose_steps(steps, 10, seed=0)


@pytest.mark.slow
def test_quick_demo_writes_everything(tmp_path):
    lines: list[str] = []
    result = run_demo(tmp_path / "demo", quick=True, say=lines.append)
    assert result.to_dict()["passed"] == result.passed
    assert set(result.scores) == {0, max(result.scores)}
    text = "\n".join(lines)
    assert "simulated, with known truth" in text
    assert "held-back real steps" in text
    for path in result.files.values():
        assert (tmp_path / "demo" / path.split("/")[-1]).stat().st_size > 0
    assert bl.load(result.files["fleet"]).verdict == result.verdicts["fleet"]
