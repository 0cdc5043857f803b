from dataclasses import replace

import numpy as np
import pytest

from bayeslat.decisions.loads import (
    LoadCurve,
    compare_disaggregation,
    load_curve,
    loads_around,
)
from bayeslat.decisions.serving import ServiceObjective, StepOverhead, serve
from bayeslat.engine import EngineSettings, Transfer, Workload, kernel
from bayeslat.errors import InputError
from bayeslat.predictive import DeploymentDraws
from bayeslat.schema import Deployment

SETTINGS = EngineSettings(max_num_seqs=32, max_num_batched_tokens=2_048)
ALONE = EngineSettings(max_num_seqs=1, max_num_batched_tokens=2_048)
FREE = Transfer(0.0, 1.0)
NO_GAP = StepOverhead(0.0)
ANY = ServiceObjective()


def make_draws(step_ms, *, gpu="H100-80GB", tp=1, **terms):
    """Draws in which every step takes this long, if no term is added; no noise."""
    n = len(step_ms)
    parameters = {"P_max": 1e9, "k_S": 1.0, "w_1": 1.0, **terms}
    parameters = {name: np.full(n, value) for name, value in parameters.items()}
    parameters["tau_0"] = np.asarray(step_ms, dtype=float)
    nothing, nu = np.zeros(n), np.full(n, np.inf)
    return DeploymentDraws(Deployment(gpu, "llama-7b", tp), parameters, nothing, nu, "lognormal")


def clock(n, *, output_tokens=5):
    """Equal requests that arrive at equal distances."""
    return Workload(100.0 * np.arange(n), np.full(n, 100), np.full(n, output_tokens))


def poisson(n=300):
    return Workload.poisson(10.0, n=n, prompt_tokens=100, output_tokens=5)


def curve_of(records, loads, objective=ANY, n_gpus=1):
    return LoadCurve(np.asarray(loads, dtype=float), n_gpus, objective, tuple(records))


# Load and capacity


def test_loads_around_a_capacity_are_shares_of_its_median():
    assert loads_around(np.array([1.0, 12.3456, 1e9]), (0.1, 1.0)) == [1.23, 12.3]


def test_goodput_is_the_load_until_the_engine_cannot_keep_up():
    """One request at a time and five steps of 10 ms: 20 requests a second and no more."""
    curve = load_curve(
        make_draws([10.0, 10.0]),
        clock(400),
        ALONE,
        arrivals_per_s=[5.0, 19.0, 30.0, 60.0],
        objective=ServiceObjective(ttft_ms=100.0),
        overhead=NO_GAP,
    )
    goodput = curve.goodput_per_run
    np.testing.assert_allclose(goodput[:2], [[5.0, 5.0], [19.0, 19.0]])
    # At 30/s request k waits for k (50 - 100/3) ms before its first step of 10.
    kept = 1 + int(90.0 / (50.0 - 100.0 / 3.0))
    np.testing.assert_allclose(goodput[2], 30.0 * kept / 400)
    assert (goodput[3] < 1.0).all()
    assert curve.max_goodput() == pytest.approx((19.0, 19.0, 19.0))
    np.testing.assert_array_equal(curve.probability_behind(), [0.0, 0.0, 1.0, 1.0])
    assert curve.sustained(attainment=0.99, confident=0.99) == 19.0
    assert curve.n_gpus == 1


def test_who_falls_behind_is_told_draw_by_draw():
    """Capacities of 10 to 30 requests a second, at loads up to which a known share keeps up."""
    steps = 1e3 / 5.0 / np.linspace(10.0, 30.0, 41)
    loads = [5.0, 15.2, 20.2, 25.2, 60.0]
    for served, slack in ((clock(600), 0.0), (poisson(3_000), 0.03)):
        curve = load_curve(
            make_draws(steps), served, ALONE, arrivals_per_s=loads, objective=ANY, overhead=NO_GAP
        )
        # A tenth too few answers counts as keeping up.
        behind = [(0.9 * load > np.linspace(10.0, 30.0, 41)).mean() for load in loads]
        assert np.abs(curve.probability_behind() - behind).max() <= slack + 0.025
        assert behind[0] == 0.0 and behind[-1] == 1.0


def test_the_overhead_counts_against_the_capacity():
    gap = StepOverhead(10.0, 0.0)
    question = {"arrivals_per_s": [8.0, 15.0], "objective": ANY}
    none, some = (
        load_curve(make_draws([10.0]), clock(400), ALONE, overhead=one, **question)
        for one in (NO_GAP, gap)
    )
    assert none.probability_behind().tolist() == [0.0, 0.0]
    assert some.probability_behind().tolist() == [0.0, 1.0]  # ten a second


