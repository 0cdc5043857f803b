import re
from itertools import pairwise

import pandas as pd
import pytest
import xarray as xr

import bayeslat as bl
from bayeslat.errors import InputError
from bayeslat.report import Level, write_report


@pytest.fixture(scope="module")
def page(written) -> str:
    return written[0].read_text(encoding="utf-8")


def text_of(fleet, path, **options) -> str:
    write_report(fleet, path, serving=False, **options)
    return path.read_text(encoding="utf-8")


def test_page_is_self_contained(page):
    assert len(re.findall(r'<img src="data:image/png;base64,', page)) == 9
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert not re.search(r"url\(|@import|<script", page)


def test_every_picture_says_what_it_shows(page):
    texts = re.findall(r'<img [^>]*alt="([^"]*)"', page)
    assert len(texts) == 9
    assert len(set(texts)) == 9
    assert min(map(len, texts)) > 30


def test_verdict_comes_first_and_every_section_opens_with_a_sentence(page):
    sections = re.findall(r'<section id="([\w-]+)"(.*?)</section>', page, flags=re.DOTALL)
    assert [name for name, _ in sections] == [
        "verdict", "answers", "serving", "parameters", "fit", "calibration", "cold-start",
        "comparison", "prior", "quarantine", "provenance", "limits", "glossary",
    ]  # fmt: skip
    assert page.index('id="verdict"') < page.index("<nav")
    for name, content in sections:
        assert re.search(r"</h2>\s*<p class=\"lead\">\s*\S", content), name


def test_strays_are_no_fault_of_the_intervals(tiny_fleet, tiny_steps, tmp_path, page):
    tree = tiny_fleet.tree.copy()
    shares = tiny_fleet.posterior["sigma"] * 0.0 + [0.02, 0.08]
    tree["posterior"] = xr.DataTree(tiny_fleet.posterior.assign(stray_share=shares))
    written = text_of(bl.FleetPosterior(tree), tmp_path / "strays.html", observations=tiny_steps)
    assert "expects up to 8.0 % of a" in written
    assert "stray rows apart" not in page


def test_contents_lead_to_sections(page):
    for target in re.findall(r'href="#([\w-]+)"', page):
        assert page.count(f'id="{target}"') == 1


