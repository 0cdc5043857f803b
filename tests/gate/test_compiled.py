import io
import lzma
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mixtures import exact, mixture, random_steps

from bayeslat.decisions.compiling import TOLERANCE, compile_gate
from bayeslat.errors import InputError, StaleGateError
from bayeslat.gate import Gate, files

HEAVY = ("pymc", "pytensor", "jax", "arviz", "numba", "scipy", "pandas", "xarray", "matplotlib")


def near_the_limit(gate, draws, *, seed, n=2000):
    """Steps whose exceedance is neither nought nor one, found by asking the gate."""
    batch, tokens, _ = random_steps(n, seed=seed)
    older, own = gate.largest_context(batch, tokens)
    rng = np.random.default_rng(seed)
    context = np.maximum(np.maximum(older, own), 1) * np.exp(rng.normal(0.0, 0.2, n))
    return batch, tokens, np.minimum(np.floor(context), 1e9)


# Against the mixture


@pytest.mark.parametrize("where", ["anywhere", "near the limit"])
def test_the_gate_is_the_exact_mixture(compiled, where):
    """Steps that the compilation has not checked: what it promises holds for them, too."""
    draws, gate = compiled
    steps = random_steps(2000, seed=11)
    if where == "near the limit":
        steps = near_the_limit(gate, draws, seed=12)
    error = gate.p_exceed(*steps) - exact(draws, *steps, gate.sla_ms)
    assert error.min() > -TOLERANCE
    assert error.max() < max(2.0 * gate.accuracy.above, 2.0 * TOLERANCE)
    plain = replace(gate, accuracy=replace(gate.accuracy, margin=0.0, pad=0.0))
    error = plain.p_exceed(*steps) - exact(draws, *steps, gate.sla_ms)
    assert np.median(np.abs(error)) < TOLERANCE


def test_a_gate_says_what_was_lost(compiled):
    _, gate = compiled
    assert gate.accuracy.n_checked > 1000
    assert gate.accuracy.below <= 0.5 * TOLERANCE * (1.0 + 1e-9)
    assert gate.accuracy.margin < 2e-3
    assert gate.accuracy.pad < 1e-3


def test_margin_and_pad_make_a_gate_stricter(gate):
    steps = random_steps(500, seed=2)
    shifted = replace(gate, accuracy=replace(gate.accuracy, margin=0.05))
    padded = replace(gate, accuracy=replace(gate.accuracy, pad=0.01))
    for stricter in (shifted, padded):
        assert (stricter.p_exceed(*steps) >= gate.p_exceed(*steps) - 1e-12).all()
        assert not (stricter.fits(*steps) & ~gate.fits(*steps)).any()
        agree = stricter.fits(*steps) == (stricter.p_exceed(*steps) <= stricter.risk)
        assert agree.mean() > 0.99
    assert (padded.p_exceed(*steps) > gate.p_exceed(*steps)).any()


# Its answers agree with each other


def test_numbers_and_arrays_give_the_same(compiled):
    _, gate = compiled
    steps = random_steps(300, seed=4)
    as_numbers = [(int(b), int(s), float(c)) for b, s, c in zip(*steps, strict=True)]
    np.testing.assert_allclose(
        [gate.p_exceed(*one) for one in as_numbers], gate.p_exceed(*steps), atol=1e-5
    )
    assert [gate.fits(*one) for one in as_numbers] == gate.fits(*steps).tolist()


def test_what_fits_keeps_the_risk(compiled):
    _, gate = compiled
    for steps in (random_steps(2000, seed=5), near_the_limit(gate, None, seed=6)):
        p = gate.p_exceed(*steps)
        clear = np.abs(p - gate.risk) > 2e-5
        np.testing.assert_array_equal(gate.fits(*steps)[clear], (p <= gate.risk)[clear])


@pytest.mark.parametrize("context", [0, 1, 40, 300, 1_500, 30_000, 80_000])
@pytest.mark.parametrize("batch", [1, 2, 17, 64])
def test_most_tokens_are_those_of_brute_force(compiled, batch, context):
    _, gate = compiled
    tokens = np.arange(batch, gate.max_total_tokens + 1)
    fitting = tokens[gate.fits(batch, tokens, context)]
    expected = int(fitting[-1]) if fitting.size else None
    assert gate.max_tokens(batch, context) == expected


