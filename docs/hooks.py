"""What the site takes from elsewhere, so that nothing is written twice.

* ``<!-- include README.md "Limits" -->`` stands for a section of a file of the repository, or for
  the whole file where no section is named.
* ``<!-- members bayeslat.gate -->`` stands for the API entries of the public names of a package,
  and ``<!-- modules bayeslat.evaluation -->`` for those of each of its modules, under a heading.
* ``<!-- commands -->`` stands for the reference of the command line, taken from the program.
* ``<!-- evidence -->`` stands for a table of all results; every table in ``benchmarks/results``
  becomes a page of its own, and its pictures come with it.
"""

import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Final

import typer.cli
import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = ROOT / "benchmarks" / "results"

PAGES: Final[Mapping[str, str]] = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
}
"""Files of the repository that are pages here."""

_INCLUDE: Final = re.compile(r'^<!-- include (\S+?)(?: "([^"]+)")? -->$', re.MULTILINE)
_MEMBERS: Final = re.compile(r"^<!-- members (\S+) -->$", re.MULTILINE)
_MODULES: Final = re.compile(r"^<!-- modules (\S+) -->$", re.MULTILINE)
_LINK: Final = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of evidence into the navigation."""
    evidence = next(entry["Evidence"] for entry in config.nav or [] if "Evidence" in entry)
    evidence += [_page_of(path) for path in results()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of evidence and their pictures."""
    for path in results():
        files.append(File.generated(config, _page_of(path), content=evidence_page(path)))
    for path in sorted(RESULTS.glob("*.png")):
        files.append(File.generated(config, f"evidence/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace what stands for something else."""
    return expanded(markdown, page.file.src_uri)


def expanded(markdown: str, page: str) -> str:
    """The text of a page with everything in it that is taken from elsewhere.

    Parameters
    ----------
    markdown : str
        As written.
    page : str
        Its path within the site, from which links lead on.
    """
    markdown = _INCLUDE.sub(lambda found: included(found[1], found[2], page), markdown)
    markdown = _MEMBERS.sub(lambda found: members(found[1]), markdown)
    markdown = _MODULES.sub(lambda found: modules(found[1]), markdown)
    if "<!-- commands -->" in markdown:
        markdown = markdown.replace("<!-- commands -->", commands())
    return markdown.replace("<!-- evidence -->", evidence_table())


def included(name: str, section: str | None, page: str) -> str:
    """A file of the repository, or a section of it without its heading."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if section is not None:
        text = sections(text)[section]
    up = "../" * page.count("/")
    return _LINK.sub(lambda found: _link(found[1], found[2], up), text).strip()


def sections(text: str) -> dict[str, str]:
    """Text under each heading of the second level."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))


def members(package: str, *, level: int = 2) -> str:
    """The API entries of the public names of a package, with headings of a level."""
    options = f"\n    options:\n      heading_level: {level}\n"
    names = import_module(package).__all__
    return "\n".join(f"::: {package}.{name}{options}" for name in names)


def modules(package: str) -> str:
    """The API entries of the public names of every module of a package that has any."""
    parts = []
    for found in iter_modules(import_module(package).__path__):
        module = import_module(f"{package}.{found.name}")
        if not found.ispkg and module.__all__:
            title = _first_line(module.__doc__).rstrip(".")
            parts.append(f"## {title}\n\n{members(module.__name__, level=3)}")
    return "\n\n".join(parts)


def commands() -> str:
    """The reference of the command line, as typer writes it."""
    from bayeslat.cli import app

    group = typer.main.get_command(app)
    context = typer.Context(group, info_name="bayeslat")
    text = typer.cli.get_docs_for_click(obj=group, ctx=context, name="bayeslat")
    # The page has a heading and a list of its own, and the list of typer is cut short.
    text = text[text.index("\n## ") :]
    listed = [
        f"* [`{name}`](#bayeslat-{name}): {_first_line(command.help)}"
        for name, command in group.commands.items()
    ]
    text = re.sub(r'<span style="font-weight: bold">(\w+:)</span>', r"**\1**", text)
    return "\n".join(listed) + "\n" + text


def results() -> list[Path]:
    """Tables that benchmarks have written."""
    return sorted(RESULTS.glob("*.md"))


def evidence_page(path: Path) -> str:
    """A table of results with what made it, and its pictures."""
    text = path.read_text(encoding="utf-8")
    title, _, rest = text.partition("\n")
    parts = [title]
    if made_by(path) not in text:
        parts.append(f"Made by {made_by(path)}.")
    parts.append(rest.strip())
    for picture in pictures(path):
        if picture.name not in text:
            words = picture.stem.replace("_", " ")
            parts.append(f"![{words[0].upper()}{words[1:]}]({picture.name})")
    return "\n\n".join(parts) + "\n"


def evidence_table() -> str:
    """One row a page of evidence: its title, and the command that made it."""
    rows = ["| result | made by |", "|---|---|"]
    for path in results():
        title = _first_line(path.read_text(encoding="utf-8")).lstrip("# ")
        rows.append(f"| [{title}]({path.name}) | {made_by(path)} |")
    return "\n".join(rows)


def made_by(path: Path) -> str:
    """The command that made a table: as the table says, else the script of its name."""
    found = re.search(r"Made (?:by|with) (`[^`]+`)", path.read_text(encoding="utf-8"))
    return found[1] if found else f"`python benchmarks/{path.stem}.py`"


def pictures(path: Path) -> list[Path]:
    """Pictures of a table of results: of its name, or of its name and a further word.

    Where the names of two tables begin alike a picture is of the longer one.
    """
    stems = sorted((one.stem for one in results()), key=len, reverse=True)
    return [
        picture
        for picture in sorted(RESULTS.glob("*.png"))
        if path.stem == next((s for s in stems if f"{picture.stem}_".startswith(f"{s}_")), None)
    ]


def _page_of(path: Path) -> str:
    return f"evidence/{path.name}"


def _first_line(text: str | None) -> str:
    return (text or "").partition("\n")[0]


def _link(text: str, target: str, up: str) -> str:
    """A link within the site where the file is a page, else the words and the path."""
    if target in PAGES:
        return f"[{text}]({up}{PAGES[target]})"
    return f"`{target}`" if text.strip("`") == target else f"{text} (`{target}`)"
