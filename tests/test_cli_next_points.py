"""The command about what to measure: next-points."""

import numpy as np
import pytest
from cli_answers import answered, refused

import bayeslat as bl
from bayeslat.decisions import LargestTokens, candidate_steps, next_points
from bayeslat.plots import plot_next_points

WHERE = ["--gpu", "H100-80GB", "--model", "llama-7b"]
ASK = ["--sla-ms", 30, "--risk", 0.05, "--n", 3]


@pytest.fixture(scope="session")
def newcomer_file(tiny_fleet, tmp_path_factory):
    """A predicted GPU, saved."""
    path = tmp_path_factory.mktemp("newcomer") / "new.nc"
    tiny_fleet.cold_start(bl.load_catalog().gpu("H200")).save(path)
    return path


def test_the_answer_is_that_of_the_package(run, tiny_file, tiny_fleet):
    answer = answered(run("next-points", tiny_file, *WHERE, *ASK, "--json"))
    deployment = tiny_fleet.find("H100-80GB", "llama-7b")
    context = tiny_fleet.typical_context(deployment)
    decision = LargestTokens(16, 30.0, 0.05, context_per_request=context)
    room = tiny_fleet.catalog.kv_capacity_tokens("H100-80GB", "llama-7b")
    found = next_points(
        tiny_fleet.draws(deployment),
        decision=decision,
        candidates=candidate_steps(max_context_tokens=float(room)),
        n=3,
    )
    assert [point["total_tokens"] for point in answer["points"]] == list(found.points.total_tokens)
    assert [point["sd_after"] for point in answer["points"]] == pytest.approx(found.sd[1:])
    assert answer["sd_log_before"] == pytest.approx(found.sd[0])
    now = decision.estimate(tiny_fleet.draws(deployment))
    assert answer["largest_total_tokens"]["value"] == pytest.approx(now.value)
    assert answer["context_assumed"] and answer["criterion"] == "information"


def test_a_predicted_newcomer_is_asked_alike(run, newcomer_file, tmp_path):
    picture = tmp_path / "points.png"
    code, text, _ = run(
        "next-points", newcomer_file, "--gpu", "H200", "--model", "llama-7b", *ASK,
        "--plot", picture,
    )  # fmt: skip
    assert code == 0
    assert "nothing sampled" in text and "never measured" in text
    assert "measure in this order" in text and "S now" in text
    assert picture.stat().st_size > 0


@pytest.mark.parametrize("told", [True, False])
def test_the_picture_shows_the_order_the_spread_and_the_gain_where_it_is_told(tiny_fleet, told):
    draws = tiny_fleet.draws(tiny_fleet.find("H100-80GB", "llama-7b"))
    question = LargestTokens(16, 30.0, 0.05)
    found = next_points(draws, decision=question if told else question.__call__, n=3)
    figure = plot_next_points(found, label="H100-80GB/llama-7b/tp1/simulated")
    panels = figure.axes
    assert [axes.get_title() for axes in panels] == [
        "points in order", "what is expected of them", *["expected gain"] * told,
    ]  # fmt: skip
    numbers = ",".join(text.get_text() for text in panels[0].texts).split(",")
    assert sorted(map(int, numbers)) == [1, 2, 3]
    np.testing.assert_array_equal(panels[1].lines[0].get_ydata(), found.sd)
    assert "simulated data" in figure.get_suptitle()


def test_candidates_and_what_was_measured_come_from_files(run, newcomer_file, tmp_path):
    where = ["--gpu", "H200", "--model", "llama-7b"]
    steps, known = tmp_path / "steps.csv", tmp_path / "known.csv"
    steps.write_text("batch_size,total_tokens\n1,1\n1,700\n8,8\n")
    plain = answered(run("next-points", newcomer_file, *where, *ASK, "--candidates", steps,
                         "--json"))  # fmt: skip
    assert plain["n_candidates"] == 3
    assert {point["total_tokens"] for point in plain["points"]} <= {1, 8, 700}
    first = plain["points"][0]
    known.write_text(f"batch_size,total_tokens\n{first['batch_size']},{first['total_tokens']}\n")
    later = answered(run("next-points", newcomer_file, *where, *ASK, "--candidates", steps,
                         "--measured", known, "--json"))  # fmt: skip
    assert later["sd_log_before"] == pytest.approx(first["sd_after"])


def test_options_reach_the_design(run, newcomer_file):
    where = ["--gpu", "H200", "--model", "llama-7b", *ASK, "--json"]
    means = answered(run("next-points", newcomer_file, *where, "--n-averaged", 20))
    assert {point["n_averaged"] for point in means["points"]} == {20.0}
    worth = answered(run("next-points", newcomer_file, *where, "--criterion", "value"))
    assert worth["criterion"] == "value"
    small = answered(run("next-points", newcomer_file, *where, "--max-total-tokens", 64,
                         "--max-batch-size", 4))  # fmt: skip
    assert max(point["total_tokens"] for point in small["points"]) <= 64
    told = answered(run("next-points", newcomer_file, *where, "--context-tokens", 5000))
    assert (told["context_tokens"], told["context_assumed"]) == (5000.0, False)
    plain, cheap = (
        answered(run("next-points", newcomer_file, *where, *more)) for more in ([], ["--per-ms"])
    )
    costs = [np.sum([point["latency_ms"] for point in each["points"]]) for each in (plain, cheap)]
    assert costs[1] < costs[0]


def test_a_certain_answer_needs_no_measurement(run, tiny_file):
    code, text, _ = run("next-points", tiny_file, *WHERE, "--sla-ms", 1e6)
    assert code == 0
    assert "nothing to measure" in text


@pytest.mark.parametrize(
    ("more", "about"),
    [
        (["--risk", "1.5"], "risk=1.5"),
        (["--sla-ms", "-3"], "--sla-ms"),
        (["--sla-ms", "0.01"], "below the floor"),
        (["--n", "0"], "--n 0"),
        (["--batch-size", "0"], "batch_size=0"),
        (["--batch-size", "8192"], "--batch-size 8192"),
        (["--criterion", "luck"], "criterion='luck'"),
        (["--n-averaged", "0"], "mean of 0"),
        (["--n-averaged", "0.1"], "mean of 0.1"),
        (["--credible", "2"], "credible=2"),
        (["--candidates", "nowhere.csv"], "nowhere.csv"),
        (["--plot", "points.txt"], "--plot points.txt"),
        (["--context-tokens", "-1"], "context_tokens=-1"),
    ],
)
def test_bad_input_is_one_line(run, tiny_file, more, about):
    refused(run("next-points", tiny_file, *WHERE, *more), about=about)


def test_an_unknown_deployment_names_the_nearest(run, tiny_file):
    refused(
        run("next-points", tiny_file, "--gpu", "H100", "--model", "llama-7b"),
        about="nearest: H100-80GB/llama-7b",
    )


def test_no_candidates_are_refused(run, tiny_file, tmp_path):
    empty = tmp_path / "steps.csv"
    empty.write_text("batch_size,total_tokens\n")
    refused(
        run("next-points", tiny_file, *WHERE, "--candidates", empty), about="no candidate steps"
    )


def test_help_has_an_example(run):
    code, out, _ = run("next-points", "--help")
    assert code == 0
    assert "bayeslat next-points" in " ".join(out.split()) and "--json" in out