@pytest.mark.parametrize("context", [0, 20, 700, 30_000, 80_000])
@pytest.mark.parametrize("tokens", [1, 40, 64, 65, 900, 2048])
def test_largest_batch_is_that_of_brute_force(compiled, tokens, context):
    _, gate = compiled
    batch = np.arange(1, min(tokens, gate.max_batch_size) + 1)
    fitting = batch[gate.fits(batch, tokens, context)]
    expected = int(fitting[-1]) if fitting.size else None
    assert gate.max_batch(tokens, context) == expected


@pytest.mark.parametrize("context", [5, 64, 500, 30_000, 80_000])
@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (5, 5), (5, 40), (64, 64), (64, 1000)])
def test_further_tokens_are_those_of_brute_force(compiled, batch, tokens, context):
    _, gate = compiled
    more = np.arange(gate.max_total_tokens - tokens + 1)
    fitting = more[gate.fits(batch, tokens + more, context + more)]
    expected = int(fitting[-1]) if fitting.size else None
    assert gate.max_more_tokens(batch, tokens, context) == expected


def test_arrays_broadcast_and_keep_their_shape(gate):
    p = gate.p_exceed(np.array([[1], [4]]), np.array([64, 256, 512]), 1_000)
    assert p.shape == (2, 3)
    assert p[1, 2] == pytest.approx(gate.p_exceed(4, 512, 1_000), abs=1e-5)
    assert gate.fits(np.array([[1], [4]]), np.array([64, 256, 512]), 1_000).dtype == bool
    assert gate.p_exceed(np.empty(0), np.empty(0), np.empty(0)).shape == (0,)
    assert isinstance(gate.p_exceed(np.int64(4), 512, 1_000), float)
    many = np.full(10_000, 4), np.full(10_000, 300), np.arange(10_000) * 20
    assert (np.diff(gate.p_exceed(*many)) >= -1e-7).all()  # over the joints of blocks, too


def test_beyond_its_range_nothing_fits(gate):
    for step in ((65, 65, 65), (1, 2049, 2049), (1, 1, 1e12), (1, 1, np.inf)):
        assert gate.p_exceed(*step) == 1.0
        assert gate.p_exceed(*map(np.array, step)) == 1.0
        assert not gate.fits(*step)
    assert gate.max_tokens(65, 0) is None
    assert gate.max_tokens(1, 1e12) is None
    assert gate.max_batch(4_000, 0) is None
    assert gate.max_more_tokens(65, 65, 65) is None


@pytest.mark.parametrize(
    "step",
    [(0, 1, 1), (2, 1, 1), (1, 1, -1), (1.5, 2, 2), (np.nan, 1, 1), (1, np.nan, 1), (1, 1, np.nan)],
)
def test_impossible_steps_are_refused(gate, step):
    for ask in (gate.p_exceed, gate.fits):
        with pytest.raises(InputError, match="expected a whole batch_size >= 1"):
            ask(*step)
        with pytest.raises(InputError, match="expected a whole batch_size >= 1"):
            ask(*(np.array([1.0, value]) for value in step))


def test_arguments_that_are_no_numbers_are_refused(gate):
    with pytest.raises(InputError, match="no numbers"):
        gate.p_exceed("many", 1, 1)
    with pytest.raises(InputError, match="do not broadcast"):
        gate.fits(np.ones(2), np.ones(3), 1)
    for ask in (
        lambda: gate.max_tokens(1.5, 0),
        lambda: gate.max_tokens(0, 0),
        lambda: gate.max_tokens("one", 0),
        lambda: gate.max_tokens(np.array([3, 4]), 0),
        lambda: gate.max_batch(np.inf, 0),
        lambda: gate.max_more_tokens(5, 4, 0),
    ):
        with pytest.raises(InputError, match="expected a whole number"):
            ask()
    for context in (np.nan, None, "many", -1.0):
        with pytest.raises(InputError, match="context_tokens"):
            gate.max_tokens(1, context)
    for step in ((65, 70), (5, 3), (1, 4_000), (0, 1)):
        with pytest.raises(InputError, match="ask about these"):
            gate.largest_context(*step)


