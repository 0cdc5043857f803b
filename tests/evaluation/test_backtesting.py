import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from stand_in_contenders import Failing, Lognormal

import bayeslat as bl
from bayeslat.errors import InputError
from bayeslat.evaluation.backtesting import ALL_REGIMES, Backtest, backtest
from bayeslat.evaluation.ours import Bayeslat
from bayeslat.evaluation.splits import SplitSettings, make_folds
from bayeslat.evaluation.store import Prediction, Store
from bayeslat.evaluation.tables import TITLES, as_document, as_markdown, split_tables
from bayeslat.observations import Observations

FEW = SplitSettings(few=(0, 5))


@pytest.fixture(scope="module")
def log() -> Observations:
    table = bl.simulate_fleet(models=("llama-7b", "llama-13b"), rows_per_deployment=40).steps
    return bl.validate_steps(table)


@pytest.fixture(scope="module")
def found(log):
    return backtest(log, ["points", "new-gpu"], [Lognormal(), Failing()], settings=FEW)


def test_every_fold_contender_and_regime_has_its_scores(found, log):
    scores = found.scores
    assert set(scores["contender"]) == {"lognormal"}
    whole = scores[scores["regime"] == ALL_REGIMES]
    assert len(whole[whole["split"] == "points"]) == len(log.deployments)
    assert len(whole[whole["split"] == "new-gpu"]) == 2 * len(log.deployments)
    parts = scores[scores["regime"] != ALL_REGIMES].groupby(["split", "fold", "k", "deployment"])
    total = whole.groupby(["split", "fold", "k", "deployment"])["rows"].sum()
    assert (parts["rows"].sum() == total).all()


def test_scores_are_of_the_predictions(found, log):
    """By hand: the lognormal of the known steps against the steps of one deployment."""
    [fold] = make_folds(log, "points")
    first = fold.test.deployments[0]
    y = fold.test.latency_ms[fold.test.slice_of(first)]
    median = np.exp(np.log(fold.known.latency_ms).mean())
    scores = found.scores
    row = scores[(scores["split"] == "points") & (scores["regime"] == "all")
                 & (scores["deployment"] == first.label)]  # fmt: skip
    assert row["mape"].item() == pytest.approx(100 * np.mean(np.abs(median / y - 1)))


def test_a_contender_that_fails_is_named_and_left_out(found):
    assert {each.contender for each in found.failures} == {"failing"}
    assert found.failures[0].reason == "ValueError: no such luck"
    assert set(found.medians("points")["contender"]) == {"lognormal"}
    assert "failing failed in points, all: ValueError: no such luck" in as_document(found)


def test_medians_are_over_deployments(found):
    scores = found.scores
    own = scores[(scores["split"] == "new-gpu") & (scores["regime"] == "all")]
    medians = found.medians("new-gpu").set_index("k")
    assert list(medians.index) == [0.0, 5.0]
    assert medians.loc[5.0, "rmse"] == pytest.approx(own[own["k"] == 5.0]["rmse"].median())
    with pytest.raises(InputError, match="got split 'time'"):
        found.medians("time")


def test_a_stopped_backtest_goes_on_where_it_was(log, tmp_path):
    class Interrupt(Exception):
        pass

    def stop(said, done, total):
        if done == 3:
            raise Interrupt

    asked: list[str] = []
    with pytest.raises(Interrupt):
        backtest(log, ["new-gpu"], [Counting(asked)], settings=FEW, folder=tmp_path, progress=stop)
    assert len(asked) == 3
    again = backtest(log, ["new-gpu"], [Counting(asked)], settings=FEW, folder=tmp_path)
    assert len(asked) == 6
    fresh = backtest(log, ["new-gpu"], [Counting([])], settings=FEW)
    left, right = (each.scores.drop(columns="seconds") for each in (again, fresh))
    assert left.equals(right)


class Counting(Lognormal):
    """Remembers how often it was fitted."""

    def __init__(self, asked):
        super().__init__()
        object.__setattr__(self, "asked", asked)

    def fit(self, known, few=None):
        self.asked.append("fit")
        return super().fit(known, few)


