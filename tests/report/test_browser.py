"""The page in a real browser: without network, light and dark, wide and narrow, and on paper."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
PAPER = {"width": 688, "height": 1001}
"""Pixels inside the margins of a printed page."""

SETTLING_MS = 500
"""Word of what went wrong may come after the page has loaded."""

CONTRASTS = """() => {
  // Least contrast of text against the nearest background, as WCAG 2.2 counts it.
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("body *")]
    .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    .map(e => {
      const [a, b] = [rgb(getComputedStyle(e).color), behind(e)].map(light);
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 80)];
    })
    .sort((a, b) => a[0] - b[0])[0];
}"""

OVERFLOW = "[document.scrollingElement.scrollWidth, window.innerWidth]"
MISSING = "[...document.images].filter(i => !(i.complete && i.naturalWidth > 0)).map(i => i.alt)"


def unavailable(reason: str) -> NoReturn:
    """Skip for want of a browser, but not where everything has to run."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        unavailable("playwright is not installed, which drives the browser")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        unavailable(f"none of {', '.join(BROWSERS)} is on the PATH")
    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def opened(browser, written) -> Iterator[Any]:
    """Opens the page in a window of its own, and gives it with the list of what went wrong."""
    contexts = []

    def open_page(size: tuple[int, int], scheme: str, path: Path = written[0]) -> tuple[Any, list]:
        width, height = size
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, offline=True
        )
        contexts.append(context)
        wrong: list[str] = []
        page = context.new_page()
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url[-80:]}"))
        page.goto(path.as_uri(), wait_until="networkidle")
        return page, wrong

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_page_opens_whole(opened, size, scheme):
    page, wrong = opened(size, scheme)
    page.wait_for_timeout(SETTLING_MS)
    assert wrong == []
    assert page.evaluate(MISSING) == []
    needed, given = page.evaluate(OVERFLOW)
    assert needed <= given
    contrast, where = page.evaluate(CONTRASTS)
    assert contrast >= 4.5, where


def test_a_missing_picture_and_a_wide_table_are_found(opened, tmp_path):
    path = tmp_path / "broken.html"
    wide = "<div style='width: 2000px; color: #aaa; background: #fff'>pale</div>"
    path.write_text(f"<img src='gone.png' alt='gone'>{wide}", encoding="utf-8")
    page, wrong = opened(SIZES["phone"], "light", path)
    page.wait_for_timeout(SETTLING_MS)
    assert any("gone.png" in each for each in wrong)
    assert page.evaluate(MISSING) == ["gone"]
    needed, given = page.evaluate(OVERFLOW)
    assert needed > given
    assert page.evaluate(CONTRASTS)[0] < 4.5


def test_dark_scheme_darkens_page_and_pictures(opened):
    looks = {}
    for scheme in ("light", "dark"):
        page, _ = opened(SIZES["desktop"], scheme)
        looks[scheme] = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.images[0]).filter]"
        )
    assert looks["light"] == ["rgb(255, 255, 255)", "none"]
    assert looks["dark"][0] == "rgb(18, 18, 18)"
    assert "invert" in looks["dark"][1]


def test_verdict_is_seen_without_scrolling(opened):
    for size in SIZES.values():
        page, _ = opened(size, "light")
        bottom = page.evaluate(
            "document.querySelector('#verdict .lead').getBoundingClientRect().bottom"
        )
        assert bottom < size[1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_paper_is_light_and_shows_everything(opened, scheme):
    page, _ = opened((PAPER["width"], PAPER["height"]), scheme)
    page.emulate_media(media="print", color_scheme=scheme)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.images[0]).filter") == "none"
    tallest = page.evaluate("Math.max(...[...document.images].map(i => i.offsetHeight))")
    assert tallest < PAPER["height"], "a picture does not fit on a page"
    page.evaluate("document.querySelectorAll('details').forEach(d => d.removeAttribute('open'))")
    hidden = page.evaluate(
        "[...document.querySelectorAll('details table, details pre')]"
        ".filter(e => !e.checkVisibility({contentVisibilityAuto: true})).length"
    )
    assert hidden == 0, "a folded part is not printed"


def test_page_prints(opened):
    page, _ = opened(SIZES["desktop"], "light")
    pdf = page.pdf(prefer_css_page_size=True, print_background=True)
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 3
