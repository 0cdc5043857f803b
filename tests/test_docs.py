"""The documentation says what the program does: code runs as printed, names and commands exist."""

import contextlib
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import typer
import yaml

import bayeslat
from bayeslat import gate, online, plots, queueing
from bayeslat.cli import app, main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))

SLOW = {
    "index.md",
    "questions/cold-start.md",
    "questions/drift.md",
    "questions/gates.md",
    "questions/batching.md",
    "questions/next-steps.md",
    "questions/report.md",
    "questions/users.md",
}
"""Pages whose code takes longer than some twenty seconds."""

BLOCK = re.compile(r"^```(python|console|text)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d+(?:\.\d+)?")


class Example(NamedTuple):
    """A block of a page, and what the page says that it prints."""

    language: str
    code: str
    shown: str | None


def examples(page: str) -> list[Example]:
    """Code and commands of a page, in order."""
    blocks = BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))
    following = [*blocks, ("", "")][1:]
    return [
        Example(language, code, after if kind == "text" else None)
        for (language, code), (kind, after) in zip(blocks, following, strict=True)
        if language != "text"
    ]


def commands(code: str) -> list[list[str]]:
    """The words of every command of a console block."""
    return [shlex.split(line[2:]) for line in code.splitlines() if line.startswith("$ ")]


def printed(example: Example, names: dict[str, Any]) -> str:
    """What a block prints, run in this process."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        if example.language == "python":
            exec(compile(example.code, "example", "exec"), names)
        else:
            for _, *arguments in commands(example.code):
                with pytest.raises(SystemExit) as stopped:
                    main(arguments)
                assert not stopped.value.code
    return output.getvalue()


def marked(pages: list[str]) -> list[Any]:
    """Pages as parameters, the slow ones marked."""
    return [pytest.param(page, marks=pytest.mark.slow if page in SLOW else ()) for page in pages]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """What the site takes from elsewhere."""
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def config() -> Any:
    """Settings of the site."""
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "page",
    marked([page for page in PAGES if any(one.language == "python" for one in examples(page))]),
)
def test_examples_print_what_the_page_shows(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for example in examples(page):
        if example.language == "console" and example.shown is None:
            continue
        got = _lines(printed(example, names))
        shown = _lines(example.shown or "")
        assert NUMBER.sub("#", got) == NUMBER.sub("#", shown), example.code
        # Draws differ a little between machines; what they say does not.
        values = [np.array(NUMBER.findall(text), dtype=float) for text in (got, shown)]
        np.testing.assert_allclose(*values, rtol=0.1, atol=0.02, err_msg=example.code)


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page: str) -> None:
    known = getattr(typer.main.get_command(app), "commands")  # noqa: B009
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    asked = [
        words
        for example in examples(page)
        if example.language == "console"
        for words in commands(example.code)
    ]
    for program, name, *rest in asked:
        if program == "make":
            assert re.search(rf"^{name}:", makefile, flags=re.MULTILINE)
            continue
        assert program == "bayeslat" and name in known
        options = {opt for parameter in known[name].params for opt in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= options


def test_every_page_is_in_the_navigation(config: Any) -> None:
    assert sorted(_leaves(config["nav"])) == PAGES


def test_every_public_name_has_an_entry(hooks: ModuleType) -> None:
    entries = {
        name
        for page in PAGES
        for name in re.findall(
            r"^::: (\S+)$",
            hooks.expanded((DOCS / page).read_text(encoding="utf-8"), page),
            flags=re.MULTILINE,
        )
    }
    elsewhere = {"__version__", *gate.__all__}  # a gate is described with its package
    public = {f"bayeslat.{name}" for name in bayeslat.__all__ if name not in elsewhere}
    for package in (gate, online, plots, queueing):
        public |= {f"{package.__name__}.{name}" for name in package.__all__}
    assert public - entries == set()


def test_sections_that_pages_take_are_there(hooks: ModuleType) -> None:
    found = hooks.sections((ROOT / "README.md").read_text(encoding="utf-8"))
    assert found["Limits"].startswith("- ")


@pytest.mark.parametrize(
    ("text", "page", "expected"),
    [
        ("[it](ARCHITECTURE.md)", "limits.md", "[it](architecture.md)"),
        ("[it](CHANGELOG.md)", "a/b.md", "[it](../changelog.md)"),
        ("[x.py](x.py)", "limits.md", "`x.py`"),
        ("[it](https://example.org/a)", "limits.md", "[it](https://example.org/a)"),
    ],
)
def test_links_of_included_files_lead_somewhere(
    hooks: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    page: str,
    expected: str,
) -> None:
    (tmp_path / "FILE.md").write_text(text, encoding="utf-8")
    monkeypatch.setattr(hooks, "ROOT", tmp_path)
    assert hooks.included("FILE.md", None, page) == expected


@pytest.mark.slow
def test_site_builds_without_warnings_and_asks_nothing_of_the_network(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    loaded = re.compile(r'<(?:script|img|iframe)[^>]+src="(\w+:)?//|<link[^>]+href="(\w+:)?//')
    outside = [page for page in tmp_path.rglob("*.html") if loaded.search(page.read_text("utf-8"))]
    assert not outside
    for result in (ROOT / "benchmarks" / "results").glob("*.md"):
        assert (tmp_path / "evidence" / f"{result.stem}.html").is_file()


def _lines(text: str) -> str:
    """The text without blanks at the ends of its lines."""
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines())


def _leaves(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        if isinstance(entry, str):
            yield entry
            continue
        for value in entry.values():
            yield from [value] if isinstance(value, str) else _leaves(value)
