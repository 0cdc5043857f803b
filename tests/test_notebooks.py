"""Notebooks run from first to last, and carry outputs that name no machine."""

import re
from pathlib import Path

import jax
import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))

ABSOLUTE = re.compile(r"(?<![\w.%])/\w[\w.-]*/\w[\w./-]*")

MOST_BYTES = 4_000_000
"""Size of all notebooks together: outputs are kept with the code."""

STRICT = """
import warnings
warnings.simplefilter("error")
# Without widgets progress bars are plain text.
warnings.filterwarnings("ignore", "IProgress not found")
# The kernel warns itself when it is shut down.
warnings.filterwarnings("ignore", category=PendingDeprecationWarning)
"""
"""First cell of a trial run."""


def printed(cell):
    """Everything textual that a cell has put out; pictures are not text."""
    texts = [output.get("text", "") for output in cell.outputs]
    for output in cell.outputs:
        texts += [text for kind, text in output.get("data", {}).items() if "image" not in kind]
    return "\n".join(texts)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def needs_recorded_steps(notebook):
    return any("shared/data" in cell.source for cell in code_cells(notebook))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_was_run_and_names_no_machine(path):
    cells = code_cells(nbformat.read(path, 4))
    assert [place for cell in cells for place in ABSOLUTE.findall(printed(cell))] == []
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert all(cell.outputs for cell in cells[1:]), "a cell after the first shows nothing"
    assert [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"] == []


def test_notebooks_are_small():
    assert sum(path.stat().st_size for path in NOTEBOOKS) < MOST_BYTES


@pytest.mark.parametrize(
    "path", [path for path in NOTEBOOKS if path.stem[:2].isdigit()], ids=lambda path: path.stem
)
def test_notebook_tells_its_story(path):
    notebook = nbformat.read(path, 4)
    first, *rest = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert first.startswith(f"# {path.stem[:2]} ") and "?" in first
    assert rest[-1].startswith("## What to remember") and "## What this rests on" in rest[-1]
    assert "BAYESLAT_SMOKE" in code_cells(notebook)[0].source


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of the client and its event loop
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, request, monkeypatch):
    notebook = nbformat.read(path, 4)
    if needs_recorded_steps(notebook):
        request.getfixturevalue("shared_data")  # skips where they are missing
    monkeypatch.setenv("BAYESLAT_SMOKE", "1")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", str(2**31))
    notebook.cells.insert(0, nbformat.v4.new_code_cell(STRICT))
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": path.parent}})
    client.execute()
    assert all(cell.outputs for cell in code_cells(notebook)[2:])


def test_a_path_of_a_machine_is_found():
    assert ABSOLUTE.findall("see /usr/lib/python3/x.py: a warning") == ["/usr/lib/python3/x.py"]
    assert ABSOLUTE.findall("A100@40%/llama/tp2, ../../shared/data, 1/s and 0.5 /s") == []
