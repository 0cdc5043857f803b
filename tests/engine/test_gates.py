from dataclasses import replace

import numpy as np
import pytest
from plain_engine import PlainEngine
from scipy.interpolate import RegularGridInterpolator

from bayeslat.engine import EngineSettings, StepGates, StepTimes, Workload, kernel, simulate_engine
from bayeslat.errors import InputError

BASE = {"max_num_seqs": 16, "max_num_batched_tokens": 256, "block_size": 1, "sla_aware": True}


def workload(seed=0, n=60, *, rate=60.0, prompts=(1, 300), outputs=(1, 40)):
    return Workload.poisson(
        rate,
        n=n,
        prompt_tokens=lambda rng, n: rng.integers(*prompts, n),
        output_tokens=lambda rng, n: rng.integers(*outputs, n),
        seed=seed,
    )


def triples(served):
    lengths = served.prompt_tokens.tolist(), served.output_tokens.tolist()
    return list(zip(served.arrival_ms, *lengths, strict=True))


def linear(b, s, c):
    return 2.0 + 0.5 * b + 0.01 * s + 1e-3 * c


def read(gates):
    """Whether steps fit, by scipy's interpolation of the tables."""
    nodes = gates.batch_nodes.astype(float), gates.extra_nodes.astype(float)
    older, own = (RegularGridInterpolator(nodes, table[0]) for table in (gates.older, gates.own))
    limits = {}

    def fits(b, s, c):
        key = (b, s, c > s)
        if key not in limits:
            limits[key] = float((older if c > s else own)((b, s - b)))
        return c <= limits[key]

    return fits


def rugged(times, seed):
    """Limits that rise and fall from node to node, of either sign, other ones for own tokens."""
    rng = np.random.default_rng(seed)
    shape = (1, times.batch_nodes.size, times.extra_nodes.size)
    falling = 2_500.0 - 60.0 * times.batch_nodes[:, None] - 12.0 * times.extra_nodes
    older = falling + rng.normal(0.0, 400.0, shape)
    return StepGates(times.batch_nodes, times.extra_nodes, older, 0.2 * older + 40.0)


