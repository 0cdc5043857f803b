"""Public names are sorted, importable, documented, and the same for readers and type checkers."""

import ast
import inspect
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import bayeslat

ROOT = Path(__file__).parents[1]
NAMES = bayeslat.__all__
OBJECTS = [name for name in NAMES if not name.startswith("__")]


def declared_homes() -> dict[str, str]:
    """Where the import statements of the package say that each name lives."""
    source = Path(str(bayeslat.__file__)).read_text(encoding="utf-8")
    return {
        alias.asname or alias.name: node.module or ""
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bayeslat.")
        for alias in node.names
    }


def sort_key(name: str) -> tuple[int, str]:
    """Constants and acronyms, then classes, then the rest."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def test_public_names_are_sorted_and_distinct() -> None:
    assert list(NAMES) == sorted(set(NAMES), key=sort_key)


def test_import_statements_declare_the_public_names() -> None:
    assert sorted(declared_homes()) == sorted(OBJECTS)


@pytest.mark.parametrize("name", OBJECTS)
def test_public_name_is_what_its_import_statement_says(name: str) -> None:
    home = import_module(declared_homes()[name])
    assert getattr(bayeslat, name) is getattr(home, name)
    assert name in home.__all__


@pytest.mark.parametrize("name", OBJECTS)
def test_public_name_is_documented(name: str) -> None:
    thing = getattr(bayeslat, name)
    assert inspect.isclass(thing) or inspect.isfunction(thing)
    text = (thing.__doc__ or "").strip()
    assert text, f"{name} has no docstring"
    # What @dataclass writes by itself says nothing.
    assert not text.startswith(f"{name}("), f"{name} has only a generated docstring"


def test_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert bayeslat.__version__ == project["version"]


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        bayeslat.no_such_name  # noqa: B018
