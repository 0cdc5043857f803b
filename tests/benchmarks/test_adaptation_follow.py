"""Contestants are judged before they see rows, all on the same steps; figures say what happened."""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest

import bayeslat as bl
from adaptation.follow import REFERENCES, Followed, follow
from adaptation.history import history_of
from adaptation.rivals.base import Forecast, Happening
from adaptation.scenarios import SCENARIOS, simulated_stream
from adaptation.scores import (
    delays,
    exposure,
    false_alarms,
    figures,
    first_lasting,
    reference_spread,
)
from adaptation.streams import Stream, of_deployment
from bayeslat.schema import Deployment
from bayeslat.simulate import SimulatedFleet

SLOW = next(one for one in SCENARIOS if one.name == "slow-down")


@dataclass(frozen=True)
class Told:
    """It knows the truth before the change, and the factor of the change after some rows."""

    name: str
    fleet: SimulatedFleet
    learns_after: float = np.inf
    alone: bool = True
    n_seen: int = 0
    happenings: tuple[Happening, ...] = ()
    shown: list[pd.DataFrame] = field(default_factory=list)

    def observe(self, rows: pd.DataFrame) -> "Told":
        self.shown.append(rows)
        n_seen = self.n_seen + len(rows) // rows.groupby(["gpu", "model"]).ngroups
        label = next(iter(self.fleet.truth)).label
        learnt = self.n_seen < self.learns_after <= n_seen
        said = (Happening("drift", label, n_seen, 0), Happening("accepted", label, n_seen, 1))
        return replace(self, n_seen=n_seen, happenings=said if learnt else ())

    def median(self, deployment: Deployment, steps: pd.DataFrame) -> np.ndarray:
        return self.fleet.truth[deployment].mechanism.typical_ms(
            steps["batch_size"], steps["total_tokens"], steps["context_tokens"]
        )

    def predict(self, deployment: Deployment, steps: pd.DataFrame) -> Forecast:
        factor = 1.15 if self.n_seen >= self.learns_after else 1.0
        jitter = self.fleet.truth[deployment].jitter
        quantiles = jitter.ppf([0.5, 0.05, 0.95, 0.99])
        return Forecast(*(factor * self.median(deployment, steps) * each for each in quantiles))

    def evidence(self, deployment: Deployment) -> float:
        return float(self.n_seen)


@pytest.fixture(scope="module")
def fleet() -> SimulatedFleet:
    return bl.simulate_fleet(
        gpus=("A100-80GB", "H100-80GB"), models=("llama-7b",), rows_per_deployment=50
    )


@pytest.fixture(scope="module")
def stream(fleet: SimulatedFleet) -> Stream:
    return simulated_stream(replace(SLOW, before=200, after=600), fleet, seed=2)


@pytest.fixture(scope="module")
def followed(fleet: SimulatedFleet, stream: Stream) -> Followed:
    base = Told("never", fleet)
    contestants = (base, Told("late", fleet, learns_after=400), Told("all", fleet, alone=False))
    return follow(stream, contestants, base, fleet.steps, recorded=("late",))


def test_who_knows_deployments_apart_sees_the_tracked_ones(
    fleet: SimulatedFleet, stream: Stream
) -> None:
    one, every = Told("one", fleet), Told("every", fleet, alone=False)
    follow(stream, (one, every), one, fleet.steps)
    pd.testing.assert_frame_equal(pd.concat(every.shown), stream.steps)
    own = of_deployment(stream.steps, stream.tracked[0])
    pd.testing.assert_frame_equal(pd.concat(one.shown), own)


