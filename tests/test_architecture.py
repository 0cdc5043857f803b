"""Stages import only what stands to their left, and ARCHITECTURE.md names every module."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bayeslat"

STAGES = (
    ("errors", "schema", "noise", "saturation", "discrepancy", "roofline", "queueing", "gate"),
    ("catalog",),
    ("simulate", "profiling"),
    ("observations",),
    ("model",),
    ("inference",),
    ("predictive",),
    ("engine",),
    ("decisions",),
    ("identifiability", "storage"),
    ("released",),
    ("posterior",),
    ("online",),
    ("checks",),
    ("evaluation",),
    ("plots",),
    ("report",),
    ("demo",),
    ("cli",),
)
"""From left to right; a module may import from its own stage and from those to its left."""

ORDER = {room: position for position, stage in enumerate(STAGES) for room in stage}
ENTRIES = ("__init__", "__main__")
"""Modules of the package itself, which stand to the right of everything."""

SAMPLING_PACKAGES = {"blackjax", "jax", "numpyro", "nutpie"}
MODULES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str:
    """The room of a module: the first name below the package."""
    return module.split("/")[0].removesuffix(".py")


def imported_names(source: str) -> set[str]:
    """Dotted names that a source imports anywhere, functions and TYPE_CHECKING included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}; write the full name"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def wrong_imports(room: str, source: str) -> list[str]:
    """Imports of a module in a room that are not to its left, or not through a room at all."""
    inside = [name.split(".") for name in imported_names(source) if name.startswith("bayeslat")]
    return [
        ".".join(parts)
        for parts in inside
        if len(parts) < 2 or ORDER.get(parts[1], len(STAGES)) > ORDER[room]
    ]


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_to_its_left(module: str) -> None:
    room = room_of(module)
    if room in ENTRIES:
        return
    assert room in ORDER, f"{module} belongs to no stage; give it a place in STAGES"
    assert wrong_imports(room, MODULES[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "from bayeslat.inference.run import sample_model",
        "from bayeslat import inference",
        "import bayeslat",
        "from bayeslat import fit",
        "def late():\n    import bayeslat.cli",
    ],
)
def test_an_import_to_the_right_is_found(source: str) -> None:
    assert wrong_imports("model", source)


def test_an_import_to_the_left_or_from_outside_is_allowed() -> None:
    source = "import numpy\nfrom bayeslat import saturation\nfrom bayeslat.model.spec import X"
    assert wrong_imports("model", source) == []


@pytest.mark.parametrize("module", [name for name in MODULES if room_of(name) == "model"])
def test_the_model_knows_no_sampler(module: str) -> None:
    names = imported_names(MODULES[module].read_text(encoding="utf-8"))
    assert not {name.split(".")[0] for name in names} & SAMPLING_PACKAGES
    assert not any(name.startswith("pymc.sampling") for name in names)


def test_architecture_names_every_module_and_no_other() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `([\w/]+\.py)` \|", text, flags=re.MULTILINE))
    modules = {name for name in MODULES if not name.endswith("__init__.py")}
    missing = [f"| `{name}` | {first_line(MODULES[name])} |" for name in sorted(modules - named)]
    assert not missing, "add to the modules of ARCHITECTURE.md:\n" + "\n".join(missing)
    assert named <= modules, "ARCHITECTURE.md names modules that are not there"


def first_line(path: Path) -> str:
    """First line of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].rstrip(".")