# Limits between the latencies, which are whole microseconds.
CASES = {
    "roomy": ({}, 100.0003),
    "binding": ({}, 9.0003),
    "binding for decodes": ({"expected_output_tokens": 1.0}, 6.5003),
    "binding, stated output": ({"expected_output_tokens": 20.0}, 9.0003),
    "tight": ({}, 2.7003),
    "no step fits": ({}, 1.0003),
    "small chunks": ({"long_prefill_token_threshold": 30}, 9.0003),
    "patience": ({"patience_ms": 150.0}, 6.0003),
    "cache runs out": ({"kv_capacity_tokens": 700}, 9.0003),
    "cache runs out, roomy": ({"kv_capacity_tokens": 700}, 100.0003),
    "cache runs out, blocks": ({"kv_capacity_tokens": 720, "block_size": 16}, 9.0003),
    "cache runs out, small chunks": (
        {"kv_capacity_tokens": 400, "long_prefill_token_threshold": 30}, 12.0003,
    ),
    "rugged": ({}, None),
    "cache runs out, rugged": ({"kv_capacity_tokens": 700}, None),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_the_scheduler_is_the_one_written_down_by_hand(case, seed, linear_times):
    options, sla = CASES[case]
    served, settings = workload(seed), EngineSettings(**(BASE | options))
    times = linear_times(batch=16, tokens=256)
    if sla is None:
        sla, gates = 8.0, rugged(times, seed)
        fits = read(gates)
    else:
        gates = StepGates.from_latency(times, linear, sla_ms=sla)

        def fits(b, s, c):
            return linear(b, s, c) <= sla

    records = simulate_engine(
        served, settings, times, gates=gates, sla_ms=sla, n_logged_steps=20_000
    )
    plain = PlainEngine(triples(served), time_of=linear, settings=settings, fits=fits)
    found = plain.serve()
    log = np.array(plain.log)
    np.testing.assert_allclose(records.step_log().to_numpy(), log, rtol=1e-9)
    for row, name in (
        (kernel.FIRST, "first"), (kernel.FINISH, "finish"), (kernel.OVERFLOWED, "left"),
    ):  # fmt: skip
        np.testing.assert_allclose(records.times[0, row], found[name], rtol=1e-9)
    late, (decodes, forced) = log[:, 4] > sla, np.array(plain.judged).T
    expected = {
        "over_sla": late,
        "decode_steps": decodes,
        "decode_steps_over_sla": late & decodes,
        "forced_steps": forced,
        "forced_steps_over_sla": late & forced,
    }
    for name, counted in expected.items():
        assert records.total(name).value == counted.sum(), name
    shares = {
        "all": late.mean(),
        "decodes": late[decodes].mean(),
        "chosen": late[~forced].mean() if (~forced).any() else np.nan,
    }
    for of, share in shares.items():
        np.testing.assert_allclose(records.over_sla(of).value, share)
    assert (records.total("preemptions").value > 0) == case.startswith("cache")
    if "rugged" not in case:
        assert (late == forced).all(), "only what is forced breaks a limit that is known"
    fitted = np.array([fits(*step) for step in log[:, 1:4]])
    if not case.startswith("cache"):
        assert fitted[~forced].all()
    assert not fitted[forced].any()


def test_the_cases_are_what_their_names_say(linear_times):
    times, served = linear_times(batch=16, tokens=256), workload()
    found = {}
    for case, (options, sla) in CASES.items():
        if sla is not None:
            gates = StepGates.from_latency(times, linear, sla_ms=sla)
            settings = EngineSettings(**(BASE | options))
            found[case] = simulate_engine(served, settings, times, gates=gates, sla_ms=sla)
    forced = {case: one.total("forced_steps").value for case, one in found.items()}
    steps = {case: one.total("n_steps").value for case, one in found.items()}
    assert forced["roomy"] == forced["binding"] == 0 < forced["tight"]
    assert forced["no step fits"] == steps["no step fits"]
    assert steps["roomy"] < steps["binding"] < steps["tight"]
    assert found["patience"].overflowed.any()


def test_whatever_fits_is_scheduled_as_by_the_engine_without_a_gate(linear_times):
    """Chunks of one prompt after another: with room for everything the two do the same."""
    served = workload(3)
    settings = EngineSettings(**(BASE | {"sla_aware": False}))
    times = linear_times(batch=16, tokens=256)
    plain = simulate_engine(served, settings, times)
    within = simulate_engine(
        served, EngineSettings(**BASE), times, gates=StepGates.open(times), sla_ms=1e6
    )
    np.testing.assert_array_equal(plain.times, within.times)
    np.testing.assert_array_equal(plain.gaps, within.gaps)


def test_requests_are_admitted_as_far_as_their_decodes_will_fit(linear_times):
    served = Workload(np.zeros(10), np.full(10, 4), np.full(10, 30))
    times = linear_times(batch=16, tokens=256)
    # Prompts cost nothing to the gate; a decode step of four at their ends takes 4.04 + 0.136 ms.
    gates = StepGates.from_latency(times, linear, sla_ms=4.2)
    gates.older[:, :, 1:] = 1e12
    for expected, most in ((30.0, 4), (None, 10)):
        settings = EngineSettings(**BASE, expected_output_tokens=expected)
        records = simulate_engine(
            served, settings, times, gates=gates, sla_ms=4.2, n_logged_steps=500
        )
        # Where no output is known at first, what runs now is all that is promised.
        assert records.step_log().batch_size.max() <= 4
        together = (records.queue_ms[0] == 0.0).sum()
        assert together == most if expected else together == 4
        assert records.total("over_sla").value == 0.0


def test_decodes_that_do_not_all_fit_take_turns(linear_times):
    """The operator expects one token of each; contexts outgrow what decode steps can bear."""
    n = 9
    served = Workload(np.zeros(n), np.full(n, 4), np.full(n, 31))
    times = linear_times(batch=16, tokens=256, context=0.0)
    gates = StepGates.open(times)
    gates.older[:, :, 0] = 126.0  # nine requests of fourteen positions
    settings = EngineSettings(**BASE, expected_output_tokens=1.0)
    records = simulate_engine(
        served, settings, times, gates=gates, sla_ms=100.0, n_logged_steps=900
    )
    log = records.step_log()
    assert (log.context_tokens[1:] <= 126).all()
    assert log.batch_size[:9].min() == n > log.batch_size[12:].max() >= 3
    # Each has a token at least every fourth step, and none is far behind the others at the end.
    assert records.gap_percentile(0.999).value < 4 * 1.01 * (2.0 + 0.51 * 8)
    finish = records.finish_ms[0]
    assert finish.min() > 0.7 * finish.max()


@pytest.mark.parametrize("seed", range(60))
def test_decodes_in_turn_are_those_written_down_by_hand(seed):
    """Few requests and a limit on the context, at which long ones give way to shorter ones."""
    rng = np.random.default_rng(seed)
    n, limit = int(rng.integers(2, 6)), float(rng.integers(60, 120))
    lengths = rng.integers(3, 45, n), rng.integers(2, 40, n)
    served = Workload(np.arange(float(n)), *lengths)
    settings = EngineSettings(
        max_num_seqs=8, max_num_batched_tokens=64, sla_aware=True, expected_output_tokens=1.0
    )
    times = StepTimes.from_function(
        lambda b, s: 10.0 + 0.0 * b, max_batch_size=8, max_total_tokens=64
    )
    gates = StepGates.open(times)
    level = np.full_like(gates.older, limit)
    gates = replace(gates, older=level, own=level)
    found = simulate_engine(served, settings, times, gates=gates, sla_ms=100.0, n_logged_steps=500)
    plain = PlainEngine(
        triples(served),
        time_of=lambda b, s, c: 10.0,
        settings=settings,
        fits=lambda b, s, c: c <= limit,
    )
    plain.serve()
    steps = found.step_log()[["batch_size", "total_tokens", "context_tokens"]].to_numpy()
    np.testing.assert_array_equal(steps, [row[1:4] for row in plain.log])
    forced = sum(forced for _, forced in plain.judged)
    assert found.total("forced_steps").value == forced
    assert (steps[:, 2] > limit).sum() == forced


def test_runs_may_have_gates_of_their_own(linear_times):
    one = linear_times(batch=16, tokens=256)
    two = StepTimes(
        one.batch_nodes, one.extra_nodes,
        *(np.repeat(a, 2, axis=0) for a in (one.location, one.per_position, one.sigma)),
        np.full(2, np.inf), "normal",
    )  # fmt: skip
    settings, served = EngineSettings(**BASE), workload()
    apart = [StepGates.from_latency(one, linear, sla_ms=sla) for sla in (6.0, 30.0)]
    both = StepGates(
        one.batch_nodes, one.extra_nodes, np.concatenate([gates.older for gates in apart])
    )
    together = simulate_engine(served, settings, two, gates=both, sla_ms=10.0)
    for run, gates in enumerate(apart):
        alone = simulate_engine(served, settings, one, gates=gates, sla_ms=10.0)
        np.testing.assert_array_equal(together.times[run], alone.times[0])
    assert together.total("over_sla").value > 0


class ClosedForm:
    """A gate with the protocol of `bayeslat.gate`, over the linear latency."""

    sla_ms, risk, max_batch_size, max_total_tokens = 9.0, 0.5, 12, 200

    def p_exceed(self, b, s, c):
        return np.where(self.fits(b, s, c), 0.0, 1.0)

    def fits(self, b, s, c):
        inside = (np.asarray(b) <= self.max_batch_size) & (np.asarray(s) <= self.max_total_tokens)
        return inside & (linear(np.asarray(b), s, c) <= self.sla_ms)


def test_a_gate_that_answers_step_by_step_becomes_tables(linear_times):
    times = linear_times(batch=16, tokens=256)
    asked = StepGates.from_gate(ClosedForm(), times)
    exact = StepGates.from_latency(times, linear, sla_ms=9.0)
    batch, extra = np.meshgrid(times.batch_nodes, times.extra_nodes, indexing="ij")
    inside = (batch <= 12) & (batch + extra <= 200)
    fits = inside & (exact.older[0] >= batch + extra + 1)
    assert 0.2 < fits.mean() < 0.9
    off = exact.older[0][fits] - asked.older[0][fits]
    assert (off > -1e-6).all() and (off <= 1.0).all()
    assert (asked.older[0][~fits] == -1.0).all()
    assert (asked.own[0][~inside] == -1.0).all()
    alone = inside & (linear(batch, batch + extra, batch + extra) <= 9.0)
    np.testing.assert_array_equal(asked.own[0] >= batch + extra, alone)


@pytest.mark.parametrize(
    ("options", "gates", "sla", "about"),
    [
        (BASE, None, 5.0, "gates"),
        (BASE | {"sla_aware": False}, "open", 5.0, "gates"),
        (BASE, "other nodes", 5.0, "nodes"),
        (BASE, "three runs", 5.0, "runs"),
        (BASE, "open", 0.0, "sla_ms"),
        (BASE, "open", np.inf, "sla_ms"),
        (BASE, "open", np.nan, "sla_ms"),
    ],
)
def test_gates_that_do_not_belong_are_refused(options, gates, sla, about, linear_times):
    times = linear_times(batch=16, tokens=256)
    made = {
        None: lambda: None,
        "open": lambda: StepGates.open(times),
        "other nodes": lambda: StepGates.open(linear_times(batch=64, tokens=256)),
        "three runs": lambda: StepGates(
            times.batch_nodes, times.extra_nodes,
            np.repeat(StepGates.open(times).older, 3, axis=0),
        ),
    }  # fmt: skip
    with pytest.raises(InputError, match=about) as fault:
        simulate_engine(
            workload(), EngineSettings(**options), times, gates=made[gates](), sla_ms=sla
        )
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("table", [np.full((1, 3, 3), 1.0), "nan", "inf"])
def test_tables_that_are_none_are_refused(table, linear_times):
    times = linear_times(batch=16, tokens=256)
    if isinstance(table, str):
        table = np.full(StepGates.open(times).older.shape, float(table))
    with pytest.raises(InputError, match="table older"):
        StepGates(times.batch_nodes, times.extra_nodes, table)


def test_steps_are_counted_whoever_schedules(linear_times):
    settings = EngineSettings(**(BASE | {"sla_aware": False}))
    times, served = linear_times(batch=16, tokens=256), workload()
    judged = simulate_engine(served, settings, times, sla_ms=6.0, n_logged_steps=9_000)
    plain = simulate_engine(served, settings, times)
    late = judged.step_log().latency_ms > 6.0
    assert 0 < judged.total("over_sla").value == late.sum() < len(late)
    assert judged.total("forced_steps").value == 0
    assert judged.over_sla().value == judged.over_sla("chosen").value == late.mean()
    assert np.isnan(plain.over_sla().value)
    assert np.isnan(plain.over_sla_per_run("decodes")).all()
    with pytest.raises(InputError, match="of="):
        judged.over_sla("some")
    assert np.isnan(plain.total("over_sla").value)
    np.testing.assert_array_equal(plain.times, judged.times)
