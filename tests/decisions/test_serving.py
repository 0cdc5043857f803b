from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from bayeslat.decisions.serving import (
    ServiceObjective,
    StepOverhead,
    pool_of,
    serve,
    step_times,
    thinned,
)
from bayeslat.discrepancy import Discrepancy, basis_for
from bayeslat.engine import EngineSettings, Workload
from bayeslat.errors import InputError
from bayeslat.noise import noise_features
from bayeslat.predictive import DeploymentDraws
from bayeslat.predictive.draws import Points
from bayeslat.predictive.sampled import missing_normals, repeated_shares
from bayeslat.schema import Deployment

BASIS = basis_for(np.array([1.0, 16.0, 100.0, 8.0]), np.array([1.0, 16.0, 100.0, 3_000.0]))
SETTINGS = EngineSettings(max_num_seqs=64, max_num_batched_tokens=2_048)
NO_GAP = StepOverhead(0.0)


def make_draws(n=6, *, family="lognormal", nu=np.inf, sigma=0.0, extended=False, **fixed):
    """Draws without noise, if not told otherwise; `extended` has every term of the formula."""
    rng = np.random.default_rng(7)
    typical = {
        "P_max": 30.0,
        "k_S": 0.01,
        "w_1": 1.0,
        "tau_0": 5.0,
        "tau_B": 0.05,
        "tau_C": 1e-4,
        **fixed,
    }
    if extended:
        typical |= {"k_B": 0.3, "r_F": 1.4, "r_B": 0.7, "r_C": 1.6, "tau_S": 0.01, "w_0": 2.0}
    parameters = {name: value * rng.lognormal(0.0, 0.1, n) for name, value in typical.items()}
    deployment = Deployment("H100-80GB", "llama-7b")
    draws = DeploymentDraws(deployment, parameters, np.full(n, sigma), np.full(n, nu), family)
    if not extended:
        return draws
    weights = 0.1 * rng.normal(size=(n, BASIS.size))
    return replace(
        draws,
        slopes=rng.normal([0.4, 0.1, -0.1], 0.05, size=(n, 3)),
        discrepancy=Discrepancy(BASIS, weights, np.full(n, 0.1)),
    )


def exact_latency(draws, batch, tokens, context):
    """Latency without noise, what is missed included, shape (draw, point)."""
    batch, tokens, context = (np.asarray(one, dtype=float) for one in (batch, tokens, context))
    level = draws.location(Points(batch, tokens, context))
    if draws.discrepancy is None:
        return level
    features = BASIS.features(batch, tokens)
    missed = np.sqrt(np.maximum(1.0 - np.square(features).sum(axis=1), 0.0))
    scale = draws.discrepancy.scale * missing_normals(draws)
    return level * np.exp(scale[:, None] * missed)


def read(times, batch, tokens, context):
    """Latency as the simulator reads it from the table, shape (run, point)."""
    (row, up), (column, right) = (
        places[:, at] for places, at in zip(times.places(), (batch, tokens - batch), strict=True)
    )
    row, column = row.astype(int), column.astype(int)

    def between(table):
        near = table[:, row, column] * (1.0 - right) + table[:, row, column + 1] * right
        far = table[:, row + 1, column] * (1.0 - right) + table[:, row + 1, column + 1] * right
        return near * (1.0 - up) + far * up

    older = context > tokens
    slope = np.where(older, between(times.per_position), between(times.per_own_position))
    return between(times.location) + context * slope


# The table


@pytest.mark.parametrize("extended", [False, True])
def test_at_nodes_the_table_is_the_posterior_itself(extended):
    draws = make_draws(family="normal", sigma=0.08, extended=extended)
    times = step_times(draws, max_batch_size=300, max_total_tokens=9_000, repeated_share=0.0)
    batch, extra = (axis.ravel() for axis in np.meshgrid(times.batch_nodes, times.extra_nodes))
    tokens = batch + extra
    for context in (np.zeros(batch.size), 1.0 * tokens, 700.0 * batch + extra):
        np.testing.assert_allclose(
            read(times, batch, tokens, context),
            exact_latency(draws, batch, tokens, context),
            rtol=1e-9,
        )
    slopes = np.zeros((6, 3)) if draws.slopes is None else draws.slopes
    noise = 0.08 * np.exp(noise_features(batch, tokens) @ slopes.T).T
    table = times.sigma.transpose(0, 2, 1).reshape(6, -1)
    np.testing.assert_allclose(table, noise, rtol=1e-6)
    assert times.family == "normal" and times.n_runs == 6