def test_another_version_or_log_is_asked_anew(log, tmp_path):
    asked: list[str] = []
    one = Counting(asked)
    backtest(log, ["points"], [one], folder=tmp_path)
    backtest(log, ["points"], [one], folder=tmp_path)
    assert len(asked) == 1
    object.__setattr__(one, "version", "2")
    backtest(log, ["points"], [one], folder=tmp_path)
    slower = replace(log, latency_ms=1.5 * log.latency_ms)
    backtest(slower, ["points"], [one], folder=tmp_path)
    assert len(asked) == 3


def test_a_store_keeps_what_was_said_and_no_half_files(log, tmp_path):
    [fold] = make_folds(log, "points")
    store, said = Store(tmp_path), Prediction(np.ones((3, 13)), 1.5, 1.01)
    store.write(fold, "one / two", "1", said)
    kept = store.read(fold, "one / two", "1")
    np.testing.assert_array_equal(kept.quantiles, said.quantiles)
    assert kept[1:] == said[1:]
    assert store.read(fold, "one / two", "2") is None
    [other] = make_folds(log, "points", SplitSettings(seed=1))
    assert store.read(other, "one / two", "1") is None
    assert not list(tmp_path.rglob("*.part"))


def test_a_failure_is_asked_again(log, tmp_path):
    """What stood in the way may be gone."""
    broken = Failing("lognormal")
    assert backtest(log, ["points"], [broken], folder=tmp_path).failures
    assert not backtest(log, ["points"], [Lognormal()], folder=tmp_path).failures


def test_other_datasheets_are_other_predictions(log, tmp_path):
    asked: list[str] = []
    for catalog in (None, None, bl.load_catalog().with_entries(bl.GPU("new", peak_tflops=1.0))):
        backtest(log, ["points"], [Counting(asked)], folder=tmp_path, catalog=catalog)
    assert len(asked) == 2


def test_a_backtest_without_any_answer_says_why(log, tmp_path):
    found = backtest(log, ["points", "new-gpu"], [Failing()], settings=FEW)
    assert found.splits == ()
    assert "failing failed in points, all: ValueError: no such luck" in as_document(found)
    found.save(tmp_path / "backtest.json")
    assert Backtest.load(tmp_path / "backtest.json").failures == found.failures


@dataclass(frozen=True)
class Wrong(Lognormal):
    """Says something that cannot be scored."""

    change: Callable = np.asarray

    def fit(self, known, few=None):
        return self

    def predict_quantiles(self, steps, levels):
        one = Lognormal().fit(steps_of(len(steps))).predict_quantiles(steps, levels)
        return self.change(one)


def steps_of(n):
    return SimpleNamespace(latency_ms=np.linspace(1.0, 2.0, n))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda q: q[:-1], "got quantiles of shape"),
        (lambda q: -q, "medians that are not positive"),
        (lambda q: np.where(np.arange(len(q))[:, None] < 3, np.nan, q), "medians that are not"),
        (lambda q: np.where(np.arange(13) < 3, np.nan, q), "intervals for some steps only"),
    ],
)
def test_an_answer_that_cannot_be_scored_is_a_failure(log, change, reason):
    [failure] = backtest(log, ["points"], [Lognormal(), Wrong("w", change=change)]).failures
    assert failure.contender == "w"
    assert reason in failure.reason


@pytest.mark.slow
def test_folds_may_be_worked_on_in_parallel(log):
    one = backtest(log, ["new-gpu"], [Lognormal()], settings=FEW)
    two = backtest(log, ["new-gpu"], [Lognormal()], settings=FEW, workers=2)
    assert one.scores.drop(columns="seconds").equals(two.scores.drop(columns="seconds"))


def test_what_a_log_cannot_tell_is_said(log):
    decode = log.select(log.total_tokens == log.batch_size)
    one = decode.for_deployment(decode.deployments[0])
    one = one.select(np.repeat(np.arange(len(one)), 4))
    same = replace(one, batch_size=np.ones(len(one)))
    notes = " ".join(backtest(same, ["points"], [Lognormal()]).notes)
    assert "One deployment only: there is no other to pool with" in notes
    assert "All steps have the same batch size (1)" in notes
    assert not backtest(log, ["points"], [Lognormal()]).notes