def test_requests_that_leave_unserved_count_as_behind():
    """Patience keeps the queue short, and at twice the capacity half of the requests leave."""
    patient = replace(ALONE, patience_ms=100.0)
    curve = load_curve(
        make_draws([10.0]),
        poisson(2_000),
        patient,
        arrivals_per_s=[4.0, 14.0, 26.0, 40.0],
        objective=ANY,
        overhead=NO_GAP,
    )
    left = [one.overflowed.mean() for one in curve.records]
    assert 0.0 < left[0] < 0.01 < left[1] < 0.08
    assert 0.2 < left[2] < 0.4 and left[3] == pytest.approx(0.5, abs=0.02)
    # A few that leave are not a pile of requests.
    assert curve.probability_behind().tolist() == [0.0, 0.0, 1.0, 1.0]
    assert curve.goodput_per_run[3, 0] == pytest.approx(20.0, rel=0.03)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_very_few_requests_never_fall_behind_but_by_leaving(n):
    served = clock(n)
    one = serve(make_draws([10.0]), served, ALONE, overhead=NO_GAP)
    assert curve_of([one], [10.0]).probability_behind().tolist() == [0.0]
    times = one.times.copy()
    times[:, kernel.FIRST :] = np.nan
    nobody = replace(one, times=times)
    assert curve_of([nobody], [10.0]).probability_behind().tolist() == [1.0]
    assert curve_of([nobody], [10.0]).goodput_per_run.tolist() == [[0.0]]


# Answers of a curve