@pytest.mark.parametrize("kind", ["plain", "nothing missing", "all"])
def test_between_nodes_the_table_is_off_by_less_than_half_a_per_cent(kind):
    draws = make_draws(20, extended=kind != "plain")
    if kind == "nothing missing":
        known = replace(draws.discrepancy, scale=np.zeros(20))
        draws = replace(draws, discrepancy=known)
    times = step_times(draws, max_batch_size=512, max_total_tokens=16_384)
    rng, n = np.random.default_rng(0), 20_000
    batch = np.exp(rng.uniform(0.0, np.log(513.0), n)).astype(int)
    extra = np.exp(rng.uniform(0.0, np.log(16_384.0), n)).astype(int)
    extra[: n // 3] = 0  # decode steps
    tokens, context = batch + extra, extra + batch * rng.integers(1, 8_192, n)
    exact = exact_latency(draws, batch, tokens, context)
    off = np.abs(read(times, batch, tokens, context) / exact - 1.0)
    assert off.max() > 1e-9  # there is something to interpolate
    if kind == "all":
        # The scale of what is missed has a cusp of no width at each centre of the basis.
        assert np.quantile(off, 0.999) < 1e-3 and off.max() < 2e-2
    assert np.quantile(off, 0.9999) < 5e-3
    if kind != "all":
        assert off.max() < 5e-4


def test_steps_that_compute_prompts_have_their_own_slope_by_context():
    """It jumps as soon as a single prompt token is computed, and no step lies between."""
    draws = make_draws(extended=True)
    times = step_times(draws, max_batch_size=8, max_total_tokens=100)
    none, one = times.per_position[:, :, 0], times.per_position[:, :, 1]
    assert times.extra_nodes[:2].tolist() == [0, 1]
    jump = draws.parameters["r_C"]
    assert (np.abs(one / none / jump[:, None] - 1.0) < 0.3).all()
    assert (one / none).mean() == pytest.approx(jump.mean(), rel=0.1)


def test_a_model_without_context_has_no_slope():
    draws = make_draws()
    del draws.parameters["tau_C"]
    assert (step_times(draws, max_batch_size=4, max_total_tokens=64).per_position == 0.0).all()


def test_noise_that_comes_back_moves_from_the_steps_into_the_level():
    draws = make_draws(family="normal", sigma=0.2)
    question = {"max_batch_size": 4, "max_total_tokens": 64}
    new, some, all_of_it = (
        step_times(draws, **question, repeated_share=share) for share in (0.0, 0.36, 1.0)
    )
    np.testing.assert_allclose(new.sigma, 0.2)
    np.testing.assert_allclose(some.sigma, 0.2 * 0.8)
    np.testing.assert_array_equal(all_of_it.sigma, 0.0)
    normal = missing_normals(draws)[:, None, None]
    for times, scale in ((some, 0.2 * 0.6), (all_of_it, 0.2)):
        ratio = np.exp(scale * normal)
        np.testing.assert_allclose(times.location / new.location, ratio + 0.0 * times.location)
        np.testing.assert_allclose(times.per_position, new.per_position * ratio)
    unknown = step_times(draws, **question)
    assert (unknown.sigma < 0.2).all() and (unknown.sigma > 0.0).all()


# Priors and objectives


def test_overheads_are_quantiles_of_their_prior():
    gaps = StepOverhead(2.0, 0.5).draws(1_000)
    exact = stats.lognorm(0.5, scale=2.0)
    np.testing.assert_allclose(np.sort(gaps), exact.ppf((np.arange(1_000) + 0.5) / 1_000))
    assert (np.diff(gaps) < 0.0).any()
    np.testing.assert_array_equal(gaps, StepOverhead(2.0, 0.5).draws(1_000))
    assert (gaps != StepOverhead(2.0, 0.5).draws(1_000, seed=1)).any()
    assert StepOverhead(2.0, 0.0).draws(3).tolist() == [2.0] * 3
    assert StepOverhead(0.0).draws(3).tolist() == [0.0] * 3
    assert StepOverhead(2.0).draws(1).tolist() == [2.0]
    default = StepOverhead().draws(1_000)
    within = (default > 0.7 / 5.0) & (default < 0.7 * 5.0)
    assert within.mean() == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("values", [(-1.0, 1.0), (np.inf, 1.0), (1.0, -1.0), (np.nan, 1.0)])
def test_wrong_overheads_are_refused(values):
    with pytest.raises(InputError, match="StepOverhead"):
        StepOverhead(*values)


def test_objectives_say_what_counts():
    assert str(ServiceObjective()) == "no limit"
    assert str(ServiceObjective(ttft_ms=200.0, e2e_ms=1e3)) == "TTFT <= 200 ms, E2E <= 1000 ms"
    assert ServiceObjective(tpot_ms=5.0).limits() == {
        "ttft_ms": np.inf,
        "tpot_ms": 5.0,
        "e2e_ms": np.inf,
    }
    for name in ("ttft_ms", "tpot_ms", "e2e_ms"):
        for wrong in (0.0, -1.0, np.nan):
            with pytest.raises(InputError, match=name):
                ServiceObjective(**{name: wrong})


# Serving


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize(("prompt", "output"), [(15, 1), (15, 40), (3_000, 2), (5_000, 300)])
def test_one_request_alone_takes_its_prefill_and_its_tokens(extended, prompt, output):
    draws, gap = make_draws(extended=extended), StepOverhead(1.5, 0.7)
    found = serve(draws, Workload([3.0], [prompt], [output]), SETTINGS, overhead=gap)
    done, by_hand, between = 0, np.zeros(6), gap.draws(6)
    while done < prompt:
        new = min(2_048, prompt - done)
        done += new
        by_hand += exact_latency(draws, [1], [new], [done])[:, 0] + between
    np.testing.assert_allclose(found.ttft_ms[:, 0], by_hand, rtol=1e-9 if prompt == 15 else 5e-3)
    tokens = sum(
        exact_latency(draws, [1], [1], [prompt + k])[:, 0] + between for k in range(1, output)
    )
    np.testing.assert_allclose(found.e2e_ms[:, 0] - found.ttft_ms[:, 0], tokens, rtol=1e-9)


def test_runs_are_draws():
    draws = make_draws(11)
    served = Workload([0.0], [10], [3])
    every = serve(draws, served, SETTINGS, overhead=NO_GAP, n_runs=1_000)
    some = serve(draws, served, SETTINGS, overhead=NO_GAP, n_runs=3)
    assert (every.n_runs, some.n_runs) == (11, 3)
    np.testing.assert_array_equal(some.e2e_ms, every.e2e_ms[[0, 5, 10]])
    for k in range(11):
        alone = sum(
            draws.take([k]).location(Points(*np.array([[1.0], [s], [c]])))[0, 0]
            for s, c in ((10.0, 10.0), (1.0, 11.0), (1.0, 12.0))
        )
        assert every.e2e_ms[k, 0] == pytest.approx(alone)


def test_thinned_draws_keep_their_normals():
    draws = make_draws(50)
    kept, missing, share = thinned(draws, 8, None)
    pick = np.linspace(0, 49, 8).astype(int)
    np.testing.assert_array_equal(kept.parameters["tau_0"], draws.parameters["tau_0"][pick])
    np.testing.assert_array_equal(missing, missing_normals(draws)[pick])
    np.testing.assert_array_equal(share, repeated_shares(draws)[pick])
    assert (thinned(draws, 8, 0.25)[2] == 0.25).all()
    assert thinned(draws, 60, None)[0].n_draws == 50
    for wrong in (0, 1.5, np.nan, np.inf):
        with pytest.raises(InputError, match="n_runs"):
            thinned(draws, wrong, None)


def test_every_step_of_a_workload_is_read_within_half_a_per_cent():
    """Steps that the engine ran, against the posterior at their B, S and C."""
    draws = make_draws(5, extended=True)
    served = Workload.poisson(
        20.0,
        n=60,
        prompt_tokens=lambda r, n: r.integers(1, 3_000, n),
        output_tokens=lambda r, n: r.integers(1, 80, n),
    )
    found = serve(draws, served, SETTINGS, overhead=NO_GAP, n_logged_steps=400)
    kinds = set()
    for run in range(5):
        log = found.step_log(run)
        b, s, c = (log[name] for name in ("batch_size", "total_tokens", "context_tokens"))
        exact = exact_latency(draws, b, s, c)[run]
        off = np.abs(log["latency_ms"] / exact - 1.0)
        assert np.quantile(off, 0.99) < 1e-3 and off.max() < 5e-3
        kinds |= set(zip(b > 1, s > b, strict=True))
    assert len(kinds) >= 3


def test_what_is_missed_is_the_same_in_all_steps_of_a_run():
    draws = make_draws(40, extended=True)
    served = Workload([0.0], [40], [200])
    found = serve(draws, served, SETTINGS, overhead=NO_GAP, n_logged_steps=200)
    one, many = [], np.empty(40)
    for run in range(40):
        log = found.step_log(run).iloc[1:]  # decode steps
        level = draws.location(
            Points(*(log[n].to_numpy() for n in ("batch_size", "total_tokens", "context_tokens")))
        )[run]
        ratio = np.log(log["latency_ms"].to_numpy() / level)
        one.append(np.ptp(ratio))
        many[run] = ratio[0]
    assert max(one) < 1e-9
    phi = BASIS.features(np.ones(1), np.ones(1))[0]
    np.testing.assert_allclose(
        many, 0.1 * np.sqrt(1.0 - phi @ phi) * missing_normals(draws), atol=1e-9
    )
    assert many.std() > 0.0


def test_pools_cover_what_the_workload_asks_for():
    draws = make_draws(2)
    long = Workload([0.0], [30_000], [10])
    whole = replace(SETTINGS, chunked_prefill=False)
    pool = pool_of(draws, long, whole, n_replicas=3)
    assert pool.step_times.max_extra_tokens >= 30_010 > 2 * 2_048
    assert pool.n_replicas == 3
    np.testing.assert_array_equal(pool.overhead_ms, StepOverhead().draws(2))
    found = serve(draws, long, whole)
    assert np.isfinite(found.e2e_ms).all()
    chunked = pool_of(draws, long, SETTINGS).step_times
    assert 2_048 <= chunked.max_extra_tokens < 3_000


def test_the_seed_is_that_of_the_noise():
    draws = make_draws(3, family="normal", sigma=0.1)
    served = Workload([0.0], [10], [5])
    first, again, other = (serve(draws, served, SETTINGS, seed=seed).e2e_ms for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


# The fallback


def test_a_fallback_serves_those_who_have_waited_too_long():
    draws = make_draws(4)
    served = Workload.poisson(400.0, n=200, prompt_tokens=500, output_tokens=20)
    patient = replace(SETTINGS, max_num_seqs=2, patience_ms=50.0)
    without = serve(draws, served, patient)
    found = serve(draws, served, patient, fallback_ms=7.0, seed=3)
    gone = without.overflowed
    assert 0.2 < gone.mean() < 1.0
    assert np.isinf(without.e2e_ms[gone]).all() and np.isfinite(found.e2e_ms).all()
    np.testing.assert_array_equal(found.e2e_ms[~gone], without.e2e_ms[~gone])
    assert (found.e2e_ms[gone] > 50.0).all()
    # The fallback's services have nothing to do with the arrivals that the same seed gives.
    stream = Workload.poisson(100.0, n=2_000, prompt_tokens=1, output_tokens=1, seed=3)
    hurried = EngineSettings(max_num_seqs=1, max_num_batched_tokens=2_048, patience_ms=0.0)
    late = serve(draws, stream, hurried, fallback_ms=1e-3, seed=3)
    gaps = np.diff(stream.arrival_ms, prepend=0.0)
    for run in range(late.n_runs):
        own = late.overflowed[run]
        found = np.corrcoef(late.e2e_ms[run, own], gaps[own])[0, 1]
        assert abs(found) < 4.5 / np.sqrt(own.sum())


def test_a_fallback_without_patience_is_refused_in_one_line():
    with pytest.raises(InputError, match="patience_ms") as fault:
        serve(make_draws(2), Workload([0.0], [10], [5]), SETTINGS, fallback_ms=5.0)
    assert "\n" not in str(fault.value)
