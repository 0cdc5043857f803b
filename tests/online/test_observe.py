"""From rows to states: what moves, what is counted, and that a replay gives the same bits."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bayeslat as bl
from bayeslat import online
from bayeslat.online.changes import KINDS

PLACE = ("gpu", "model", "tp", "engine")


def of_label(table: pd.DataFrame, **values: str) -> pd.Series:
    """Rows of these properties."""
    return np.logical_and.reduce([table[name] == value for name, value in values.items()])


def slowed(table: pd.DataFrame, which, factor: float) -> pd.DataFrame:
    return table.assign(latency_ms=np.where(which, factor, 1.0) * table["latency_ms"])


def content(state: online.OnlineState, folder: Path) -> bytes:
    """A state as it is saved."""
    path = folder / "state.bin"
    online.save(state, path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def begun(fleet):
    return online.start(fleet)


@pytest.fixture(scope="module")
def two(steps):
    """Rows of two deployments of one GPU type."""
    return steps[of_label(steps, gpu="H100-80GB") & steps["model"].isin(["llama-7b", "llama-13b"])]


def test_before_any_row_the_posterior_is_the_fitted_one(begun, fleet):
    found = begun.fleet
    for deployment in fleet.deployments:
        np.testing.assert_array_equal(found.draws(deployment).sigma, fleet.draws(deployment).sigma)
    assert begun.version == 0
    assert begun.events == ()


def test_rows_as_predicted_raise_no_alarm_and_are_learnt_from(begun, two):
    state = online.observe(begun, two.iloc[:120])
    assert [event.kind for event in state.events if event.kind != "accepted"] == []
    assert state.n_seen == 120
    member = state.of(state.deployments[-1])
    assert member.n_seen == len(member.rows) > 0
    assert np.ptp(member.belief.log_weights) > 0.0
    others = [each for each in state.members if each.deployment.gpu != "H100-80GB"]
    assert all(each.belief.even is each.base_draws for each in others)


def test_nothing_is_changed_in_place(begun, two, tmp_path):
    before = content(begun, tmp_path)
    online.observe(begun, two.iloc[:60])
    assert content(begun, tmp_path) == before


def test_a_slower_gpu_is_found_named_and_followed(begun, two):
    state = online.observe(begun, two.iloc[:100])
    slower = slowed(two.iloc[100:340], True, 1.2)
    kinds, summaries = [], []
    for start in range(0, 240, 80):
        state = online.observe(state, slower.iloc[start : start + 80])
        kinds += [event.kind for event in state.events]
        summaries += [event.details.get("summary", "") for event in state.events]
    alarmed = [each for each in state.members if each.regime.since > 0]
    assert kinds.count("drift") == 2
    assert "accepted" in kinds
    for member in alarmed:
        assert member.deployment.gpu == "H100-80GB"
        assert member.regime.since >= 30 and member.in_force == member.regime
        terms = member.regime.attribution.terms
        assert max(terms.values()) > 0.95
        # Within a few per cent of the truth on rows to come.
        later = two.iloc[400:700]
        own = later[later["model"] == member.deployment.model]
        draws = state.fleet.draws(member.deployment)
        found = (
            bl.LatencyDistribution
            if False
            else state.fleet.latency(
                *member.deployment[:2],
                batch_size=own["batch_size"],
                total_tokens=own["total_tokens"],
                context_tokens=own["context_tokens"],
            )
        )
        ratio = 1.2 * own["latency_ms"] / found.median()
        assert abs(np.log(ratio).median()) < 0.05
        assert draws.n_draws == state.settings.draws
    assert any("H100" in text for text in summaries)


def test_a_deployment_without_rows_follows_its_gpu(begun, steps):
    """Two of three LLMs of a GPU are measured; the third has no row since the change."""
    h100 = steps[of_label(steps, gpu="H100-80GB")]
    measured = h100[h100["model"] != "llama-70b"]
    state = online.observe(begun, h100.iloc[:90])
    slower = slowed(measured.iloc[100:500], True, 1.25)
    carried = []
    for start in range(0, 400, 100):
        state = online.observe(state, slower.iloc[start : start + 100])
        carried += [event for event in state.events if event.kind == "carried"]
    assert [event.deployment for event in carried] == ["H100-80GB/llama-70b/tp4/simulated"]
    silent = next(each for each in state.members if each.label == carried[0].deployment)
    rows = next(each for each in begun.members if each.label == silent.label)
    own = h100[h100["model"] == "llama-70b"].iloc[:40]
    query = {name: own[name] for name in ("batch_size", "total_tokens", "context_tokens")}
    after, before = (
        each.fleet.latency("H100-80GB", "llama-70b", **query).median() for each in (state, begun)
    )
    assert 1.18 < np.median(after / before) < 1.32
    assert silent.version >= 1 and rows.version == 0
    assert silent.regime.changed and silent.in_force == silent.regime
    assert silent.regime.kinds[0] in KINDS


def test_kill_and_resume_give_the_same_state_bit_for_bit(begun, two, tmp_path):
    pieces = [
        two.iloc[:100],
        slowed(two.iloc[100:220], True, 1.2),
        slowed(two.iloc[220:300], True, 1.2),
    ]
    straight = begun
    for piece in pieces:
        straight = online.observe(straight, piece)
    resumed = begun
    for number, piece in enumerate(pieces):
        path = tmp_path / f"{number}.bin"
        online.save(resumed, path)
        resumed = online.observe(online.load(path), piece)
    assert straight.version > 0
    assert content(straight, tmp_path) == content(resumed, tmp_path)


def test_rows_that_came_before_are_counted_and_not_taken_twice(begun, two, tmp_path):
    once = online.observe(begun, two.iloc[:80])
    again = online.observe(once, two.iloc[40:80])
    assert again.quarantine["duplicate"] == 40
    assert again.n_seen == 80
    for before, after in zip(once.members, again.members, strict=True):
        np.testing.assert_array_equal(before.belief.log_weights, after.belief.log_weights)


def test_rows_that_cannot_be_true_are_refused_and_counted(begun, two):
    bad = two.iloc[:50].copy()
    bad.loc[bad.index[:20], "latency_ms"] = np.nan
    bad.loc[bad.index[20:25], "total_tokens"] = 0
    state = online.observe(begun, bad)
    assert state.n_seen == 25
    assert sum(state.quarantine.values()) == 25
    flood = two.iloc[:30].assign(latency_ms=np.nan)
    after = online.observe(state, flood)
    assert after.n_seen == 25
    assert sum(after.quarantine.values()) == 55


def test_rows_of_a_stranger_are_counted_apart(begun, two):
    stranger = two.iloc[:12].assign(gpu="B200")
    state = online.observe(begun, pd.concat([two.iloc[:10], stranger]))
    assert state.n_seen == 10
    assert sum(state.unknown.values()) == 12
    assert all(label.startswith("B200/") for label in state.unknown)


def test_no_row_at_all_changes_nothing(begun, two, tmp_path):
    empty = bl.validate_steps(two.iloc[:1]).select(np.zeros(1, dtype=bool))
    assert content(online.observe(begun, empty), tmp_path) == content(begun, tmp_path)


def test_a_rollback_takes_the_last_belief_back(begun, two):
    state = online.observe(begun, slowed(two.iloc[:160], True, 1.3))
    member = next(each for each in state.members if each.version)
    back = online.rollback(state, member.deployment)
    now = back.of(member.deployment)
    assert now.version == member.version + 1
    np.testing.assert_array_equal(now.belief.log_weights, member.earlier[0][0].log_weights)
    assert now.belief.draws is member.earlier[0][0].draws
    assert [event.kind for event in back.events] == ["rollback"]
    # Rows to come are those of the belief that is back.
    assert now.regime == now.in_force
    assert now.regime.since == now.n_looked and not now.regime.changed
    after = online.observe(back, two.iloc[300:330])
    assert after.of(member.deployment).belief.trusted
    with pytest.raises(bl.InputError, match="earlier belief"):
        online.rollback(begun, member.deployment)
    with pytest.raises(bl.UnknownDeploymentError):
        online.rollback(state, bl.Deployment("B200", "llama-7b"))


def test_of_a_backlog_evenly_spaced_rows_are_looked_at_and_all_are_counted(fleet, two):
    own = two[two["model"] == "llama-7b"].iloc[:450]
    state = online.start(fleet, online.OnlineSettings(rows_per_call=100))
    state = online.observe(state, own)
    member = next(each for each in state.members if each.n_seen)
    assert member.n_seen == state.n_seen == 450
    assert member.monitor.n == len(member.rows) == 90
    assert member.n_looked == 90
    wanted = own["latency_ms"].to_numpy()[4::5]
    np.testing.assert_array_equal(member.rows.latency_ms, wanted)


def test_a_window_keeps_the_newest_rows(fleet, two):
    own = two[two["model"] == "llama-7b"].iloc[:300]
    state = online.start(fleet, online.OnlineSettings(window=120))
    for start in range(0, 300, 100):
        state = online.observe(state, own.iloc[start : start + 100])
    member = next(each for each in state.members if each.n_seen)
    assert len(member.rows) == 120
    assert member.n_seen == 300


def test_half_a_pull_is_half_as_sure_of_the_base(fleet):
    whole, half = (
        online.start(fleet, online.OnlineSettings(pull=pull)).members[0] for pull in (1.0, 0.5)
    )
    np.testing.assert_allclose(half.base.covariance, 2.0 * whole.base.covariance)
    spread = [np.log(each.base_draws.parameters["P_max"]).std() for each in (whole, half)]
    assert spread[1] == pytest.approx(np.sqrt(2.0) * spread[0], rel=1e-6)
    np.testing.assert_array_equal(
        whole.base_draws.sigma, fleet.thin(1000).draws(whole.deployment).sigma
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"draws": 10},
        {"decay": 0.0},
        {"decay": 1.1},
        {"window": 5},
        {"pull": 0.0},
        {"tolerance": -0.1},
        {"false_alarms": 0.0},
        {"held_back": 1},
        {"block": 0},
        {"rows_per_call": 0},
    ],
)
def test_settings_that_cannot_be_get_one_line(wrong):
    with pytest.raises(bl.InputError, match=next(iter(wrong))) as caught:
        online.OnlineSettings(**wrong)
    assert "\n" not in str(caught.value)


def test_a_posterior_of_few_draws_gets_one_line(fleet):
    with pytest.raises(bl.InputError, match="at least 100"):
        online.start(fleet.thin(40))


def test_a_fleet_that_has_fewer_draws_than_asked_for_is_kept_true(fleet, two):
    """Refits give as many draws as the fleet has, so that all fit into one posterior."""
    state = online.start(fleet.thin(300))
    state = online.observe(state, slowed(two.iloc[:160], True, 1.3))
    assert state.version
    for deployment in state.deployments:
        assert state.fleet.draws(deployment).n_draws == 300


def test_an_unknown_detector_gets_one_line(fleet):
    with pytest.raises(bl.InputError, match="detector"):
        online.start(fleet, online.OnlineSettings(detector="crystal-ball"))