def test_wrong_input_is_one_line(log, tmp_path):
    flat = replace(log, latency_ms=np.full(len(log), 7.0))
    (tmp_path / "file").write_text("")
    for wrong, match in (
        (lambda: backtest(flat, ["points"], [Lognormal()]), "steps that all took 7 ms"),
        (lambda: backtest(log, ["points"], []), "expected at least one"),
        (lambda: backtest(log, ["points"], [Lognormal(), Lognormal()]), "no name twice"),
        (lambda: backtest(log, ["points"], [Lognormal()], workers=0), "got 0 workers"),
        (
            lambda: backtest(log, ["points"], [Lognormal()], folder=tmp_path / "file"),
            "which is a file",
        ),
    ):
        with pytest.raises(InputError, match=match) as refused:
            wrong()
        assert "\n" not in str(refused.value)


def test_json_holds_every_score(found, tmp_path):
    found.save(tmp_path / "backtest.json")
    read = json.loads((tmp_path / "backtest.json").read_text())
    assert len(read["scores"]) == len(found.scores)
    assert read["scores"][0]["mape"] == pytest.approx(found.scores["mape"].iloc[0])
    assert read["scores"][0]["k"] is None
    assert read["source"]["fingerprint"] == found.source["fingerprint"]
    assert read["failures"][0]["contender"] == "failing"


def test_a_saved_backtest_is_read_again(found, tmp_path):
    found.save(tmp_path / "backtest.json")
    read = Backtest.load(tmp_path / "backtest.json")
    pd.testing.assert_frame_equal(read.scores, found.scores, check_dtype=False)
    assert (read.failures, read.notes) == (found.failures, found.notes)
    assert split_tables(read, "new-gpu") == split_tables(found, "new-gpu")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"scores": [], "failures": [], "notes": []}'])
def test_another_file_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(InputError, match="which cannot be read as a backtest"):
        Backtest.load(tmp_path / "other.json")
    with pytest.raises(InputError, match="which cannot be opened"):
        Backtest.load(tmp_path / "none.json")


def test_tables_have_a_row_a_contender_and_the_target(found):
    [table, *parts] = split_tables(found, "new-gpu")
    assert table.title == TITLES["new-gpu"]
    assert [row[0] for row in table.rows] == ["lognormal", "best, or nominal"]
    assert table.note == "6 deployments, 210 steps. Cells: k = 0 / k = 5."
    assert {part.title for part in parts} == {
        "new-gpu: decode steps", "new-gpu: mixed steps", "new-gpu: long prefill steps"
    }  # fmt: skip
    coverage = table.columns.index("in 90 %")
    assert table.rows[-1][coverage] == "0.90"
    assert re.fullmatch(r"0\.\d\d / 0\.\d\d", table.rows[0][coverage])
    lines = as_markdown(table, bold="lognormal").splitlines()
    assert lines[0] == f"## {table.title}"
    assert lines[6].startswith("| **lognormal** | ")
    assert len({line.count("|") for line in lines[4:]}) == 1


@pytest.mark.slow
def test_bayeslat_answers_for_known_new_and_unmeasured_deployments(tmp_path):
    table = bl.simulate_fleet(
        gpus=("A100-80GB", "H100-80GB"), models=("llama-7b", "llama-13b"), rows_per_deployment=40
    ).steps
    log = bl.validate_steps(table)
    ours = Bayeslat(draws=150, chains=2, retry=False)
    settings = SplitSettings(few=(0, 5))
    found = backtest(log, ["new-gpu"], [ours, Lognormal()], settings=settings, folder=tmp_path)
    assert not found.failures
    medians = found.medians("new-gpu").set_index(["contender", "k"])
    assert (medians.loc["bayeslat", "log_score"] > medians.loc["lognormal", "log_score"]).all()
    # A fleet is fitted once, whatever is known of the newcomers.
    assert len(list((tmp_path / "fleets").glob("*.nc"))) == 2
    assert found.scores["max_rhat"].max() > 1.0