def test_judgements_come_before_rows_and_on_the_same_steps(followed: Followed) -> None:
    judged = followed.judged
    assert judged.groupby("seen")["oracle_error"].nunique().eq(1).all()
    late = judged[judged["contestant"] == "late"].set_index("seen")
    never = judged[judged["contestant"] == "never"].set_index("seen")
    references = [f"reference_{n}" for n in range(len(REFERENCES))]
    same = (late["error"] == never["error"]).to_numpy()
    assert list(late.index[same]) == list(range(0, 400, 50))
    moved = (late[references] - never[references]).loc[400:]
    assert moved.to_numpy() == pytest.approx(np.full(moved.shape, np.log(1.15)))
    before = judged["since"] < 0
    # 300 steps under the true law: 90 % are covered, 1 % lie above p99.
    for score, share in (("coverage", 0.9), ("exceedance", 0.01)):
        sd = np.sqrt(share * (1 - share) / 300)
        assert never.loc[:150, score].mean() == pytest.approx(share, abs=4 * sd / 2)
    assert judged.loc[~before, "oracle_error"].mean() < never.loc[200:, "error"].mean()


def test_figures_tell_when_a_belief_came_back(followed: Followed) -> None:
    table = figures(followed.judged).set_index("contestant")
    assert table.loc["late", "recovered"] == 200 and table.loc["late", "covered"] == 200
    assert np.isnan(table.loc["never", "recovered"]) and np.isnan(table.loc["never", "covered"])
    assert table.loc["never", "excess"] > 1.5 > 1.1 > table.loc["late", "excess"]
    assert table.loc["late", "worst"] == pytest.approx(table.loc["never", "worst"], rel=0.2)
    assert table.loc["late", "spread"] == 0.0


def test_the_history_puts_rows_beside_what_was_believed_and_said(
    fleet: SimulatedFleet, stream: Stream, followed: Followed
) -> None:
    label = stream.tracked[0].label
    history = history_of(followed, "late", label, stream.onset, stream.tick)
    assert list(history["rows_seen"]) == list(range(1, 801))
    assert dict(history["events"][history["events"] != ""]) == {
        199: "change",
        399: "drift accepted",
    }
    assert set(history.loc[:398, "version"]) == {0} and set(history.loc[399:, "version"]) == {1}
    own = of_deployment(stream.steps, stream.tracked[0]).reset_index(drop=True)
    believed = Told("late", fleet, 400).predict(stream.tracked[0], own).median
    believed = believed * np.where(np.arange(800) >= 400, 1.15, 1.0)
    assert history["ratio"].to_numpy() == pytest.approx(own["latency_ms"].to_numpy() / believed)
    # The stub's evidence is the number of rows that it was shown.
    shown = np.repeat(np.arange(50.0, 800.0, 50.0), 50)
    assert np.array_equal(history["evidence"].to_numpy()[:750], shown)
    assert history["evidence"][750:].isna().all()


def test_the_first_lasting_time_needs_its_length() -> None:
    at, holds = np.arange(6) * 50, [True, True, False, True, True, True]
    assert first_lasting(at, holds) == 150
    assert first_lasting(at, holds, lasting=2) == 0
    assert np.isnan(first_lasting(at, holds, lasting=4))
    assert np.isnan(first_lasting(at[:2], holds[:2]))


def test_spread_is_over_time_and_not_over_steps() -> None:
    still = np.tile([1.0, 5.0], (10, 1))
    assert reference_spread(still) == 0.0
    still[::2, 0] += 0.2
    assert reference_spread(still) == pytest.approx(0.1 / 2)


def test_alarms_count_only_where_nothing_had_changed() -> None:
    said = pd.DataFrame(
        [
            ("drift", "a", 90),
            ("drift", "a", 150),
            ("drift", "a", 180),
            ("drift", "b", 160),
            ("warning", "b", 120),
        ],
        columns=["kind", "deployment", "n_seen"],
    )
    assert delays(said, 100, ("a", "c")) == {"a": 50.0, "c": pytest.approx(np.nan, nan_ok=True)}
    assert false_alarms(said, 100, ("a", "c")) == 2
    assert false_alarms(said, None, ()) == 4
    rows = pd.Series({"a": 1000, "b": 1000, "c": 700})
    assert exposure(rows, 100, ("a", "c")) == 1200
    assert exposure(rows, None, ()) == 2700
