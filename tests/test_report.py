import dataclasses
import json
import re

import pytest

from bayeslat.errors import InputError
from bayeslat.posterior import FleetPosterior
from bayeslat.report import ColdStart, write_report


def with_attrs(fleet: FleetPosterior, **attrs: str) -> FleetPosterior:
    tree = fleet.tree.copy()
    tree.attrs.update(attrs)
    return FleetPosterior(tree)


@pytest.fixture(scope="module")
def page(tiny_fleet, tiny_steps, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    cold = ColdStart(tiny_fleet, tiny_fleet, tiny_steps, 10)
    write_report(tiny_fleet, path, observations=tiny_steps, cold_start=cold, title="A & B <fleet>")
    return path.read_text(encoding="utf-8")


def test_page_is_self_contained(page):
    assert len(re.findall(r'<img src="data:image/png;base64,', page)) == 8
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_page_says_where_the_posterior_comes_from(page, tiny_steps):
    assert tiny_steps.fingerprint in page
    assert "120 rows read, 120 kept" in page
    assert "pymc" in page
    assert "numpyro, seed 0" in page


def test_page_tells_simulated_steps(page):
    assert "come from a simulation" in page


def test_title_is_escaped(page):
    assert "A &amp; B &lt;fleet&gt;" in page


def test_verdict_is_green_or_red(tiny_fleet, tmp_path):
    verdict = tiny_fleet.verdict
    for rhat, expected in ((1.0, "passed"), (1.5, "failed")):
        changed = dataclasses.replace(
            verdict, max_rhat=rhat, min_ess_bulk=1e4, min_ess_tail=1e4, divergences=0
        )
        fleet = with_attrs(tiny_fleet, verdict=json.dumps(changed.to_dict()))
        write_report(fleet, tmp_path / "report.html", serving=False)
        text = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert f'class="verdict {expected}"' in text
        assert ("Do not decide" in text) == (expected == "failed")


def test_uninformed_parameters_are_marked(page, tiny_fleet):
    n = int((~tiny_fleet.identifiability()["informed"]).sum())
    assert page.count('<span class="tag">uninformed</span>') == n


def test_prediction_without_steps_says_so(tiny_fleet, tmp_path):
    new = tiny_fleet.cold_start(tiny_fleet.catalog.gpu("nobody's accelerator"))
    write_report(new, tmp_path / "new.html")
    text = (tmp_path / "new.html").read_text(encoding="utf-8")
    assert "Nothing was sampled" in text
    assert "Never measured, predicted only: nobody&#39;s accelerator/llama-7b" in text
    assert "<strong>nobody&#39;s accelerator</strong>" in text


def test_deployments_are_served_and_the_gap_between_steps_is_a_prior(page, tiny_fleet):
    assert "<h2>Serving</h2>" in page
    assert "it is a prior (median 0.7 ms" in page
    assert "not measured" in page
    for item in tiny_fleet.deployments:
        assert f"<h3>{item.label}</h3>" in page
    assert page.count("<td>TPOT</td>") == 2
    assert "TTFT &lt;= 2000 ms, TPOT &lt;= 50 ms" in page


def test_serving_can_be_left_out(tiny_fleet, tmp_path):
    write_report(tiny_fleet, tmp_path / "report.html", serving=False)
    assert "Serving" not in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("wrong", [{"risk": 0.0}, {"risk": 2.0}, {"sla_ms": -1.0}])
def test_wrong_limits_are_refused_and_leave_the_old_page(tiny_fleet, tmp_path, wrong):
    path = tmp_path / "report.html"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(InputError):
        write_report(tiny_fleet, path, **wrong)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_steps_of_other_deployments_are_refused(tiny_fleet, tiny_steps, tmp_path):
    new = tiny_fleet.cold_start(tiny_fleet.catalog.gpu("H200"))
    with pytest.raises(InputError, match="none of which this posterior holds"):
        write_report(new, tmp_path / "report.html", observations=tiny_steps)