def test_the_sustained_load_is_the_last_before_the_first_that_fails():
    """Attainment is set by hand: how many of ten requests meet the objective."""
    one = serve(make_draws([10.0, 10.0]), clock(10), SETTINGS, overhead=NO_GAP)

    def met(*shares):
        times = one.times.copy()
        for run, share in enumerate(shares):
            times[run, kernel.FINISH] = one.arrival_ms[run] + np.where(
                np.arange(10) < 10 * share, 1.0, 1e6
            )
        return replace(one, times=times)

    records = [met(1.0, 1.0), met(0.9, 0.9), met(0.8, 0.9), met(0.2, 0.2), met(1.0, 1.0)]
    loads = [1.0, 2.0, 4.0, 8.0, 16.0]
    curve = curve_of(records, loads, ServiceObjective(e2e_ms=100.0))
    assert curve.sustained() == 4.0  # half of the runs are enough
    assert curve.sustained(confident=0.6) == 2.0
    assert curve.sustained(attainment=0.95) == 1.0
    assert curve.sustained(attainment=0.1) == 16.0
    assert curve_of(records[3:], loads[3:], ServiceObjective(e2e_ms=100.0)).sustained() is None
    expected = np.array(loads)[:, None] * [[1, 1], [0.9, 0.9], [0.8, 0.9], [0.2, 0.2], [1, 1]]
    np.testing.assert_allclose(curve.goodput_per_run, expected)
    front = curve_of(records[:4], loads[:4], ServiceObjective(e2e_ms=100.0))
    assert front.max_goodput(credible=0.5) == pytest.approx((3.4, 3.3, 3.5))
    for wrong in ({"attainment": 1.0}, {"confident": 0.0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            curve.sustained(**wrong)


def test_all_loads_serve_the_same_requests_by_the_same_draws():
    draws = make_draws([8.0, 10.0, 12.0], tau_S=0.01)
    served = poisson(60)
    curve = load_curve(
        draws, served, SETTINGS, arrivals_per_s=[4.0, 9.0], objective=ANY, n_runs=2, seed=5
    )
    for load, records in zip([4.0, 9.0], curve.records, strict=True):
        alone = serve(draws, served.at_rate(load), SETTINGS, n_runs=2, seed=5)
        np.testing.assert_array_equal(records.times, alone.times)
    np.testing.assert_array_equal(curve.arrivals_per_s, [4.0, 9.0])


def test_the_table_has_a_row_for_each_load():
    curve = load_curve(
        make_draws([8.0, 10.0, 12.0]),
        poisson(80),
        SETTINGS,
        arrivals_per_s=[4.0, 90.0],
        objective=ServiceObjective(e2e_ms=60.0),
        overhead=NO_GAP,
    )
    table = curve.table(credible=0.5)
    names = [f"{m}_{q}_ms" for m in ("ttft", "tpot", "e2e") for q in ("p50", "p99")]
    names += ["attainment", "goodput_per_s", "tokens_per_s"]
    columns = [f"{name}{side}" for name in names for side in ("", "_lower", "_upper")]
    assert list(table.columns) == ["arrivals_per_s", *columns, "p_behind"]
    assert list(table["arrivals_per_s"]) == [4.0, 90.0]
    found = curve.records[1].percentile("tpot_ms", 0.99, credible=0.5)
    assert tuple(table.loc[1, ["tpot_p99_ms", "tpot_p99_ms_lower", "tpot_p99_ms_upper"]]) == found
    own = curve.goodput_per_run[0]
    assert table.loc[0, "goodput_per_s"] == pytest.approx(np.median(own))
    assert table.loc[0, "goodput_per_s_upper"] == pytest.approx(np.quantile(own, 0.75))
    assert not table.isna().to_numpy().any()


def test_requests_of_one_token_have_no_time_per_token():
    curve = load_curve(
        make_draws([10.0]),
        clock(20, output_tokens=1),
        SETTINGS,
        arrivals_per_s=[10.0],
        objective=ServiceObjective(tpot_ms=1.0),
        overhead=NO_GAP,
    )
    table = curve.table()
    assert np.isnan(table.loc[0, "tpot_p99_ms"])
    assert table.loc[0, "goodput_per_s"] == pytest.approx(10.0)


@pytest.mark.parametrize("loads", [[], [0.0, 1.0], [2.0, 1.0], [1.0, 1.0], [np.nan], [1.0, np.inf]])
def test_loads_that_do_not_ascend_are_refused_in_one_line(loads):
    draws = make_draws([10.0])
    question = {"arrivals_per_s": loads, "objective": ANY}
    for ask in (
        lambda: load_curve(draws, clock(5), SETTINGS, **question),
        lambda: compare_disaggregation(draws, draws, clock(5), SETTINGS, transfer=FREE, **question),
    ):
        with pytest.raises(InputError, match="ascending") as fault:
            ask()
        assert "\n" not in str(fault.value)


# Prefill and decode apart


def compare(prefill, decode, workload, settings=SETTINGS, transfer=FREE, **options):
    question = {"arrivals_per_s": [1.0], "objective": ANY, "overhead": NO_GAP, **options}
    return compare_disaggregation(
        prefill, decode, workload, settings, transfer=transfer, **question
    )


def test_where_nobody_meets_both_ways_are_the_same():
    """One request at a time, and a link that takes no time: a tie in every draw."""
    draws = make_draws([5.0, 10.0, 20.0, 40.0], tau_S=0.01, tau_C=1e-4)
    found = compare(
        draws, draws, clock(12), objective=ServiceObjective(e2e_ms=120.0), overhead=None
    )
    for name in ("ttft_ms", "e2e_ms"):
        together, apart = (
            getattr(curve.records[0], name) for curve in (found.aggregated, found.disaggregated)
        )
        np.testing.assert_allclose(together, apart, rtol=1e-12)
    assert set(found.aggregated.goodput_per_run.ravel()) == {0.0, 1.0}
    together, apart = found.goodput_per_gpu()
    np.testing.assert_array_equal(together, apart)
    assert set(together.ravel()) == {0.0, 0.5}
    assert found.table()["p_disaggregated_wins"].tolist() == [0.5]


def test_a_slow_link_costs_in_the_draws_that_had_no_time_to_lose():
    """Five steps take 25 to 200 ms, and the link 50: it breaks a limit of 100 for the middle."""
    draws = make_draws([5.0, 15.0, 18.0, 40.0])
    slow = Transfer(1e6, 2.0)  # 100 tokens of a megabyte over 2 GB/s
    found = compare(
        draws, draws, clock(12), transfer=slow, objective=ServiceObjective(e2e_ms=100.0)
    )
    moved = found.disaggregated.records[0].e2e_ms - found.aggregated.records[0].e2e_ms
    np.testing.assert_allclose(moved, 50.0)
    together, apart = found.goodput_per_gpu()
    np.testing.assert_array_equal(together[0], [0.5, 0.5, 0.5, 0.0])
    np.testing.assert_array_equal(apart[0], [0.5, 0.0, 0.0, 0.0])
    # It loses in two draws of four and ties in two.
    assert found.table()["p_disaggregated_wins"].tolist() == [0.25]


def test_decodes_are_not_held_up_by_prompts_of_others_where_prefill_is_apart():
    """Prompts of 1,000 tokens take 105 ms, and decodes 5 ms a step."""
    draws = make_draws([5.0, 6.0], tau_S=0.1)
    served = Workload.poisson(5.0, n=200, prompt_tokens=1_000, output_tokens=50)
    found = compare(
        draws, draws, served, arrivals_per_s=[2.0, 8.0], objective=ServiceObjective(tpot_ms=7.0)
    )
    table = found.table()
    apart, together = (f"{side}_tpot_p99_ms" for side in ("disaggregated", "aggregated"))
    assert (table[apart] < table[together]).all()
    assert table["p_disaggregated_wins"].tolist() == [1.0, 1.0]
    goodput = "disaggregated_goodput_per_gpu_s"
    assert table.loc[0, goodput] == pytest.approx(1.0)  # two a second on two devices
    sides = [f"{side}_{name}" for side in ("aggregated", "disaggregated")
             for name in ("ttft_p99_ms", "tpot_p99_ms", "goodput_per_gpu_s")]  # fmt: skip
    columns = [f"{name}{bound}" for name in sides for bound in ("", "_lower", "_upper")]
    assert list(table.columns) == ["arrivals_per_s", *columns, "p_disaggregated_wins"]


def test_devices_are_engines_times_their_tensor_parallelism():
    prefill = make_draws([10.0], gpu="A100-80GB", tp=2)
    decode = make_draws([10.0], tp=4)
    found = compare(prefill, decode, clock(12), n_prefill=3, n_decode=2)
    assert found.aggregated.n_gpus == 5 * 4
    assert found.disaggregated.n_gpus == 3 * 2 + 2 * 4
    together, apart = found.goodput_per_gpu()
    assert (together[0, 0], apart[0, 0]) == pytest.approx((1.0 / 20.0, 1.0 / 14.0))
    curve = load_curve(
        decode, clock(12), SETTINGS, arrivals_per_s=[1.0], objective=ANY, n_replicas=3
    )
    assert curve.n_gpus == 12


def test_prefill_engines_have_their_own_draws_and_settings():
    prefill, decode = make_draws([30.0, 40.0], tau_S=0.01), make_draws([10.0, 11.0])
    chunks = replace(SETTINGS, long_prefill_token_threshold=50)
    found = compare(prefill, decode, clock(8), prefill_settings=chunks)
    records = found.disaggregated.records[0]
    np.testing.assert_allclose(records.ttft_ms[:, 0], [2 * 30.5, 2 * 40.5])
    np.testing.assert_allclose(records.tpot_ms[:, 0], [10.0, 11.0])
    np.testing.assert_allclose(found.aggregated.records[0].ttft_ms[:, 0], [10.0, 11.0])


def test_draws_are_thinned_to_the_same_runs():
    draws = make_draws(np.linspace(5.0, 25.0, 21))
    found = compare(draws, draws, clock(6), n_runs=5)
    expected = np.array([5.0, 10.0, 15.0, 20.0, 25.0])
    for curve in (found.aggregated, found.disaggregated):
        np.testing.assert_allclose(curve.records[0].ttft_ms[:, 0], expected)


def test_draws_that_do_not_belong_together_are_refused_in_one_line():
    with pytest.raises(InputError, match="3 draws of prefill and 2 of decode") as fault:
        compare(make_draws([1.0] * 3), make_draws([1.0] * 2), clock(5))
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("kind", ["prefill", "decode"])
def test_engines_that_requests_leave_are_refused_in_one_line(kind):
    draws, patient = make_draws([10.0]), replace(SETTINGS, patience_ms=5.0)
    of = {"settings": patient, "prefill_settings": SETTINGS}
    if kind == "prefill":
        of = {"settings": SETTINGS, "prefill_settings": patient}
    with pytest.raises(InputError, match=f"{kind} engines with patience_ms=5") as fault:
        compare(draws, draws, clock(5), **of)
    assert "\n" not in str(fault.value)


def test_prefill_engines_have_an_overhead_of_their_own():
    draws, gap = make_draws([10.0]), StepOverhead(50.0, 0.0)
    plain, slow = (
        compare(draws, draws, clock(5), **more).disaggregated.records[0]
        for more in ({}, {"prefill_overhead": gap})
    )
    assert (slow.ttft_ms - plain.ttft_ms >= 50.0 - 1e-9).all()