def test_headings_do_not_skip_a_level(page):
    levels = [int(level) for level in re.findall(r"<h(\d)", page)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_page_says_where_the_posterior_comes_from(page, tiny_steps):
    assert tiny_steps.fingerprint in page
    assert "120 rows read, 120 kept" in page
    assert "pymc" in page
    assert "numpyro, seed 0" in page
    assert "&#34;likelihood&#34;: &#34;student_t&#34;" in page


def test_page_tells_simulated_steps(page, written):
    assert "come from a simulation" in page
    assert written[1].level >= Level.CAUTION


def test_page_begins_with_the_verdict_that_is_returned(page, written):
    reliance = written[1]
    assert f'class="verdict {reliance.level.word}"' in page
    assert reliance.headline in page


def test_title_is_escaped(page):
    assert "A &amp; B &lt;fleet&gt;" in page


def test_uninformed_parameters_are_marked(page, tiny_fleet):
    table = tiny_fleet.identifiability()
    marked = page.count('<span class="tag caution">uninformed</span>')
    assert marked == int((~table["informed"]).sum())
    for name, rows in table.groupby("quantity"):
        assert re.search(rf'<th scope="row">{name}</th><td>\w', page), "a quantity has a meaning"
        assert f"{int(rows['informed'].sum())} of 2" in page


def test_fitted_steps_are_no_forecast(page, tiny_fleet, tiny_steps, tmp_path):
    assert "the fit and no forecast" in page
    others = tiny_steps.select([0, 5, 70, 90])
    text = text_of(tiny_fleet, tmp_path / "others.html", observations=others)
    assert "other steps than the model was fitted to" in text
    assert others.fingerprint in text


def test_comparison_shows_its_tables_and_pictures(page):
    assert "<h3>Design points: a share of those of every deployment held out</h3>" in page
    assert '<th scope="row">another &lt;model&gt;</th>' in page
    assert '<th scope="row">best, or nominal</th>' in page
    assert 'alt="Design points' in page
    assert "Held out of other steps than those of this posterior: 240 steps of 2" in page


def test_prediction_without_steps_says_so(tiny_fleet, tmp_path):
    new = tiny_fleet.cold_start(tiny_fleet.catalog.gpu("nobody's <accelerator>"))
    text = text_of(new, tmp_path / "new.html")
    assert "Use these predictions with care" in text
    assert "Nothing was sampled" in text
    assert "Never measured, predicted only: nobody&#39;s &lt;accelerator&gt;/llama-7b" in text
    assert "with a wider prior: nobody&#39;s &lt;accelerator&gt;" in text
    assert "is not known: no measured steps were given" in text
    assert "<dt>Prior, posterior</dt>" in text


def test_deployments_are_served_and_the_gap_between_steps_is_a_prior(page, tiny_fleet):
    assert "it is a prior (median 0.7 ms" in page
    assert "not measured" in page
    for item in tiny_fleet.deployments:
        assert f'aria-label="Phases of a request on {item.label}"' in page
    assert page.count('<th scope="row">TPOT</th>') == 2
    assert "TTFT &lt;= 2000 ms, TPOT &lt;= 50 ms" in page


def test_serving_can_be_left_out(tiny_fleet, tmp_path):
    text = text_of(tiny_fleet, tmp_path / "report.html")
    assert 'id="serving"' not in text
    assert "#serving" not in text


def test_nothing_fits_is_said(tiny_fleet, tmp_path):
    text = text_of(tiny_fleet, tmp_path / "report.html", sla_ms=0.01)
    assert text.count("Nothing fits: even the smallest") == 2
    assert "keeps this limit on\n0 of 2 deployments" in text


def test_rows_in_quarantine_are_counted_and_shown(tiny_fleet, tiny_steps, tmp_path):
    frame = tiny_steps.to_frame()
    wrong = frame.head(20).assign(latency_ms=-1.0, engine="<script>")
    observations = bl.validate_steps(pd.concat([frame, wrong]), source="a log")
    text = text_of(tiny_fleet, tmp_path / "report.html", observations=observations)
    assert "In the steps given to this report" in text
    assert '<th scope="row">latency_ms not positive</th><td class="number">20</td>' in text
    assert text.count("latency_ms = -1.0") == 3
    assert "engine = &lt;script&gt;" in text
    assert "14.3 % of the rows were put aside as impossible" in text


def test_the_same_input_gives_the_same_page(tiny_fleet, tiny_steps, tmp_path):
    pages = [text_of(tiny_fleet, tmp_path / f"{i}.html", observations=tiny_steps) for i in range(2)]
    assert pages[0] == pages[1]


@pytest.mark.parametrize("wrong", [{"risk": 0.0}, {"risk": 2.0}, {"sla_ms": -1.0}])
def test_wrong_limits_are_refused_and_leave_the_old_page(tiny_fleet, tmp_path, wrong):
    path = tmp_path / "report.html"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(InputError):
        write_report(tiny_fleet, path, **wrong)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folder_is_refused_before_the_work(tiny_fleet, tmp_path):
    begun = []
    with pytest.raises(InputError, match="folder does not exist"):
        write_report(tiny_fleet, tmp_path / "none" / "report.html", progress=begun.append)
    assert begun == []


def test_steps_of_other_deployments_are_refused(tiny_fleet, tiny_steps, tmp_path):
    new = tiny_fleet.cold_start(tiny_fleet.catalog.gpu("H200"))
    with pytest.raises(InputError, match="none of which this posterior holds"):
        write_report(new, tmp_path / "report.html", observations=tiny_steps)
