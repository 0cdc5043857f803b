"""Notebooks run from first to last, and carry outputs that name no machine."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


ABSOLUTE = re.compile(r"(?<![\w.%])/\w[\w.-]*/\w[\w./-]*")


def printed(cell):
    """Everything textual that a cell has put out; pictures are not text."""
    texts = [output.get("text", "") for output in cell.outputs]
    for output in cell.outputs:
        texts += [text for kind, text in output.get("data", {}).items() if "image" not in kind]
    return "\n".join(texts)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_was_run_and_names_no_machine(path):
    cells = code_cells(nbformat.read(path, 4))
    assert [place for cell in cells for place in ABSOLUTE.findall(printed(cell))] == []
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of the kernel's own process and its event loop
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, shared_data):
    notebook = nbformat.read(path, 4)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": path.parent}})
    client.execute()
    assert all(cell.outputs for cell in code_cells(notebook)[1:])


def test_a_path_of_a_machine_is_found():
    assert ABSOLUTE.findall("see /usr/lib/python3/x.py: a warning") == ["/usr/lib/python3/x.py"]
    assert ABSOLUTE.findall("A100@40%/llama/tp2, ../../shared/data, 1/s and 0.5 /s") == []