def test_answers_agree_where_draws_lie_far_apart():
    """Spread-out draws make curves that no few profiles hold; levels are then put in order."""
    draws = mixture("wide", spread=1.0)
    gate = compile_gate(draws, sla_ms=60.0, risk=0.9, max_batch_size=64, max_total_tokens=2048)
    steps = random_steps(1000, seed=8, max_context=2_000_000)
    many = gate.p_exceed(*steps)
    assert (many > exact(draws, *steps, 60.0) - 5e-3).all()
    each = [gate.p_exceed(int(b), int(s), float(c)) for b, s, c in zip(*steps, strict=True)]
    np.testing.assert_allclose(each, many, atol=2e-5)


# Files


def test_a_gate_survives_a_file_and_a_pickle(compiled, tmp_path):
    _, gate = compiled
    gate.save(tmp_path / "step.gate")
    steps = random_steps(500, seed=7)
    for other in (Gate.load(tmp_path / "step.gate"), pickle.loads(pickle.dumps(gate))):
        assert other.accuracy == gate.accuracy
        assert repr(other) == repr(gate)
        np.testing.assert_array_equal(other.p_exceed(*steps), gate.p_exceed(*steps))
        np.testing.assert_array_equal(other.fits(*steps), gate.fits(*steps))
    assert [path.name for path in tmp_path.iterdir()] == ["step.gate"]


def test_a_gate_of_hardly_any_noise_can_be_saved():
    draws = mixture("no_context", spread=1e-3, noise=1e-4)
    gate = compile_gate(draws, sla_ms=12.0, risk=0.05, max_batch_size=16, max_total_tokens=256)
    steps = random_steps(300, seed=9, max_batch=16, max_tokens=256)
    other = pickle.loads(pickle.dumps(gate))
    np.testing.assert_array_equal(other.p_exceed(*steps), gate.p_exceed(*steps))


def test_what_is_laid_out_is_not_pickled(gate):
    size = len(pickle.dumps(gate))
    gate.prepare()
    assert len(pickle.dumps(gate)) == size < 30_000


def test_a_gate_loads_without_the_heavy_packages(gate, tmp_path):
    gate.save(tmp_path / "step.gate")
    (tmp_path / "gate.pickle").write_bytes(pickle.dumps(gate))
    program = (
        "import sys, pickle, pathlib\n"
        "from bayeslat.gate import Gate\n"
        "gate = Gate.load('step.gate')\n"
        "same = pickle.loads(pathlib.Path('gate.pickle').read_bytes())\n"
        "assert gate.p_exceed(4, 100, 1000) == same.p_exceed(4, 100, 1000)\n"
        "gate.max_tokens(4, 1000), gate.max_batch(100, 1000)\n"
        f"print(sorted(set({HEAVY}) & set(sys.modules)))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_files_that_are_no_gate_are_refused(gate, tmp_path):
    path = tmp_path / "step.gate"
    with pytest.raises(InputError, match="cannot be read"):
        Gate.load(path)
    array = io.BytesIO()
    np.save(array, np.ones(3))
    others = [lzma.compress(other) for other in (b"another archive", array.getvalue())]
    for content in (b"", b"no gate at all", gate.to_bytes()[:-100], *others):
        path.write_bytes(content)
        with pytest.raises(InputError, match="no compiled gate"):
            Gate.load(path)


def test_a_gate_of_another_format_is_refused(gate, monkeypatch):
    monkeypatch.setattr(files, "VERSION", 99)
    content = gate.to_bytes()
    monkeypatch.undo()
    with pytest.raises(InputError, match="format 99, expected format 1"):
        Gate.from_bytes(content)


def test_a_gate_that_cannot_be_written_leaves_the_old_one(gate, tmp_path, monkeypatch):
    path = tmp_path / "step.gate"
    path.write_bytes(b"the old one")

    def fail(self, target):
        raise OSError("disk full")

    for wrong in (tmp_path, tmp_path / "nowhere" / "step.gate"):
        with pytest.raises(InputError, match="folder that exists"):
            gate.save(wrong)
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        gate.save(path)
    assert path.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_stale_gate_is_refused(gate):
    gate.check(gate.fingerprint)
    with pytest.raises(StaleGateError, match="stale; compile it again"):
        gate.check("0" * 64)
